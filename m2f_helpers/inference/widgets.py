"""Things to play with in a notebook: class colours, queries, layers, before and after, a picture of your own.

The model runs once, beforehand; what a slider does is array work, well under 200 ms. Every explorer carries a static
twin (a figure with the same content): front ends without widgets, such as a page on a code host, show that instead.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import ipywidgets as ipw
import numpy as np
from PIL import Image

from m2f_helpers import plotting
from m2f_helpers.images import read_image
from m2f_helpers.inference import figures
from m2f_helpers.palette import ade20k_palette
from m2f_helpers.quiet import one_line

SWATCH = "display:inline-block;width:1.1em;height:0.9em;border:1px solid #888;"
LARGEST = 640  # pixels: longer side of the picture in a widget


class Explorer:
    """A widget, `view`, and its static twin, `static` (a figure). As the last line of a cell, one of the two is shown.

    A front end that knows widgets shows the widget; any other finds the twin's PNG in the same output.
    """

    def __init__(self, view: ipw.DOMWidget, static: plotting.Figure, **controls: ipw.Widget):
        self.view, self.static = view, static
        self.controls = controls

    def _repr_mimebundle_(self, include=None, exclude=None):
        data, metadata = self.static._repr_mimebundle_()
        widget = self.view._repr_mimebundle_()
        widget = widget[0] if isinstance(widget, tuple) else widget
        return {**widget, **data}, metadata


def class_explorer(results: Mapping[str, Any]) -> Explorer:
    """Choose a picture, how opaque the classes are, and which of them are painted.

    Args:
        results: `segment.Segmentation` by the name to choose it by.

    Returns: controls `picture`, `opacity`, `classes` (ids), output `image` and `words`.
    """
    results = {name: _small(result) for name, result in _some(results).items()}
    picture = ipw.Dropdown(options=list(results), description="picture")
    opacity = ipw.FloatSlider(value=0.55, min=0, max=1, step=0.05, description="opacity", continuous_update=True)
    classes = ipw.SelectMultiple(description="classes", rows=10, layout=ipw.Layout(width="260px"))
    image, words = ipw.Image(format="png"), ipw.HTML()
    changing: list[bool] = []

    def choose(change: Any = None) -> None:
        entries = plotting.legend_entries(results[picture.value][1])
        changing.append(True)  # drawn once below, not once per step
        classes.options = [(entry.text, entry.id) for entry in entries]
        classes.value = [entry.id for entry in entries]
        changing.clear()
        draw()

    def draw(change: Any = None) -> None:
        if changing:
            return
        pixels, labels = results[picture.value]
        image.value = _png(plotting.overlay(pixels, labels, opacity.value, classes.value))
        words.value = _legend_html(plotting.legend_entries(labels), classes.value)

    picture.observe(choose, "value")
    for control in (opacity, classes):
        control.observe(draw, "value")
    choose()
    name, (pixels, labels) = next(iter(results.items()))
    mixed = [pixels, plotting.overlay(pixels, labels), labels]
    static = plotting.panels(mixed, [name, "opacity 0.55", "opacity 1"], shares_of="share of pixels")
    side = ipw.VBox([picture, opacity, classes])
    view = ipw.VBox([ipw.HBox([image, side]), words])
    return Explorer(view, static, picture=picture, opacity=opacity, classes=classes, image=image, words=words)


def query_explorer(results: Mapping[str, Any]) -> Explorer:
    """Choose a picture, a query (by falling area) and a prediction; see its mask, or what the layer was allowed to see.

    Args:
        results: `segment.Segmentation` by name, made with `layers=True`.

    Returns: controls `picture`, `query` (position by area), `layer` (0: before the first) and `show`, output `image`
        and `words`.
    """
    results = _some(results)
    if not all(result.layers for result in results.values()):
        raise ValueError("the layers were not kept: call segment(model, image, layers=True)")
    first = next(iter(results.values()))
    assert all(result.queries for result in results.values())  # ranked now, once, and not when a slider moves
    last = len(first.layers) - 1
    picture = ipw.Dropdown(options=list(results), description="picture")
    query = ipw.IntSlider(0, 0, len(first.queries) - 1, description="query", style={"description_width": "60px"})
    layer = ipw.IntSlider(last, 0, last, description="after layer", style={"description_width": "80px"})
    show = ipw.ToggleButtons(options=["mask", "allowed attention"])
    image, words = ipw.Image(format="png"), ipw.HTML()
    cached: dict[tuple, np.ndarray] = {}

    def mask_of(result: Any, index: int) -> np.ndarray:
        key = (picture.value, index, layer.value)
        if key not in cached:
            cached[key] = result.query_mask(index, layer.value)
        return cached[key]

    def draw(change: Any = None) -> None:
        result = results[picture.value]
        chosen = result.queries[min(query.value, len(result.queries) - 1)]
        attention = show.value != "mask" and layer.value > 0
        mask = result.allowed(chosen.index, layer.value) if attention else mask_of(result, chosen.index)
        image.value = _png(plotting.spotlight(_shrink(result.image), _shrink(mask)))
        words.value = _query_words(result, chosen, layer.value, attention)

    for control in (picture, query, layer, show):
        control.observe(draw, "value")
    draw()
    static = figures.queries_by_layer(first)
    view = ipw.VBox([ipw.HBox([picture, query, layer]), show, image, words])
    return Explorer(view, static, picture=picture, query=query, layer=layer, show=show, image=image, words=words)


def before_after(
    image: np.ndarray, before: np.ndarray, after: np.ndarray, names: tuple[str, str] = ("before", "after")
) -> Explorer:
    """Move a line across the picture: class map before on its left, after on its right.

    Args:
        image: RGB, `(H, W, 3)` uint8.
        before: class ids, `(H, W)`.
        after: class ids, `(H, W)`.
        names: what the two are called.

    Returns: controls `position` (0..1) and `opacity`, output `image`.
    """
    pixels, first, second = _shrink(image), _shrink(before), _shrink(after)
    position = ipw.FloatSlider(value=0.5, min=0, max=1, step=0.01, description="line")
    opacity = ipw.FloatSlider(value=0.7, min=0, max=1, step=0.05, description="opacity")
    output = ipw.Image(format="png")

    def draw(change: Any = None) -> None:
        sides = [plotting.overlay(pixels, labels, opacity.value) for labels in (first, second)]
        output.value = _png(plotting.wipe(*sides, position.value))

    for control in (position, opacity):
        control.observe(draw, "value")
    draw()
    words = ipw.HTML(f"left of the line: {html.escape(names[0])}, right of it: {html.escape(names[1])}")
    view = ipw.VBox([words, ipw.HBox([position, opacity]), output])
    static = figures.before_after(image, before, after, names=names)
    return Explorer(view, static, position=position, opacity=opacity, image=output)


def upload(segment: Callable[[np.ndarray], Any], example: Any) -> Explorer:
    """Choose a picture of your own; it is segmented as soon as it is here. JupyterLab and Colab.

    Args:
        segment: from an RGB array to a `Segmentation`, for example `partial(segment, model)`.
        example: a `Segmentation` to show until then, and as static twin.

    Returns: control `files` (the button), output `image` and `words`.
    """
    files = ipw.FileUpload(accept="image/*", multiple=False, description="own picture")
    image, words = ipw.Image(format="png"), ipw.HTML()

    def show(result: Any) -> None:
        image.value = _png(plotting.overlay(_shrink(result.image), _shrink(result.label_map)))
        words.value = _legend_html(plotting.legend_entries(result.label_map))

    def receive(change: Any) -> None:
        content = _uploaded(change["new"])
        if content is None:
            return
        words.value = "segmenting ..."
        try:
            show(segment(read_image(_open(content))))
        except (ValueError, OSError) as error:
            words.value = html.escape(one_line(error))

    files.observe(receive, "value")
    show(example)
    static = plotting.side_by_side(example.image, example.label_map)
    return Explorer(ipw.VBox([files, image, words]), static, files=files, image=image, words=words)


def _uploaded(value: Any) -> bytes | None:
    """Content of the uploaded file: ipywidgets 8 gives a tuple of dicts, ipywidgets 7 a dict of dicts."""
    entries = list(value.values()) if isinstance(value, dict) else list(value)
    return bytes(entries[-1]["content"]) if entries else None


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(content))
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"the uploaded file is not an image that can be read ({one_line(error)})") from None


def _some(results: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(results, Mapping) or not results:
        raise ValueError(f"expected at least one segmented picture by name, got {type(results).__name__} of nothing")
    return results


def _small(result: Any) -> tuple[np.ndarray, np.ndarray]:
    return _shrink(result.image), _shrink(result.label_map)


def _shrink(array: np.ndarray) -> np.ndarray:
    """Every n-th pixel, so that the longer side is at most `LARGEST`: exact colours and ids, and fast."""
    step = -(-max(array.shape[:2]) // LARGEST)
    return array[::step, ::step]


def _png(pixels: np.ndarray) -> bytes:
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _legend_html(entries: list[plotting.LegendEntry], shown: Any = None) -> str:
    """Swatches with name and share; classes that are switched off are pale."""
    parts = []
    for entry in entries:
        color = "rgb({}, {}, {})".format(*entry.color)
        pale = "" if shown is None or entry.id in shown else "opacity: 0.3; "
        box = f'<span style="{SWATCH}background:{color}"></span>'
        parts.append(
            f'<span style="{pale}margin-right:1.2em;white-space:nowrap">{box} {html.escape(entry.text)}</span>'
        )
    return f'<div style="line-height:1.7">{" ".join(parts)}</div>'


def _query_words(result: Any, query: Any, layer: int, attention: bool) -> str:
    probabilities = result.layers[layer].class_logits[query.index].softmax(-1)
    best = int(probabilities[:-1].argmax())
    name = ade20k_palette().names[best]
    when = "before the first layer" if layer == 0 else f"after layer {layer}"
    text = f"query {query.index}, {when}: {name} {probabilities[best]:.2f}, no object {probabilities[-1]:.2f}"
    text += f"; in the end it owns {plotting.percent(query.share)} of the picture"
    if attention:
        allowed = result.allowed(query.index, layer)
        cells = f"{allowed.shape[0]} x {allowed.shape[1]} cells"
        text += f"; layer {layer} let it look at {plotting.percent(allowed.mean())} of {cells}"
    return html.escape(text)
