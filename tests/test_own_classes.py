"""Five classes of one's own, twenty steps: whatever is written, drawn or shown speaks of them, not of ADE20K."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from click.testing import CliRunner
from matplotlib.patches import Patch
from matplotlib.text import Text
from PIL import Image

from m2f_helpers import checkpoints, config, plotting
from m2f_helpers.cli import main
from m2f_helpers.data import checks, convert, preparation
from m2f_helpers.finetune import batches, training
from m2f_helpers.inference import evaluation, figures, models, prediction, widgets
from m2f_helpers.inference.segment import segment
from m2f_helpers.palette import IGNORE_COLOR, ade20k_palette, own_palette, palette_of, write_classes
from tests.data import exports

NAMES = ["Straße, nass", "on/off ramp", "über cool", 'say "no"', "道路"]
OWN = own_palette(NAMES, on_disk=[2, (5, 6), 9, 11, 30], ignored=[0])
# words of ADE20K that are also words of figures and reports
PROSE = {"step", "screen", "light", "base", "case", "path", "box", "bag", "plate", "field", "glass", "bar", "land"}


def ade20k_words(text: str) -> set[str]:
    """Names of ADE20K's classes in a text, as words."""
    names = {name for entry in ade20k_palette().classes for name in (entry.name, *entry.names)} - PROSE
    return {name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text, re.IGNORECASE)}


