"""Figures about what a model predicts: they say what the numbers say, and nothing is cut off."""

# ruff: noqa: F811  (the fixtures of test_plotting)
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from m2f_helpers import plotting
from m2f_helpers.inference import figures
from m2f_helpers.palette import IGNORE, ade20k_palette
from tests.test_plotting import (  # noqa: F401  the fixtures image, prediction and truth
    BACKGROUND,
    PERSON,
    PERSON_COLOR,
    ROAD,
    SKY,
    check_border,
    drawn,
    image,
    prediction,
    truth,
)


@dataclass
class Query:
    index: int
    name: str
    score: float
    share: float


@dataclass
class Layer:
    class_logits: torch.Tensor
    rescued: torch.Tensor


class Result:
    """As much of a `segment.Segmentation` as the figures use: three queries, four predictions."""

    def __init__(self, image: np.ndarray):
        self.image = image
        self.palette = ade20k_palette()
        self.queries = [Query(1, "person", 0.97, 0.6), Query(0, "sky", 0.8, 0.4), Query(2, "wall", 0.2, 0.0)]
        logits = torch.full((3, 151), -5.0)
        logits[1, PERSON] = 5.0
        self.layers = [Layer(logits, torch.tensor([False, i == 0, False])) for i in range(4)]

    def query_mask(self, query: int, layer: int = -1) -> np.ndarray:
        mask = np.zeros(self.image.shape[:2], dtype=np.float32)
        mask[20:50, 30:50] = 1
        return mask

    def allowed(self, query: int, layer: int) -> np.ndarray:
        return np.arange(12).reshape(3, 4) < 12 // layer


@pytest.fixture(scope="module")
def gallery(image, prediction, truth) -> dict[str, plotting.Figure]:
    result = Result(image)
    confidence = np.linspace(0, 1, image.shape[0] * image.shape[1]).reshape(image.shape[:2])
    return {
        "before_after": figures.before_after(image, prediction, truth, truth),
        "rgb_or_bgr": figures.rgb_or_bgr(image, prediction, PERSON),
        "uncertainty": figures.uncertainty(image, confidence, 1 - confidence, prediction, truth),
        "uncertainty_only": figures.uncertainty(image, confidence, 1 - confidence),
        "errors_by_confidence": figures.errors_by_confidence(confidence, prediction, truth),
        "class_iou": figures.class_iou(table([2, 12], ["sky", "person"], [90.0, 50.0])),
        "query_grid": figures.query_grid(result),
        "query_life": figures.query_life(result, 1),
        "queries_by_layer": figures.queries_by_layer(result, 2),
        "attention": figures.attention(result, 1),
        "attention_narrowing": figures.attention_narrowing(result),
    }


def table(ids, names, ious) -> pd.DataFrame:
    return pd.DataFrame({"id": ids, "name": names, "share": 1 / len(ids), "iou": ious})


def test_every_figure_has_the_width_the_words_and_nothing_cut_off(gallery):
    for name, figure in gallery.items():
        assert figure.get_figwidth() == plotting.WIDTH and figure.alt, name
        assert (drawn(figure)[0, 0] == BACKGROUND).all(), name
        check_border(figure)


def test_person_has_its_colour(gallery):
    for name, axes in {"before_after": [1, 2], "rgb_or_bgr": [1]}.items():
        for k in axes:
            assert tuple(gallery[name].axes[k].images[0].get_array()[30, 40]) == PERSON_COLOR, name
    wrong = gallery["rgb_or_bgr"].axes[2].images[0].get_array()
    assert tuple(wrong[30, 40]) == PERSON_COLOR[::-1], "the wrong figure is really wrong"


def test_two_models_and_what_changed(gallery):
    assert gallery["before_after"].axes[3].get_title() == "blue: corrected, orange: made worse"


def test_the_proof_of_rgb_or_bgr_names_both_values(image, prediction):
    figure = figures.rgb_or_bgr(image, prediction, PERSON)
    assert "(150, 5, 61) and (61, 5, 150)" in figure.alt
    assert [ax.get_title() for ax in figure.axes][-2:] == ["(150, 5, 61)", "(61, 5, 150)"]


