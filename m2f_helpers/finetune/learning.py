"""Whether anything was learnt: what a finished run says about itself when it was not. Taught in notebook 04."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2f_helpers.palette import IGNORE

WINDOW = 5  # a fifth of the steps at either end is compared
NO_FALL = 0.98  # of the loss at the start


class PixelCounts(Hook):
    """Counts, while the Runner validates, how often each class is predicted and how often it is true."""

    def __init__(self) -> None:
        self.predicted = self.truth = np.zeros(256, np.int64)

    def before_val_epoch(self, runner: Runner) -> None:
        """A new validation counts from zero."""
        self.predicted, self.truth = np.zeros(256, np.int64), np.zeros(256, np.int64)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the pixels of a batch; those that are ignored count for neither."""
        for sample in outputs:
            truth, predicted = sample.gt_sem_seg.data.flatten(), sample.pred_sem_seg.data.flatten()
            judged = truth != IGNORE
            self.truth += torch.bincount(truth[judged].long(), minlength=256).cpu().numpy()
            self.predicted += torch.bincount(predicted[judged].long(), minlength=256).cpu().numpy()


def remarks(history: pd.DataFrame, counts: PixelCounts, names: list[str], random_start: bool) -> str:
    """What speaks against a run, with the likely causes in order, in one sentence; empty if it learnt something.

    `counts` are those of the last validation; `random_start` says if the run began with random weights.
    """
    found = [*_of_the_loss(history), *_of_the_validation(history, counts, names)]
    if not found:
        return ""
    causes = list(_causes(history, random_start))
    return f"it seems that nothing was learnt: {'; '.join(found)}. Likely causes, in this order: {'; '.join(causes)}"


def _of_the_loss(history: pd.DataFrame) -> list[str]:
    window = len(history) // WINDOW
    if window < 4:  # single steps differ too much
        return []
    first, last = history["loss"][:window].mean(), history["loss"][-window:].mean()
    if last <= NO_FALL * first:
        return []
    return [f"the loss did not fall ({first:.1f} at the start, {last:.1f} at the end)"]


def _of_the_validation(history: pd.DataFrame, counts: PixelCounts, names: list[str]) -> list[str]:
    measured = history["mIoU"].dropna()
    if not len(measured):
        return []
    if not counts.truth.any():
        return ["every pixel of the validation labels is ignored, so nothing could be measured"]
    present, often = int((counts.truth > 0).sum()), int(counts.truth.argmax())
    if present > 1 and (counts.predicted > 0).sum() == 1:
        return [f"every pixel of the validation images is called {names[int(counts.predicted.argmax())]!r}"]
    chance = counts.truth[often] / counts.truth.sum() / present  # IoU of one class, 0 for all others that are there
    if present > 1 and measured.iloc[-1] <= chance:
        better = f"calling every pixel {names[often]!r} would reach {chance:.3f}"
        return [f"mIoU {measured.iloc[-1]:.3f} is no better than chance, {better}"]
    return []


def _causes(history: pd.DataFrame, random_start: bool) -> list[str]:
    rate, steps = float(history["lr"].max()), len(history)
    causes = [f"a learning rate of {rate:g} is too small"] if rate < 1e-5 else []
    if random_start and steps < 5000:
        causes.append(f"too few steps ({steps}) for random start weights (the published model took 160000)")
    elif steps < 50:
        causes.append(f"too few steps ({steps})")
    causes.append("labels that do not lie on their images or are shifted by one (`m2f check --data`, look at a batch)")
    return [*causes, f"a learning rate of {rate:g} is too large"] if rate > 1e-3 else causes
