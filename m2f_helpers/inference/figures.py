"""Figures about what a model predicts: queries, uncertainty, before and after, IoU, colours. Notebooks 04 and 05.

Images, label maps and palettes are as in `plotting`; a `result` is a `segment.Segmentation`, for all figures of layers
made with `layers=True`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from m2f_helpers.palette import IGNORE, Palette, ade20k_palette
from m2f_helpers.plotting import (
    DPI,
    ERROR_COLOR,
    WIDTH,
    Figure,
    change_map,
    deepest,
    draw_image,
    error_map,
    error_rate,
    legend_entries,
    new_figure,
    panels,
    percent,
    short,
    small_panels,
    spotlight,
    style,
)

BEFORE, AFTER = "#8a949e", "#0072b2"


def class_iou(table: pd.DataFrame, before: pd.DataFrame | None = None, *, limit: int = 40) -> Figure:
    """IoU of each class that occurs in truth or prediction, by falling share of the pixels; the title has their mean.

    Args:
        table: `evaluation.Evaluation.table`: columns `id`, `name`, `share` (of the true pixels, 0..1), `iou` (percent).
        before: another model's table, drawn beside it; classes are matched by id.
        limit: at most this many classes.
    """
    rows = table.head(limit)
    models = [("before", BEFORE, before)] * (before is not None) + [("after", AFTER, table)]
    height = 0.8 / len(models)
    with style():
        figure = Figure(figsize=(WIDTH, 1.0 + 0.27 * len(rows)), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        for k, (name, color, scores) in enumerate(models):
            values = scores.set_index("id")["iou"].reindex(rows["id"]).to_numpy()
            places = np.arange(len(rows)) + (k - (len(models) - 1) / 2) * height
            bars = ax.barh(places, np.nan_to_num(values), height, color=color, label=f"{name}: {_miou(scores)}")
            ax.bar_label(bars, ["-" if np.isnan(v) else f"{v:.0f}" for v in values], fontsize=8, padding=3)
        labels = [f"{name}  {percent(share)}" for name, share in zip(rows["name"], rows["share"], strict=True)]
        ax.set(yticks=range(len(rows)), yticklabels=labels, xlim=(0, 108), xticks=range(0, 101, 20))
        ax.set(xlabel="IoU, percent", ylim=(len(rows) - 0.4, -0.6))
        more = f", the {limit} largest of {len(table)}" if len(table) > limit else ""
        heading = f"{_miou(table)}. " if before is None else ""
        ax.set_title(f"{heading}IoU of each class, with its share of the pixels{more}")
        ax.spines[["top", "right"]].set_visible(False)
        if before is not None:
            figure.legend(loc="outside lower center", ncols=2)
    figure.alt = f"IoU per class, {', '.join(f'{name} {_miou(scores)}' for name, _, scores in models)}: " + ", ".join(
        f"{name} {value:.0f} %" for name, value in zip(rows["name"], rows["iou"], strict=True)
    )
    return figure


def _miou(table: pd.DataFrame) -> str:
    return f"mIoU {table['iou'].mean():.0f} %"


def uncertainty(
    image: np.ndarray,
    confidence: np.ndarray,
    entropy: np.ndarray,
    prediction: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> Figure:
    """Where a model is unsure: confidence and entropy, `(H, W)` 0..1, and the errors if the truth is known.

    Confidence is the winner's part of all class scores.
    """
    known = prediction is not None and truth is not None
    columns = 2 if known else 3
    with style():
        figure = new_figure([image] * (4 if known else 3), columns, 3)
        axes = figure.subplots(2 if known else 1, columns, squeeze=False).ravel()
        draw_image(axes[0], image)
        axes[0].set_title("image")
        for ax, values, text in ((axes[1], confidence, "confidence"), (axes[2], entropy, "entropy")):
            drawn = ax.imshow(values, vmin=0, vmax=1)
            ax.set_axis_off()
            ax.set_title(f"{text}, mean {np.mean(values):.2f}")
        figure.colorbar(drawn, ax=axes.tolist(), location="bottom", shrink=0.5, aspect=40, pad=0.02)
        figure.alt = f"Confidence, mean {np.mean(confidence):.2f}; entropy, mean {np.mean(entropy):.2f}"
        if known:
            draw_image(axes[3], error_map(image, prediction, truth))
            share = error_rate(prediction, truth)
            axes[3].set_title(f"wrong: {percent(share)} of judged pixels")
            figure.alt += f"; wrong: {percent(share)}"
    return figure


def errors_by_confidence(confidence: np.ndarray, prediction: np.ndarray, truth: np.ndarray, *, bins: int = 5) -> Figure:
    """Part of the pixels that are wrong, by how confident the model was about them, in `bins` bars of equal width.

    All of one shape: `confidence` 0..1; `prediction` and `truth` class ids, 255 = ignore.
    """
    judged = np.asarray(truth) != IGNORE
    wrong = (np.asarray(prediction) != np.asarray(truth))[judged]
    place = np.minimum((np.asarray(confidence)[judged] * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    rates = np.bincount(place, wrong, minlength=bins) / np.maximum(counts, 1)
    labels = [f"{i / bins:.1f} to {(i + 1) / bins:.1f}" for i in range(bins)]
    with style():
        figure = Figure(figsize=(WIDTH, 2.9), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        bars = ax.bar(labels, rates, color=np.array(ERROR_COLOR) / 255)
        parts = counts / max(counts.sum(), 1)
        texts = [
            f"{percent(r)} wrong\n{percent(p)} of pixels" if c else "no pixels"
            for r, p, c in zip(rates, parts, counts, strict=True)
        ]
        ax.bar_label(bars, texts, fontsize=8.5, padding=2)
        ax.set(ylim=(0, 1.28), xlabel="confidence", ylabel="part that is wrong", yticks=[0, 0.5, 1])
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines["left"].set_bounds(0, 1)  # above it there is room for words only
    pairs = [f"{label}: {percent(rate)}" for label, rate, count in zip(labels, rates, counts, strict=True) if count]
    figure.alt = "Wrong pixels by confidence. " + ", ".join(pairs)
    return figure


def query_grid(result: Any, limit: int = 8) -> Figure:
    """The masks of the queries that own most of a `Segmentation`, as lit parts of the image."""
    chosen = result.queries[:limit]
    images = [spotlight(result.image, result.query_mask(query.index)) for query in chosen]
    titles = [f"query {q.index}, owns {percent(q.share)}\n{short(q.name)} {q.score:.2f}" for q in chosen]
    return small_panels(images, titles, 4, "Queries: ")


def query_life(result: Any, query: int) -> Figure:
    """One query, by its index, from the first prediction to the last: its mask, its class, and how sure it is."""
    images, titles = [], []
    for i in range(len(result.layers)):
        name, score = _best_class(result, i, query)
        images.append(spotlight(result.image, result.query_mask(query, i)))
        titles.append(f"{_when(i)}\n{short(name, 13)} {score:.2f}")
    return small_panels(images, titles, 4 if len(images) <= 4 else 5, f"Query {query}: ")


def queries_by_layer(result: Any, limit: int = 4) -> Figure:
    """The queries that own most, one per row, after four predictions, evenly spread from the first to the last."""
    steps = sorted({round(i) for i in np.linspace(0, len(result.layers) - 1, 4)})
    images, titles = [], []
    for query in result.queries[:limit]:
        for i in steps:
            name, score = _best_class(result, i, query.index)
            images.append(spotlight(result.image, result.query_mask(query.index, i)))
            titles.append(f"query {query.index}, {_when(i)}\n{short(name)} {score:.2f}")
    return small_panels(images, titles, len(steps), "")


def attention(result: Any, query: int) -> Figure:
    """Where each decoder layer let a query, by its index, look: the lit cells, at the layer's own feature level."""
    images, titles = [], []
    for layer in range(1, len(result.layers)):
        allowed = result.allowed(query, layer)
        images.append(spotlight(result.image, allowed))
        freed = " (mask empty here)" if result.layers[layer - 1].rescued[query] else ""
        cells = f"{allowed.shape[0]} x {allowed.shape[1]} cells"
        titles.append(f"layer {layer}: {cells}\n{percent(allowed.mean())} allowed{freed}")
    return small_panels(images, titles, 3, f"Attention of query {query}: ")


