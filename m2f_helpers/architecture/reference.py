"""One real training step and one real prediction of the published R50 model, shared by everything notebook 03 shows.

The model is built from the config that mmseg installs; its weights are random but seeded, since nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers.architecture.notes import covered_functions, uncovered_relatives
from m2f_helpers.architecture.tracing import ShapeRecord, record_shapes
from m2f_helpers.config import build_model, published_config
from m2f_helpers.install import kernels


@dataclass
class Evidence:
    """What the reference run left behind: numbers and text, and the model itself with its gradients."""

    config: Config
    model: nn.Module
    labels: list[int]
    record: ShapeRecord
    losses: dict[str, float]
    total: float
    layer_order: list[str] = field(default_factory=list)
    attention_masks: list[dict[str, Any]] = field(default_factory=list)
    encoder: dict[str, Any] = field(default_factory=dict)
    macs: dict[str, float] = field(default_factory=dict)
    macs_by_operation: dict[str, float] = field(default_factory=dict)
    prediction: dict[str, Any] = field(default_factory=dict)
    running_mean_moved: bool = False

    def loss_table(self) -> pd.DataFrame:
        """The losses as a table: a row per prediction, the columns class, mask and Dice, weights included."""
        layers = sum(name.endswith("loss_cls") for name in self.losses) - 1
        prefixes = [*(f"decode.d{layer}." for layer in range(layers)), "decode."]
        rows = [[self.losses[f"{prefix}loss_{kind}"] for kind in ("cls", "mask", "dice")] for prefix in prefixes]
        names = ["before layer 1", *(f"after layer {layer}" for layer in range(1, layers + 1))]
        return pd.DataFrame(rows, index=names, columns=["class", "mask", "Dice"])


def check_mask2former(model: Any) -> None:
    """Raise a ValueError that says what is missing if `model` is not a Mask2Former segmentor."""
    head = getattr(model, "decode_head", None)
    missing = [name for name in ("pixel_decoder", "transformer_decoder", "mask_embed") if not hasattr(head, name)]
    if missing:
        raise ValueError(
            f"got {type(model).__name__} with decode_head {type(head).__name__}, which has no {', '.join(missing)}; "
            "expected an mmseg EncoderDecoder with a Mask2FormerHead"
        )


def config_file() -> Path:
    """The R50 ADE20K config in mmseg's installed package."""
    return Path(published_config("ade20k").filename)


def r50_config() -> Config:
    """The R50 ADE20K config as mmseg 1.2.2 installs it, with the download of backbone weights taken out."""
    config = published_config("ade20k")
    config.model.backbone.init_cfg = None
    return config


