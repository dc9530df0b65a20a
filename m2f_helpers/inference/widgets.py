"""Things to play with in a notebook: class colours, queries, layers, before and after, an image of your own.

The model runs once, beforehand; what a slider does is array work, well under 200 ms. Every explorer brings a static
twin, a figure with the same content: it stands below wherever the widget does not live, on a page or without a kernel.
"""

from __future__ import annotations

import binascii
import html
import json
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import count
from typing import Any

import ipywidgets as ipw
import numpy as np
from IPython.display import display
from PIL import Image, UnidentifiedImageError

from m2f_helpers import plotting
from m2f_helpers.images import read_image
from m2f_helpers.inference import figures
from m2f_helpers.palette import Palette
from m2f_helpers.quiet import one_line

SWATCH = "display:inline-block;width:1.1em;height:0.9em;border:1px solid #767676;"
LARGEST = 640  # pixels: longer side of the image in a widget
ASIDE = "An explorer: run this cell to play with it. Below, a still version."
_numbers = count(1)


class Explorer:
    """A widget, `view`, and its static twin, `static` (a figure): two outputs of a cell, one below the other.

    Where the widget lives, a style sheet inside it hides the twin; where it does not (a page, a code host, a notebook
    opened again without its kernel) the sheet is missing too.
    """

    def __init__(self, view: ipw.Box, static: plotting.Figure, **controls: ipw.Widget):
        self.static, self.controls = static, controls
        self.name = f"m2f-twin-{next(_numbers)}"
        view.children = (*view.children, ipw.HTML(_LIVE.replace("TWIN", self.name)))
        view.add_class("m2f-explorer")
        self.view = view

    def _ipython_display_(self) -> None:
        for data in self.outputs():
            display(data, raw=True)

    def outputs(self) -> list[dict[str, Any]]:
        """What is put out, by MIME type: first the widget, then the twin."""
        live = {"model_id": self.view.model_id, "version_major": 2, "version_minor": 0}
        twin, _ = self.static._repr_mimebundle_()
        twin["text/html"] = f'<div class="{self.name}">{twin["text/html"]}</div>'
        return [{"application/vnd.jupyter.widget-view+json": live, "text/plain": ASIDE}, twin]


# Rules that hold while the widget lives. A style element that has been read in runs its `onload`: that gives sliders,
# which ipywidgets leaves nameless, the words beside them as their name for screen readers.
_LIVE = """<style onload="
const box = this.closest('.m2f-explorer');
const name = () => box.querySelectorAll('[role=slider]:not([aria-label])').forEach(handle => {
  const words = handle.closest('.widget-inline-hbox, .jupyter-widgets')?.querySelector('.widget-label');
  if (words) handle.setAttribute('aria-label', words.textContent);
});
if (box) { name(); new MutationObserver(name).observe(box, {childList: true, subtree: true}); }
">.TWIN, .jp-OutputArea-child:has(.TWIN) { display: none }</style>"""


