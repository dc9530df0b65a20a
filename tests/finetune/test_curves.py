from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from m2f_helpers.finetune import curves


@pytest.fixture
def history():
    steps = np.arange(1, 25)
    parts = {f"loss_{kind}": 30.0 / steps for kind in ("cls", "mask", "dice")}
    return pd.DataFrame({"step": steps, "lr": np.linspace(1e-3, 0, 24), "loss": 90.0 / steps, **parts})


def test_history_is_drawn_as_it_is(history):
    figure = curves.plot_history(history)
    left, right = figure.axes
    lines = left.get_lines()
    assert len(lines) == 6 and list(lines[0].get_ydata()) == list(history["loss_cls"])
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["class loss", "mask loss", "Dice loss"]
    assert right.get_lines()[0].get_ydata()[0] == pytest.approx(1) and right.get_lines()[0].get_ydata()[-1] == 0
    assert "Loss from 90.0 to 3.8 in 24 steps" in figure.alt


def test_runs_side_by_side():
    figure = curves.compare({"good": pd.Series([9.0, 4.0]), "bad": pd.Series([9.0, 40.0])})
    assert figure.alt == "good: 9.0 to 4.0; bad: 9.0 to 40.0"
    (ax,) = figure.axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[9.0, 4.0], [9.0, 40.0]]
    assert ax.get_yscale() == "log" and len({line.get_color() for line in ax.lines}) == 2
