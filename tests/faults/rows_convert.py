"""Faults that `m2f convert` meets at its door; `tests/data/test_convert.py` has those inside the files of each form."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data import exports
from tests.faults.table import Fault, flat, write, write_image

CONVERT = "convert data out "


def coco_elsewhere(folder: Path) -> None:
    """A JSON whose images are not there."""
    write(folder / "data" / "labels.json", exports.coco_content(2))


def own_work(folder: Path) -> None:
    flat(folder)
    write(folder / "out" / "mine.txt", "mine")


def lossy_ids(folder: Path) -> None:
    for i in range(2):
        write_image(folder / "data" / "images" / f"p{i}.png", np.zeros((8, 8, 3), np.uint8))
        write_image(folder / "data" / "masks" / f"p{i}.jpg", np.arange(64, dtype=np.uint8).reshape(8, 8))


ROWS = [
    Fault("no such folder", lambda folder: None, CONVERT, r"data does not exist: give the folder"),
    Fault("nothing in it", lambda f: (f / "data").mkdir(), CONVERT, r"holds neither images nor masks"),
    Fault("an archive", lambda f: write(f / "data", b"PK"), CONVERT, r"data is a file: unpack it"),
    Fault("a form that is none", flat, CONVERT + "--from yolo", r"one of the formats auto, ids, coco"),
    Fault("val of 0", flat, CONVERT + "--val 0", r"--val must lie between 0 and 1, got 0"),
    Fault("map without an equals sign", flat, CONVERT + "--map 4", r"expected CATEGORY=CLASS, got '4'"),
    Fault("map from nowhere", flat, CONVERT + "--map 7=255", r"'7' is no category of the source; there are class 1"),
    Fault("one class left", flat, CONVERT + "--ignore 2", r"expected 2 to 254 classes, got 1"),
    Fault("names twice", flat, CONVERT + "--classes a,A", r"class names must differ, got 'a' and 'A'"),
    Fault("too many names", flat, CONVERT + "--classes a,b,c", r"3 names for 2 classes: the source holds the ids 1, 2"),
    Fault("no such table of names", flat, CONVERT + "--classes no.txt", r"class table no\.txt does not exist"),
    Fault("a group that finds nothing", flat, CONVERT + "--group x", r"--group 'x' finds nothing in 'p0'"),
    Fault("DST in SRC", flat, "convert data data/out", r"must not contain each other: choose another"),
    Fault("DST holds something else", own_work, CONVERT, r"out is not empty: give a new folder"),
    Fault("COCO without its images", coco_elsewhere, CONVERT, r"none of the images that the JSON names is here"),
    Fault("ids in JPEG", lossy_ids, CONVERT + "--from ids", r"p0\.jpg is a JPEG, which changes ids"),
]
