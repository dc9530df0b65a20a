"""Figures: right to the pixel, in words too, the same under every backend, and never shown."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64decode
from dataclasses import dataclass
from io import BytesIO

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from m2f_helpers import plotting
from m2f_helpers.inference import figures
from m2f_helpers.palette import IGNORE, IGNORE_COLOR, ade20k_palette

PERSON, PERSON_COLOR = 12, (150, 5, 61)
WALL, SKY, ROAD, SKYSCRAPER, CEILING = 0, 2, 6, 48, 5


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Sky above, wall below, a person in the middle, an unlabelled corner."""
    labels = np.full((60, 80), SKY, dtype=np.uint8)
    labels[40:] = WALL
    labels[20:50, 30:50] = PERSON
    labels[:10, :10] = IGNORE
    return labels


@pytest.fixture(scope="module")
def prediction(truth) -> np.ndarray:
    labels = np.where(truth == IGNORE, SKY, truth).astype(np.uint8)
    labels[50:, :40] = SKY
    return labels


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
    """As much of an `segment.Segmentation` as the figures use: three queries, four predictions."""

    def __init__(self, image: np.ndarray):
        self.image = image
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


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels, `(H, W, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def all_figures(image, prediction, truth, theme="light") -> dict[str, plotting.Picture]:
    result = Result(image)
    confidence = np.linspace(0, 1, image.shape[0] * image.shape[1]).reshape(image.shape[:2])
    return {
        "side_by_side": plotting.side_by_side(image, prediction, truth, theme=theme),
        "class_map": plotting.class_map(truth, "truth", theme=theme),
        "panels": plotting.panels([image, truth, prediction], ["a", "b", "c"], theme=theme),
        "legend": plotting.legend(truth, theme=theme),
        "before_after": figures.before_after(image, prediction, truth, truth, theme=theme),
        "rgb_or_bgr": plotting.rgb_or_bgr(image, prediction, PERSON, theme=theme),
        "uncertainty": figures.uncertainty(image, confidence, 1 - confidence, prediction, truth, theme=theme),
        "uncertainty_only": figures.uncertainty(image, confidence, 1 - confidence, theme=theme),
        "errors_by_confidence": figures.errors_by_confidence(confidence, prediction, truth, theme=theme),
        "query_grid": figures.query_grid(result, theme=theme),
        "query_life": figures.query_life(result, 1, theme=theme),
        "queries_by_layer": figures.queries_by_layer(result, 2, theme=theme),
        "attention": figures.attention(result, 1, theme=theme),
        "attention_narrowing": figures.attention_narrowing(result, theme=theme),
    }


@pytest.fixture(scope="module", params=["light", "dark"])
def gallery(request, image, prediction, truth):
    """Theme, every figure by name, and every figure as pixels; drawn once."""
    figures = all_figures(image, prediction, truth, request.param)
    return request.param, figures, {name: drawn(figure) for name, figure in figures.items()}


# ------------------------------------------------------------------------------------------------ colours, to the pixel


def test_person_has_its_colour_in_every_class_map(gallery):
    _, figures, pixels = gallery
    where = {"side_by_side": [1, 2], "class_map": [0], "panels": [1, 2], "before_after": [1, 2], "rgb_or_bgr": [1]}
    for name, axes in where.items():
        for k in axes:
            array = figures[name].axes[k].images[0].get_array()
            assert tuple(array[30, 40]) == PERSON_COLOR, name
            assert tuple(array[5, 60]) == tuple(ade20k_palette().colors[SKY])
        assert (pixels[name] == PERSON_COLOR).all(2).sum() > 500, f"{name}: person as it is rendered"
    wrong = figures["rgb_or_bgr"].axes[2].images[0].get_array()
    assert tuple(wrong[30, 40]) == PERSON_COLOR[::-1], "the wrong picture is really wrong"


def test_the_proof_of_rgb_or_bgr_names_both_values(image, prediction):
    figure = plotting.rgb_or_bgr(image, prediction, PERSON)
    assert "(150, 5, 61) and (61, 5, 150)" in figure.alt
    assert [ax.get_title() for ax in figure.axes][-2:] == ["(150, 5, 61)", "(61, 5, 150)"]


def test_the_proof_avoids_greys_and_prefers_person(truth):
    grey = np.full((20, 20), ROAD, np.uint8)
    grey[15:] = SKY
    assert plotting.telltale_class(grey) == SKY
    assert plotting.telltale_class(truth) == PERSON
    with pytest.raises(ValueError, match="nothing but ignore"):
        plotting.telltale_class(np.full((2, 2), IGNORE, np.uint8))


def test_the_legend_swatch_has_the_class_colour(truth):
    figure = plotting.legend(truth)
    handles = figure.legends[0].legend_handles
    colors = [tuple(round(255 * c) for c in handle.get_facecolor()[:3]) for handle in handles]
    assert PERSON_COLOR in colors and IGNORE_COLOR in colors
    assert (drawn(figure) == PERSON_COLOR).all(2).sum() > 50


def test_overlay_blends_and_leaves_the_inputs_alone(image, truth):
    before = image.copy()
    mixed = plotting.overlay(image, truth, alpha=0.5)
    expected = np.rint(image[30, 40] * 0.5 + np.array(PERSON_COLOR) * 0.5)
    assert (mixed[30, 40] == expected).all() and mixed.dtype == np.uint8
    assert (image == before).all()
    assert (plotting.overlay(image, truth, 0) == image).all()
    assert tuple(plotting.overlay(image, truth, 1)[30, 40]) == PERSON_COLOR
    assert tuple(plotting.overlay(image, truth, 1)[0, 0]) == IGNORE_COLOR


def test_overlay_of_chosen_classes(image, truth):
    only = plotting.overlay(image, truth, 1, classes=[PERSON])
    assert tuple(only[30, 40]) == PERSON_COLOR and (only[truth != PERSON] == image[truth != PERSON]).all()
    assert (plotting.overlay(image, truth, 1, classes=[]) == image).all()


def test_error_map_marks_what_is_wrong_and_what_is_not_judged(image, prediction, truth):
    errors = plotting.error_map(image, prediction, truth)
    is_red = (errors == plotting.ERROR_COLOR).all(2)
    assert (is_red == ((prediction != truth) & (truth != IGNORE))).all() and is_red.any()
    assert (errors[truth == IGNORE] == IGNORE_COLOR).all()
    assert not plotting.error_map(image, truth, truth)[truth != IGNORE].max() > 252


def test_change_map_tells_mended_from_spoilt(image, prediction, truth):
    worse = truth.copy()
    worse[0:5, 60:] = WALL
    changed = plotting.change_map(image, prediction, worse, truth)
    mended = (prediction != truth) & (truth != IGNORE)
    assert ((changed == plotting.MENDED_COLOR).all(2) == mended).all()
    assert ((changed == plotting.ERROR_COLOR).all(2) == (worse != truth)).all()


def test_spotlight_keeps_what_is_lit_and_draws_around_it(image):
    mask = np.zeros((3, 4))
    mask[1, 2] = 1
    lit = plotting.spotlight(image, mask)
    assert (lit[20:40, 40:60] == image[20:40, 40:60]).all()
    edge = (lit == plotting.EDGE_COLOR).all(2)
    assert edge[19, 40:60].all() and edge[40, 40:60].all() and edge.sum() == 22 * 22 - 20 * 20
    outside = ~edge
    outside[20:40, 40:60] = False
    assert lit[outside].min() >= 190 and (np.ptp(lit[outside], axis=1) == 0).all(), "pale grey"
    assert not (plotting.spotlight(image, mask, edge=False) == plotting.EDGE_COLOR).all(2).any()


def test_wipe(image):
    black = np.zeros_like(image)
    assert (plotting.wipe(image, black, 0) == black).all() and (plotting.wipe(image, black, 1) == image).all()
    half = plotting.wipe(image, black, 0.5)
    assert (half[:, :39] == image[:, :39]).all() and (half[:, 41:] == 0).all() and (half[:, 39:41] == 255).all()


# ----------------------------------------------------------------------------------------------------- the clash


def test_equal_and_nearly_equal_colours_are_found():
    assert (ROAD, SKYSCRAPER) in plotting.near_colors([WALL, ROAD, SKYSCRAPER], limit=1e-6)
    assert plotting.near_colors([SKY, PERSON, WALL]) == []
    everything = plotting.near_colors(list(range(150)))
    assert 50 < len(everything) < 1500, "many near ones, not all"
    assert {tuple(ade20k_palette().shared_colors[c]) for c in ade20k_palette().shared_colors} <= set(everything)


def test_lab_distance_against_a_known_value():
    """White against black is 100 apart in Lab, and the two greys of road and wall about 8."""
    lab = plotting._lab_colors()
    assert np.linalg.norm(lab[ROAD] - lab[WALL]) == pytest.approx(7.7, abs=0.5)


def test_classes_that_could_be_mistaken_are_numbered_and_hatched():
    labels = np.full((60, 80), ROAD, dtype=np.uint8)
    labels[:, 50:] = SKYSCRAPER
    labels[:10] = SKY
    entries = {entry.id: entry for entry in plotting.legend_entries(labels)}
    assert entries[ROAD].marked and entries[SKYSCRAPER].marked and not entries[SKY].marked
    assert entries[SKYSCRAPER].hatch and not entries[ROAD].hatch and not entries[SKY].hatch
    assert entries[ROAD].text.startswith("[6] road") and entries[SKY].text.startswith("sky")
    figure = plotting.class_map(labels)
    numbers = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert set(numbers) == {"6", "48"}
    for class_id, number in ((ROAD, "6"), (SKYSCRAPER, "48")):
        x, y = numbers[number]
        assert labels[int(y), int(x)] == class_id, "the number stands on its own region"
    left = plotting.class_map(np.where(labels == SKYSCRAPER, ROAD, labels).astype(np.uint8))
    assert (drawn(figure) != drawn(left)).any(), "one can see which is which"


def test_ignore_beside_a_grey_class_is_hatched():
    labels = np.full((20, 20), WALL, dtype=np.uint8)
    labels[:10] = IGNORE
    entries = plotting.legend_entries(labels)
    assert [e.name for e in entries] == ["wall", "ignore"] and entries[1].hatch
    assert entries[1].text == "ignore 50 %"


# -------------------------------------------------------------------------------------------------- legend and words


def test_the_legend_is_sorted_by_area_with_shares(truth):
    entries = plotting.legend_entries(truth)
    assert [entry.name for entry in entries] == ["sky", "wall", "person", "ignore"]
    shares = [entry.share for entry in entries]
    assert shares[:3] == sorted(shares[:3], reverse=True) and sum(shares) == pytest.approx(1)
    person = next(entry for entry in entries if entry.id == PERSON)
    assert person.share == pytest.approx((truth == PERSON).mean())


def test_two_label_maps_show_two_shares(prediction, truth):
    sky = plotting.legend_entries([prediction, truth])[0]
    assert sky.shares == ((prediction == SKY).mean(), (truth == SKY).mean())
    assert sky.text == f"sky {sky.shares[0]:.0%} / {sky.shares[1]:.0%}".replace("%", " %").replace(" % /", " /")


def test_a_long_legend_is_cut_and_says_so_but_explains_every_number():
    labels = np.arange(60, dtype=np.uint8).reshape(6, 10).repeat(20, 0).repeat(20, 1)
    figure = plotting.class_map(labels, max_classes=10)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    hidden = int(texts[-1].split()[0])
    assert texts[-1].endswith(f"more, {hidden / 60:.0%}".replace("%", " %")) and hidden + len(texts) - 1 == 60
    numbers = {text.get_text() for text in figure.axes[0].texts}
    assert len(numbers) > 10 and numbers == {t[1 : t.index("]")] for t in texts if t.startswith("[")}
    small = np.full((100, 100), ROAD, dtype=np.uint8)
    small[0, :40] = SKYSCRAPER
    assert not plotting.class_map(small).axes[0].texts, "no number on a sliver"


def test_alt_text_comes_from_the_numbers(image, prediction, truth):
    labels = np.full((10, 10), WALL, dtype=np.uint8)
    labels[:3] = SKY
    assert plotting.alt_text(labels) == "wall 70 %, sky 30 %"
    alt = plotting.side_by_side(image, prediction, truth).alt
    wrong = (prediction != truth)[truth != IGNORE].mean()
    assert f"wrong: {wrong:.0%}".replace("%", " %") in alt
    assert "prediction: sky" in alt and "truth: sky" in alt


def test_query_figures_speak_of_the_query(image):
    result = Result(image)
    assert "query 1, owns 60 %, person 0.97" in figures.query_grid(result).alt
    life = figures.query_life(result, 1)
    assert len(life.axes) == 4 and "after layer 3, person 0.99" in life.alt
    lit = life.axes[0].images[0].get_array()
    assert (lit[20:50, 30:50] == image[20:50, 30:50]).all() and np.ptp(lit[0, 0]) == 0
    narrow = figures.attention(result, 1)
    assert len(narrow.axes) == 3 and "100 % allowed (mask was empty)" in narrow.alt and "33 % allowed" in narrow.alt
    assert "layer 1 100 %, layer 2 50 %, layer 3 33 %" in figures.attention_narrowing(result).alt


def test_errors_by_confidence_counts(truth):
    confidence = np.where(truth == PERSON, 0.1, 0.9)
    prediction = np.where(truth == PERSON, SKY, truth)
    figure = figures.errors_by_confidence(confidence, prediction, truth, bins=2)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [1.0, 0.0]


def test_iou_bars_match_classes_by_id():
    import pandas as pd

    one = pd.DataFrame({"id": [2, 12], "iou": [90.0, 50.0]})
    two = pd.DataFrame({"id": [12, 0], "iou": [75.0, 10.0]})
    figure = figures.iou_bars(one, two, names=("before", "after"))
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [90, 50, 0, 75]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["sky", "person"]


# ---------------------------------------------------------------------------------------------- style, backends, errors


def test_every_figure_in_both_themes(gallery):
    theme, figures, pixels = gallery
    for name, figure in figures.items():
        assert isinstance(figure, Figure) and figure.get_figwidth() == plotting.WIDTH, name
        assert figure.alt, name
        corner = pixels[name][0, 0]
        assert (corner > 240).all() if theme == "light" else (corner < 40).all(), name


def test_the_style_stays_inside(image):
    state = dict(matplotlib.rcParams)
    plotting.panels([image], theme="dark")
    assert dict(matplotlib.rcParams) == state


def test_nothing_is_cut_off(gallery):
    _, _, pixels = gallery
    for name, array in pixels.items():
        border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
        assert (border == array[0, 0]).all(), f"{name} touches the border of the figure"


def test_long_names_and_many_queries_fit(image):
    result = Result(image)
    name = max(ade20k_palette().names, key=len)
    result.queries = [Query(i % 3, name, 0.5, 0.025) for i in range(40)]
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
        pixels = drawn(figure)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border == 255).all()
        boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
        for first, second in zip(boxes, boxes[1:], strict=False):
            assert second.x0 > first.x1 or second.y1 < first.y0, "two titles overlap"


def test_pyplot_knows_nothing_of_the_figures(image, prediction, truth):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plotting.side_by_side(image, prediction, truth)
    assert pyplot.get_fignums() == before


SHOW = """
import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from m2f_helpers import plotting
shell = InteractiveShell.instance()
figure = plotting.class_map(np.full((8, 8), 12, np.uint8))
data, metadata = shell.display_formatter.format(figure)
print(sorted(data), data["text/plain"], len(data["image/png"]) > 1000, metadata["image/png"])
"""


def test_shown_the_same_under_agg_and_inline():
    pytest.importorskip("matplotlib_inline")
    outputs = []
    for backend in ("Agg", "module://matplotlib_inline.backend_inline"):
        env = {**__import__("os").environ, "MPLBACKEND": backend}
        done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, timeout=60, env=env)
        assert done.returncode == 0 and not done.stderr, done.stderr
        outputs.append(done.stdout)
    assert len(set(outputs)) == 1 and "['image/png', 'text/plain'] class map: person 100 % True" in outputs[0]
    assert "{'alt': 'class map: person 100 %'}" in outputs[0]


def test_borders_between_classes_are_not_smoothed():
    labels = np.full((31, 37), SKY, np.uint8)
    labels[:, 20:] = PERSON
    pixels = drawn(plotting.class_map(labels, legend=False)).reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    large = {tuple(color) for color, count in zip(colors.tolist(), counts, strict=True) if count > 60}
    assert large == {PERSON_COLOR, tuple(ade20k_palette().colors[SKY].tolist()), (255, 255, 255)}


def test_the_png_of_a_notebook_has_the_colour():
    data, _ = plotting.class_map(np.full((30, 30), PERSON, np.uint8))._repr_mimebundle_()
    pixels = np.array(Image.open(BytesIO(b64decode(data["image/png"]))).convert("RGB"))
    assert (pixels == PERSON_COLOR).all(2).mean() > 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda i, t: plotting.overlay(i, t, alpha=2), "expected alpha between 0 and 1, got 2"),
        (lambda i, t: plotting.overlay(i, t[:5]), "must have one size, got (60, 80) and (5, 80)"),
        (lambda i, t: plotting.overlay(i / 255, t), "expected an RGB image (H, W, 3) uint8, got"),
        (
            lambda i, t: plotting.side_by_side(i, t[:5]),
            "expected a prediction of the image's size (60, 80), got (5, 80)",
        ),
        (lambda i, t: plotting.side_by_side(i, t + 151), "expected class ids 0..149 or 255"),
        (lambda i, t: plotting.class_map(t, theme="pink"), "expected theme light or dark, got 'pink'"),
        (lambda i, t: plotting.panels([]), "expected at least one picture, got none"),
        (lambda i, t: plotting.error_map(i, t, t[:3]), "must have one size"),
        (lambda i, t: plotting.spotlight(i, i), "expected a mask (h, w), got shape (60, 80, 3)"),
        (lambda i, t: plotting.wipe(i, i[:5]), "expected two pictures of one size"),
        (lambda i, t: plotting.rgb_or_bgr(i, t, 77), "the label map has no pixel of class 77"),
    ],
)
def test_bad_input_gets_one_sentence(image, truth, call, words):
    with pytest.raises(ValueError) as caught:
        call(image, np.where(truth == IGNORE, 0, truth))
    assert words in str(caught.value) and "\n" not in str(caught.value)
