"""What "ignore" (255) means to each part of the loss, measured. Taught in notebook 04."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmcv.ops import point_sample
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from torch import Tensor

from m2f_helpers.finetune.batches import LOSS_KINDS, Batch
from m2f_helpers.palette import IGNORE
from m2f_helpers.plotting import SERIES, WIDTH, Figure, style

SURE = 5.0  # logit of an answer that is right, inside of its region; outside it is -SURE
STRIDE = 4  # masks have a quarter of the input's height and width


def with_ignored(batch: Batch) -> Batch:
    """The batch itself if some of its pixels are ignored; else a copy in which the right eighth of each image is."""
    if (batch.label_maps == IGNORE).any():
        return batch
    marked = copy.deepcopy(batch)
    edge = marked.label_maps.shape[2] * 7 // 8
    marked.label_maps[:, :, edge:] = IGNORE
    for sample in marked.samples:
        sample.gt_sem_seg.data[..., edge:] = IGNORE  # (1, H, W)
    return marked


def losses_under_ignored(model: Any, batch: Batch, values: Sequence[float]) -> pd.DataFrame:
    """Losses of an answer that is right in every judged pixel, for several mask logits in the ignored ones.

    Args:
        model: from `config.build_model`; only its loss is used.
        batch: from `batches.first_batch`, with pixels that are ignored.
        values: logits that every query has under ignored pixels.

    Returns: one row per value: `cls`, `mask`, `dice` (weighted, one prediction), and `points`, the part of the points
        of the mask losses, 0..1, that falls on ignored pixels.
    Raises: ValueError if the batch has no ignored pixel; `with_ignored` marks some.
    """
    maps = torch.from_numpy(batch.label_maps[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].copy())  # (B, H/4, W/4)
    if not (maps == IGNORE).any():
        raise ValueError("expected a batch with ignored pixels (255), got none; see with_ignored")
    head, rows = model.decode_head, []
    truths, metas = head._seg_data_to_instance_data(batch.samples)
    for value in values:
        classes, masks = _right_answer(head, maps, value)
        torch.manual_seed(0)  # the points
        losses = head.loss_by_feat([classes], [masks], truths, metas)
        row = {kind: float(losses[f"loss_{kind}"]) for kind in LOSS_KINDS}
        rows.append(row | {"points": _points(head, masks, maps)})
    return pd.DataFrame(rows, index=pd.Index(values, name="logit"))


def _right_answer(head: Any, maps: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """Class logits (B, Q, K + 1) and mask logits (B, Q, H/4, W/4): one query per class that is there, the rest idle."""
    size, nothing = (len(maps), head.num_queries), head.num_classes
    classes = torch.full((*size, nothing + 1), -2 * SURE)
    masks = torch.full((*size, *maps.shape[1:]), -SURE)
    for i, label_map in enumerate(maps):
        ids = [int(k) for k in label_map.unique() if k != IGNORE][: head.num_queries]
        classes[i, len(ids) :, nothing] = 2 * SURE
        for query, k in enumerate(ids):
            classes[i, query, k] = 2 * SURE
            masks[i, query][label_map == k] = SURE
        masks[i][:, label_map == IGNORE] = value
    return classes, masks


def _points(head: Any, masks: Tensor, maps: Tensor) -> float:
    """The part of the points at which the mask losses look that is ignored; as many per query, so all queries count."""
    torch.manual_seed(0)
    flat = masks.flatten(0, 1)[:, None]  # (B * Q, 1, H/4, W/4)
    wanted = head.num_points, head.oversample_ratio, head.importance_sample_ratio
    points = get_uncertain_point_coords_with_randomness(flat, None, *wanted)  # (B * Q, points, (x, y) in 0..1)
    ignored = (maps == IGNORE).float()[:, None].repeat_interleave(head.num_queries, 0)
    return float((point_sample(ignored, points) > 0.5).float().mean())


def plot_ignored(batch: Batch, losses: pd.DataFrame) -> Figure:
    """One label map with its ignored pixels, the mask that a class is trained on, and `losses_under_ignored`."""
    label_map = batch.label_maps[int(np.argmax([(one == IGNORE).mean() for one in batch.label_maps]))]
    ids, counts = np.unique(label_map[label_map != IGNORE], return_counts=True)
    target = label_map == ids[counts.argmax()]
    with style():
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.5])
        left.imshow(label_map == IGNORE, cmap="gray_r", vmin=0, vmax=1)
        left.set_title("ignored (black)")
        middle.imshow(np.where(target, 2, label_map == IGNORE), cmap="cividis", vmin=0, vmax=2)
        middle.set_title("target of one class")
        middle.set_xlabel("yellow 1, all else 0:\ngrey is ignored, and 0 too", fontsize=9)
        for ax in (left, middle):
            ax.set(xticks=[], yticks=[])
        bottom = np.zeros(len(losses))
        for (kind, name), color in zip(LOSS_KINDS.items(), SERIES, strict=True):
            right.bar(losses.index.astype(str), losses[kind], bottom=bottom, label=name, color=color)
            bottom += losses[kind].to_numpy()
        right.set(xlabel="mask logit under ignored pixels", ylim=(0, bottom.max() * 1.25))
        right.set_title("losses of a right answer")
        right.legend(ncols=3, loc="upper center", fontsize=8, handlelength=1, columnspacing=1)
    sums = ", ".join(f"{value:g}: {total:.1f}" for value, total in zip(losses.index, bottom, strict=True))
    figure.alt = f"a right answer's loss by the mask logit under ignored pixels: {sums}"
    return figure
