"""Widgets: handlers are called as a front end calls them; what they show is right, at once, and has a static twin."""

from __future__ import annotations

import time
from io import BytesIO

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from m2f_helpers import plotting
from m2f_helpers.config import base_config
from m2f_helpers.inference import models, widgets
from m2f_helpers.inference.segment import segment
from m2f_helpers.palette import ade20k_palette
from tests.inference.test_segment import blocks, lively

LIMIT = 0.2  # seconds a control may take; the least of three tries, because the machine may be busy


@pytest.fixture(scope="module")
def model():
    return lively(models.load(base_config("demo"), None, "cpu"))


@pytest.fixture(scope="module")
def results(model):
    sizes = {"one": (512, 512), "two": (480, 640)}
    return {name: segment(model, blocks(*size, seed=i), layers=True) for i, (name, size) in enumerate(sizes.items())}


def shown(explorer) -> np.ndarray:
    return np.array(Image.open(BytesIO(explorer.controls["image"].value)))


def seconds(control, values) -> float:
    """Least time that one of the changes took."""
    times = []
    for value in values:
        started = time.perf_counter()
        control.value = value
        times.append(time.perf_counter() - started)
    return min(times)


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
    assert explorer.controls["words"].value.count("opacity: 0.3") == len(result.table)


def test_choosing_a_picture_brings_its_classes(results):
    explorer = widgets.class_explorer(results)
    explorer.controls["picture"].value = "two"
    ids = {class_id for _, class_id in explorer.controls["classes"].options}
    assert ids == set(results["two"].table["id"]) == set(explorer.controls["classes"].value)
    assert explorer.controls["classes"].index == tuple(range(len(ids))), "the front end marks them all"
    assert shown(explorer).shape == (480, 640, 3)


def test_query_explorer_shows_mask_and_attention(results):
    explorer = widgets.query_explorer(results)
    result = results["one"]
    for place, layer in ((0, 3), (2, 1), (5, 0)):
        explorer.controls["query"].value, explorer.controls["layer"].value = place, layer
        query = result.queries[place].index
        assert (shown(explorer) == plotting.spotlight(result.image, result.query_mask(query, layer))).all()
        assert f"query {query}," in explorer.controls["words"].value
    explorer.controls["show"].value = "allowed attention"
    explorer.controls["layer"].value = 2
    query = result.queries[5].index
    assert (shown(explorer) == plotting.spotlight(result.image, result.allowed(query, 2))).all()
    assert "layer 2 let it look at" in explorer.controls["words"].value


def test_before_after_moves_the_line(results):
    result = results["one"]
    other = np.roll(result.label_map, 40, 1)
    explorer = widgets.before_after(result.image, other, result.label_map)
    explorer.controls["position"].value = 0
    assert (shown(explorer) == plotting.overlay(result.image, result.label_map, 0.7)).all()
    explorer.controls["position"].value = 1
    assert (shown(explorer) == plotting.overlay(result.image, other, 0.7)).all()


def png_bytes(array: np.ndarray) -> bytes:
    data = BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("form", ["ipywidgets 8", "ipywidgets 7"])
def test_upload_segments_the_picture(model, results, form):
    explorer = widgets.upload(lambda picture: segment(model, picture), results["one"])
    picture = blocks(100, 150, seed=7)
    entry = {"name": "own.png", "content": memoryview(png_bytes(picture))}
    new = (entry,) if form == "ipywidgets 8" else {"own.png": entry}
    explorer.controls["files"].notify_change(
        {"type": "change", "name": "value", "old": (), "new": new, "owner": explorer.controls["files"]}
    )
    result = segment(model, picture)
    assert (shown(explorer) == plotting.overlay(picture, result.label_map)).all()
    assert result.table["name"][0] in explorer.controls["words"].value


def test_upload_says_what_is_wrong_with_the_file(model, results):
    explorer = widgets.upload(lambda picture: segment(model, picture), results["one"])
    before = explorer.controls["image"].value
    files = explorer.controls["files"]
    entry = {"name": "notes.txt", "content": memoryview(b"no <picture>")}
    files.notify_change({"type": "change", "name": "value", "old": (), "new": (entry,), "owner": files})
    assert "is not an image that can be read" in explorer.controls["words"].value
    assert explorer.controls["image"].value == before
    files.notify_change({"type": "change", "name": "value", "old": (), "new": (), "owner": files})


def test_every_control_answers_within_200_milliseconds(results):
    explorer = widgets.class_explorer(results)
    assert seconds(explorer.controls["opacity"], [0.1, 0.2, 0.3]) < LIMIT
    ids = explorer.controls["classes"].value
    assert seconds(explorer.controls["classes"], [ids[:1], ids[:2], ids]) < LIMIT
    assert seconds(explorer.controls["picture"], ["two", "one", "two"]) < LIMIT
    explorer = widgets.query_explorer(results)
    assert seconds(explorer.controls["query"], [3, 7, 11]) < LIMIT
    assert seconds(explorer.controls["layer"], [2, 1, 0]) < LIMIT
    assert seconds(explorer.controls["picture"], ["two", "one", "two"]) < LIMIT
    one = results["one"]
    explorer = widgets.before_after(one.image, one.label_map, one.label_map)
    assert seconds(explorer.controls["position"], [0.2, 0.4, 0.6]) < LIMIT


def test_a_large_picture_is_shown_small_in_exact_colours():
    labels = np.full((3000, 4000), 12, dtype=np.uint8)
    explorer = widgets.before_after(np.zeros((3000, 4000, 3), np.uint8), labels, labels)
    explorer.controls["opacity"].value = 1
    explorer.controls["position"].value = 0
    pixels = shown(explorer)
    assert max(pixels.shape) <= widgets.LARGEST and (pixels == (150, 5, 61)).all()


def test_each_has_a_static_twin_in_the_same_output(model, results):
    one = results["one"]
    explorers = [
        widgets.class_explorer(results),
        widgets.query_explorer(results),
        widgets.before_after(one.image, one.label_map, one.label_map),
        widgets.upload(lambda picture: segment(model, picture), one),
    ]
    formatter = InteractiveShell.instance().display_formatter
    for explorer in explorers:
        data, metadata = formatter.format(explorer)
        assert "application/vnd.jupyter.widget-view+json" in data
        assert len(data["image/png"]) > 10_000 and metadata["image/png"]["alt"] == explorer.static.alt
        assert data["text/plain"] == explorer.static.alt


def test_an_export_without_widget_state_shows_the_twin(results):
    import nbformat
    from nbconvert import HTMLExporter

    data, metadata = widgets.class_explorer(results)._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data, metadata=metadata)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    page = HTMLExporter().from_notebook_node(notebook)[0]
    assert "data:image/png;base64" in page and "widget-view+json" not in page.split("<body")[1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: widgets.class_explorer({}), "expected at least one segmented picture by name"),
        (lambda r: widgets.query_explorer([r["one"]]), "expected at least one segmented picture by name, got list"),
    ],
)
def test_bad_input_gets_one_sentence(results, call, words):
    with pytest.raises(ValueError, match=words):
        call(results)


def test_query_explorer_needs_the_layers(model):
    with pytest.raises(ValueError, match="layers=True"):
        widgets.query_explorer({"a": segment(model, blocks(64, 64))})