def test_the_detector_detects():
    assert ade20k_words("12 % wall, Sky: 3") == {"wall", "sky"} and not ade20k_words("a wallpaper of NAMES")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight images in which each class has a colour of its own, ids on disk with gaps and two ids for one class."""
    root, rng = tmp_path_factory.mktemp("own") / "data", np.random.default_rng(0)
    paint = rng.integers(30, 225, (5, 3))
    for i in range(8):
        blocks = np.concatenate([rng.permutation(5), rng.integers(0, 5, 7)]).reshape(3, 4)
        ids = np.kron(blocks, np.ones((32, 32), int))
        image = (paint[ids] + rng.integers(-20, 20, (*ids.shape, 3))).astype(np.uint8)
        on_disk = OWN.to_disk[ids]
        on_disk[:3] = 0
        on_disk[(ids == 1) & (rng.random(ids.shape) < 0.5)] = 6
        part = "validation" if i < 2 else "training"
        exports.save(image, root / f"images/{part}/p{i}.png")
        exports.save(on_disk, root / f"annotations/{part}/p{i}.png")
    write_classes(root / "classes.json", OWN)
    return root


@pytest.fixture(scope="module")
def trained(folder):
    options = {"iterations": 20, "crop_size": (64, 64), "batch_size": 2, "device": "cpu", "progress": False}
    return training.finetune("demo", folder, folder.parent / "run", **options)


@pytest.fixture(scope="module")
def model(trained):
    return models.load(checkpoint=trained.checkpoint, device="cpu")


@pytest.fixture(scope="module")
def result(model, folder):
    return segment(model, folder / "images/validation/p0.png", layers=True)


def words_of(figure) -> str:
    return "\n".join([figure.alt, *(text.get_text() for text in figure.findobj(Text))])


def test_the_checkpoint_alone_brings_the_classes(trained, model):
    meta = torch.load(trained.checkpoint, weights_only=True)["meta"]
    assert palette_of(meta).names == NAMES and palette_of(meta).colors.tolist() == OWN.colors.tolist()
    assert list(model.dataset_meta["classes"]) == NAMES and model.decode_head.num_classes == 5
    assert "cls_embed" in trained.loaded or "class" in trained.loaded, "says that the class layer is new"


def test_mmseg_itself_gets_the_classes(trained):
    from mmseg.apis import init_model

    theirs = init_model(trained.config, str(trained.checkpoint), device="cpu")
    assert list(theirs.dataset_meta["classes"]) == NAMES
    assert [list(color) for color in theirs.dataset_meta["palette"]] == OWN.colors.tolist()


def test_before_fine_tuning_only_the_class_layer_is_new(folder):
    weights = checkpoints.profile_weights("demo_day")
    edited = config.finetune_edits("demo", folder, weights, iterations=2)
    with pytest.raises(ValueError, match="is of another model: loaded 244 of 246 tensors"):
        models.load(edited.cfg, weights)
    start = models.load(edited.cfg, weights, device="cpu", new_classes=True)
    shipped = models.load_profile("demo", device="cpu")
    assert torch.equal(start.backbone.conv1.weight, shipped.backbone.conv1.weight)
    assert palette_of(start).names == NAMES and len(start.decode_head.cls_embed.bias) == 6


def test_files_of_predict(model, folder, tmp_path):
    report = prediction.predict(model, [folder / "images/validation"], tmp_path / "out", alpha=1.0)
    text = (tmp_path / "out/shares.csv").read_text(encoding="utf-8")
    assert not ade20k_words(text) and set(pd.read_csv(tmp_path / "out/shares.csv")["name"]) <= set(NAMES)
    allowed = {tuple(color) for color in OWN.colors.tolist()}
    for path in report.files:
        if path.suffix == ".png":
            assert {tuple(c) for c in np.array(Image.open(path).convert("RGB")).reshape(-1, 3).tolist()} <= allowed
    labels = Image.open(next(path for path in report.files if path.stem.endswith("_labels")))
    assert set(np.unique(np.array(labels))) <= {2, 5, 9, 11, 30}, "ids of the label files it learnt from"
    used = np.array(labels.getpalette()).reshape(-1, 3)
    ade20k = {tuple(color) for color in ade20k_palette().colors.tolist()} - allowed - {IGNORE_COLOR}
    assert not {tuple(color) for color in used.tolist()} & ade20k


def test_tables_and_texts(model, result, folder, trained):
    scores = evaluation.evaluate(model, folder, progress=False)
    edited = config.finetune_edits("demo", folder, None, iterations=20, crop_size=[64, 64])
    texts = {
        "scores": str(scores),
        "confusions": scores.confusions().to_string(),
        "summary": json.dumps(scores.summary(), ensure_ascii=False),
        "result": result.table.to_string(),
        "queries": " ".join(query.name for query in result.queries),
        "alt": plotting.alt_text(result.label_map, palette=palette_of(model)),
        "check": str(checks.check_data(folder)),
        "train": training.described(edited),
        "config": trained.config.pretty_text if hasattr(trained.config, "pretty_text") else str(trained.config),
        "losses": str(batches.predicted_losses(edited, batches.first_batch(edited, config.build_model(edited)))),
    }
    assert not {name: found for name, text in texts.items() if (found := ade20k_words(text))}
    assert set(scores.summary()["classes"]) <= set(NAMES) and set(result.table["name"]) <= set(NAMES)
    assert NAMES[0] in texts["train"]


def test_prepared_folders_keep_the_classes(folder, tmp_path):
    report = preparation.prepare(folder, tmp_path / "small", (64, 64), workers=1, progress=False)
    assert not ade20k_words(str(report)) and not ade20k_words((tmp_path / "small/report.json").read_text("utf-8"))
    from m2f_helpers.data.layout import read_data

    assert read_data(tmp_path / "small").classes == OWN


def test_figures(model, result, folder):
    scores, palette = evaluation.evaluate(model, folder, progress=False), palette_of(model)
    truth = result.label_map
    drawn = [
        figures.class_iou(scores.table),
        figures.query_grid(result, 4),
        figures.query_life(result, 0),
        figures.queries_by_layer(result, 2),
        figures.attention(result, 0),
        figures.attention_narrowing(result),
        figures.before_after(result.image, truth, truth[::-1], truth, palette=palette),
        figures.rgb_or_bgr(result.image, truth, palette=palette),
        plotting.side_by_side(result.image, truth, truth[::-1], palette=palette),
        plotting.panels([result.image, truth], palette=palette),
    ]
    ade20k = {tuple(color) for color in ade20k_palette().colors.tolist()}
    ade20k -= {tuple(color) for color in OWN.colors.tolist()} | {IGNORE_COLOR, (0, 0, 0), (255, 255, 255)}
    for figure in drawn:
        assert not ade20k_words(words_of(figure)), figure.alt
        patches = [tuple(round(255 * v) for v in patch.get_facecolor()[:3]) for patch in figure.findobj(Patch)]
        assert not set(patches) & ade20k, figure.alt
    assert any(name in words_of(drawn[0]) for name in NAMES)


def test_widgets(model, result):
    explorers = [
        widgets.class_explorer({"image": result}),
        widgets.query_explorer({"image": result}),
        widgets.before_after(result.image, result.label_map, result.label_map[::-1], palette=palette_of(model)),
        widgets.upload(lambda array: segment(model, array), result),
    ]
    for explorer in explorers:
        controls = explorer.controls.values()
        options = [str(label) for control in controls for label in getattr(control, "_options_labels", ())]
        values = [BeautifulSoup(c.value, "html.parser") for c in controls if isinstance(getattr(c, "value", 0), str)]
        alts = [image.get("alt", "") for page in values for image in page.find_all("img")]
        text = "\n".join([*options, *alts, *(page.get_text() for page in values), words_of(explorer.static)])
        assert not ade20k_words(text)
    names = [label for label in explorers[0].controls["classes"]._options_labels]
    assert names and all(any(name in label for name in NAMES) for label in names)


def test_the_whole_way_from_the_command_line(tmp_path, monkeypatch):
    """convert, check, train, evaluate, predict: names with blanks, commas and slashes arrive at the end."""
    monkeypatch.chdir(tmp_path)
    exports.coco(tmp_path / "src", count=10)

    def m2f(*words: str) -> str:
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    assert "coco: annotations.json has the lists" in m2f("convert", "src", "data", "--map", "unlabelled=rest")
    assert "4 classes" in m2f("check", "--data", "data")
    said = m2f(
        "train", "--data", "data", "--out", "run", "--iterations", "4", "--crop", "64", "64", "--batch-size", "2"
    )
    assert f"4 classes: {', '.join(exports.NAMES)}, rest" in said and "mIoU" in said
    checkpoint = next((tmp_path / "run").rglob("*.pth"))
    m2f("evaluate", "--checkpoint", checkpoint, "--data", "data", "--json", "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert set(scores["classes"]) == {*exports.NAMES, "rest"} and 0 <= scores["miou"] <= 1
    assert set(scores["classes"]["rest"]) == {"iou", "share"}
    m2f("predict", "src/images", "--checkpoint", checkpoint, "--out", "out")
    table = pd.read_csv(tmp_path / "out/shares.csv")
    assert set(table["name"]) <= {*exports.NAMES, "rest"} and table["file"].nunique() == 10


def test_three_lines_of_python_do_the_same(tmp_path):
    exports.coco(tmp_path / "src", count=10)
    report = convert.convert(tmp_path / "src", tmp_path / "data", mapping={"unlabelled": "rest"}, progress=False)
    run = training.finetune("demo", report.root, tmp_path / "run", iterations=2, crop_size=(64, 64), batch_size=2)
    scores = evaluation.evaluate(models.load(checkpoint=run.checkpoint), report.root, progress=False)
    assert scores.palette.names == [*exports.NAMES, "rest"]


def test_real_photographs_from_the_command_line(ade20k_sample, tmp_path, monkeypatch):
    """Two real photographs with classes of one's own, half of them merged: convert, train, evaluate, predict."""
    monkeypatch.chdir(tmp_path)
    words = ["--classes", "walls,sky,plants", "--ignore", "0,10,18", "--map", "2=1,7=255,14=255,5=plants"]
    runner = CliRunner()
    for command in (
        ["convert", str(ade20k_sample), "data", *words],
        ["check", "--data", "data"],
        ["train", "--data", "data", "--out", "run", "--iterations", "2", "--crop", "64", "64", "--batch-size", "1"],
        ["evaluate", "--checkpoint", "run/iter_2.pth", "--data", "data", "--json", "scores.json"],
        ["predict", "data/images/validation", "--checkpoint", "run/iter_2.pth", "--out", "out"],
    ):
        done = runner.invoke(main, command)
        assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert set(scores["classes"]) <= {"walls", "sky", "plants"}
    assert set(pd.read_csv(tmp_path / "out/shares.csv")["name"]) <= {"walls", "sky", "plants"}
