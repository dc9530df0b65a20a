"""Faults that `m2f predict` and `m2f evaluate` meet: images that are none, folders in the way, classes that differ."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from tests.faults.table import Fault, data, flat, pair, write, write_image

PREDICT, EVALUATE = "predict --device cpu --out out ", "evaluate --device cpu --data data "
RESULTS = ("out", "out/a_overlay.png", "out/a_labels.png", "out/shares.csv")
IMAGE = np.full((40, 50, 3), 90, np.uint8)


def good(folder: Path) -> None:
    write_image(folder / "a.png", IMAGE)


def beside(name: str, content: bytes):
    """A good image a.png, and a bad file."""

    def build(folder: Path) -> None:
        write_image(folder / "in" / "a.png", IMAGE)
        write(folder / "in" / name, content)

    return build


def damaged(folder: Path) -> None:
    path = write_image(folder / "in" / "b.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    write_image(folder / "in" / "a.png", IMAGE)


def foreign_labels(folder: Path) -> None:
    good(folder)
    write_image(folder / "out" / "a_labels.png", IMAGE[..., 0])


def foreign_table(folder: Path) -> None:
    good(folder)
    write(folder / "out" / "shares.csv", "mine,only\n1,2\n")


def out_is_a_file(folder: Path) -> None:
    good(folder)
    write(folder / "out", "a file")


def latin_1(folder: Path) -> None:
    write_image(folder / "in" / "a.png", IMAGE)
    Path(os.fsdecode(os.fsencode(folder / "in") + b"/caf\xe9.png")).write_bytes(b"no image")


def other_weights(folder: Path) -> None:
    good(folder)
    torch.save({"state_dict": {"a.weight": torch.ones(3)}}, folder / "w.pth")


def code_in_config(folder: Path) -> None:
    good(folder)
    torch.save({"state_dict": {"a": torch.ones(3)}, "meta": {"cfg": "import os\nos.remove('a.png')"}}, folder / "w.pth")


def own_classes(folder: Path) -> None:
    flat(folder)
    names = [{"name": name, "on_disk": [i + 1]} for i, name in enumerate(("cat", "dog"))]
    write(folder / "data" / "classes.json", {"classes": names})


def nothing_judged(folder: Path) -> None:
    for i in range(4):
        split = "validation" if i < 2 else "training"
        pair(folder / "data", f"images/{split}/p{i}.jpg", f"annotations/{split}/p{i}.png", i, ids=(0, 0))


def ids_without_meaning(folder: Path) -> None:
    data(folder)
    pair(folder / "data", "images/validation/p0.jpg", "annotations/validation/p0.png", 0, ids=(1, 200))


def sizes_differ(folder: Path) -> None:
    data(folder)
    write_image(folder / "data" / "annotations" / "validation" / "p1.png", np.ones((9, 9), np.uint8))


ROWS = [
    Fault("no such image", lambda folder: None, PREDICT + "no.png", r"the image no\.png does not exist"),
    Fault("a text as an image", beside("b.jpg", b"text"), PREDICT + "in", r"b\.jpg is not an image that", RESULTS),
    Fault("an empty image", beside("b.png", b""), PREDICT + "in", r"b\.png is empty \(0 bytes\)", RESULTS),
    Fault("an image cut off", damaged, PREDICT + "in", r"b\.png is damaged, incomplete", RESULTS),
    Fault("a Latin-1 name", latin_1, PREDICT + "in", r"caf\\xe9\.png is not an image", RESULTS),
    Fault("a folder without images", lambda f: (f / "in").mkdir(), PREDICT + "in", r"in has no images"),
    Fault("labels of somebody else in --out", foreign_labels, PREDICT + "a.png", r"a_labels\.png is there and was not"),
    Fault("a table of somebody else in --out", foreign_table, PREDICT + "a.png", r"shares\.csv is there and was not"),
    Fault("--out is a file", out_is_a_file, PREDICT + "a.png", r"out is a file: choose another folder"),
    Fault("alpha beyond 1", good, PREDICT + "a.png --alpha 3", r"expected alpha between 0 and 1, got 3"),
    Fault("weights of another model", other_weights, PREDICT + "a.png --checkpoint w.pth", r"none of the file's"),
    Fault("code in a checkpoint's config", code_in_config, PREDICT + "a.png --checkpoint w.pth", r"w\.pth: refused"),
    Fault("evaluate with other classes", own_classes, EVALUATE, r"the model has 150 classes and the data 2"),
    Fault("evaluate where all is ignored", nothing_judged, EVALUATE, r"nothing to judge, every pixel of the 2"),
    Fault("evaluate with ids without meaning", ids_without_meaning, EVALUATE, r"p0\.png: the ids \[200\] belong"),
    Fault("evaluate with sizes that differ", sizes_differ, EVALUATE, r"p1\.png has \(9, 9\) pixels, its image"),
    Fault("evaluate nothing", lambda folder: None, EVALUATE, r"data: does not exist"),
]
