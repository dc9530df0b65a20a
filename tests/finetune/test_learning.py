"""A run in which nothing was learnt says so, with what speaks for it and the likely causes in order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from m2f_helpers.finetune.learning import PixelCounts, remarks

NAMES = ["wall", "sky", "car"]


def history(first=40.0, last=10.0, steps=100, rate=1e-3, miou=0.6):
    rows = {"step": range(1, steps + 1), "lr": rate, "loss": np.linspace(first, last, steps)}
    return pd.DataFrame(rows).assign(mIoU=[float("nan")] * (steps - 1) + [miou])


def counts(predicted, truth):
    """Counts of one validation image with these class ids, one pixel each."""
    found = PixelCounts()
    found.before_val_epoch(None)
    maps = {"pred_sem_seg": predicted, "gt_sem_seg": truth}
    sample = SimpleNamespace(**{k: SimpleNamespace(data=torch.tensor([[v]])) for k, v in maps.items()})
    found.after_val_iter(None, 0, outputs=[sample])
    return found


GOOD = counts([0, 0, 1, 2, 1], [0, 0, 1, 2, 255])


def test_a_run_that_learnt_says_nothing():
    assert remarks(history(), GOOD, NAMES, False) == ""


def test_ignored_pixels_are_not_counted():
    assert GOOD.truth[:3].tolist() == [2, 1, 1] and GOOD.predicted[:3].tolist() == [2, 1, 1] and GOOD.truth[255] == 0


def test_a_loss_that_does_not_fall():
    text = remarks(history(30, 30, rate=1e-6), GOOD, NAMES, False)
    assert "the loss did not fall (30.0 at the start, 30.0 at the end)" in text
    causes = text.split("in this order: ")[1]
    assert (
        causes.startswith("a learning rate of 1e-06 is too small; labels that do not lie") and "too large" not in causes
    )


def test_one_class_in_every_prediction():
    text = remarks(history(miou=0.2), counts([1, 1, 1], [0, 1, 2]), NAMES, True)
    assert "every pixel of the validation images is called 'sky'" in text
    assert "too few steps (100) for random start weights" in text.split("in this order: ")[1]


def test_no_better_than_the_most_frequent_class():
    seen, truth = [0, 1, 0, 0, 2], [0, 0, 0, 1, 2]
    text = remarks(history(miou=0.1), counts(seen, truth), NAMES, False)
    assert "mIoU 0.100 is no better than chance, calling every pixel 'wall' would reach 0.200" in text
    assert remarks(history(miou=0.21), counts(seen, truth), NAMES, False) == ""


def test_validation_labels_that_are_all_ignored():
    text = remarks(history(miou=float("nan")).assign(mIoU=0.0), counts([0, 1], [255, 255]), NAMES, False)
    assert "every pixel of the validation labels is ignored" in text


def test_one_sentence_and_no_verdict_on_a_few_steps_of_loss():
    text = remarks(history(10, 90, rate=0.01, miou=0.0), GOOD, NAMES, False)
    assert "\n" not in text and text.endswith("a learning rate of 0.01 is too large")
    assert remarks(history(10, 12, steps=6), GOOD, NAMES, False) == ""
