"""The first batch and the first loss, looked at before anything is trained. Taught in notebook 04.

Most mistakes in data can be seen in one batch, and most mistakes in a model in its very first loss, which can be
predicted with a pencil.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import Tensor

from m2f_helpers.config import Source, as_config
from m2f_helpers.palette import IGNORE

LOSS_KINDS = {"cls": "class loss", "mask": "mask loss", "dice": "Dice loss"}  # by their names in the log


@dataclass(frozen=True)
class Batch:
    """One training batch, the way the model gets it.

    `inputs` is what enters the network: `(B, 3, H, W)` float, RGB, normalised. `images` shows the same pixels with the
    normalisation undone: `(B, H, W, 3)` uint8 RGB. `label_maps` is `(B, H, W)` uint8, class ids in memory, 255 =
    ignore.
    """

    inputs: Tensor
    images: np.ndarray
    label_maps: np.ndarray
    samples: list[Any]

    @property
    def mask_shares(self) -> np.ndarray:
        """Part of its image, 0..1, that each ground-truth mask covers: one mask per class and image."""
        maps = self.label_maps
        return np.array([np.mean(m == i) for m in maps for i in np.unique(m) if i != IGNORE])


def first_batch(source: Source, model: Any, seed: int = 0) -> Batch:
    """The first batch that training would see, padded to one size.

    Args:
        source: config with data.
        model: from `config.build_model`; its data preprocessor turns uint8 BGR images into what the network takes.
        seed: of order, resize, crop and flip.
    """
    cfg = as_config(source)
    init_default_scope("mmseg")
    set_random_seed(seed)
    data = next(iter(Runner.build_dataloader(copy.deepcopy(cfg.train_dataloader), seed=seed)))
    prepared = model.data_preprocessor(data, training=True)
    inputs, samples = prepared["inputs"], prepared["data_samples"]
    pixels = inputs * model.data_preprocessor.std + model.data_preprocessor.mean  # (B, 3, H, W), 0..255
    images = pixels.permute(0, 2, 3, 1).round().clamp(0, 255).byte().numpy()  # (B, H, W, 3)
    label_maps = torch.cat([sample.gt_sem_seg.data for sample in samples]).byte().numpy()  # (B, H, W)
    return Batch(inputs, images, label_maps, samples)


def first_losses(model: Any, batch: Batch) -> dict[str, float]:
    """The terms of the loss for that batch, by the names that the log has: `"loss_cls"`, `"d0.loss_cls"`, ...

    One number per kind of loss (class, mask, Dice) and prediction (before the first decoder layer, and after each). The
    model's running statistics are left as they are.
    """
    training, state = model.training, {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    with torch.no_grad():
        losses = model.loss(batch.inputs, batch.samples)
    for name, value in model.named_buffers():
        value.copy_(state[name])
    model.train(training)
    return {name.removeprefix("decode."): float(value) for name, value in losses.items() if "loss" in name}


def predicted_losses(source: Source, batch: Batch) -> dict[str, float]:
    """What each kind of loss should be at the start, worked out by hand for a model that knows nothing.

    All classes are equally likely, so the class loss is the logarithm of their number; all masks are one half
    everywhere, so the mask loss is the logarithm of 2, and the Dice loss follows from the size of the true masks. Times
    the weights in the config.

    Returns: `"cls"`, `"mask"`, `"dice"`: value of one term; `"terms"`: number of terms; `"total"`: sum of all of them.
    """
    head = as_config(source).model.decode_head
    share = batch.mask_shares  # (masks,)
    dice = float(np.mean(1 - share / (0.5 + share)))  # 1 - 2 |p t| / (|p| + |t|) with p = 0.5 everywhere
    values = {
        "cls": math.log(head.num_classes + 1) * head.loss_cls.loss_weight,
        "mask": math.log(2) * head.loss_mask.loss_weight,
        "dice": dice * head.loss_dice.loss_weight,
    }
    predictions = head.transformer_decoder.num_layers + 1
    return values | {"terms": len(values) * predictions, "total": predictions * sum(values.values())}


def mean_by_kind(losses: Mapping[str, float]) -> dict[str, float]:
    """The mean term of each kind of loss: `"cls"`, `"mask"`, `"dice"`."""
    return {kind: float(np.mean([v for k, v in losses.items() if k.endswith(f"loss_{kind}")])) for kind in LOSS_KINDS}