def class_explorer(results: Mapping[str, Any]) -> Explorer:
    """Choose a `Segmentation` by its name, how opaque the classes are, and which of them are painted.

    Returns: controls `choice`, `opacity`, `classes` (ids), the buttons `all` and `none`, outputs `image` and `words`.
    """
    _check(results)
    shown = {name: (_shrink(result.image), _shrink(result.label_map)) for name, result in results.items()}
    choice = ipw.Dropdown(options=list(results), description="image")
    opacity = ipw.FloatSlider(value=0.55, min=0, max=1, step=0.05, description="opacity")
    classes = ipw.SelectMultiple(description="classes", rows=10, layout=ipw.Layout(width="300px"))
    buttons = {name: ipw.Button(description=name, layout=ipw.Layout(width="70px")) for name in ("all", "none")}
    hint = ipw.HTML("a click: only this class; Ctrl + click: one more or one less")
    image, words = ipw.HTML(), ipw.HTML()
    changing: list[bool] = []

    def choose(change: Any = None) -> None:
        pixels, labels = shown[choice.value]
        entries = plotting.legend_entries(labels, results[choice.value].palette)
        changing.append(True)  # drawn once below, not once per step
        classes.options = [(entry.text, entry.id) for entry in entries]
        classes.value = [entry.id for entry in entries]
        changing.clear()
        draw()

    def draw(change: Any = None) -> None:
        if changing:
            return
        (pixels, labels), palette = shown[choice.value], results[choice.value].palette
        entries = plotting.legend_entries(labels, palette)
        painted = [entry.name for entry in entries if entry.id in classes.value]
        alt = f"{choice.value}, painted: {', '.join(painted) or 'nothing'}"
        image.value = _img(plotting.overlay(pixels, labels, opacity.value, classes.value, palette), alt)
        words.value = _legend_html(entries, classes.value)

    choice.observe(choose, "value")
    for control in (opacity, classes):
        control.observe(draw, "value")
    buttons["all"].on_click(lambda button: setattr(classes, "value", [class_id for _, class_id in classes.options]))
    buttons["none"].on_click(lambda button: setattr(classes, "value", []))
    choose()
    name, (pixels, labels) = next(iter(shown.items()))
    palette = results[name].palette
    mixed = [pixels, plotting.overlay(pixels, labels, palette=palette), labels]
    titles = [name, "opacity 0.55", "opacity 1"]
    static = plotting.panels(mixed, titles, shares_of="share of pixels", palette=palette)
    side = ipw.VBox([classes, ipw.HBox(list(buttons.values())), hint])
    view = ipw.VBox([ipw.HBox([choice, opacity]), words, _row([image, side])])
    return Explorer(view, static, choice=choice, opacity=opacity, classes=classes, **buttons, image=image, words=words)


def query_explorer(results: Mapping[str, Any]) -> Explorer:
    """Choose an image, a query (by falling area) and a prediction; see its mask, or what the layer was allowed to see.

    `results` are `Segmentation`s by name, made with `layers=True`.

    Returns: controls `choice`, `query` (its index), `layer` (0: before the first) and `show`, outputs `image` and
        `words`.
    """
    _check(results)
    if not all(result.layers for result in results.values()):
        raise ValueError("the layers were not kept: call segment(model, image, layers=True)")
    options = {name: [(str(query.index), query.index) for query in result.queries] for name, result in results.items()}
    shown = {name: _shrink(result.image) for name, result in results.items()}
    first = next(iter(results))
    last = len(results[first].layers) - 1
    choice = ipw.Dropdown(options=list(results), description="image")
    query = ipw.SelectionSlider(options=options[first], description="query")
    layer = ipw.IntSlider(last, 0, last, description="after layer", style={"description_width": "80px"})
    show = ipw.ToggleButtons(options=["mask", "allowed attention"])
    image, words = ipw.HTML(), ipw.HTML()
    changing: list[bool] = []

    def choose(change: Any) -> None:
        place = query.index
        changing.append(True)
        query.options = options[choice.value]  # another image ranks the queries in another order
        query.index = min(place, len(query.options) - 1)
        changing.clear()
        draw()

    def limit(change: Any) -> None:
        layer.min = 1 if show.value != "mask" else 0  # no layer has attended before the first one
        layer.description = "in layer" if layer.min else "after layer"
        draw()

    def draw(change: Any = None) -> None:
        if changing:
            return
        result, pixels, attention = results[choice.value], shown[choice.value], show.value != "mask"
        chosen = next(entry for entry in result.queries if entry.index == query.value)
        if attention:
            mask = result.allowed(chosen.index, layer.value)
        else:
            mask = result.query_mask(chosen.index, layer.value, pixels.shape[:2])
        text = _query_words(result, chosen, layer.value, attention)
        image.value = _img(plotting.spotlight(pixels, mask), f"{choice.value}, {show.value} of {text}")
        words.value = html.escape(text)

    choice.observe(choose, "value")
    show.observe(limit, "value")
    for control in (query, layer):
        control.observe(draw, "value")
    draw()
    static = figures.queries_by_layer(results[first])
    view = ipw.VBox([_row([choice, query, layer]), show, words, image])
    return Explorer(view, static, choice=choice, query=query, layer=layer, show=show, image=image, words=words)


