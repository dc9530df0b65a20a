"""Figures about what a model predicts: queries, uncertainty, before and after, IoU. Used by notebooks 04 and 05."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from m2f_helpers.palette import IGNORE, ade20k_palette
from m2f_helpers.plotting import (
    DPI,
    ERROR_COLOR,
    WIDTH,
    Picture,
    _name,
    _new_figure,
    _short,
    _small_titles,
    change_map,
    draw_image,
    error_map,
    error_rate,
    panels,
    percent,
    spotlight,
    style,
)

BEFORE, AFTER = "#9aa5b1", "#0072b2"


def plot_class_iou(before: pd.DataFrame, after: pd.DataFrame, theme: str = "light") -> Picture:
    """IoU per class before and after, for the classes that the true label maps hold.

    Args:
        before, after: `evaluation.Evaluation.table`: columns `id`, `name`, `share` (of the true pixels, 0..1), `iou`
            (percent).
        theme: `"light"` or `"dark"`.

    Returns: the figure; classes by falling share.
    """
    present = after[after["share"] > 0]
    old = before.set_index("id")["iou"].reindex(present["id"]).fillna(0).to_numpy()
    new, rows = present["iou"].to_numpy(), np.arange(len(present))
    with style(theme):
        figure = Picture(figsize=(WIDTH, 1.0 + 0.23 * len(present)), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        ax.barh(rows - 0.2, old, height=0.38, color=BEFORE, label=f"before (mean {old.mean():.0f} %)")
        ax.barh(rows + 0.2, new, height=0.38, color=AFTER, label=f"after (mean {new.mean():.0f} %)")
        names = [f"{name}  {share:.1%}" for name, share in zip(present["name"], present["share"], strict=True)]
        ax.set_yticks(rows, names)
        ax.set(xlabel="IoU, percent", xlim=(0, 100), ylim=(len(present) - 0.4, -0.6))
        ax.set_title("IoU of each class, with its share of the pixels")
        figure.legend(loc="outside lower center", ncols=2)
        pairs = zip(present["name"], old, new, strict=True)
        figure.alt = "IoU before and after: " + ", ".join(f"{n} {a:.0f} to {b:.0f} %" for n, a, b in pairs)
    return figure


def uncertainty(
    image: np.ndarray,
    confidence: np.ndarray,
    entropy: np.ndarray,
    prediction: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    *,
    theme: str = "light",
) -> Picture:
    """Where a model is unsure: confidence and entropy beside the image, and the errors if the truth is known.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        confidence: `(H, W)` 0..1, the winner's part of all class scores.
        entropy: `(H, W)` 0..1.
        prediction: class ids `(H, W)`.
        truth: class ids `(H, W)`, 255 = ignore.
        theme: `"light"` or `"dark"`.
    """
    known = prediction is not None and truth is not None
    columns = 2 if known else 3
    with style(theme):
        figure = _new_figure([image] * (4 if known else 3), columns, 3, "")
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


def errors_by_confidence(
    confidence: np.ndarray, prediction: np.ndarray, truth: np.ndarray, *, bins: int = 5, theme: str = "light"
) -> Picture:
    """Part of the pixels that are wrong, by how confident the model was about them.

    Args:
        confidence: 0..1, any shape.
        prediction: class ids, same shape.
        truth: class ids, same shape, 255 = ignore.
        bins: number of bars; equally wide.
        theme: `"light"` or `"dark"`.
    """
    judged = np.asarray(truth) != IGNORE
    wrong = (np.asarray(prediction) != np.asarray(truth))[judged]
    place = np.minimum((np.asarray(confidence)[judged] * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    rates = np.bincount(place, wrong, minlength=bins) / np.maximum(counts, 1)
    labels = [f"{i / bins:.1f} to {(i + 1) / bins:.1f}" for i in range(bins)]
    with style(theme):
        figure = Picture(figsize=(WIDTH, 2.9), dpi=DPI, layout="constrained")
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
    pairs = [f"{label}: {percent(rate)}" for label, rate, count in zip(labels, rates, counts, strict=True) if count]
    figure.alt = "Wrong pixels by confidence. " + ", ".join(pairs)
    return figure


def query_grid(result: Any, limit: int = 8, *, columns: int = 4, theme: str = "light") -> Picture:
    """The masks of the queries that own most, as lit parts of the image.

    Args:
        result: an `segment.Segmentation`.
        limit: at most this many queries.
        columns: pictures per row.
        theme: `"light"` or `"dark"`.
    """
    chosen = result.queries[:limit]
    pictures = [spotlight(result.image, result.query_mask(query.index)) for query in chosen]
    titles = [f"query {q.index}, owns {percent(q.share)}\n{_short(q.name)} {q.score:.2f}" for q in chosen]
    figure = panels(pictures, titles, columns=columns, theme=theme)
    return _small_titles(figure, "Queries: " + "; ".join(text.replace("\n", ", ") for text in titles))


def query_life(result: Any, query: int, *, columns: int | None = None, theme: str = "light") -> Picture:
    """One query from the first prediction to the last: its mask, its class, and how sure it is.

    Args:
        result: an `segment.Segmentation` made with `layers=True`.
        query: its index.
        columns: pictures per row; None takes 4 (4 predictions) or 5 (10 predictions).
        theme: `"light"` or `"dark"`.
    """
    pictures, titles = [], []
    for i, layer in enumerate(result.layers):
        name, score = _best_class(layer.class_logits[query])
        pictures.append(spotlight(result.image, result.query_mask(query, i)))
        titles.append(f"{_when(i)}\n{_short(name, 13)} {score:.2f}")
    figure = panels(pictures, titles, columns=columns or (4 if len(pictures) <= 4 else 5), theme=theme)
    return _small_titles(figure, f"Query {query}: " + "; ".join(text.replace("\n", ", ") for text in titles))


def queries_by_layer(result: Any, limit: int = 4, *, columns: int = 4, theme: str = "light") -> Picture:
    """The queries that own most, one per row, after several decoder layers, from the first prediction to the last.

    Args:
        result: an `segment.Segmentation` made with `layers=True`.
        limit: number of queries.
        columns: number of predictions; evenly spread over those there are.
        theme: `"light"` or `"dark"`.
    """
    chosen = result.queries[:limit]
    steps = sorted({round(i) for i in np.linspace(0, len(result.layers) - 1, columns)})
    pictures, titles = [], []
    for query in chosen:
        for i in steps:
            name, score = _best_class(result.layers[i].class_logits[query.index])
            pictures.append(spotlight(result.image, result.query_mask(query.index, i)))
            titles.append(f"query {query.index}, {_when(i)}\n{_short(name)} {score:.2f}")
    figure = panels(pictures, titles, columns=len(steps), theme=theme)
    return _small_titles(figure, "; ".join(text.replace("\n", ", ") for text in titles))


def attention(result: Any, query: int, *, columns: int = 3, theme: str = "light") -> Picture:
    """Where each decoder layer let a query look: the lit cells, at the layer's own feature level.

    Args:
        result: an `segment.Segmentation` made with `layers=True`.
        query: its index.
        columns: pictures per row.
        theme: `"light"` or `"dark"`.
    """
    pictures, titles = [], []
    for layer in range(1, len(result.layers)):
        allowed = result.allowed(query, layer)
        pictures.append(spotlight(result.image, allowed))
        freed = " (mask was empty)" if result.layers[layer - 1].rescued[query] else ""
        cells = f"{allowed.shape[0]} x {allowed.shape[1]} cells"
        titles.append(f"layer {layer}: {cells},\n{percent(allowed.mean())} allowed{freed}")
    figure = panels(pictures, titles, columns=columns, theme=theme)
    return _small_titles(figure, f"Attention of query {query}: " + "; ".join(t.replace("\n", " ") for t in titles))


def attention_narrowing(result: Any, limit: int = 14, *, theme: str = "light") -> Picture:
    """Part of the picture that each query may look at, layer by layer; those that own at least 1 % in colour.

    Args:
        result: an `segment.Segmentation` made with `layers=True`.
        limit: at most this many in colour, the largest.
        theme: `"light"` or `"dark"`.
    """
    layers = range(1, len(result.layers))
    used = [query for query in result.queries if query.share >= 0.01][:limit]
    with style(theme):
        figure = Picture(figsize=(WIDTH, max(3.2, 0.6 + 0.2 * (len(used) + 1))), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        for query in result.queries[::-1]:
            shares = [float(result.allowed(query.index, layer).mean()) for layer in layers]
            if query not in used:
                ax.plot(layers, shares, color="0.6", lw=0.8, zorder=1)
                continue
            number = used.index(query)
            text = f"{query.index}: {_short(query.name)}"
            dash = ["-", "--", ":"][number // 10 % 3]
            ax.plot(layers, shares, dash, marker="o", color=f"C{number % 10}", lw=2, label=text, zorder=2)
        ax.set(xlabel="decoder layer", ylabel="part of the picture allowed", ylim=(0, 1.03), xticks=list(layers))
        ax.spines[["top", "right"]].set_visible(False)
        handles, texts = ax.get_legend_handles_labels()
        if len(used) < len(result.queries):
            handles.insert(0, Line2D([], [], color="0.6", lw=0.8))
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
    theme: str = "light",
) -> Picture:
    """Two predictions for one picture, and what changed: mended in blue, spoilt in vermilion.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        before: class ids `(H, W)`.
        after: class ids `(H, W)`.
        truth: class ids `(H, W)`, 255 = ignore; None leaves out what changed.
        names: titles of the two predictions.
        theme: `"light"` or `"dark"`.
    """
    shown, titles = [image, before, after], ["image", *names]
    if truth is not None:
        titles[1:] = [
            f"{n}: {percent(error_rate(p, truth))} wrong" for n, p in zip(names, (before, after), strict=True)
        ]
        shown.append(change_map(image, before, after, truth))
        titles.append("blue: mended, vermilion: spoilt")
    heading = f"share of pixels: {names[0]} / {names[1]}"
    return panels(shown, titles, columns=2 if truth is not None else 3, shares_of=heading, theme=theme)


def iou_bars(table: Any, other: Any = None, *, names: Sequence[str] = ("", ""), theme: str = "light") -> Picture:
    """IoU per class in percent as bars, by falling area; with a second table, both side by side.

    Args:
        table: `Evaluation.table`.
        other: another model's table; classes are matched by id.
        names: legend of the two.
        theme: `"light"` or `"dark"`.
    """
    tables = [table] if other is None else [table, other]
    ids = [int(i) for i in table["id"]]
    labels = [_name(i) for i in ids]
    rows = [np.array([dict(zip(t["id"], t["iou"], strict=True)).get(i, np.nan) for i in ids]) for t in tables]
    with style(theme):
        figure = Picture(figsize=(WIDTH, 0.9 + 0.27 * len(ids)), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        height = 0.8 / len(rows)
        colors = ["#0072b2"] if other is None else ["#8a8a8a", "#0072b2"]
        for k, values in enumerate(rows):
            places = np.arange(len(ids)) + (k - (len(rows) - 1) / 2) * height
            bars = ax.barh(places, np.nan_to_num(values), height, color=colors[k], label=names[k] or None)
            ax.bar_label(bars, ["-" if np.isnan(v) else f"{v:.0f}" for v in values], fontsize=8, padding=3)
        ax.set(yticks=range(len(ids)), yticklabels=labels, xlim=(0, 108), xlabel="IoU, percent")
        ax.invert_yaxis()
        ax.margins(y=0.01)
        ax.spines[["top", "right"]].set_visible(False)
        if any(names):
            figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    figure.alt = "IoU per class: " + ", ".join(f"{n} {v:.0f} %" for n, v in zip(labels, rows[-1], strict=True))
    return figure


def _best_class(class_logits: Any) -> tuple[str, float]:
    """Name and probability of the best class of one query, "no object" left out; `class_logits` `(K + 1,)` tensor."""
    score, best = class_logits.softmax(-1)[:-1].max(-1)
    return ade20k_palette().names[int(best)], float(score)


def _when(prediction: int) -> str:
    return "before layer 1" if prediction == 0 else f"after layer {prediction}"
