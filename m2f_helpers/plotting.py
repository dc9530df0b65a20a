"""Pictures of label maps, in one style. Every function returns a `Picture` (a matplotlib Figure) and shows nothing.

A `Picture` belongs to no window and no backend: a notebook shows it as the last line of a cell, a script saves it with
`savefig`, and its `alt` describes it in words, made from the numbers in it. Arrays are RGB throughout, never BGR. Label
maps are drawn without smoothing, so that a pixel of class person is exactly (150, 5, 61).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt, maximum_filter

from m2f_helpers.palette import IGNORE, IGNORE_COLOR, ade20k_palette

WIDTH = 7.0  # inches, every figure
DPI = 110
ERROR_COLOR = (213, 94, 0)  # vermilion: told apart from grey with every kind of colour vision
MENDED_COLOR = (0, 114, 178)  # blue, likewise
EDGE_COLOR = (204, 0, 128)  # magenta: rare in pictures
NEAR = 10.0  # colours closer than this (CIE Lab, Euclidean) are hard to tell apart on a projector
SMALL = 0.005  # part of the pixels below which a class is not marked
THEMES = {
    "light": {"figure.facecolor": "white", "axes.facecolor": "white", "text.color": "#1a1a1a"},
    "dark": {"figure.facecolor": "#14171c", "axes.facecolor": "#14171c", "text.color": "#f0f0f0"},
}
BASE_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.grid": False,
    "image.interpolation": "nearest",
    "image.resample": False,
    "image.cmap": "viridis",
    "legend.frameon": False,
    "hatch.linewidth": 0.8,
}


class Picture(Figure):
    """A matplotlib Figure that a notebook shows the same way under every backend, with a text alternative, `alt`."""

    alt: str = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        """PNG for Jupyter. Present, it is asked before the inline backend's own printer."""
        data = BytesIO()
        self.savefig(data, format="png", dpi=DPI)
        text = self.alt or "figure"
        return {"image/png": b64encode(data.getvalue()).decode(), "text/plain": text}, {"image/png": {"alt": text}}


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend.

    `shares` has the class's part of all pixels, 0..1, once per label map; `marked` says that its colour is easily
    mistaken for that of another class in the legend, `hatch` is matplotlib's pattern for it, or empty.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    shares: tuple[float, ...]
    marked: bool
    hatch: str

    @property
    def share(self) -> float:
        """Mean part over the label maps, 0..1."""
        return sum(self.shares) / len(self.shares)

    @property
    def text(self) -> str:
        """`"sky 22 %"`, two label maps `"sky 22 / 25 %"`; the id stands in front if the colour could be mistaken."""
        number = f"[{self.id}] " if self.marked and self.id != IGNORE else ""
        if len(self.shares) > 2:
            return f"{number}{self.name}"
        return f"{number}{self.name} " + " / ".join(map(percent, self.shares)).replace(" % /", " /")