def test_the_proof_avoids_greys_and_prefers_person(truth):
    grey = np.full((20, 20), ROAD, np.uint8)
    grey[15:] = SKY
    assert figures.telltale_class(grey) == SKY
    assert figures.telltale_class(truth) == PERSON
    with pytest.raises(ValueError, match="nothing but ignore"):
        figures.telltale_class(np.full((2, 2), IGNORE, np.uint8))
    with pytest.raises(ValueError, match="no pixel of class 77"):
        figures.rgb_or_bgr(np.zeros((2, 2, 3), np.uint8), np.full((2, 2), SKY, np.uint8), 77)


def test_query_figures_speak_of_the_query(image):
    result = Result(image)
    assert "query 1, owns 60 %, person 0.97" in figures.query_grid(result).alt
    life = figures.query_life(result, 1)
    assert len(life.axes) == 4 and "after layer 3, person 0.99" in life.alt
    lit = life.axes[0].images[0].get_array()
    assert (lit[20:50, 30:50] == image[20:50, 30:50]).all() and np.ptp(lit[0, 0]) == 0
    narrow = figures.attention(result, 1)
    assert len(narrow.axes) == 3 and "100 % allowed (mask empty here)" in narrow.alt and "33 % allowed" in narrow.alt
    assert "layer 1 100 %, layer 2 50 %, layer 3 33 %" in figures.attention_narrowing(result).alt


def test_every_coloured_line_has_its_own_colour(image):
    result = Result(image)
    result.queries = [Query(i, "wall", 0.5, 0.05) for i in range(14)]
    ax = figures.attention_narrowing(result).axes[0]
    colours = [to_hex(line.get_color()) for line in ax.lines]
    grey = to_hex("0.5")
    assert colours.count(grey) == 4 and len(set(colours)) == 11 and to_hex("C7") not in colours


def test_errors_by_confidence_counts(truth):
    confidence = np.where(truth == PERSON, 0.1, 0.9)
    prediction = np.where(truth == PERSON, SKY, truth)
    figure = figures.errors_by_confidence(confidence, prediction, truth, bins=2)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [1.0, 0.0]


def test_class_iou_matches_classes_by_id_and_means_are_mious():
    one = table([2, 12], ["sky", "person"], [90.0, 50.0])
    two = table([12, 0], ["person", "wall"], [75.0, 10.0])
    figure = figures.class_iou(one, two)
    (ax,) = figure.axes
    old, new = ([bar.get_width() for bar in bars] for bars in ax.containers)
    assert old == [0, 75] and new == [90, 50], "a class that the other table has not is a bar of 0"
    assert [text.get_text() for text in ax.texts] == ["-", "75", "90", "50"], "and its number a dash"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["sky  50 %", "person  50 %"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before: mIoU 42 %", "after: mIoU 70 %"]
    assert "before mIoU 42 %, after mIoU 70 %: sky 90 %, person 50 %" in figure.alt
    alone = figures.class_iou(one, limit=1)
    assert not alone.legends and alone.axes[0].get_title().startswith("mIoU 70 %.")
    assert alone.axes[0].get_title().endswith("the 1 largest of 2")


def test_long_names_and_many_queries_fit(image):
    result = Result(image)
    name = max(ade20k_palette().names, key=len)
    result.queries = [Query(i % 3, name, 0.5, 0.025 - i / 10_000) for i in range(40)]
    logits = torch.full((3, 151), -5.0)
    logits[:, ade20k_palette().names.index(name)] = 5.0
    result.layers = [Layer(logits, torch.tensor([False] * 3)) for _ in range(10)]
    made = [
        figures.query_grid(result),
        figures.query_life(result, 1),
        figures.queries_by_layer(result),
        figures.attention_narrowing(result),
    ]
    for figure in made:
        check_border(figure)
        boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
        for first, second in zip(boxes, boxes[1:], strict=False):
            assert second.x0 > first.x1 or second.y1 < first.y0, "two titles overlap"
