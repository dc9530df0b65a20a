"""Class tables: those that travel with Pascal VOC and Cityscapes, and those that people keep beside their data."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from m2f_helpers.data.formats.source import Category, plain
from m2f_helpers.palette import read_classes

_VOC = """
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike,
person, pottedplant, sheep, sofa, train, tvmonitor
"""
# id, name, colour; a star marks the 19 classes that are judged
_CITYSCAPES = """
0 unlabeled 0 0 0|1 ego vehicle 0 0 0|2 rectification border 0 0 0|3 out of roi 0 0 0|4 static 0 0 0
5 dynamic 111 74 0|6 ground 81 0 81|7 *road 128 64 128|8 *sidewalk 244 35 232|9 parking 250 170 160
10 rail track 230 150 140|11 *building 70 70 70|12 *wall 102 102 156|13 *fence 190 153 153|14 guard rail 180 165 180
15 bridge 150 100 100|16 tunnel 150 120 90|17 *pole 153 153 153|18 polegroup 153 153 153|19 *traffic light 250 170 30
20 *traffic sign 220 220 0|21 *vegetation 107 142 35|22 *terrain 152 251 152|23 *sky 70 130 180|24 *person 220 20 60
25 *rider 255 0 0|26 *car 0 0 142|27 *truck 0 0 70|28 *bus 0 60 100|29 caravan 0 0 90|30 trailer 0 0 110
31 *train 0 80 100|32 *motorcycle 0 0 230|33 *bicycle 119 11 32
"""
TABLE_FILES = ("classes.json", "class_dict.csv", "labelmap.txt", "classes.txt", "labels.txt")


@dataclass(frozen=True)
class Table:
    """Class names, with colours and with ids in the source where the table says them; `origin` names the file."""

    names: list[str]
    colors: list[tuple[int, int, int]] | None = None
    ids: list[tuple[int, ...]] | None = None
    ignored: tuple[int, ...] = ()
    origin: str = ""


def voc_categories() -> list[Category]:
    """Pascal VOC's 21 classes in its colours, and 255, the border around each object."""
    rows = [Category(i, name, voc_color(i)) for i, name in enumerate(_VOC.replace(",", " ").split())]
    return [*rows, Category(255, "border", ignored=True)]


def voc_color(i: int) -> tuple[int, int, int]:
    """Pascal VOC's colour for an id: the id's bits in turn go to red, green, blue, from the highest bit down."""
    return tuple(sum((i >> 3 * k + c & 1) << 7 - k for k in range(3)) for c in range(3))


def cityscapes_categories() -> list[Category]:
    """Cityscapes' 34 ids: 19 classes, the others ignored, as its own evaluation does."""
    rows = []
    for row in _CITYSCAPES.strip().replace("\n", "|").split("|"):
        number, *words = row.split()
        name, color = " ".join(words[:-3]), tuple(int(v) for v in words[-3:])
        rows.append(Category(int(number), name.lstrip("*"), color, ignored="*" not in name))
    return [*rows, Category(255, "license plate", ignored=True)]


def class_table(text: str | Path) -> Table:
    """Names from `a,b,c`, or from a file that holds names and perhaps colours and ids.

    The file is a `classes.json`, a CSV with the columns name, r, g, b, or text with a line for each class: its name, or
    `name:r,g,b`, as CVAT writes it.

    Raises: ValueError naming the file and the line.
    """
    path = Path(text)
    if not os.path.isfile(path):  # False too for a list of names that is longer than a file name may be
        names = [plain(name) for name in str(text).split(",")]
        if path.suffix in (".json", ".csv", ".txt"):
            raise FileNotFoundError(f"the class table {path} does not exist")
        return Table(names, origin="--classes")
    if path.suffix.lower() == ".json":
        palette = read_classes(path)
        colors, ids = [c.color for c in palette.classes], [c.on_disk for c in palette.classes]
        return Table(palette.names, colors, ids, palette.ignored, path.name)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from None
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    rows = _csv_rows(path, lines) if path.suffix.lower() == ".csv" else [_text_row(path, line) for line in lines]
    names, colors = [name for name, _ in rows], [color for _, color in rows]
    if any(colors) and not all(colors):
        raise ValueError(f"{path}: class {names[colors.index(None)]!r} has no colour, others have")
    return Table(names, colors if all(colors) else None, origin=path.name)


def _csv_rows(path: Path, lines: list[str]) -> list[tuple[str, tuple | None]]:
    rows = []
    for row in csv.DictReader(lines, skipinitialspace=True):
        row = {str(key).strip().casefold(): value for key, value in row.items()}
        if not row.get("name"):
            raise ValueError(f"{path}: expected the columns name, r, g, b, got {', '.join(row)}")
        rows.append((plain(row["name"]), _color(path, [row.get(c) for c in "rgb"]) if "r" in row else None))
    return rows


def _text_row(path: Path, line: str) -> tuple[str, tuple | None]:
    name, _, rest = line.partition(":")
    color = rest.split(":")[0]
    return (plain(name), _color(path, color.split(","))) if color.count(",") == 2 else (plain(line), None)


def _color(path: Path, words: list[str | None]) -> tuple[int, int, int]:
    try:
        color = tuple(int(word or "") for word in words)
    except ValueError:
        color = ()
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise ValueError(f"{path}: expected a colour of three whole numbers 0..255, got {words}")
    return color


def table_beside(root: Path) -> Table | None:
    """The class table that lies in a folder under one of the usual names, if any."""
    found = next((root / name for name in TABLE_FILES if (root / name).is_file()), None)
    return class_table(found) if found else None
