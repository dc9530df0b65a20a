"""Judges a model on labelled images with mmseg's `IoUMetric`. Taught in notebook 05."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers.config import as_config, set_data
from m2f_helpers.data.dataset import PairDataset
from m2f_helpers.images import read_image
from m2f_helpers.inference.segment import segment_array
from m2f_helpers.palette import IGNORE, NUM_CLASSES, ade20k_palette


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled images. Scores in percent, 0..100, as mmseg's `IoUMetric` gives them.

    `miou` is the mean IoU over the classes that occur in truth or prediction, `accuracy` the part of judged pixels that
    are right. `confusion` `(K, K)` int64 counts pixels, truth in rows, prediction in columns, ignore left out.
    """

    miou: float
    accuracy: float
    table: pd.DataFrame
    confusion: np.ndarray
    images: int

    def confusions(self, limit: int = 10) -> pd.DataFrame:
        """The most frequent mistakes: `truth`, `predicted`, `pixels`, and their `share` of the true class, 0..1."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[: min(limit, int((wrong > 0).sum()))]
        truth, predicted = np.unravel_index(order, wrong.shape)
        names, pixels = ade20k_palette().names, wrong[truth, predicted]
        columns = {"truth": [names[i] for i in truth], "predicted": [names[i] for i in predicted], "pixels": pixels}
        return pd.DataFrame({**columns, "share": pixels / self.confusion.sum(1)[truth]})


def evaluate(model: Any, data: Any, *, limit: int | None = None, progress: bool = True) -> Evaluation:
    """Judge a model on the validation images, with mmseg's `IoUMetric`.

    Args:
        model: from `load`.
        data: a data folder that `config.set_data` knows (ADE20K layout), or a config whose validation data is meant.
        limit: at most this many images; None takes all.
        progress: show a bar.

    Returns: mIoU, a table of the classes that occur (by number of true pixels), and the confusions.
    Raises: FileNotFoundError or ValueError if there are no images or labels, or a label has another size.
    """
    from mmseg.evaluation.metrics import IoUMetric

    dataset = _labelled_images(model, data)
    areas = np.zeros((4, NUM_CLASSES))
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    count = min(len(dataset), limit or len(dataset))
    for i in tqdm(range(count), desc="evaluate", unit="image", disable=not progress or count < 4, leave=False):
        item = dataset[i]
        predicted = segment_array(model, read_image(item["img_path"]), item["img_path"], False).label_map
        truth = _check_truth(item, predicted)
        parts = IoUMetric.intersect_and_union(_tensor(predicted), _tensor(truth), NUM_CLASSES, IGNORE)
        areas += torch.stack(parts).numpy()
        confusion += confusion_matrix(predicted, truth)
    metrics = IoUMetric.total_area_to_metrics(*torch.from_numpy(areas), metrics=["mIoU"])
    miou, accuracy = float(np.nanmean(metrics["IoU"]) * 100), float(metrics["aAcc"] * 100)
    return Evaluation(miou, accuracy, _class_table(metrics, areas), confusion, count)


def confusion_matrix(prediction: np.ndarray, truth: np.ndarray, num_classes: int = NUM_CLASSES) -> np.ndarray:
    """Count pixels by true and predicted class, those with truth 255 = ignore left out.

    Args:
        prediction: class ids `(H, W)`.
        truth: class ids `(H, W)`, 255 = ignore.
        num_classes: K.

    Returns: `(K, K)` int64, truth in rows, prediction in columns.
    """
    judged = np.asarray(truth) != IGNORE
    pairs = np.asarray(truth)[judged].astype(np.int64) * num_classes + np.asarray(prediction)[judged]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


# ------------------------------------------------------------------------------------------------- evaluate, predict


def _labelled_images(model: Any, data: Any) -> Any:
    """mmseg's data set for the validation images, whose items have `img_path` and `gt_seg_map` at full size."""
    from mmseg.registry import DATASETS

    if isinstance(data, (str, os.PathLike)):
        data = set_data(model.cfg, data)
    config = as_config(data)
    settings = copy.deepcopy(config.val_dataloader.dataset)
    settings.pipeline = [{"type": "LoadLabels" if settings.type == PairDataset.__name__ else "LoadAnnotations"}]
    images = Path(settings.get("data_root") or "")
    if not images.is_dir():
        raise FileNotFoundError(f"the folder of validation images {images} does not exist; see config.set_data")
    dataset = DATASETS.build(settings)
    if not len(dataset):
        raise ValueError(f"no validation images in {images}")
    return dataset


def _check_truth(item: dict, predicted: np.ndarray) -> np.ndarray:
    truth = item["gt_seg_map"]
    if truth.shape != predicted.shape:
        raise ValueError(
            f"{item['seg_map_path']} has {truth.shape} pixels, its image {predicted.shape}; sizes must agree"
        )
    wrong = np.unique(truth[(truth >= NUM_CLASSES) & (truth != IGNORE)])
    if len(wrong):
        raise ValueError(
            f"{item['seg_map_path']}: expected class ids 0..{NUM_CLASSES - 1} or {IGNORE}, got {wrong[:5].tolist()}"
        )
    return truth


def _tensor(label_map: np.ndarray) -> Tensor:
    return torch.from_numpy(label_map.astype(np.int64))


def _class_table(metrics: dict, areas: np.ndarray) -> pd.DataFrame:
    """The classes that occur in truth or prediction; `areas` rows: intersection, union, prediction, truth."""
    union, truth = areas[1], areas[3]
    ids = [int(i) for i in np.argsort(-truth, kind="stable") if union[i]]
    names = ade20k_palette().names
    return pd.DataFrame(
        {
            "id": ids,
            "name": [names[i] for i in ids],
            "share": truth[ids] / max(truth.sum(), 1),
            "predicted": areas[2][ids] / max(truth.sum(), 1),
            "iou": metrics["IoU"][ids] * 100,
            "recall": metrics["Acc"][ids] * 100,
        }
    )
