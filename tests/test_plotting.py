"""Figures: right to the pixel, in words too, the same under every backend, and never shown."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64decode
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from m2f_helpers import plotting
from m2f_helpers.palette import IGNORE, IGNORE_COLOR, ade20k_palette, own_palette

PERSON, PERSON_COLOR = 12, (150, 5, 61)
BACKGROUND = tuple(round(255 * c) for c in matplotlib.colors.to_rgb(plotting.BACKGROUND))
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


@pytest.fixture(scope="module")
def gallery(image, prediction, truth) -> dict[str, plotting.Figure]:
    return {
        "side_by_side": plotting.side_by_side(image, prediction, truth),
        "one": plotting.panels([truth], ["truth"]),
        "panels": plotting.panels([image, truth, prediction], ["a", "b", "c"]),
    }


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels, `(H, W, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


# ------------------------------------------------------------------------------------------------ colours, to the pixel


def test_person_has_its_colour_in_every_class_map(gallery):
    for name, axes in {"side_by_side": [1, 2], "one": [0], "panels": [1, 2]}.items():
        for k in axes:
            array = gallery[name].axes[k].images[0].get_array()
            assert tuple(array[30, 40]) == PERSON_COLOR, name
            assert tuple(array[5, 60]) == tuple(ade20k_palette().colors[SKY])
        assert (drawn(gallery[name]) == PERSON_COLOR).all(2).sum() > 500, f"{name}: person as it is rendered"


def test_the_legend_swatch_has_the_class_colour(truth):
    figure = plotting.panels([truth])
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


def test_change_map_tells_corrected_from_made_worse(image, prediction, truth):
    worse = truth.copy()
    worse[0:5, 60:] = WALL
    changed = plotting.change_map(image, prediction, worse, truth)
    corrected = (prediction != truth) & (truth != IGNORE)
    assert ((changed == plotting.CORRECTED_COLOR).all(2) == corrected).all()
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
    assert (ROAD, SKYSCRAPER) in plotting.near_colors([WALL, ROAD, SKYSCRAPER])
    assert plotting.near_colors([SKY, PERSON, WALL]) == []
    everything = plotting.near_colors(list(range(150)))
    assert 50 < len(everything) < 1500, "many near ones, not all"


def test_lab_distance_against_a_known_value():
    """White against black is 100 apart in Lab, and the two greys of road and wall about 8."""
    lab = plotting.lab(np.array([[255, 255, 255], [0, 0, 0], *ade20k_palette().colors[[ROAD, WALL]]]))
    assert np.linalg.norm(lab[0] - lab[1]) == pytest.approx(100, abs=0.1)
    assert np.linalg.norm(lab[2] - lab[3]) == pytest.approx(7.7, abs=0.5)


def test_classes_that_could_be_mistaken_are_numbered_and_hatched():
    labels = np.full((60, 80), ROAD, dtype=np.uint8)
    labels[:, 50:] = SKYSCRAPER
    labels[:10] = SKY
    entries = {entry.id: entry for entry in plotting.legend_entries(labels)}
    assert entries[ROAD].marked and entries[SKYSCRAPER].marked and not entries[SKY].marked
    assert entries[SKYSCRAPER].hatch and not entries[ROAD].hatch and not entries[SKY].hatch
    assert entries[ROAD].text.startswith("[6] road") and entries[SKY].text.startswith("sky")
    figure = plotting.panels([labels])
    numbers = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert set(numbers) == {"6", "48"}
    for class_id, number in ((ROAD, "6"), (SKYSCRAPER, "48")):
        x, y = numbers[number]
        assert labels[int(y), int(x)] == class_id, "the number stands on its own region"
    left = plotting.panels([np.where(labels == SKYSCRAPER, ROAD, labels).astype(np.uint8)])
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
    figure = plotting.panels([labels], max_classes=10)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    hidden = int(texts[-1].split()[0])
    assert texts[-1].endswith(f"more, {hidden / 60:.0%}".replace("%", " %")) and hidden + len(texts) - 1 == 60
    numbers = {text.get_text() for text in figure.axes[0].texts}
    assert len(numbers) > 10 and numbers == {t[1 : t.index("]")] for t in texts if t.startswith("[")}
    small = np.full((100, 100), ROAD, dtype=np.uint8)
    small[0, :40] = SKYSCRAPER
    assert not plotting.panels([small]).axes[0].texts, "no number on a sliver"


def test_alt_text_comes_from_the_numbers(image, prediction, truth):
    labels = np.full((10, 10), WALL, dtype=np.uint8)
    labels[:3] = SKY
    assert plotting.alt_text(labels) == "wall 70 %, sky 30 %"
    alt = plotting.side_by_side(image, prediction, truth).alt
    wrong = (prediction != truth)[truth != IGNORE].mean()
    assert f"wrong: {wrong:.0%}".replace("%", " %") in alt
    assert "prediction: sky" in alt and "truth: sky" in alt


# ---------------------------------------------------------------------------------------------- style, backends, errors


def test_every_figure_has_the_width_the_words_and_the_card(gallery):
    for name, figure in gallery.items():
        assert isinstance(figure, Figure) and figure.get_figwidth() == plotting.WIDTH and figure.alt, name
        assert (drawn(figure)[0, 0] == BACKGROUND).all(), name


def contrast(first, second) -> float:
    """WCAG's ratio of two colours that matplotlib knows."""
    values = [np.array(matplotlib.colors.to_rgb(color)) for color in (first, second)]
    linear = [np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4) for v in values]
    light, dark = sorted((float(v @ [0.2126, 0.7152, 0.0722]) for v in linear), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_words_can_be_read_and_the_card_does_not_glare():
    assert contrast(plotting.INK, plotting.BACKGROUND) > 7
    assert contrast("white", plotting.BACKGROUND) > 1.1, "on a dark page a white card would dazzle"


def test_the_style_stays_inside(image):
    state = dict(matplotlib.rcParams)
    plotting.panels([image])
    assert dict(matplotlib.rcParams) == state


def check_border(figure: Figure) -> None:
    """Nothing touches the border of the figure."""
    array = drawn(figure)
    border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    assert (border == array[0, 0]).all(), figure.alt


def test_nothing_is_cut_off(gallery):
    for figure in gallery.values():
        check_border(figure)


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
figure = plotting.panels([np.full((8, 8), 12, np.uint8)], ["label map"])
data, metadata = shell.display_formatter.format(figure)
print(sorted(data), data["text/plain"], len(data["image/png"]) > 1000, data["text/html"][-200:])
"""


def test_shown_the_same_under_agg_and_inline():
    pytest.importorskip("matplotlib_inline")
    outputs = []
    for backend in ("Agg", "module://matplotlib_inline.backend_inline"):
        env = {**__import__("os").environ, "MPLBACKEND": backend}
        done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, timeout=60, env=env)
        assert done.returncode == 0 and not done.stderr, done.stderr
        outputs.append(done.stdout)
    assert len(set(outputs)) == 1
    assert "['image/png', 'text/html', 'text/plain'] label map: person 100 % True" in outputs[0]
    assert 'alt="label map: person 100 %" width="770"' in outputs[0]


def test_a_page_shows_the_words_and_twice_the_pixels():
    """What nbconvert makes of an output, with the template that JupyterLab's exports have."""
    import nbformat
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter

    figure = plotting.panels([np.full((30, 30), PERSON, np.uint8)], ['"quoted" & <so>'])
    data, metadata = figure._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data, metadata=metadata)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    page = HTMLExporter().from_notebook_node(notebook)[0]
    (tag,) = BeautifulSoup(page, "html.parser").find("main").find_all("img")
    assert tag["alt"] == figure.alt == '"quoted" & <so>: person 100 %'
    with Image.open(BytesIO(b64decode(tag["src"].split("base64,")[1]))) as image:
        assert image.width == 2 * int(tag["width"])
        assert image.format == "WEBP" and (np.array(image) == PERSON_COLOR).all(2).mean() > 0.5, "to the pixel"


