"""Widgets: handlers are called as a front end calls them; what they show is right, at once, and has a static twin."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from base64 import b64decode, b64encode
from io import BytesIO

import numpy as np
import pytest
from bs4 import BeautifulSoup
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from PIL import Image

from m2f_helpers import plotting
from m2f_helpers.inference import widgets
from m2f_helpers.inference.segment import Segmentation, segment
from m2f_helpers.palette import ade20k_palette
from tests.inference.conftest import OWN, blocks


@pytest.fixture(scope="module")
def results(model):
    sizes = {"one": (512, 512), "two": (480, 640)}
    return {name: segment(model, blocks(*size, seed=i), layers=True) for i, (name, size) in enumerate(sizes.items())}


def tag(explorer) -> dict[str, str]:
    """The attributes of the image that is shown."""
    return BeautifulSoup(explorer.controls["image"].value, "html.parser").img.attrs


def shown(explorer) -> np.ndarray:
    data = b64decode(tag(explorer)["src"].removeprefix("data:image/png;base64,"))
    return np.array(Image.open(BytesIO(data)))


def test_class_explorer_shows_the_overlay(results):
    explorer = widgets.class_explorer(results)
    result = results["one"]
    assert (shown(explorer) == plotting.overlay(result.image, result.label_map, 0.55)).all()
    explorer.controls["opacity"].value = 1
    assert (shown(explorer) == ade20k_palette().colorize(result.label_map)).all(), "to the pixel"
    explorer.controls["opacity"].value = 0
    assert (shown(explorer) == result.image).all()


def test_classes_go_on_and_off(results):
    explorer = widgets.class_explorer(results)
    explorer.controls["opacity"].value = 1
    result = results["one"]
    first = int(result.table["id"][0])
    explorer.controls["classes"].value = [first]
    expected = plotting.overlay(result.image, result.label_map, 1, [first])
    assert (shown(explorer) == expected).all()
    explorer.controls["classes"].value = []
    assert (shown(explorer) == result.image).all()
    assert explorer.controls["words"].value.count("line-through") == len(result.table)
    explorer.controls["all"].click()
    assert (shown(explorer) == ade20k_palette().colorize(result.label_map)).all()
    assert result.table["name"][0] in tag(explorer)["alt"]
    explorer.controls["none"].click()
    assert (shown(explorer) == result.image).all() and "painted: nothing" in tag(explorer)["alt"]


def test_choosing_an_image_brings_its_classes(results):
    explorer = widgets.class_explorer(results)
    explorer.controls["choice"].value = "two"
    ids = {class_id for _, class_id in explorer.controls["classes"].options}
    assert ids == set(results["two"].table["id"]) == set(explorer.controls["classes"].value)
    assert explorer.controls["classes"].index == tuple(range(len(ids))), "the front end marks them all"
    assert shown(explorer).shape == (480, 640, 3)


def test_query_explorer_shows_mask_and_attention(results):
    explorer = widgets.query_explorer(results)
    result = results["one"]
    for place, layer in ((0, 3), (2, 1), (5, 0)):
        query = result.queries[place].index
        explorer.controls["query"].value, explorer.controls["layer"].value = query, layer
        assert (shown(explorer) == plotting.spotlight(result.image, result.query_mask(query, layer))).all()
        assert f"query {query} ({place + 1} of 20 by area)" in explorer.controls["words"].value
        assert f"query {query} " in tag(explorer)["alt"]
    labels = [label for label, _ in explorer.controls["query"].options]
    assert labels == [str(query.index) for query in result.queries], "the slider says the number that the text says"
    explorer.controls["show"].value = "allowed attention"
    assert explorer.controls["layer"].value == explorer.controls["layer"].min == 1, "layer 0 has no attention"
    explorer.controls["layer"].value = 2
    assert (shown(explorer) == plotting.spotlight(result.image, result.allowed(query, 2))).all()
    assert "layer 2 let it look at" in explorer.controls["words"].value


def test_another_image_keeps_the_place_among_the_queries(results):
    explorer = widgets.query_explorer(results)
    explorer.controls["query"].value = results["one"].queries[4].index
    explorer.controls["choice"].value = "two"
    query = results["two"].queries[4].index
    assert explorer.controls["query"].value == query
    assert (shown(explorer) == plotting.spotlight(results["two"].image, results["two"].query_mask(query))).all()


def test_before_after_moves_the_line(results):
    result = results["one"]
    other = np.roll(result.label_map, 40, 1)
    explorer = widgets.before_after(result.image, other, result.label_map)
    explorer.controls["position"].value = 0
    assert (shown(explorer) == plotting.overlay(result.image, result.label_map, 0.7)).all()
    explorer.controls["position"].value = 1
    assert (shown(explorer) == plotting.overlay(result.image, other, 0.7)).all()


def arrive(explorer, content: bytes, **about) -> None:
    """What the browser does with a chosen file."""
    line = json.dumps({"name": "own <1>.png", **about})
    explorer.controls["data"].value = f"{line}\n{b64encode(content).decode()}"


def png_bytes(array: np.ndarray) -> bytes:
    data = BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def test_upload_segments_the_image(model, results):
    explorer = widgets.upload(lambda image: segment(model, image), results["one"])
    image = blocks(100, 150, seed=7)
    arrive(explorer, png_bytes(image), **{"from": [3000, 2000]})
    result = segment(model, image)
    assert (shown(explorer) == plotting.overlay(image, result.label_map)).all()
    words = explorer.controls["words"].value
    assert result.table["name"][0] in words and "150 x 100 pixels, made smaller from 3000 x 2000" in words
    assert "own &lt;1&gt;.png" in words and explorer.controls["data"].value == "", "the same file can be chosen again"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no <picture>", "own &lt;1&gt;.png is not an image that can be read here: save it as PNG or JPEG"),
        (b"", "is empty (0 bytes): choose another file"),
        (png_bytes(np.zeros((300, 300, 3), np.uint8))[:200], "is damaged, incomplete or closed"),
    ],
)
def test_upload_says_what_is_wrong_with_the_file(model, results, content, words):
    explorer = widgets.upload(lambda image: segment(model, image), results["one"])
    before = explorer.controls["image"].value
    arrive(explorer, content)
    assert words in explorer.controls["words"].value and "BytesIO" not in explorer.controls["words"].value
    assert explorer.controls["image"].value == before
    explorer.controls["data"].value = "nonsense"
    assert "the upload was cut off" in explorer.controls["words"].value


def test_a_slider_computes_only_at_the_size_that_is_shown(results, monkeypatch):
    """What keeps it fast: no mask at the size of a photograph. How fast is measured in tests/browser."""
    photo = dataclasses.replace(results["one"], image=np.zeros((1600, 1600, 3), np.uint8))
    sizes = []
    real = Segmentation.query_mask
    monkeypatch.setattr(
        Segmentation, "query_mask", lambda self, q, layer, size: sizes.append(tuple(size)) or real(self, q, layer, size)
    )
    monkeypatch.setattr(widgets.figures, "queries_by_layer", lambda result: plotting.panels([result.image[::9, ::9]]))
    explorer = widgets.query_explorer({"photo": photo})
    explorer.controls["layer"].value = 1
    assert set(sizes) == {(534, 534)}


def test_a_large_image_is_shown_small_in_exact_colours():
    labels = np.full((3000, 4000), 12, dtype=np.uint8)
    explorer = widgets.before_after(np.zeros((3000, 4000, 3), np.uint8), labels, labels)
    explorer.controls["opacity"].value = 1
    explorer.controls["position"].value = 0
    pixels = shown(explorer)
    assert max(pixels.shape) <= widgets.LARGEST and (pixels == (150, 5, 61)).all()


def test_each_puts_out_the_widget_and_below_it_a_twin(model, results):
    one = results["one"]
    explorers = [
        widgets.class_explorer(results),
        widgets.query_explorer(results),
        widgets.before_after(one.image, one.label_map, one.label_map),
        widgets.upload(lambda image: segment(model, image), one),
    ]
    InteractiveShell.instance()
    for explorer in explorers:
        with capture_output() as captured:
            display(explorer)
        live, twin = [output.data for output in captured.outputs]
        assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.view.model_id
        assert "image/png" not in live and "Below, a still version" in live["text/plain"]
        assert len(twin["image/png"]) > 10_000 and twin["text/plain"] == explorer.static.alt
        page = BeautifulSoup(twin["text/html"], "html.parser")
        assert page.img["alt"] == explorer.static.alt and page.div["class"] == [explorer.name]
        sheet = explorer.view.children[-1].value
        assert f".{explorer.name}," in sheet and "display: none" in sheet, "hidden while the widget lives"
    assert len({explorer.name for explorer in explorers}) == 4


def test_an_export_without_widget_state_shows_the_twin_and_its_words(results):
    import nbformat
    from nbconvert import HTMLExporter

    explorer = widgets.class_explorer(results)
    outputs = [nbformat.v4.new_output("display_data", data) for data in explorer.outputs()]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    main = BeautifulSoup(HTMLExporter().from_notebook_node(notebook)[0], "html.parser").find("main")
    assert [image["alt"] for image in main.find_all("img")] == [explorer.static.alt]
    assert widgets.ASIDE in main.text and "VBox" not in main.text and not main.find_all("style")


def test_classes_of_ones_own_are_on_every_control(own_model):
    result = segment(own_model, blocks(96, 128), layers=True)
    assert len(result.table) > 1
    explorers = [
        widgets.class_explorer({"a": result}),
        widgets.query_explorer({"a": result}),
        widgets.before_after(result.image, result.label_map, result.label_map, palette=result.palette),
        widgets.upload(lambda image: segment(own_model, image), result),
    ]
    arrive(explorers[3], png_bytes(blocks(64, 64)))
    options = [text for text, _ in explorers[0].controls["classes"].options]
    assert {name for name in OWN if any(name in text for text in options)} == set(result.table["name"])
    parts = [explorer.static.alt for explorer in explorers] + options
    parts += [html.unescape(e.controls[k].value) for e in explorers for k in ("words", "image") if k in e.controls]
    words = re.sub(r"base64,[^\"]*", "", " ".join(parts))
    assert all(name in words for name in result.table["name"])
    assert not [name for name in ade20k_palette().names if re.search(rf"\b{re.escape(name)}\b", words)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: widgets.class_explorer({}), "expected at least one segmented image by name"),
        (lambda r: widgets.query_explorer([r["one"]]), "expected at least one segmented image by name, got list"),
    ],
)
def test_bad_input_gets_one_sentence(results, call, words):
    with pytest.raises(ValueError, match=words):
        call(results)


def test_query_explorer_needs_the_layers(model):
    with pytest.raises(ValueError, match="layers=True"):
        widgets.query_explorer({"a": segment(model, blocks(64, 64))})
