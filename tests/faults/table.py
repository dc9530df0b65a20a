"""The form of a row of the table of faults, and what the rows build their folders from.

A row is a fault, the command that meets it, the sentence that must come out, and what must still be there. Rows stand
in `rows_*.py` as a list `ROWS`; `test_faults.py` runs all of them through the real command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Fault:
    """One row. `build` makes the files in an empty folder, in which the command then runs.

    `command` is the words after `m2f`, `sentence` a regular expression found in one line of the output. All that
    `build` made must still be there afterwards, byte for byte, and nothing else except what matches a pattern of `new`.
    """

    name: str
    build: Callable[[Path], object]
    command: str
    sentence: str
    new: tuple[str, ...] = ()
    status: int = 1


def data(folder: Path, name: str = "data", pairs: int = 4) -> Path:
    """Images of 64 x 80 pixels in ADE20K's layout, two of them for validation, with ids 1 and 2."""
    for i in range(pairs):
        split = "validation" if i < 2 else "training"
        pair(folder / name, f"images/{split}/p{i}.jpg", f"annotations/{split}/p{i}.png", i)
    return folder / name


def flat(folder: Path, name: str = "data", pairs: int = 4) -> Path:
    """The same in one folder of images and one of masks."""
    for i in range(pairs):
        pair(folder / name, f"images/p{i}.jpg", f"masks/p{i}.png", i)
    return folder / name


def pair(root: Path, image: str, label: str, seed: int = 0, ids: tuple[int, int] = (1, 2)) -> None:
    """One image and its label map, the left half of the first id, the right half of the second."""
    write_image(root / image, np.full((64, 80, 3), 30 + 20 * seed, np.uint8))
    write_image(root / label, np.repeat(np.array([ids], np.uint8), 64, 0).repeat(40, 1))


def write_image(path: Path, array: np.ndarray) -> Path:
    """Write an array as an image file, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write(path: Path, content: str | bytes | dict) -> Path:
    """Write text, bytes or JSON, the folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
