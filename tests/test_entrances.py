"""Every entrance sees the same pairs of a data folder, or refuses it with the same sentence."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from m2f_helpers import cli, config, execution
from m2f_helpers.data.layout import read_data
from m2f_helpers.finetune import preflight
from m2f_helpers.inference import evaluation
from tests.pair_files import LABEL, png, saved

KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF"}


def put(root, *names):
    """Write files: whatever lies below `images` is an image of its suffix's kind, .png elsewhere a label map."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", LABEL.shape[::-1], "olive")
        kind = KINDS.get(path.suffix.lower(), "JPEG")
        path.write_bytes(saved(image, kind) if name.startswith("images") else png(LABEL))


def pairs(split, names, labels="annotations"):
    """File names of pairs, `a.jpg` and so on, in both folders of a split."""
    images = [f"images/{split}/{name}" for name in names]
    return images + [f"{labels}/{split}/{name.rsplit('.', 1)[0]}.png" for name in names]


JPEGS = [f"{k}.jpg" for k in range(6)]
MIXED = ["a.jpg", "b.JPG", "c.jpeg", "d.png", "e.PNG", "f.webp", "g.bmp", "h.tif", "i.gif"]
FOLDERS = {  # name: (files, pairs for training and validation, or a part of the sentence)
    "as ADE20K": ([*pairs("training", JPEGS), *pairs("validation", JPEGS[:2])], (6, 2)),
    "suffixes mixed": ([*pairs("training", MIXED), *pairs("validation", MIXED[1:4])], (9, 3)),
    "train and val": ([*pairs("train", JPEGS), *pairs("val", JPEGS[:1])], (6, 1)),
    "train and valid, labels": ([*pairs("train", JPEGS, "labels"), *pairs("valid", JPEGS[:3], "labels")], (6, 3)),
    "train and validation, masks": (
        [*pairs("train", MIXED, "masks"), *pairs("validation", ["z.TIF"], "masks")],
        (9, 1),
    ),
    "flat": (pairs("", JPEGS), (4, 2)),
    "flat, masks, mixed": (pairs("", MIXED, "masks"), (7, 2)),
    "flat with sub-folders": (pairs("", [f"{city}/{k}.jpg" for city in "ab" for k in range(5)], "labels"), (8, 2)),
    "equal names in sub-folders": (
        [*pairs("training", ["a/1.jpg", "b/1.PNG"]), *pairs("validation", ["c/d/1.jpg"])],
        (2, 1),
    ),
    "labels in upper case": (
        ["images/train/a.jpg", "labels/train/a.PNG", "images/val/b.jpg", "labels/val/b.png"],
        (1, 1),
    ),
    "orphans": (
        [*pairs("train", JPEGS[:3]), "images/train/x.jpg", "annotations/val/y.png", *pairs("val", ["z.jpg"])],
        (3, 1),
    ),
    "same name twice": ([*pairs("train", ["a.jpg", "b.jpg"]), "images/train/a.png", *pairs("val", ["z.jpg"])], (2, 1)),
    "hidden files and notes": (
        [*pairs("train", JPEGS), "images/train/.a.jpg", "images/train/Thumbs.db", *pairs("val", ["z.jpg"])],
        (6, 1),
    ),
    "a test split beside": ([*pairs("train", JPEGS), *pairs("val", ["z.jpg"]), "images/test/t.jpg"], (6, 1)),
    "no validation": (pairs("train", JPEGS), "6 training and 0 validation pairs; a validation pair is needed"),
    "no training": (pairs("validation", JPEGS), "0 training and 6 validation pairs; a training pair is needed"),
    "flat, one pair": (pairs("", ["a.jpg"]), "0 training and 1 validation pairs; a training pair is needed"),
    "names that do not meet": (
        ["images/train/a.jpg", "labels/train/a_mask.png", "images/val/b.jpg", "labels/val/b_mask.png"],
        "no image with a label map in images/train, labels/train, images/val, labels/val",
    ),
    "empty": ([], "expected the folders images and one of annotations, labels, masks, found nothing"),
    "images only": (["images/a.jpg"], "one of annotations, labels, masks, found images"),
    "COCO": (["images/a.jpg", "annotations/all.json"], "`m2f convert` turns COCO or LabelMe JSON into label maps"),
}  # fmt: skip


def check(root):
    result = CliRunner().invoke(cli.main, ["check", "--data", str(root)])
    return counts_in(result.output) if "looked at" in result.output else result.output


def prepare(root):
    result = CliRunner().invoke(cli.main, ["prepare", str(root), f"{root}-out", "--size", "16", "16", "--workers", "1"])
    return counts_in(str(read_data(f"{root}-out"))) if " pairs of 16 x 16" in result.output else result.output


def counts_in(text):
    return tuple(int(n) for n in re.search(r"(\d+) training and (\d+) validation pairs", text).groups())


def preflighted(root):
    cfg = config.finetune_edits("demo", root).cfg
    return tuple(len(preflight.pairs_of(cfg[f"{name}_dataloader"].dataset)) for name in ("train", "val"))


def train(root):
    """What the Runner's data loaders get; every image and label map is read."""
    cfg = config.set_data(config.profile_edits("demo"), root).cfg
    init_default_scope("mmseg")
    built = [DATASETS.build(cfg[f"{name}_dataloader"].dataset) for name in ("train", "val")]
    for dataset in built:
        assert all(dataset[i]["inputs"].shape[0] == 3 for i in range(len(dataset)))
    return tuple(len(dataset) for dataset in built)


def evaluate(root):
    model = SimpleNamespace(dataset_meta=read_data(root).classes.meta)
    return len(read_data(root).train), evaluation.evaluate(model, root).images


def run(root, capsys):
    execution._check_data(root, ["04_finetune"])
    return counts_in(capsys.readouterr().out)


@pytest.mark.parametrize("name", FOLDERS)
def test_all_see_the_same_pairs_or_say_the_same(name, tmp_path, monkeypatch, capsys):
    names, expected = FOLDERS[name]
    root = tmp_path / "data"
    root.mkdir()
    put(root, *names)
    predicted = SimpleNamespace(label_map=np.zeros(LABEL.shape, np.uint8))
    monkeypatch.setattr(evaluation, "segment_array", lambda *_, **__: predicted)
    found = {}
    for entrance in (preflighted, train, evaluate, lambda root: run(root, capsys)):
        try:
            found[entrance] = entrance(root)
        except (ValueError, OSError) as error:
            found[entrance] = str(error)
    if isinstance(expected, str):
        assert all(expected in str(text) for entrance, text in found.items() if entrance is not evaluate), found
        assert expected in str(found[evaluate]) or read_data(root).val  # that is all it needs
        if "is needed" not in expected:  # check and prepare take one split alone
            assert expected in check(root) and expected in prepare(root)
    else:
        assert set(found.values()) == {expected}
        assert check(root) == expected and prepare(root) == expected


def test_at_least_twelve_folders_are_tried():
    assert len(FOLDERS) >= 12