def attention_narrowing(result: Any) -> Figure:
    """Part of the image that each query may look at, layer by layer; the ten largest in colour if they own 1 %."""
    layers = range(1, len(result.layers))
    used = [query for query in result.queries if query.share >= 0.01][:10]
    colours = [f"C{i}" for i in range(10) if i != 7] + ["black"]  # C7 is the grey of the others
    with style():
        figure = Figure(figsize=(WIDTH, max(3.2, 0.9 + 0.22 * (len(used) + 1))), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        for query in result.queries[::-1]:
            shares = [float(result.allowed(query.index, layer).mean()) for layer in layers]
            if query not in used:
                ax.plot(layers, shares, color="0.5", lw=0.8, zorder=1)
                continue
            text = f"{query.index}: {short(query.name)}"
            ax.plot(layers, shares, marker="o", color=colours[used.index(query) % 10], lw=2, label=text, zorder=2)
        ax.set(xlabel="decoder layer", ylabel="part of the image allowed", yscale="log", xticks=list(layers))
        ax.yaxis.set_major_formatter(lambda share, _: percent(share))
        ax.set_ylim(top=1.15)
        ax.spines[["top", "right"]].set_visible(False)
        handles, texts = ax.get_legend_handles_labels()
        if len(used) < len(result.queries):
            handles.insert(0, Line2D([], [], color="0.5", lw=0.8))
            texts.insert(0, "the others")
        handles, texts = handles[::-1], texts[::-1]
        figure.legend(handles, texts, loc="outside right upper", fontsize=8.5, title="query: class", title_fontsize=8.5)
    means = [np.mean([result.allowed(q.index, layer).mean() for q in used]) for layer in layers]
    figure.alt = "Attention allowed, mean of the used queries: " + ", ".join(
        f"layer {layer} {percent(mean)}" for layer, mean in zip(layers, means, strict=True)
    )
    return figure


def before_after(
    image: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    truth: np.ndarray | None = None,
    *,
    names: Sequence[str] = ("before", "after"),
    palette: Palette | None = None,
) -> Figure:
    """Two predictions for one image, and what changed: corrected in blue, made worse in orange.

    Without `truth` the last is left out; `names` are titles of the two predictions.
    """
    shown, titles = [image, before, after], ["image", *names]
    if truth is not None:
        titles[1:] = [f"{n}: {percent(error_rate(p, truth))} wrong" for n, p in zip(names, shown[1:], strict=True)]
        shown.append(change_map(image, before, after, truth))
        titles.append("blue: corrected, orange: made worse")
    heading = f"share of pixels: {names[0]} / {names[1]}"
    columns = 2 if truth is not None else 3
    return panels(shown, titles, columns=columns, shares_of=heading, palette=palette)


def rgb_or_bgr(
    image: np.ndarray, label_map: np.ndarray, class_id: int | None = None, palette: Palette | None = None
) -> Figure:
    """The right overlay beside the one that a BGR array in an RGB palette gives, and one pixel that proves it.

    The pixel is one of class `class_id`, default: `telltale_class`; below, both pixels enlarged with their values.
    """
    palette = palette or ade20k_palette()
    class_id = telltale_class(label_map, palette) if class_id is None else class_id
    region = np.asarray(label_map) == class_id
    if not region.any():
        raise ValueError(f"the label map has no pixel of class {class_id}; it has {np.unique(label_map)[:10].tolist()}")
    row, column = (int(v) for v in deepest(region))
    right = palette.colorize(label_map)
    wrong = right[..., ::-1].copy()
    name, titles = palette.names[class_id], ["image", "label map, RGB: right", "channels swapped: wrong"]
    with style():
        figure = Figure(figsize=(WIDTH, 4.3), dpi=DPI, layout="constrained")
        axes = figure.subplots(2, 3, height_ratios=[3, 1])
        for ax, array, text in zip(axes[0], (image, right, wrong), titles, strict=True):
            draw_image(ax, array)
            ax.set_title(text)
            ax.plot(column, row, "o", ms=13, mfc="none", mec="white", mew=3.5)
            ax.plot(column, row, "o", ms=13, mfc="none", mec="black", mew=1.5)
        axes[1, 0].text(0.5, 0.5, f"the circled pixel\nis {name}", ha="center", va="center")
        axes[1, 0].set_axis_off()
        for ax, array in zip(axes[1, 1:], (right, wrong), strict=True):
            draw_image(ax, array[row : row + 1, column : column + 1])
            ax.set_title(str(tuple(array[row, column].tolist())), fontweight="normal", y=-0.32)
            ax.set_aspect("auto")
    values = " and ".join(str(tuple(a[row, column].tolist())) for a in (right, wrong))
    figure.alt = f"One pixel of {name} in the label map: RGB and with swapped channels, {values}"
    return figure


def telltale_class(label_map: np.ndarray, palette: Palette | None = None) -> int:
    """The class present whose colour suffers most when red and blue are swapped; person wherever it is present."""
    entries = [entry for entry in legend_entries(label_map, palette) if entry.id != IGNORE]
    if not entries:
        raise ValueError("the label map holds nothing but ignore (255)")
    visible = [entry for entry in entries if entry.share >= 0.005] or entries
    return max(visible, key=lambda entry: (entry.name == "person", abs(entry.color[0] - entry.color[2]))).id


def _best_class(result: Any, layer: int, query: int) -> tuple[str, float]:
    """Name and probability of the best class of one query after a layer, "no object" left out."""
    score, best = result.layers[layer].class_logits[query].softmax(-1)[:-1].max(-1)  # (K + 1,) -> (K,) -> one
    return result.palette.names[int(best)], float(score)


def _when(prediction: int) -> str:
    return "before layer 1" if prediction == 0 else f"after layer {prediction}"
