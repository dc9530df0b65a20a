"""What every format comes down to: images, categories with the ids of the source, and a way to read one label map."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from m2f_helpers.data.layout import files_below
from m2f_helpers.images import SUFFIXES

UNLABELLED = -1  # the id of pixels that no shape covers
SPLIT_OF = {
    **dict.fromkeys(("train", "training", "trn"), "training"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Category:
    """A kind of thing in the source: `id` and `name` as they stand there, "" where it has no name.

    `ignored` is what becomes of it unless the caller says otherwise. `stray` names the file where it was met although
    the source's own table lacks it.
    """

    id: int
    name: str
    color: tuple[int, int, int] | None = None
    ignored: bool = False
    stray: str = ""


REST = Category(UNLABELLED, "unlabelled", ignored=True)


@dataclass(frozen=True)
class Item:
    """An image and what its label is made of: `labels` are files, `shapes` what a JSON says.

    `key` is the image's path below the source without suffix; `split` is `"training"`, `"validation"`, `"test"` or "".
    """

    key: str
    image: Path
    split: str
    labels: tuple[Path, ...] = ()
    shapes: Any = None

    @property
    def name(self) -> str:
        """A file name of its own in one flat folder."""
        return self.key.replace("/", "__")


@dataclass
class Source:
    """A folder that was understood.

    `read(item, size)` gives ids of `categories`, `(H, W)` int32; `size` is that of the upright image, for formats that
    say none themselves. `notes` are sentences for the report. `names` are class names in the order of the ids, where
    a table says only that.
    """

    format: str
    why: str
    items: list[Item]
    categories: list[Category]
    read: Callable[[Item, tuple[int, int]], np.ndarray]
    notes: list[str] = field(default_factory=list)
    names: list[str] | None = None


def find_files(root: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """All files below `root` with one of the suffixes, by name; `files_below` says what is left out."""
    return sorted(path for path in files_below(root) if path.suffix.lower() in suffixes)


def key_of(path: Path, root: Path) -> str:
    """Path below `root` without suffix, with slashes."""
    return path.relative_to(root).with_suffix("").as_posix()


def split_of(parts: Iterable[str]) -> str:
    """The split that one of the folder names says, such as `valid` or `train2017`; "" if none does."""
    for part in parts:
        word = re.sub(r"[\d_\-. ]+$", "", part.casefold())
        if word in SPLIT_OF:
            return SPLIT_OF[word]
    return ""


def plain(name: str) -> str:
    """A name as it is compared: one form of umlauts, no blanks around."""
    return unicodedata.normalize("NFC", str(name).strip())


def some(names: Iterable[Any], count: int = 4) -> str:
    """The first few of many, for a sentence."""
    names = [str(name) for name in names]
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def spread(items: Sequence[Any], count: int | None) -> Sequence[Any]:
    """So many of the items, evenly from the first to the last; all if there are no more, or for None."""
    if count is None or count >= len(items):
        return items
    return [items[int(k)] for k in np.linspace(0, len(items) - 1, count)]
