"""Judges a model on labelled images with mmseg's `IoUMetric`. Taught in notebook 05."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers.data.labels import read_label
from m2f_helpers.data.layout import DataFolder, Pair, read_data
from m2f_helpers.images import read_image
from m2f_helpers.inference.segment import segment_array
from m2f_helpers.palette import IGNORE, UNKNOWN, Palette, palette_of


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled images. Scores in percent, 0..100, as mmseg's `IoUMetric` gives them.

    `miou` is the mean IoU over the classes that occur in truth or prediction, `accuracy` the part of judged pixels that
    are right. `table` has these classes by falling share of the true pixels: `id`, `name`, `share` and `predicted`
    (0..1), `iou` and `recall`. `confusion` `(K, K)` int64 counts pixels, truth in rows, prediction in columns, ignore
    left out. `images` were looked at.
    """

    miou: float
    accuracy: float
    table: pd.DataFrame
    confusion: np.ndarray
    images: int
    palette: Palette

    def confusions(self, limit: int = 10) -> pd.DataFrame:
        """The most frequent mistakes: `truth`, `predicted`, `pixels`, and their `share` of the true class, 0..1."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[: min(limit, int((wrong > 0).sum()))]
        truth, predicted = np.unravel_index(order, wrong.shape)  # positions in (K * K,) -> row and column
        names, pixels = self.palette.names, wrong[truth, predicted]
        columns = {"truth": [names[i] for i in truth], "predicted": [names[i] for i in predicted], "pixels": pixels}
        return pd.DataFrame({**columns, "share": pixels / self.confusion.sum(1)[truth].clip(1)})

    def summary(self) -> dict[str, Any]:
        """For JSON: `miou`, `accuracy`, and `iou` and `share` by class, all 0..1."""
        rows = zip(self.table["name"], self.table["iou"], self.table["share"], strict=True)
        classes = {name: {"iou": round(iou / 100, 6), "share": round(share, 6)} for name, iou, share in rows}
        return {"miou": round(self.miou / 100, 6), "accuracy": round(self.accuracy / 100, 6), "classes": classes}

    def __str__(self) -> str:
        part, score = "{:.1%}".format, "{:.1f}".format
        shown = self.table[["name", "share", "predicted", "iou", "recall"]]
        forms = {"share": part, "predicted": part, "iou": score, "recall": score}
        scores = shown.to_string(index=False, formatters=forms)
        mistakes = self.confusions(6).to_string(index=False, formatters={"share": part})
        head = (
            f"{self.images} images, {len(self.table)} classes: mIoU {self.miou:.1f} %, {self.accuracy:.1f} % of pixels"
        )
        only = self.table[self.table["predicted"] > 0]
        note = f"\n\nthe model predicts {only['name'].iloc[0]!r} everywhere" if len(only) == 1 else ""
        return f"{head} of pixels right\n\n{scores}\n\nmost frequent mistakes\n{mistakes}{note}"


def evaluate(model: Any, data: str | Path, *, limit: int | None = None, progress: bool = True) -> Evaluation:
    """Judge a model on the validation images of a data folder, with mmseg's `IoUMetric`.

    Args:
        model: from `load`.
        data: a folder that `data.layout.read_data` can read, with the model's classes.
        limit: at most this many images; None takes all.
        progress: show a bar.

    Returns: mIoU, a table of the classes that occur (by number of true pixels), and the confusions.
    Raises: FileNotFoundError or ValueError if there are no images or labels, the classes are others, a label map has
        another size than its image or ids that mean nothing, or not one pixel can be judged.
    """
    from mmseg.evaluation.metrics import IoUMetric

    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 image, got {limit}")
    palette, found = palette_of(model), read_data(data).need("validation")
    _check_classes(palette, found)
    pairs, classes = found.val[:limit], len(palette)
    areas = np.zeros((4, classes))
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for pair in tqdm(pairs, desc="evaluate", unit="image", disable=not progress or len(pairs) < 4, leave=False):
        predicted = segment_array(model, read_image(pair.image), str(pair.image), False).label_map
        truth = _read_truth(pair, predicted.shape, found.classes)
        maps = (torch.from_numpy(ids.astype(np.int64)) for ids in (predicted, truth))
        parts = IoUMetric.intersect_and_union(*maps, classes, IGNORE)
        areas += torch.stack(parts).numpy()  # four of (K,) -> (4, K)
        confusion += confusion_matrix(predicted, truth, classes)
    if not confusion.sum():
        raise ValueError(f"{data}: nothing to judge, every pixel of the {len(pairs)} validation label maps is ignored")
    metrics = IoUMetric.total_area_to_metrics(*torch.from_numpy(areas), metrics=["mIoU"])
    miou, accuracy = float(np.nanmean(metrics["IoU"]) * 100), float(metrics["aAcc"] * 100)
    return Evaluation(miou, accuracy, _class_table(metrics, areas, palette), confusion, len(pairs), palette)


def confusion_matrix(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels by true and predicted class, those with truth 255 = ignore left out.

    Both are class ids `(H, W)`; the result is `(K, K)` int64, truth in rows, prediction in columns.
    """
    judged = np.asarray(truth) != IGNORE  # (H, W) bool
    pairs = np.asarray(truth)[judged].astype(np.int64) * num_classes + np.asarray(prediction)[judged]  # (pixels,)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)  # (K * K,) -> (K, K)


def _check_classes(palette: Palette, found: DataFolder) -> None:
    """Ids can be compared only where model and data call them by the same names."""
    if palette.names == found.classes.names:
        return
    pairs = zip_longest(palette.names, found.classes.names)
    ours, theirs = next(pair for pair in pairs if pair[0] != pair[1])
    raise ValueError(
        f"{found.root}: the model has {len(palette)} classes and the data {len(found.classes)}; where the model says "
        f"{ours!r} the data say {theirs!r}: give data with the model's classes, or a classes.json that says what the "
        "ids mean"
    )


def _read_truth(pair: Pair, size: tuple[int, int], palette: Palette) -> np.ndarray:
    """Ids in memory `(H, W)` uint8 of a label file, checked against its image."""
    try:
        on_disk = read_label(pair.label.read_bytes())
    except ValueError as error:
        raise ValueError(f"{pair.label}: {error}") from None
    if on_disk.shape != size:
        raise ValueError(f"{pair.label} has {on_disk.shape} pixels, its image {size}; sizes must agree")
    truth = palette.from_disk[on_disk]
    if (truth == UNKNOWN).any():
        raise ValueError(
            f"{pair.label}: the ids {np.unique(on_disk[truth == UNKNOWN])[:5].tolist()} belong to none of the "
            f"{len(palette)} classes: `m2f check --data` says what to do"
        )
    return truth


def _class_table(metrics: dict, areas: np.ndarray, palette: Palette) -> pd.DataFrame:
    """The classes that occur in truth or prediction; `areas` rows: intersection, union, prediction, truth."""
    union, truth = areas[1], areas[3]
    ids = [int(i) for i in np.argsort(-truth, kind="stable") if union[i]]
    return pd.DataFrame(
        {
            "id": ids,
            "name": [palette.names[i] for i in ids],
            "share": truth[ids] / max(truth.sum(), 1),
            "predicted": areas[2][ids] / max(truth.sum(), 1),
            "iou": metrics["IoU"][ids] * 100,
            "recall": metrics["Acc"][ids] * 100,
        }
    )
