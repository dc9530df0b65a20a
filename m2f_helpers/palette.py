"""The 150 classes of ADE20K: names, colours, shares. The only reader of `ade20k_palette.json`.

Ids here are the ids in memory, 0..149, with 255 = ignore. On disk ADE20K counts from 1, with 0 = other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from m2f_helpers.resources import resource

IGNORE = 255
IGNORE_COLOR = (128, 128, 128)
NUM_CLASSES = 150


@dataclass(frozen=True)
class SceneClass:
    """One class of ADE20K.

    `id` counts from 0; `color` is RGB 0..255; `share` is the part of all training pixels, 0..1; `stuff` is True for
    regions without instances (sky), False for things that can be counted (car).
    """

    id: int
    name: str
    names: tuple[str, ...]
    color: tuple[int, int, int]
    share: float
    stuff: bool


@dataclass(frozen=True)
class DecodedColors:
    """What a colour picture says about class ids, and what it cannot say.

    `label_map` is `(H, W)` uint8, 255 where the colour does not settle the class. `ambiguous` and `unknown` give the
    number of such pixels: ambiguous by the tuple of class ids that share the colour, unknown by the colour.
    """

    label_map: np.ndarray
    ambiguous: dict[tuple[int, ...], int] = field(default_factory=dict)
    unknown: dict[tuple[int, int, int], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Palette:
    """The classes in the order of their ids, with the conversions between label maps and colour pictures."""

    classes: tuple[SceneClass, ...]

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def names(self) -> list[str]:
        """Class names in the order of their ids."""
        return [entry.name for entry in self.classes]

    @cached_property
    def colors(self) -> np.ndarray:
        """RGB colours, `(num_classes, 3)` uint8."""
        return np.array([entry.color for entry in self.classes], dtype=np.uint8)

    @cached_property
    def shares(self) -> np.ndarray:
        """Part of all training pixels per class, `(num_classes,)` float64, 0..1."""
        return np.array([entry.share for entry in self.classes])

    @cached_property
    def shared_colors(self) -> dict[tuple[int, int, int], tuple[int, ...]]:
        """Colours that more than one class has, with the ids of those classes."""
        owners = defaultdict(list)
        for entry in self.classes:
            owners[entry.color].append(entry.id)
        return {color: tuple(ids) for color, ids in owners.items() if len(ids) > 1}

    def id_of(self, name: str) -> int:
        """Id of a class by any of its names, case and outer spaces ignored. ValueError if there is none."""
        wanted = name.strip().casefold()
        for entry in self.classes:  # the official name wins over a synonym of another class
            if entry.name.casefold() == wanted:
                return entry.id
        for entry in self.classes:
            if wanted in (synonym.casefold() for synonym in entry.names):
                return entry.id
        raise ValueError(f"no class is called {name!r}; `palette.names` lists the {len(self)} names")

    def colorize(self, label_map: np.ndarray) -> np.ndarray:
        """Paint a label map in the classes' colours.

        Args:
            label_map: class ids, `(H, W)` integers 0..num_classes-1, or 255 = ignore (painted grey 128).

        Returns: RGB picture, `(H, W, 3)` uint8.
        Raises: ValueError for another shape or dtype, or an id that has no colour.
        """
        label_map = np.asarray(label_map)
        if label_map.ndim != 2 or not np.issubdtype(label_map.dtype, np.integer):
            raise ValueError(
                f"expected a label map (H, W) of integers, got shape {label_map.shape}, dtype {label_map.dtype}"
            )
        known = (label_map >= 0) & (label_map < len(self)) | (label_map == IGNORE)
        if not known.all():
            wrong = sorted(int(i) for i in np.unique(label_map[~known]))[:5]
            raise ValueError(f"expected class ids 0..{len(self) - 1} or {IGNORE}, got {wrong}")
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: len(self)] = self.colors
        table[IGNORE] = IGNORE_COLOR
        return table[label_map]

    def decode(self, picture: np.ndarray) -> DecodedColors:
        """Read class ids back from a colour picture; the inverse of `colorize` wherever a colour has one owner.

        Args:
            picture: RGB, `(H, W, 3)` uint8.

        Returns: label map, and the pixels whose colour has two owners or none: those are 255, reported, not guessed.
        Raises: ValueError for another shape or dtype.
        """
        picture = np.asarray(picture)
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(
                f"expected an RGB picture (H, W, 3) uint8, got shape {picture.shape}, dtype {picture.dtype}"
            )
        codes = picture.astype(np.int64) @ np.array([65536, 256, 1])
        found, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
        owners = {tuple(entry.color): (entry.id,) for entry in self.classes} | self.shared_colors
        values = np.full(len(found), IGNORE, dtype=np.uint8)
        ambiguous, unknown = {}, {}
        for k, (code, count) in enumerate(zip(found.tolist(), counts.tolist(), strict=True)):
            color = (code >> 16, code >> 8 & 255, code & 255)
            ids = owners.get(color, ())
            if len(ids) == 1:
                values[k] = ids[0]
            elif ids:
                ambiguous[ids] = count
            elif color != IGNORE_COLOR:
                unknown[color] = count
        return DecodedColors(values[inverse].reshape(picture.shape[:2]), ambiguous, unknown)


def load_palette(path: str | Path | None = None) -> Palette:
    """Read and check a palette file.

    Args:
        path: a file in the form of `ade20k_palette.json`; None reads the one that travels with the package.

    Returns: the palette.
    Raises: FileNotFoundError or ValueError, naming the file and the entry that is wrong.
    """
    path = resource("ade20k_palette.json") if path is None else Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["classes"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: expected JSON of the form {{"classes": [...]}}, got {error}') from None
    if not isinstance(entries, list) or len(entries) != NUM_CLASSES:
        got = len(entries) if isinstance(entries, list) else type(entries).__name__
        raise ValueError(f"{path}: expected {NUM_CLASSES} classes, got {got}")
    classes = tuple(_read_class(entry, path) for entry in entries)
    ids = [entry.id for entry in classes]
    if len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})
        raise ValueError(f"{path}: every id must be there once, got {twice} more than once")
    if ids != list(range(NUM_CLASSES)):
        raise ValueError(f"{path}: expected ids 0..{NUM_CLASSES - 1} in order, got {ids[:5]}...")
    return Palette(classes)


@cache
def ade20k_palette() -> Palette:
    """The palette that travels with the package, read once."""
    return load_palette()


def _read_class(entry: dict, path: Path) -> SceneClass:
    missing = {"id", "name", "names", "color", "share", "stuff"} - set(entry)
    if missing:
        raise ValueError(f"{path}: the entry {str(entry)[:60]} lacks {sorted(missing)}")
    where = f"{path}: class {entry['id']!r} ({entry['name']!r})"
    color = entry["color"]
    if not isinstance(entry["id"], int) or not 0 <= entry["id"] < NUM_CLASSES:
        raise ValueError(f"{where}: expected an id 0..{NUM_CLASSES - 1}")
    is_rgb = isinstance(color, list) and len(color) == 3 and all(isinstance(c, int) for c in color)
    if not is_rgb or not all(0 <= c <= 255 for c in color):
        raise ValueError(f"{where}: expected a colour of three whole numbers 0..255, got {color}")
    if not 0 <= entry["share"] <= 1:
        raise ValueError(f"{where}: expected a share between 0 and 1, got {entry['share']}")
    return SceneClass(
        entry["id"], entry["name"], tuple(entry["names"]), tuple(color), float(entry["share"]), entry["stuff"]
    )