@contextmanager
def style(theme: str = "light") -> Iterator[None]:
    """Within the block, matplotlib draws in the style of this series.

    Args:
        theme: `"light"` or `"dark"`.
    """
    if theme not in THEMES:
        raise ValueError(f"expected theme {' or '.join(THEMES)}, got {theme!r}")
    colors = THEMES[theme]
    text = colors["text.color"]
    derived = dict.fromkeys(
        ("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), text
    )
    with mpl.rc_context({**BASE_STYLE, **colors, **derived}):
        yield


def overlay(
    image: np.ndarray, label_map: np.ndarray, alpha: float = 0.55, classes: Sequence[int] | None = None
) -> np.ndarray:
    """Blend a label map over an image.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        label_map: class ids in memory, `(H, W)` integers 0..149; 255 = ignore, blended in grey.
        alpha: weight of the colour, 0 (image only) to 1 (class colours only).
        classes: ids to paint; the rest stays image. None paints all.

    Returns: new RGB array, `(H, W, 3)` uint8; the inputs stay unchanged.
    Raises: ValueError if the sizes differ, a class id has no colour or alpha is outside 0..1.
    """
    image, label_map = _check_image(image), np.asarray(label_map)
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha between 0 and 1, got {alpha}")
    if label_map.shape != image.shape[:2]:
        raise ValueError(
            f"image and label map must have one size, got {image.shape[:2]} and {label_map.shape}; resize the map "
            "with nearest neighbour"
        )
    colors = ade20k_palette().colorize(label_map)
    mixed = np.rint(image * (1.0 - alpha) + colors * float(alpha)).astype(np.uint8)
    return mixed if classes is None else np.where(np.isin(label_map, list(classes))[..., None], mixed, image)


def error_map(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where prediction and truth differ: vermilion over a faded grey image; pixels whose truth is ignore are grey 128.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        prediction: class ids, `(H, W)`.
        truth: class ids, `(H, W)`, 255 = ignore.

    Returns: RGB, `(H, W, 3)` uint8. Raises: ValueError if the sizes differ.
    """
    image = _check_image(image)
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if not image.shape[:2] == prediction.shape == truth.shape:
        raise ValueError(
            f"image, prediction and truth must have one size, got {image.shape[:2]}, {prediction.shape}, {truth.shape}"
        )
    grey = image @ np.array([0.299, 0.587, 0.114])
    result = np.repeat((150 + 0.4 * grey).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    result[prediction != truth] = ERROR_COLOR
    result[truth == IGNORE] = IGNORE_COLOR
    return result


def legend_entries(label_maps: np.ndarray | Sequence[np.ndarray]) -> list[LegendEntry]:
    """The classes of one or more label maps, by falling area; ignore comes last.

    Classes whose colours are equal or nearly equal are `marked`, and all but the largest of them hatched. Classes with
    less than half a percent are left unmarked: no number fits into them.

    Args:
        label_maps: class ids in memory, `(H, W)`, or a list of such maps, of any sizes.

    Returns: one entry per class that is present.
    """
    maps = [np.asarray(m) for m in (label_maps if isinstance(label_maps, (list, tuple)) else [label_maps])]
    for label_map in maps:
        _check_labels(label_map)
    shares = np.stack([np.bincount(m.ravel(), minlength=256) / m.size for m in maps], axis=1)  # (256, maps)
    order = [int(i) for i in np.argsort(-shares.mean(1), kind="stable") if shares[i].any() and i != IGNORE]
    order += [IGNORE] if shares[IGNORE].any() else []
    marks = _marks([i for i in order if shares[i].max() >= SMALL])
    return [LegendEntry(i, _name(i), _color(i), tuple(shares[i].tolist()), i in marks, marks.get(i, "")) for i in order]


def alt_text(label_map: np.ndarray, limit: int = 5) -> str:
    """A label map in words, `"wall 31 %, sky 22 %"`: the `limit` largest classes by falling area."""
    return ", ".join(entry.text for entry in legend_entries(label_map)[:limit])


def legend(
    label_map: np.ndarray | Sequence[np.ndarray], *, max_classes: int = 24, columns: int = 3, theme: str = "light"
) -> Picture:
    """A legend as a figure of its own: swatch, name and share of each class, by falling area."""
    entries = legend_entries(label_map)
    rows = -(-min(len(entries), max_classes + 1) // columns)
    with style(theme):
        figure = Picture(figsize=(WIDTH, 0.3 + 0.24 * rows), dpi=DPI, layout="constrained")
        _draw_legend(figure, entries, max_classes, columns, loc="center")
        figure.alt = "Legend: " + ", ".join(entry.text for entry in entries[:max_classes])
    return figure


def class_map(
    label_map: np.ndarray, title: str = "", *, max_classes: int = 12, legend: bool = True, theme: str = "light"
) -> Picture:
    """One label map in the classes' colours, with its legend."""
    return panels([label_map], [title], max_classes=max_classes, legend=legend, theme=theme)


def side_by_side(
    image: np.ndarray,
    prediction: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    *,
    title: str = "",
    max_classes: int = 12,
    theme: str = "light",
) -> Picture:
    """Original, prediction, truth, and where the two differ, with one legend sorted by area.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        prediction: class ids, `(H, W)`, or None.
        truth: class ids, `(H, W)`, 255 = ignore, or None.
        title: line above the figure.
        max_classes: longest legend; the rest is summed up in one line.
        theme: `"light"` or `"dark"`.

    Returns: the figure; its axes are in the order of the title.
    Raises: ValueError if the sizes differ or an id has no colour.
    """
    shown: list[np.ndarray] = [image]
    titles = ["image"]
    for name, label_map in (("prediction", prediction), ("truth", truth)):
        if label_map is not None:
            _check_same_size(image, label_map, name)
            shown.append(np.asarray(label_map))
            titles.append(name)
    if prediction is not None and truth is not None:
        shown.append(error_map(image, prediction, truth))
        titles.append(f"wrong: {percent(error_rate(prediction, truth))} of judged pixels")
    shares_of = "share of pixels: prediction / truth" if len(shown) == 4 else ""
    return panels(shown, titles, title=title, shares_of=shares_of, max_classes=max_classes, theme=theme)


def panels(
    arrays: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    *,
    columns: int | None = None,
    title: str = "",
    legend: bool = True,
    shares_of: str = "",
    max_classes: int = 12,
    theme: str = "light",
) -> Picture:
    """Pictures and label maps in a grid, with one legend for all label maps.

    Args:
        arrays: each RGB `(H, W, 3)` uint8, or a label map `(H, W)` of class ids, painted in the classes' colours.
        titles: one per array.
        columns: arrays per row; None takes 1, 2 or 3 so that the pictures stay large.
        title: line above the figure.
        legend: whether to draw the legend below.
        shares_of: heading of the legend that says what its shares are.
        max_classes: longest legend.
        theme: `"light"` or `"dark"`.

    Returns: the figure, one axes per array in the given order.
    """
    if not len(arrays):
        raise ValueError("expected at least one picture, got none")
    arrays = [np.asarray(array) for array in arrays]
    maps = [array for array in arrays if array.ndim == 2]
    entries = legend_entries(maps) if maps else []
    columns = columns or {1: 1, 2: 2, 4: 2}.get(len(arrays), 3)
    with style(theme):
        figure = _new_figure(arrays, columns, _legend_length(entries, max_classes) if legend else 0, title, titles)
        axes = figure.subplots(-(-len(arrays) // columns), columns, squeeze=False).ravel()
        for ax, array, text in zip(axes, arrays, [*titles, *[""] * len(arrays)], strict=False):
            draw_labels(ax, array, entries) if array.ndim == 2 else draw_image(ax, array)
            ax.set_title(text)
        for ax in axes[len(arrays) :]:
            ax.remove()
        if legend and entries:
            _draw_legend(figure, entries, max_classes, columns=3, heading=shares_of)
        if title:
            figure.suptitle(title, fontweight="bold", fontsize=12)
    named = [
        f"{text or 'class map'}: {alt_text(a)}"
        for a, text in zip(arrays, [*titles, *[""] * 99], strict=False)
        if a.ndim == 2
    ]
    others = [text for a, text in zip(arrays, titles, strict=False) if a.ndim == 3 and text]
    figure.alt = ". ".join(part for part in (title, ", ".join(others), *named) if part)
    return figure


def spotlight(image: np.ndarray, mask: np.ndarray, edge: bool = True) -> np.ndarray:
    """Pale an image where a mask is low: what keeps its colours is what a query, or an attention mask, covers.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        mask: `(h, w)` bool or probabilities 0..1; a smaller one is enlarged without smoothing.
        edge: draw a line around the part that is at least 0.5, just outside of it.

    Returns: RGB, `(H, W, 3)` uint8; where the mask is 1 the image is unchanged.
    """
    image, mask = _check_image(image), np.asarray(mask, dtype=np.float32)
    if mask.ndim != 2:
        raise ValueError(f"expected a mask (h, w), got shape {mask.shape}")
    rows = np.arange(image.shape[0]) * mask.shape[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * mask.shape[1] // image.shape[1]
    light = mask[rows][:, columns].clip(0, 1)
    pale = 190 + 0.22 * (image @ np.array([0.299, 0.587, 0.114], dtype=np.float32))
    result = np.rint(image * light[..., None] + (pale * (1 - light))[..., None]).astype(np.uint8)
    if edge:
        inside = light >= 0.5
        width = 2 * max(1, round(max(image.shape) / 200)) + 1
        result[maximum_filter(inside, size=width) & ~inside] = EDGE_COLOR
    return result


def wipe(left: np.ndarray, right: np.ndarray, position: float = 0.5) -> np.ndarray:
    """Two pictures of one size in one: `left` up to `position` (0..1 of the width), a white line, then `right`."""
    left, right = _check_image(left), _check_image(right)
    if left.shape != right.shape:
        raise ValueError(f"expected two pictures of one size, got {left.shape[:2]} and {right.shape[:2]}")
    width = left.shape[1]
    edge = round(min(max(position, 0.0), 1.0) * width)
    result = right.copy()
    result[:, :edge] = left[:, :edge]
    if 0 < edge < width:
        result[:, max(edge - 1, 0) : edge + 1] = 255
    return result


def change_map(image: np.ndarray, before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What a second prediction changed: blue where it mends a mistake, vermilion where it makes one, else faded grey.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        before: class ids, `(H, W)`.
        after: class ids, `(H, W)`.
        truth: class ids, `(H, W)`, 255 = ignore (grey 128).

    Returns: RGB, `(H, W, 3)` uint8.
    """
    result = error_map(image, truth, truth)
    before, after, truth = np.asarray(before), np.asarray(after), np.asarray(truth)
    judged = truth != IGNORE
    result[judged & (before != truth) & (after == truth)] = MENDED_COLOR
    result[judged & (before == truth) & (after != truth)] = ERROR_COLOR
    return result


def rgb_or_bgr(
    image: np.ndarray, label_map: np.ndarray, class_id: int | None = None, *, theme: str = "light"
) -> Picture:
    """The right overlay beside the one that a BGR array in an RGB palette gives, and one pixel that proves it.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        label_map: class ids, `(H, W)`.
        class_id: a class that is in the label map; the proof is a pixel of it. None takes `telltale_class`.
        theme: `"light"` or `"dark"`.

    Returns: class map in RGB, the same with the channels swapped, and both pixels enlarged with their values.
    """
    class_id = telltale_class(label_map) if class_id is None else class_id
    region = np.asarray(label_map) == class_id
    if not region.any():
        raise ValueError(f"the label map has no pixel of class {class_id}; it has {np.unique(label_map)[:10].tolist()}")
    row, column = (int(v) for v in _inside(region))
    right = ade20k_palette().colorize(label_map)
    wrong = right[..., ::-1].copy()
    name = ade20k_palette().names[class_id]
    shown = [image, right, wrong]
    titles = ["image", "class map, RGB: right", "channels swapped: wrong"]
    with style(theme):
        figure = Picture(figsize=(WIDTH, 4.3), dpi=DPI, layout="constrained")
        axes = figure.subplots(2, 3, height_ratios=[3, 1])
        for ax, array, text in zip(axes[0], shown, titles, strict=True):
            draw_image(ax, array)
            ax.set_title(text)
            ax.plot(column, row, "o", ms=13, mfc="none", mec="white", mew=3.5)
            ax.plot(column, row, "o", ms=13, mfc="none", mec="black", mew=1.5)
        axes[1, 0].text(
            0.5, 0.5, f"the circled pixel\nis {name}", ha="center", va="center", transform=axes[1, 0].transAxes
        )
        axes[1, 0].set_axis_off()
        for ax, array in zip(axes[1, 1:], (right, wrong), strict=True):
            draw_image(ax, array[row : row + 1, column : column + 1])
            ax.set_title(str(tuple(array[row, column].tolist())), fontweight="normal", y=-0.32)
            ax.set_aspect("auto")
    values = " and ".join(str(tuple(a[row, column].tolist())) for a in (right, wrong))
    figure.alt = f"One pixel of {name} in the class map: RGB and with swapped channels, {values}"
    return figure


def telltale_class(label_map: np.ndarray) -> int:
    """The class present whose colour suffers most when red and blue are swapped; person wherever it is present."""
    person = ade20k_palette().id_of("person")
    entries = [entry for entry in legend_entries(label_map) if entry.id != IGNORE]
    if not entries:
        raise ValueError("the label map holds nothing but ignore (255)")
    visible = [entry for entry in entries if entry.share >= 0.005] or entries
    if person in [entry.id for entry in visible]:
        return person
    return max(visible, key=lambda entry: abs(entry.color[0] - entry.color[2])).id


def draw_image(ax: Axes, image: np.ndarray) -> None:
    """Draw an RGB picture, `(H, W, 3)` uint8, into an axes, without ticks and without smoothing."""
    ax.imshow(_check_image(image), interpolation="nearest")
    ax.set_axis_off()


def draw_labels(ax: Axes, label_map: np.ndarray, entries: Sequence[LegendEntry] | None = None) -> None:
    """Draw a label map into an axes; classes that could be mistaken for another get their number and hatching.

    Args:
        ax: where to draw.
        label_map: class ids, `(H, W)`, 255 = ignore.
        entries: legend that decides which classes are marked; None makes it from this label map.
    """
    label_map = np.asarray(label_map)
    draw_image(ax, ade20k_palette().colorize(label_map))
    for entry in legend_entries(label_map) if entries is None else entries:
        region = label_map == entry.id
        if not entry.marked or region.mean() < SMALL:
            continue
        if entry.hatch:
            filled = ax.contourf(region, levels=[0.5, 1.5], colors="none", hatches=[entry.hatch])
            filled.set_edgecolor(_ink(entry.color))
            filled.set_linewidth(0)
        if entry.id == IGNORE:
            continue
        y, x = _inside(region)
        halo = [withStroke(linewidth=2.5, foreground="white" if _ink(entry.color) == "black" else "black")]
        ink = _ink(entry.color)
        ax.text(
            x,
            y,
            str(entry.id),
            color=ink,
            path_effects=halo,
            ha="center",
            va="center",
            fontsize=9,
            weight="bold",
            clip_on=True,
        )


def _new_figure(
    arrays: Sequence[np.ndarray], columns: int, legend_lines: int, title: str, titles: Sequence[str] = ("",)
) -> Picture:
    rows = -(-len(arrays) // columns)
    cell = WIDTH / columns
    heights, lines = [], max([text.count("\n") + 1 for text in titles] or [1])
    for row in range(rows):
        ratios = [a.shape[0] / a.shape[1] for a in arrays[row * columns : (row + 1) * columns]]
        heights.append(min(max(ratios) * cell, 5.5) + 0.1 + 0.18 * lines)
    extra = 0.24 * -(-legend_lines // 3) + (0.15 if legend_lines else 0) + (0.35 if title else 0) + 0.1
    figure = Picture(figsize=(WIDTH, sum(heights) + extra), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
    return figure


def _legend_length(entries: Sequence[LegendEntry], limit: int) -> int:
    return min(len(entries), limit + 1) + sum(entry.marked for entry in entries[limit + 1 :])


def _draw_legend(
    figure: Figure, entries: Sequence[LegendEntry], limit: int, columns: int, loc: str = "", heading: str = ""
) -> None:
    shown = [entry for k, entry in enumerate(entries) if k < limit or entry.marked]  # a number needs its explanation
    edge = mpl.rcParams["text.color"]
    handles = [
        Patch(
            facecolor=np.array(e.color) / 255,
            label=e.text,
            hatch=e.hatch,
            edgecolor=_ink(e.color) if e.hatch else edge,
            linewidth=0.6,
        )
        for e in shown
    ]
    rest = [entry for entry in entries if entry not in shown]
    if rest:
        text = f"{len(rest)} more, {percent(sum(e.share for e in rest))}"
        handles.append(Patch(facecolor="none", edgecolor="none", label=text))
    place = loc or "outside lower center"
    size = {"fontsize": 9.5, "title_fontsize": 9.5, "handlelength": 1.6, "handleheight": 1.2}
    figure.legend(handles=handles, loc=place, ncols=columns, title=heading or None, **size)


@cache
def _lab_colors() -> np.ndarray:
    """The palette in CIE Lab (D65), `(256, 3)`, 255 = grey: distances there follow what the eye tells apart."""
    rgb = np.array([_color(i) for i in range(256)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def near_colors(ids: Sequence[int], limit: float = NEAR) -> list[tuple[int, int]]:
    """Pairs of these class ids whose colours are closer than `limit` in CIE Lab; 0 for the exact clash."""
    lab = _lab_colors()
    return [(a, b) for k, a in enumerate(ids) for b in ids[k + 1 :] if np.linalg.norm(lab[a] - lab[b]) < limit]


def _marks(order: Sequence[int]) -> dict[int, str]:
    """Hatching per class that has a near twin among `order` (by falling area): none for the first of a pair."""
    hatches = ["///", "\\\\\\", "...", "xxx", "+++"]
    marks: dict[int, str] = {}
    for first, second in near_colors(order):
        marks.setdefault(first, "")
        if not marks.get(second):
            marks[second] = hatches[sum(bool(h) for h in marks.values()) % len(hatches)]
    return marks


def _inside(region: np.ndarray) -> tuple[float, float]:
    """Row and column of the pixel that lies deepest inside a region `(H, W)` bool."""
    step = max(1, max(region.shape) // 256)
    depth = distance_transform_edt(np.pad(region[::step, ::step], 1))[1:-1, 1:-1]
    if not depth.any():
        return tuple(float(v[0]) for v in np.nonzero(region))
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return float(row * step), float(column * step)


def _name(class_id: int) -> str:
    return "ignore" if class_id == IGNORE else ade20k_palette().names[class_id]


def _color(class_id: int) -> tuple[int, int, int]:
    colors = ade20k_palette().colors
    return tuple(colors[class_id].tolist()) if class_id < len(colors) else IGNORE_COLOR


def _ink(color: Sequence[int]) -> str:
    return "black" if np.dot(color, [0.299, 0.587, 0.114]) > 120 else "white"


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else name[: limit - 2].rstrip() + ".."


def _small_titles(figure: Picture, alt: str) -> Picture:
    for ax in figure.axes:
        ax.set_title(ax.get_title(), fontsize=8.5, fontweight="normal")
    figure.alt = alt
    return figure


def percent(share: float) -> str:
    """A part 0..1 in words: `"22 %"`, `"< 1 %"` for what would round to nothing."""
    return "< 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


def _check_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an RGB image (H, W, 3) uint8, got shape {image.shape}, dtype {image.dtype}")
    return image


def _check_labels(label_map: np.ndarray) -> None:
    if label_map.ndim != 2 or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(f"expected a label map (H, W) of integers, got shape {label_map.shape}, {label_map.dtype}")
    wrong = np.unique(label_map[(label_map < 0) | (label_map >= len(ade20k_palette())) & (label_map != IGNORE)])
    if len(wrong):
        raise ValueError(f"expected class ids 0..149 or {IGNORE}, got {wrong[:5].tolist()}")


def _check_same_size(image: np.ndarray, label_map: np.ndarray, name: str) -> None:
    if np.shape(label_map) != np.shape(image)[:2]:
        raise ValueError(f"expected a {name} of the image's size {np.shape(image)[:2]}, got {np.shape(label_map)}")


def error_rate(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Part of the pixels, 0..1, that are wrong, among those whose truth is not ignore."""
    judged = np.asarray(truth) != IGNORE
    return float((np.asarray(prediction) != np.asarray(truth))[judged].mean()) if judged.any() else 0.0
