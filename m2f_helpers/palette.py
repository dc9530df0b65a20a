"""Classes as a value: names, colours, and what each id in a label file means. ADE20K's 150 are one such value.

Ids in memory run 0..num_classes-1 with 255 = ignore. On disk each class has ids of its own: ADE20K counts from 1, with
0 = other. The only reader of `ade20k_palette.json`, and of the `classes.json` that lies beside other data.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from m2f_helpers import files
from m2f_helpers.resources import resource

IGNORE = 255
UNKNOWN = 254  # in `Palette.from_disk`: an id that no class has and that is not ignored
IGNORE_COLOR = (128, 128, 128)
NUM_CLASSES = 150  # of ADE20K
MAX_CLASSES = 254  # ids 0..253 in memory
CLASSES_FILE = "classes.json"


@dataclass(frozen=True)
class SceneClass:
    """One class.

    `id` counts from 0; `names` are the name and its synonyms; `color` is RGB 0..255; `on_disk` are the ids in label
    files that mean this class. Only ADE20K knows more: `share` is the part of all training pixels, 0..1, and `stuff` is
    True for regions without instances (sky), False for things that can be counted (car).
    """

    id: int
    name: str
    names: tuple[str, ...]
    color: tuple[int, int, int]
    on_disk: tuple[int, ...]
    share: float = field(default=float("nan"), compare=False)  # from Python 3.13 on, NaN makes equal ones differ
    stuff: bool | None = None


@dataclass(frozen=True)
class Palette:
    """The classes in the order of their ids, and the way between label maps in memory, on disk, and in colour.

    `ignored` are the ids in label files that mean "ignore"; 255 is always one of them.
    """

    classes: tuple[SceneClass, ...]
    ignored: tuple[int, ...] = (IGNORE,)

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

    @property
    def meta(self) -> dict[str, Any]:
        """What mmseg calls `metainfo` and `dataset_meta`: `classes`, a tuple, and `palette`, a list of [R, G, B]."""
        return {"classes": tuple(self.names), "palette": self.colors.tolist()}

    @cached_property
    def from_disk(self) -> np.ndarray:
        """Id in memory by id on disk, `(256,)` uint8: `palette.from_disk[label_file]`.

        255 = ignore, `UNKNOWN` (254) = an id that means nothing here; the caller has to refuse it.
        """
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        table[list(self.ignored)] = IGNORE
        for entry in self.classes:
            table[list(entry.on_disk)] = entry.id
        return table

    @cached_property
    def to_disk(self) -> np.ndarray:
        """Id on disk by id in memory, `(256,)` uint8; of several ids the first. Ignore is 0 where 0 is free for it."""
        table = np.full(256, 0 if 0 in self.ignored else IGNORE, dtype=np.uint8)
        table[: len(self)] = [entry.on_disk[0] for entry in self.classes]
        return table

    @cached_property
    def shares(self) -> np.ndarray:
        """Part of all training pixels per class, `(num_classes,)` float64, 0..1; nan for classes of one's own."""
        return np.array([entry.share for entry in self.classes])

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

    def check(self, label_map: np.ndarray) -> None:
        """ValueError for what is no label map `(H, W)` of integers, or holds an id that has no colour."""
        if label_map.ndim != 2 or not np.issubdtype(label_map.dtype, np.integer):
            raise ValueError(
                f"expected a label map (H, W) of integers, got shape {label_map.shape}, dtype {label_map.dtype}"
            )
        last = len(self) - 1
        if label_map.min(initial=0) < 0 or label_map.max(initial=0) > last:  # else no array as large as the map
            wrong = np.unique(label_map[(label_map < 0) | (label_map > last) & (label_map != IGNORE)])
            if len(wrong):
                raise ValueError(f"expected class ids 0..{last} or {IGNORE}, got {wrong[:5].tolist()}")

    def colorize(self, label_map: np.ndarray) -> np.ndarray:
        """Paint a label map, class ids `(H, W)`, 255 = ignore (grey 128), in the classes' colours.

        Returns: RGB image, `(H, W, 3)` uint8. Raises: ValueError as `check`.
        """
        label_map = np.asarray(label_map)
        self.check(label_map)
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: len(self)] = self.colors
        table[IGNORE] = IGNORE_COLOR
        return table[label_map]