def before_after(
    image: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    names: tuple[str, str] = ("before", "after"),
    palette: Palette | None = None,
) -> Explorer:
    """Move a line across the image: label map before on its left, after on its right.

    Returns: controls `position` (0..1) and `opacity`, output `image`.
    """
    pixels, maps = _shrink(image), (_shrink(before), _shrink(after))
    position = ipw.FloatSlider(value=0.5, min=0, max=1, step=0.01, description="line")
    opacity = ipw.FloatSlider(value=0.7, min=0, max=1, step=0.05, description="opacity")
    output = ipw.HTML()
    sides: list[np.ndarray] = []

    def blend(change: Any = None) -> None:
        sides[:] = [plotting.overlay(pixels, labels, opacity.value, palette=palette) for labels in maps]
        draw()

    def draw(change: Any = None) -> None:
        alt = f"{names[0]} left of {position.value:.0%} of the width, {names[1]} right of it"
        output.value = _img(plotting.wipe(*sides, position.value), alt)

    position.observe(draw, "value")
    opacity.observe(blend, "value")
    blend()
    words = ipw.HTML(f"left of the line: {html.escape(names[0])}, right of it: {html.escape(names[1])}")
    static = figures.before_after(image, before, after, names=names, palette=palette)
    view = ipw.VBox([words, _row([position, opacity]), output])
    return Explorer(view, static, position=position, opacity=opacity, image=output)


# The browser makes large images smaller before they travel: a message of more than 10 MB (Colab: 1 MB) would be dropped
# without a word. What arrives is a line of JSON and the file in base64, by way of a hidden text field.
_CHOOSE = """<label>own image <input type="file" accept="image/*" onchange="(async input => {
  const box = input.closest('.m2f-explorer'), area = box.querySelector('.m2f-upload textarea');
  const say = box.querySelector('.m2f-say'), file = input.files[0];
  if (!file) return;
  say.textContent = 'reading ' + file.name;
  const about = {name: file.name};
  let blob = file;
  try {
    const map = await createImageBitmap(file), scale = Math.min(1, SIDE / Math.max(map.width, map.height));
    if (scale < 1 || file.size > BYTES) {
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [Math.round(map.width * scale), Math.round(map.height * scale)];
      canvas.getContext('2d').drawImage(map, 0, 0, canvas.width, canvas.height);
      for (const quality of [0.9, 0.7, 0.4]) {
        blob = await new Promise(done => canvas.toBlob(done, 'image/jpeg', quality));
        if (blob.size <= BYTES) break;
      }
      about.from = [map.width, map.height];
    }
  } catch (error) { }
  input.value = '';
  if (blob.size > BYTES) {
    say.textContent = file.name + ' has ' + (file.size / 1e6).toFixed(1) + ' MB and cannot be made smaller here: '
      + 'save it as JPEG, or set IMAGE to its path';
    return;
  }
  const reader = new FileReader();
  reader.onload = () => {
    area.value = JSON.stringify(about) + '\\n' + reader.result.split(',')[1];
    area.dispatchEvent(new Event('input', {bubbles: true}));
    area.dispatchEvent(new Event('change', {bubbles: true}));
  };
  reader.readAsDataURL(blob);
})(this)"></label> <span class="m2f-say">images of more than SIDE pixels a side are made smaller first</span>"""
UPLOAD_SIDE, UPLOAD_BYTES = 1280, 700_000


def upload(segment: Callable[[np.ndarray], Any], example: Any) -> Explorer:
    """Choose an image of your own; it is segmented as soon as it is here. JupyterLab and Colab.

    `segment` makes a `Segmentation` of an RGB array; `example` is one to show until then, and as static twin.

    Returns: control `data` (a hidden text field that the browser fills), outputs `image` and `words`.
    """
    script = _CHOOSE.replace("SIDE", str(UPLOAD_SIDE)).replace("BYTES", str(UPLOAD_BYTES))
    data = ipw.Textarea(layout=ipw.Layout(display="none"))
    data.add_class("m2f-upload")
    image, words = ipw.HTML(), ipw.HTML()

    def show(result: Any, text: str = "") -> None:
        pixels, labels = _shrink(result.image), _shrink(result.label_map)
        entries = plotting.legend_entries(labels, result.palette)
        alt = "own image, label map: " + plotting.alt_text(labels, palette=result.palette)
        image.value = _img(plotting.overlay(pixels, labels, palette=result.palette), alt)
        words.value = html.escape(text) + _legend_html(entries)

    def receive(change: Any) -> None:
        if not change["new"]:
            return
        words.value = "segmenting ..."
        try:
            about, pixels = _received(change["new"])
            show(segment(pixels), about)
        except (ValueError, OSError, MemoryError) as error:
            words.value = html.escape(one_line(error))
        data.value = ""

    data.observe(receive, "value")
    show(example)
    static = plotting.side_by_side(example.image, example.label_map, palette=example.palette)
    view = ipw.VBox([ipw.HTML(script), data, words, image])
    return Explorer(view, static, data=data, image=image, words=words)