def reference_batch(size: int = 512, images: int = 1) -> dict[str, list[Any]]:
    """A drawn room, in images that differ by their noise, as the data loader would hand it over.

    Returns: `inputs`, a list of `(3, size, size)` uint8 tensors in BGR, and `data_samples` with `gt_sem_seg`
        `(1, size, size)` int64: wall 0, floor 3, ceiling 5, bed 7, painting 22, and a rim of 255 (ignored).
    """
    generator = np.random.default_rng(0)
    label_map = np.zeros((size, size), np.int64)
    boxes = {3: (0.7, 1.0, 0.0, 1.0), 5: (0.0, 0.2, 0.0, 1.0), 7: (0.5, 0.85, 0.1, 0.6), 22: (0.28, 0.45, 0.65, 0.9)}
    for class_id, (top, bottom, left, right) in boxes.items():
        label_map[int(top * size) : int(bottom * size), int(left * size) : int(right * size)] = class_id
    colours = generator.integers(40, 215, (256, 3))
    image = colours[label_map].transpose(2, 0, 1)
    label_map[:, : size // 64] = 255
    noisy = [(image + generator.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8) for _ in range(images)]
    samples = [sample_of(torch.from_numpy(label_map)[None]) for _ in range(images)]
    return {"inputs": [torch.from_numpy(one) for one in noisy], "data_samples": samples}


def sample_of(label_map: Tensor) -> SegDataSample:
    """A label map `(1, H, W)` int64 as the truth of one image."""
    size = tuple(label_map.shape[1:])
    sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": size, "pad_shape": size})
    sample.gt_sem_seg = PixelData(data=label_map)
    return sample


@cache
def reference_run(size: int = 512) -> Evidence:
    """Loss, backward and predict of the R50 model on `size` pixels squared, traced; once per process, about 30 s."""
    config = r50_config()
    return trace_run(config, build_model(config), reference_batch(size))


def trace_run(config: Config, model: nn.Module, batch: dict[str, list[Any]]) -> Evidence:
    """One training step (without the optimiser) and one prediction, with everything written down that claims need.

    The gradients and batch-norm statistics of the model change, as in training.
    """
    check_mask2former(model)
    labels = [int(value) for value in torch.unique(batch["data_samples"][0].gt_sem_seg.data) if value != 255]
    evidence = Evidence(config, model, labels, ShapeRecord({}), {}, 0.0)

    def run(model: nn.Module) -> None:
        with torch.random.fork_rng(devices=[]), kernels.disabled(), _watching(evidence):
            torch.manual_seed(0)
            for step in tqdm([_train_step, _predict], desc="training step, prediction", leave=False):
                step(model, batch, evidence)

    evidence.record = record_shapes(model, run, [*covered_functions(), *uncovered_relatives()])
    return evidence


def _train_step(model: nn.Module, batch: dict[str, list[Any]], evidence: Evidence) -> None:
    model.train()
    before = model.backbone.bn1.running_mean.clone()
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    evidence.losses = {name: float(value.detach()) for name, value in losses.items()}
    evidence.total = float(total.detach())
    evidence.running_mean_moved = bool((model.backbone.bn1.running_mean != before).any())


def _predict(model: nn.Module, batch: dict[str, list[Any]], evidence: Evidence) -> None:
    model.eval()
    data = model.data_preprocessor(batch, False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        samples = model(**data, mode="predict")
    counts = counter.get_flop_counts()
    evidence.macs = {name: sum(ops.values()) / 2 for name, ops in counts.items() if name.count(".") <= 1}
    evidence.macs_by_operation = {str(op).replace("aten.", ""): flops / 2 for op, flops in counts["Global"].items()}
    evidence.prediction = {
        "classes": tuple(samples[0].pred_sem_seg.data.shape),
        "logits": tuple(samples[0].seg_logits.data.shape),
        "logit_range": (float(samples[0].seg_logits.data.min()), float(samples[0].seg_logits.data.max())),
    }


@contextmanager
def _watching(evidence: Evidence) -> Iterator[None]:
    """Forward hooks for what lines alone do not tell: order of the parts, attention masks, encoder inputs."""
    head = evidence.model.decode_head
    layer = head.transformer_decoder.layers[0]
    parts = {"cross_attn": layer.cross_attn, "self_attn": layer.self_attn, "ffn": layer.ffn}
    parts |= {f"norms.{i}": norm for i, norm in enumerate(layer.norms)}

    def note_mask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        mask: Tensor = kwargs["attn_mask"]
        found = {"shape": tuple(mask.shape), "dtype": str(mask.dtype), "requires_grad": mask.requires_grad}
        found |= {"all_blocked_rows": int(mask.all(-1).sum()), "blocked": mask.float().mean().item()}
        found |= {"keys": kwargs["key"].shape[1], "key_is_value": kwargs["key"] is kwargs["value"]}
        evidence.attention_masks.append(found | {"key_pos": kwargs["key_pos"] is not None})

    def note_encoder(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        points = kwargs["reference_points"]
        evidence.encoder = {
            "query": tuple(kwargs["query"].shape),
            "reference_points": tuple(points.shape),
            "reference_range": (float(points.min()), float(points.max())),
            "reference_requires_grad": points.requires_grad,
            "level_start_index": kwargs["level_start_index"].tolist(),
            "spatial_shapes": kwargs["spatial_shapes"].tolist(),
            "padded": bool(kwargs["key_padding_mask"].any()),
        }

    with ExitStack() as stack:
        for name, part in parts.items():
            hook = part.register_forward_hook(lambda *_, name=name: evidence.layer_order.append(name))
            stack.callback(hook.remove)
        watched = [(decoder_layer.cross_attn, note_mask) for decoder_layer in head.transformer_decoder.layers]
        for part, note in [*watched, (head.pixel_decoder.encoder, note_encoder)]:
            stack.callback(part.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield
