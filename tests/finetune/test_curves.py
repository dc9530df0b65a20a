from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from m2f_helpers.finetune import curves
from m2f_helpers.inference import figures


@pytest.fixture
def history():
    steps = np.arange(1, 25)
    parts = {f"loss_{kind}": 30.0 / steps for kind in ("cls", "mask", "dice")}
    return pd.DataFrame({"step": steps, "lr": np.linspace(1e-3, 0, 24), "loss": 90.0 / steps, **parts})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_history_is_drawn_as_it_is(history, theme):
    figure = curves.plot_history(history, theme)
    left, right = figure.axes
    lines = left.get_lines()
    assert len(lines) == 6 and list(lines[0].get_ydata()) == list(history["loss_cls"])
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["class loss", "mask loss", "Dice loss"]
    assert right.get_lines()[0].get_ydata()[0] == pytest.approx(1) and right.get_lines()[0].get_ydata()[-1] == 0
    assert "Loss from 90.0 to 3.8 in 24 steps" in figure.alt


def test_classes_before_and_after():
    after = pd.DataFrame(
        {"id": [2, 12, 4], "name": ["sky", "person", "tree"], "share": [0.6, 0.4, 0.0], "iou": [90, 50, 0]}
    )
    before = pd.DataFrame({"id": [12], "name": ["person"], "share": [0.4], "iou": [20]})
    figure = figures.plot_class_iou(before, after)
    (ax,) = figure.axes
    old, new = ([bar.get_width() for bar in bars] for bars in ax.containers)
    assert old == [0, 20] and new == [90, 50]  # a class that is only predicted (tree) has no truth to compare with
    assert [label.get_text() for label in ax.get_yticklabels()] == ["sky  60.0%", "person  40.0%"]
    assert figure.alt == "IoU before and after: sky 0 to 90 %, person 20 to 50 %"