def load_palette(path: str | Path | None = None) -> Palette:
    """Read and check a file in the form of `ade20k_palette.json`; None reads the one that travels with the package.

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
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"{path}: every id must be there once, got {twice} more than once")
    if ids != list(range(NUM_CLASSES)):
        raise ValueError(f"{path}: expected ids 0..{NUM_CLASSES - 1} in order, got {ids[:5]}...")
    return Palette(classes, ignored=(0, IGNORE))


@cache
def ade20k_palette() -> Palette:
    """The palette that travels with the package, read once."""
    return load_palette()


def own_palette(
    names: Sequence[str],
    colors: Sequence[Sequence[int]] | np.ndarray | None = None,
    on_disk: Sequence[int | Sequence[int]] | None = None,
    ignored: Iterable[int] = (),
) -> Palette:
    """Classes of one's own.

    Args:
        names: 2 to 254, in the order of their ids in memory; blanks around a name are cut off.
        colors: one RGB colour 0..255 for each; None takes colours that the eye tells apart, the same every time.
        on_disk: for each class its id, or its ids, in label files; None counts from 0.
        ignored: ids in label files that mean "ignore", besides 255.

    Raises: ValueError naming the class and what is wrong with it.
    """
    names = _checked_names(names)
    colors = distinct_colors(len(names)) if colors is None else _checked_colors(names, colors)
    on_disk = [[i] for i in range(len(names))] if on_disk is None else on_disk
    if len(on_disk) != len(names):
        raise ValueError(f"expected ids on disk for each of {len(names)} classes, got {len(on_disk)}")
    owners = [f"class {name!r}" for name in names]
    on_disk = [_ids(ids, owner) for ids, owner in zip(on_disk, owners, strict=True)]
    ignored = tuple(sorted({*_ids(tuple(ignored), "ignored", empty=True), IGNORE}))
    _refuse_double_ids([*owners, "the ignored ids"], [*on_disk, ignored])
    return Palette(_entries(names, colors, on_disk), ignored)


def palette_of(source: Any) -> Palette:
    """The classes of a model (anything with `dataset_meta`), a `Config`, a data set's `metainfo`, a checkpoint's meta.

    Returns: ADE20K's palette where the names are ADE20K's, or where a config's data set has no names;
        else the names there, with the colours and the ids on disk there if there is one for each.
    Raises: ValueError where no classes are found.
    """
    if isinstance(source, Palette):
        return source
    meta = _meta_of(source)
    names = [str(name).strip() for name in meta.get("classes") or ()]
    if not names:
        raise ValueError(f"no class names in {type(source).__name__}: expected `classes`, as in `dataset_meta`")
    if names == ade20k_palette().names:
        return ade20k_palette()
    colors = meta.get("palette")
    colors = distinct_colors(len(names)) if colors is None or len(colors) != len(names) else colors
    on_disk = meta.get("on_disk")
    if on_disk is None or len(on_disk) != len(names):
        return Palette(_entries(names, colors, [(i,) for i in range(len(names))]))
    return Palette(_entries(names, colors, on_disk), tuple(sorted({*(meta.get("ignored") or ()), IGNORE})))


def distinct_colors(count: int) -> list[list[int]]:
    """RGB colours that the eye tells apart, the same every time: Glasbey's, without near-greys, black and white."""
    import colorcet  # here, because most commands never ask for a colour of one's own

    table = colorcet.b_glasbey_bw_minc_20
    return [[int(table[i % len(table)][k : k + 2], 16) for k in (1, 3, 5)] for i in range(count)]


