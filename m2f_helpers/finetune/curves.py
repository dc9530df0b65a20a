"""Figures of a training run: losses and learning rate over the steps. Functions return a Figure and show nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.ticker import MaxNLocator

from m2f_helpers.finetune.batches import LOSS_KINDS
from m2f_helpers.plotting import DPI, SERIES, WIDTH, Figure, style

KINDS = {f"loss_{kind}": name for kind, name in LOSS_KINDS.items()}


def plot_history(history: pd.DataFrame) -> Figure:
    """Loss by kind, and the learning rate, over the steps of a `training.TrainResult.history`.

    Thin lines are single steps, thick ones their running mean.
    """
    window = max(1, len(history) // 12)
    with style():
        figure = Figure(figsize=(WIDTH, 2.9), dpi=DPI, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[2, 1])
        for (column, name), color in zip(KINDS.items(), SERIES, strict=True):
            smooth = history[column].rolling(window, min_periods=1, center=True).mean()
            left.plot(history["step"], history[column], color=color, alpha=0.3, linewidth=0.8)
            left.plot(history["step"], smooth, color=color, linewidth=2, label=name)
        left.set(xlabel="step", ylabel="loss, sum over all predictions", title="Three kinds of loss", ylim=(0, None))
        left.legend()
        right.plot(history["step"], history["lr"] * 1000, color="#444444")
        right.set(xlabel="step", ylabel="learning rate (thousandths)", title="Learning rate", ylim=(0, None))
        first, last = history.iloc[0], history.iloc[-1]
        figure.alt = f"Loss from {first['loss']:.1f} to {last['loss']:.1f} in {len(history)} steps; " + ", ".join(
            f"{name} {first[column]:.1f} to {last[column]:.1f}" for column, name in KINDS.items()
        )
    return figure


def compare(losses: Mapping[str, pd.Series]) -> Figure:
    """The summed loss of at most three runs over the same steps: name of the run -> one value per step."""
    with style():
        figure = Figure(figsize=(WIDTH, 2.7), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        for (name, values), color, dash in zip(losses.items(), SERIES, ("-", "--", ":"), strict=False):
            ax.plot(range(1, len(values) + 1), values, dash, color=color, linewidth=2, label=name)
        ax.set(xlabel="step", ylabel="loss, sum over all predictions", yscale="log")
        ax.set_title("The first steps of each run")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        figure.alt = "; ".join(f"{name}: {v.iloc[0]:.1f} to {v.iloc[-1]:.1f}" for name, v in losses.items())
    return figure