def _received(text: str) -> tuple[str, np.ndarray]:
    """What is said about an uploaded image, and its pixels. ValueError in one sentence if it is none."""
    head, _, body = text.partition("\n")
    try:
        about, content = json.loads(head), b64decode(body, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("the upload was cut off: try once more") from None
    name = str(about.get("name", "the file"))
    if not content:
        raise ValueError(f"{name} is empty (0 bytes): choose another file")
    try:
        pixels = read_image(Image.open(BytesIO(content)))
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image that can be read here: save it as PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name} has too many pixels: make it smaller first") from None
    size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
    if "from" in about:
        size += ", made smaller from {} x {}".format(*about["from"])
    return f"{name}, {size}", pixels


def _check(results: Any) -> None:
    if not isinstance(results, Mapping) or not results:
        raise ValueError(f"expected at least one segmented image by name, got {type(results).__name__} of nothing")


def _row(children: Sequence[ipw.Widget]) -> ipw.HBox:
    """Side by side, and below each other where the page is narrow."""
    return ipw.HBox(list(children), layout=ipw.Layout(flex_flow="row wrap"))


def _shrink(array: np.ndarray) -> np.ndarray:
    """Every n-th pixel, so that the longer side is at most `LARGEST`: exact colours and ids, and fast."""
    step = -(-max(array.shape[:2]) // LARGEST)
    return array[::step, ::step]


def _img(pixels: np.ndarray, alt: str) -> str:
    """HTML of an image at its own size."""
    data = plotting.encoded(Image.fromarray(pixels), "PNG", compress_level=1)
    tag = plotting.img_tag(data, "png", alt, pixels.shape[1])
    return tag.replace("<img", '<img decoding="sync"')  # else the place is empty for a moment at every step


def _legend_html(entries: list[plotting.LegendEntry], shown: Any = None) -> str:
    """Swatches with name and share; classes that are switched off are struck through, their swatch empty."""
    parts = []
    for entry in entries:
        off = shown is not None and entry.id not in shown
        color = "none" if off else "rgb({}, {}, {})".format(*entry.color)
        line = "text-decoration:line-through;" if off else ""
        box = f'<span style="{SWATCH}background:{color}"></span>'
        text = f'<span style="{line}">{html.escape(entry.text)}</span>'
        parts.append(f'<span style="margin-right:1.2em;white-space:nowrap">{box} {text}</span>')
    return f'<div style="line-height:1.7">{" ".join(parts)}</div>'


def _query_words(result: Any, query: Any, layer: int, attention: bool) -> str:
    rank = [entry.index for entry in result.queries].index(query.index) + 1
    where = f"query {query.index} ({rank} of {len(result.queries)} by area)"
    if attention:
        allowed = result.allowed(query.index, layer)
        cells = f"{allowed.shape[0]} x {allowed.shape[1]} cells"
        return f"{where}: layer {layer} let it look at {plotting.percent(allowed.mean())} of {cells}"
    probabilities = result.layers[layer].class_logits[query.index].softmax(-1)  # (K + 1,)
    best = int(probabilities[:-1].argmax())
    when = "before the first layer" if layer == 0 else f"after layer {layer}"
    found = f"{result.palette.names[best]} {probabilities[best]:.2f}, no object {probabilities[-1]:.2f}"
    return f"{where}, {when}: {found}; in the end it owns {plotting.percent(query.share)} of the image"
