"""Figures of images and label maps, in one style. Every function returns a `Figure` and shows nothing.

A `Figure` belongs to no window and no backend; its `alt` describes it in words, made from the numbers in it. An `image`
is RGB, never BGR, `(H, W, 3)` uint8. Label maps (`prediction`, `truth`, `before`, `after`) are class ids `(H, W)`,
255 = ignore, drawn without smoothing: a pixel of class person is exactly (150, 5, 61). Names and colours come from a
`Palette`; without one ADE20K's 150 classes are meant.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy.ndimage import distance_transform_edt, maximum_filter

from m2f_helpers.palette import IGNORE, IGNORE_COLOR, Palette, ade20k_palette

WIDTH = 7.0  # inches, every figure
DPI = 110
RETINA = 2  # device pixels per pixel of the page: sharp on dense screens and when zoomed
EXACT_BYTES = 300_000  # up to this size a figure on a page has exactly the colours of the classes
ERROR_COLOR = (213, 94, 0)  # orange: told apart from grey with every kind of colour vision
CORRECTED_COLOR = (0, 114, 178)  # blue, likewise
SERIES = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito's: told apart with every kind of colour vision
EDGE_COLOR = (204, 0, 128)  # magenta: rare in images
NEAR = 10.0  # colours closer than this (CIE Lab, Euclidean) are hard to tell apart on a projector
SMALL = 0.005  # part of the pixels below which a class is not marked
BACKGROUND, INK = "#ededea", "#1a1a1a"  # a soft card, easy on the eye on a light page and on a dark one
BAND = 1_000_000  # pixels blended at a time, so that no copy of a large image in floating point is ever whole
STYLE = {
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": BACKGROUND,
    "savefig.facecolor": BACKGROUND,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
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
style = partial(mpl.rc_context, STYLE)  # `with style():` matplotlib draws in the style of this series


class Figure(mpl_figure.Figure):
    """A matplotlib Figure that a notebook shows the same way under every backend, with a text alternative, `alt`."""

    alt: str = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        """For Jupyter, which asks this before the inline backend's own printer.

        HTML, because JupyterLab and nbconvert take the text alternative from nowhere else, with twice the pixels; PNG
        for whatever shows no HTML, and for `m2f figures`.
        """
        data = b64encode(self._png(DPI)).decode()
        return {"text/html": self.html(), "image/png": data, "text/plain": self.alt or "figure"}, {}

    def html(self) -> str:
        """`<img>` with `alt`, at its own size and never wider than the page.

        WebP, a third smaller than PNG; exact, unless the figure shows so much texture that a page with a dozen of them
        would be too large to send around.
        """
        with Image.open(BytesIO(self._png(RETINA * DPI))) as image:
            image = image.convert("RGB")
        data = encoded(image, "WEBP", lossless=True, quality=20, method=0)
        if len(data) > EXACT_BYTES:
            data = encoded(image, "WEBP", quality=90)
        return img_tag(data, "webp", self.alt or "figure", round(self.get_figwidth() * DPI))

    def _png(self, dpi: float) -> bytes:
        data = BytesIO()
        self.savefig(data, format="png", dpi=dpi)
        return data.getvalue()


def encoded(image: Image.Image, kind: str, **options: float) -> bytes:
    """An image as a file of that kind: PNG or WEBP."""
    data = BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def img_tag(data: bytes, kind: str, alt: str, width: int) -> str:
    """HTML of an image file (`kind` png or webp), `width` pixels of the page wide, or less where that is narrower."""
    return (
        f'<img src="data:image/{kind};base64,{b64encode(data).decode()}" alt="{html.escape(alt)}" width="{width}" '
        'style="max-width:100%;height:auto">'
    )


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


def overlay(
    image: np.ndarray,
    label_map: np.ndarray,
    alpha: float = 0.55,
    classes: Sequence[int] | None = None,
    palette: Palette | None = None,
) -> np.ndarray:
    """Blend a label map over an image; ignore in grey.

    Args:
        alpha: weight of the colour, 0 (image only) to 1 (class colours only).
        classes: ids to paint; the rest stays image. None paints all.

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
    mixed = (palette or ade20k_palette()).colorize(label_map)
    painted = np.full(256, classes is None)
    painted[list(classes or ())] = True
    for rows in _bands(label_map.shape):
        blended = np.rint(image[rows] * np.float32(1 - alpha) + mixed[rows] * np.float32(alpha)).astype(np.uint8)
        mixed[rows] = np.where(painted[label_map[rows]][..., None], blended, image[rows])
    return mixed