def test_a_figure_full_of_texture_stays_small():
    noise = np.random.default_rng(0).integers(0, 256, (400, 700, 3), dtype=np.uint8)
    assert len(plotting.panels([noise]).html()) < 1_500_000


def test_borders_between_classes_are_not_smoothed():
    labels = np.full((31, 37), SKY, np.uint8)
    labels[:, 20:] = PERSON
    pixels = drawn(plotting.panels([labels])).reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    large = {
        tuple(color) for color, count in zip(colors.tolist(), counts, strict=True) if count > 100
    }  # the legend's letters have fewer
    assert large == {PERSON_COLOR, tuple(ade20k_palette().colors[SKY].tolist()), BACKGROUND}


def test_the_png_of_a_notebook_has_the_colour():
    data, _ = plotting.panels([np.full((30, 30), PERSON, np.uint8)])._repr_mimebundle_()
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
        (lambda i, t: plotting.panels([]), "expected at least one image, got none"),
        (lambda i, t: plotting.error_map(i, t, t[:3]), "must have one size"),
        (lambda i, t: plotting.spotlight(i, i), "expected a mask (h, w), got shape (60, 80, 3)"),
        (lambda i, t: plotting.wipe(i, i[:5]), "expected two images of one size"),
    ],
)
def test_bad_input_gets_one_sentence(image, truth, call, words):
    with pytest.raises(ValueError) as caught:
        call(image, np.where(truth == IGNORE, 0, truth))
    assert words in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- own classes


def test_classes_of_ones_own_have_their_names_and_colours(image):
    own = own_palette(["crème, brûlée", "a / b"], [[255, 0, 0], [0, 0, 255]])
    labels = np.zeros((60, 80), np.uint8)
    labels[30:] = 1
    figure = plotting.side_by_side(image, labels, labels, palette=own)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["crème, brûlée 50 / 50 %", "a / b 50 / 50 %"]
    assert (figure.axes[1].images[0].get_array()[0, 0] == (255, 0, 0)).all()
    assert (plotting.overlay(image, labels, 1, palette=own)[59, 0] == (0, 0, 255)).all()
    assert "crème, brûlée 50 %, a / b 50 %" in figure.alt and "wall" not in figure.alt
    with pytest.raises(ValueError, match=r"expected class ids 0..1 or 255, got \[2\]"):
        plotting.legend_entries(labels + 1, own)


def test_large_images_are_blended_in_bands_with_the_same_result(image, truth, monkeypatch):
    whole = plotting.overlay(image, truth, 0.3, classes=[PERSON, SKY])
    monkeypatch.setattr(plotting, "BAND", 100)
    assert (plotting.overlay(image, truth, 0.3, classes=[PERSON, SKY]) == whole).all()
    assert (plotting.count_ids(truth) == np.bincount(truth.ravel(), minlength=256)).all()


def test_numbers_are_smaller_where_images_are():
    wall_and_road = np.repeat(np.uint8([[0, 6]]), 20, axis=0).repeat(10, axis=1)
    for columns, size in ((2, 9), (4, 7)):
        axes = plotting.panels([wall_and_road] * 4, columns=columns).axes
        assert [text.get_fontsize() for ax in axes for text in ax.texts] == [size] * 8