def read_classes(path: str | Path) -> Palette:
    """Read a `classes.json`.

    Its form is `{"classes": [{"name": "car", "color": [R, G, B], "on_disk": [ids]}, ...], "ignored": [ids]}`. Colours
    and ids may be left out, for all classes together: then they are as in `own_palette`.

    Raises: FileNotFoundError or ValueError, naming the file and the entry that is wrong.
    """
    path = Path(path)
    try:
        return _palette_from(json.loads(path.read_text(encoding="utf-8-sig")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_classes(path: str | Path, palette: Palette) -> None:
    """Write a palette as `classes.json`, one class a line, whole or not at all."""
    rows = [
        json.dumps({"name": c.name, "color": list(c.color), "on_disk": list(c.on_disk)}, ensure_ascii=False)
        for c in palette.classes
    ]
    text = ",\n    ".join(rows)
    files.write(path, f'{{\n  "classes": [\n    {text}\n  ],\n  "ignored": {list(palette.ignored)}\n}}\n')


def _entries(names: Sequence[str], colors: Any, on_disk: Sequence[Sequence[int]]) -> tuple[SceneClass, ...]:
    rows = enumerate(zip(names, colors, on_disk, strict=True))
    return tuple(SceneClass(i, name, (name,), tuple(map(int, color)), tuple(ids)) for i, (name, color, ids) in rows)


def _checked_names(names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected a list of class names, got {names!r}")
    names = [unicodedata.normalize("NFC", name.strip()) for name in names]  # a Mac stores an umlaut as two characters
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"expected 2 to {MAX_CLASSES} classes, got {len(names)}")
    if strange := [name for name in names if not name or not name.isprintable()]:
        raise ValueError(f"expected printable class names, got {strange[0]!r}")
    counts = Counter(name.casefold() for name in names)
    if twice := [name for name in names if counts[name.casefold()] > 1]:
        raise ValueError(f"class names must differ, got {' and '.join(map(repr, twice[:4]))}")
    return names


def _checked_colors(names: Sequence[str], colors: Any) -> list[tuple[int, ...]]:
    colors = colors.tolist() if isinstance(colors, np.ndarray) else list(colors)
    if len(colors) != len(names):
        raise ValueError(f"expected {len(names)} colours for {len(names)} classes, got {len(colors)}")
    owners: dict[tuple[int, ...], str] = {}
    for name, color in zip(names, colors, strict=True):
        if not _is_rgb(color):
            raise ValueError(f"class {name!r}: expected a colour of three whole numbers 0..255, got {color!r}")
        if (owner := owners.setdefault(tuple(color), name)) != name:
            raise ValueError(f"classes {owner!r} and {name!r} have the same colour {list(color)}")
    return [tuple(color) for color in colors]


def _is_rgb(color: Any) -> bool:
    return isinstance(color, (list, tuple)) and len(color) == 3 and all(_is_byte(value) for value in color)


def _is_byte(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value <= 255


def _ids(ids: Any, owner: str, empty: bool = False) -> tuple[int, ...]:
    ids = (ids,) if isinstance(ids, (int, np.integer)) else ids
    if not isinstance(ids, (list, tuple)) or not all(_is_byte(value) for value in ids):
        raise ValueError(f"{owner}: expected ids on disk 0..255, got {ids!r}")
    if not ids and not empty:
        raise ValueError(f"{owner} has no id on disk: give it one, or leave the class out")
    return tuple(dict.fromkeys(int(value) for value in ids))


def _refuse_double_ids(owners: Sequence[str], on_disk: Sequence[Sequence[int]]) -> None:
    seen: dict[int, str] = {}
    for owner, ids in zip(owners, on_disk, strict=True):
        for value in ids:
            if (first := seen.setdefault(value, owner)) != owner:
                raise ValueError(f"id {value} on disk belongs to {first} and to {owner}: give each id one meaning")


def _palette_from(content: Any) -> Palette:
    rows = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(rows, list) or set(content) - {"classes", "ignored"}:
        raise ValueError('expected {"classes": [{"name", "color", "on_disk"}, ...], "ignored": [ids]}')
    for row in rows:
        if not isinstance(row, dict) or "name" not in row or set(row) - {"name", "color", "on_disk"}:
            raise ValueError(f'expected classes with "name", "color", "on_disk", got {str(row)[:80]}')
    ignored = content.get("ignored", [])
    if not isinstance(ignored, list):
        raise ValueError(f'expected a list of ids under "ignored", got {ignored!r}')
    return own_palette([row["name"] for row in rows], _column(rows, "color"), _column(rows, "on_disk"), ignored)


def _column(rows: list[dict], key: str) -> list | None:
    if without := [row["name"] for row in rows if key not in row]:
        if len(without) < len(rows):
            raise ValueError(f'class {without[0]!r} has no "{key}", others have: give it to all or to none')
        return None
    return [row[key] for row in rows]


def _meta_of(source: Any) -> Mapping:
    if isinstance(meta := getattr(source, "dataset_meta", None), Mapping):
        return meta
    if not isinstance(source, Mapping) and not hasattr(source, "train_dataloader"):
        return {}
    if isinstance(meta := source.get("dataset_meta"), Mapping):  # as mmengine's runner saves it in a checkpoint's meta
        return meta
    dataset = (source.get("train_dataloader") or {}).get("dataset") or source
    while "dataset" in dataset:  # wrapped, for instance in RepeatDataset
        dataset = dataset["dataset"]
    meta = dataset.get("metainfo") or dataset
    if not meta.get("classes") and dataset.get("type") in ("ADE20KDataset", "PairDataset"):
        return ade20k_palette().meta
    return {"on_disk": dataset.get("on_disk"), "ignored": dataset.get("ignored"), **meta}


def _read_class(entry: dict, path: Path) -> SceneClass:
    if missing := {"id", "name", "names", "color", "share", "stuff"} - set(entry):
        raise ValueError(f"{path}: the entry {str(entry)[:60]} lacks {sorted(missing)}")
    where = f"{path}: class {entry['id']!r} ({entry['name']!r})"
    color = entry["color"]
    if not isinstance(entry["id"], int) or not 0 <= entry["id"] < NUM_CLASSES:
        raise ValueError(f"{where}: expected an id 0..{NUM_CLASSES - 1}")
    if not _is_rgb(color):
        raise ValueError(f"{where}: expected a colour of three whole numbers 0..255, got {color}")
    if not 0 <= entry["share"] <= 1:
        raise ValueError(f"{where}: expected a share between 0 and 1, got {entry['share']}")
    on_disk, share = (entry["id"] + 1,), float(entry["share"])
    return SceneClass(entry["id"], entry["name"], tuple(entry["names"]), tuple(color), on_disk, share, entry["stuff"])