def _bands(size: Sequence[int]) -> Iterator[slice]:
    """Rows of an image of `size`, so many at a time that they have about `BAND` pixels."""
    step = max(1, BAND // max(1, size[1]))
    return (slice(start, start + step) for start in range(0, size[0], step))


def error_map(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where prediction and truth differ: orange over a faded grey image; pixels whose truth is ignore are grey 128.

    Raises: ValueError if the sizes differ.
    """
    image = _check_image(image)
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if not image.shape[:2] == prediction.shape == truth.shape:
        raise ValueError(
            f"image, prediction and truth must have one size, got {image.shape[:2]}, {prediction.shape}, {truth.shape}"
        )
    grey = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    result = np.repeat((150 + 0.4 * grey).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    result[prediction != truth] = ERROR_COLOR
    result[truth == IGNORE] = IGNORE_COLOR
    return result


def legend_entries(label_maps: np.ndarray | Sequence[np.ndarray], palette: Palette | None = None) -> list[LegendEntry]:
    """The classes of one or more label maps, by falling area; ignore comes last.

    Classes whose colours are equal or nearly equal are `marked`, and all but the largest of them hatched. Classes with
    less than half a percent are left unmarked: no number fits into them. The maps may have any sizes.
    """
    palette = palette or ade20k_palette()
    maps = [np.asarray(m) for m in (label_maps if isinstance(label_maps, (list, tuple)) else [label_maps])]
    for label_map in maps:
        palette.check(label_map)
    shares = np.stack([count_ids(m) / m.size for m in maps], axis=1)  # (256, maps)
    order = [int(i) for i in np.argsort(-shares.mean(1), kind="stable") if shares[i].any() and i != IGNORE]
    order += [IGNORE] if shares[IGNORE].any() else []
    marks = _marks([i for i in order if shares[i].max() >= SMALL], palette)
    entries = []
    for i in order:
        name = "ignore" if i == IGNORE else palette.names[i]
        entries.append(
            LegendEntry(i, name, _color(i, palette), tuple(shares[i].tolist()), i in marks, marks.get(i, ""))
        )
    return entries


def count_ids(label_map: np.ndarray) -> np.ndarray:
    """Number of pixels by class id, `(256,)` int64, of a label map `(H, W)` of integers 0..255."""
    counts = np.zeros(256, dtype=np.int64)
    for rows in _bands(label_map.shape):  # `bincount` takes eight bytes for each pixel
        counts += np.bincount(label_map[rows].ravel(), minlength=256)
    return counts


def alt_text(label_map: np.ndarray, palette: Palette | None = None) -> str:
    """A label map in words, `"wall 31 %, sky 22 %"`: the five largest classes by falling area."""
    return ", ".join(entry.text for entry in legend_entries(label_map, palette)[:5])


def side_by_side(
    image: np.ndarray,
    prediction: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    *,
    max_classes: int = 12,
    palette: Palette | None = None,
) -> Figure:
    """Original, prediction, truth, and where the two differ, in this order, with one legend sorted by area.

    `max_classes` is the longest legend; the rest is summed up in one line.

    Raises: ValueError if the sizes differ or an id has no colour.
    """
    shown, titles, size = [image], ["image"], np.shape(image)[:2]
    for name, label_map in (("prediction", prediction), ("truth", truth)):
        if label_map is not None:
            if np.shape(label_map) != size:
                raise ValueError(f"expected a {name} of the image's size {size}, got {np.shape(label_map)}")
            shown.append(np.asarray(label_map))
            titles.append(name)
    if prediction is not None and truth is not None:
        shown.append(error_map(image, prediction, truth))
        titles.append(f"wrong: {percent(error_rate(prediction, truth))} of judged pixels")
    shares_of = "share of pixels: prediction / truth" if len(shown) == 4 else ""
    return panels(shown, titles, shares_of=shares_of, max_classes=max_classes, palette=palette)


def panels(
    arrays: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    *,
    columns: int | None = None,
    shares_of: str = "",
    max_classes: int = 12,
    palette: Palette | None = None,
) -> Figure:
    """Images and label maps in a grid, with one legend for all label maps.

    Args:
        arrays: each an image or a label map, painted in the classes' colours; one axes per array, in this order.
        titles: one per array.
        columns: arrays per row; None takes 1, 2 or 3 so that the images stay large.
        shares_of: heading of the legend that says what its shares are.
        max_classes: longest legend.
    """
    if not len(arrays):
        raise ValueError("expected at least one image, got none")
    palette = palette or ade20k_palette()
    arrays = [np.asarray(array) for array in arrays]
    texts = [*titles, *[""] * (len(arrays) - len(titles))]
    maps = [array for array in arrays if array.ndim == 2]
    entries = legend_entries(maps, palette) if maps else []
    columns = columns or {1: 1, 2: 2, 4: 2}.get(len(arrays), 3)
    lines = min(len(entries), max_classes + 1) + sum(entry.marked for entry in entries[max_classes + 1 :])
    with style():
        figure = new_figure(arrays, columns, lines, titles)
        axes = figure.subplots(-(-len(arrays) // columns), columns, squeeze=False).ravel()
        for ax, array, text in zip(axes, arrays, texts, strict=False):
            if array.ndim == 2:
                _draw_labels(ax, array, entries, palette)
            else:
                draw_image(ax, array)
            ax.set_title(text)
        for ax in axes[len(arrays) :]:
            ax.remove()
        if entries:
            _draw_legend(figure, entries, max_classes, shares_of)
    pairs = list(zip(arrays, texts, strict=True))
    named = [f"{text or 'label map'}: {alt_text(a, palette=palette)}" for a, text in pairs if a.ndim == 2]
    others = [text for a, text in pairs if a.ndim == 3 and text]
    figure.alt = ". ".join(part for part in (", ".join(others), *named) if part)
    return figure


def spotlight(image: np.ndarray, mask: np.ndarray, edge: bool = True) -> np.ndarray:
    """Pale an image where a mask is low: what keeps its colours is what a query, or an attention mask, covers.

    Args:
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
    """Two images of one size in one: `left` up to `position` (0..1 of the width), a white line, then `right`."""
    left, right = _check_image(left), _check_image(right)
    if left.shape != right.shape:
        raise ValueError(f"expected two images of one size, got {left.shape[:2]} and {right.shape[:2]}")
    width = left.shape[1]
    edge = round(min(max(position, 0.0), 1.0) * width)
    result = np.concatenate([left[:, :edge], right[:, edge:]], axis=1)
    if 0 < edge < width:
        result[:, max(edge - 1, 0) : edge + 1] = 255
    return result


def change_map(image: np.ndarray, before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What a second prediction changed: blue where it corrects a mistake, orange where it makes one; else faded."""
    result = error_map(image, truth, truth)
    before, after, truth = np.asarray(before), np.asarray(after), np.asarray(truth)
    judged = truth != IGNORE
    result[judged & (before != truth) & (after == truth)] = CORRECTED_COLOR
    result[judged & (before == truth) & (after != truth)] = ERROR_COLOR
    return result


def draw_image(ax: Axes, image: np.ndarray) -> None:
    """Draw an RGB image, `(H, W, 3)` uint8, into an axes, without ticks and without smoothing."""
    ax.imshow(_check_image(image), interpolation="nearest")
    ax.set_axis_off()


def _draw_labels(ax: Axes, label_map: np.ndarray, entries: Sequence[LegendEntry], palette: Palette) -> None:
    """Draw a label map `(H, W)`; classes marked in the legend get their number and hatching."""
    draw_image(ax, palette.colorize(label_map))
    for entry in entries:
        region = label_map == entry.id
        if entry.marked and region.mean() >= SMALL:
            _draw_mark(ax, region, entry)


def _draw_mark(ax: Axes, region: np.ndarray, entry: LegendEntry) -> None:
    """Hatching and number of one class over its region, `(H, W)` bool."""
    ink = _ink(entry.color)
    if entry.hatch:
        filled = ax.contourf(region, levels=[0.5, 1.5], colors="none", hatches=[entry.hatch])
        filled.set_edgecolor(ink)
        filled.set_linewidth(0)
    if entry.id != IGNORE:
        y, x = deepest(region)
        halo = [withStroke(linewidth=2.5, foreground="white" if ink == "black" else "black")]
        grid = ax.get_subplotspec()
        size = 9 if grid is None or grid.get_gridspec().ncols < 4 else 7  # numbers must not cover small images
        centred = {"ha": "center", "va": "center", "fontsize": size, "weight": "bold", "clip_on": True}
        ax.text(x, y, str(entry.id), color=ink, path_effects=halo, **centred)


def new_figure(arrays: Sequence[np.ndarray], columns: int, legend_lines: int, titles: Sequence[str] = ()) -> Figure:
    """An empty figure whose height fits these arrays in a grid, a legend of so many lines, and the titles."""
    heights, lines = [], max([text.count("\n") + 1 for text in titles] or [1])
    for start in range(0, len(arrays), columns):
        ratios = [a.shape[0] / a.shape[1] for a in arrays[start : start + columns]]
        heights.append(min(max(ratios) * WIDTH / columns, 5.5) + 0.1 + 0.18 * lines)
    extra = 0.24 * -(-legend_lines // 3) + (0.15 if legend_lines else 0) + 0.1
    figure = Figure(figsize=(WIDTH, sum(heights) + extra), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
    return figure


def _draw_legend(figure: Figure, entries: Sequence[LegendEntry], limit: int, heading: str) -> None:
    shown = [entry for k, entry in enumerate(entries) if k < limit or entry.marked]  # a number needs its explanation
    handles = []
    for e in shown:
        edge = _ink(e.color) if e.hatch else INK
        handles.append(Patch(fc=np.array(e.color) / 255, label=e.text, hatch=e.hatch, ec=edge, lw=0.6))
    rest = [entry for entry in entries if entry not in shown]
    if rest:
        text = f"{len(rest)} more, {percent(sum(e.share for e in rest))}"
        handles.append(Patch(fc="none", ec="none", label=text))
    size = {"fontsize": 9.5, "title_fontsize": 9.5, "handlelength": 1.6, "handleheight": 1.2}
    figure.legend(handles=handles, loc="outside lower center", ncols=3, title=heading or None, **size)


def lab(colors: np.ndarray) -> np.ndarray:
    """RGB colours `(N, 3)` 0..255 in CIE Lab (D65): distances there follow what the eye tells apart."""
    rgb = np.asarray(colors) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def near_colors(ids: Sequence[int], palette: Palette | None = None) -> list[tuple[int, int]]:
    """Pairs of these class ids whose colours are closer than `NEAR` in CIE Lab."""
    if not ids:
        return []
    points = lab(np.array([_color(i, palette or ade20k_palette()) for i in ids]))  # (ids, 3)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)  # (ids, ids)
    return [(ids[i], ids[j]) for i, j in np.argwhere(np.triu(distances < NEAR, k=1)).tolist()]


def _color(class_id: int, palette: Palette) -> tuple[int, int, int]:
    return IGNORE_COLOR if class_id == IGNORE else palette.classes[class_id].color


def _marks(order: Sequence[int], palette: Palette) -> dict[int, str]:
    """Hatching per class that has a near twin among `order` (by falling area): none for the first of a pair."""
    hatches = ["///", "\\\\\\", "...", "xxx", "+++"]
    marks: dict[int, str] = {}
    for first, second in near_colors(order, palette):
        marks.setdefault(first, "")
        if not marks.get(second):
            marks[second] = hatches[sum(bool(h) for h in marks.values()) % len(hatches)]
    return marks


def deepest(region: np.ndarray) -> tuple[float, float]:
    """Row and column of the pixel that lies deepest inside a region `(H, W)` bool."""
    step = max(1, max(region.shape) // 256)
    depth = distance_transform_edt(np.pad(region[::step, ::step], 1))[1:-1, 1:-1]
    if not depth.any():
        return tuple(float(v[0]) for v in np.nonzero(region))
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return float(row * step), float(column * step)


def _ink(color: Sequence[int]) -> str:
    return "black" if np.dot(color, [0.299, 0.587, 0.114]) > 120 else "white"


def short(name: str, limit: int = 18) -> str:
    """A name cut to `limit` characters."""
    return name if len(name) <= limit else name[: limit - 2].rstrip() + ".."


def small_panels(images: Sequence[np.ndarray], titles: Sequence[str], columns: int, alt: str) -> Figure:
    """`panels` with titles in small letters, which follow `alt` in the text alternative."""
    figure = panels(images, titles, columns=columns)
    for ax in figure.axes:
        ax.set_title(ax.get_title(), fontsize=8.5, fontweight="normal")
    figure.alt = alt + "; ".join(text.replace("\n", ", ") for text in titles)
    return figure


def percent(share: float) -> str:
    """A part 0..1 in words: `"22 %"`, `"< 1 %"` for what would round to nothing."""
    return "< 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


def _check_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an RGB image (H, W, 3) uint8, got shape {image.shape}, dtype {image.dtype}")
    return image


def error_rate(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Part of the pixels, 0..1, that are wrong, among those whose truth is not ignore."""
    judged = np.asarray(truth) != IGNORE
    return float((np.asarray(prediction) != np.asarray(truth))[judged].mean()) if judged.any() else 0.0
