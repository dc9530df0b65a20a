"""From the categories of a source to the classes of the result: names, order, what is merged, what is ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from m2f_helpers.data.formats.source import UNLABELLED, Category, plain, some
from m2f_helpers.palette import IGNORE, Palette, own_palette

_IGNORE_WORDS = ("255", "ignore")


@dataclass(frozen=True)
class Mapped:
    """The classes, and `table`: class id in memory (or 255) for each id of the source."""

    palette: Palette
    table: dict[int, int]

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """Class ids `(H, W)` uint8 for ids of the source `(H, W)`. ValueError for an id that the source lacks."""
        keys = np.array(sorted(self.table))
        places = np.searchsorted(keys, ids).clip(max=len(keys) - 1)
        if (unknown := keys[places] != ids).any():
            raise ValueError(f"holds ids {some(np.unique(ids[unknown]))} that no class has")
        return np.array([self.table[key] for key in keys.tolist()], np.uint8)[places]


def map_categories(
    categories: Sequence[Category],
    names: Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
    ignore: Iterable[str] = (),
) -> Mapped:
    """Decide what becomes of each category.

    Args:
        categories: those of the source.
        names: the classes in the order of their ids. Where the source has names, all must be categories or targets of
            `mapping`; where it has only ids, they are given to the ids in rising order. None keeps the source's order.
        mapping: category (name, id or `#rrggbb`) to class: a name, another category's id, or "255" for ignore.
        ignore: categories to ignore, by name or id.

    Returns: the classes and the table.
    Raises: ValueError naming the category, the class or the option that does not fit.
    """
    targets = {row.id: "" if row.ignored else _default(row) for row in categories}  # "": ignored
    wishes, there = {}, {row.id for row in categories}
    ignore = [word for word in ignore if str(word) != "255" or 255 in there]  # 255 is ignored anyway
    for word, target in [*((word, "255") for word in ignore), *(mapping or {}).items()]:
        target = _target(str(target), categories)
        wishes |= {row.id: target for row in _find(word, categories)}
    _refuse_strays([row for row in categories if row.stray and row.id not in wishes])
    targets |= {number: _follow(number, wishes, targets) for number in wishes}
    if names and not all(row.name or row.ignored or row.stray for row in categories):
        targets = _named(targets, categories, names)
    order = _order(targets, names)
    try:
        palette = own_palette(order, _colors(order, targets, categories))
    except ValueError as error:
        raise ValueError(f"{error}{_hint(order, categories)}") from None
    ids = {name: i for i, name in enumerate(palette.names)}
    return Mapped(palette, {number: ids[name] if name else IGNORE for number, name in targets.items()})


def parse_mapping(text: str) -> dict[str, str]:
    """`{"4": "255", "7": "car"}` from `4=255,7=car`.

    Raises: ValueError for a word without `=`, or two classes for one category.
    """
    mapping: dict[str, str] = {}
    for word in text.split(","):
        left, equals, right = (part.strip() for part in word.rpartition("="))
        if not (left and equals and right):
            raise ValueError(f"--map: expected CATEGORY=CLASS, got {word!r}")
        if mapping.setdefault(left, right) != right:
            raise ValueError(f"--map: {left!r} is mapped to {mapping[left]!r} and to {right!r}")
    return mapping


def _default(row: Category) -> str:
    return plain(row.name) or (f"#{row.id:06x}" if row.color else f"class {row.id}")


def _find(word: str, categories: Sequence[Category]) -> list[Category]:
    """Categories by exact name, by name in any case, by id."""
    word = plain(word)
    exact = [row for row in categories if _default(row) == word]
    alike = [row for row in categories if _default(row).casefold() == word.casefold()]
    if found := exact or alike or [row for row in categories if str(row.id) == word]:
        return found
    there = some((f"{row.name} ({row.id})" if row.name else _default(row) for row in categories), 12)
    raise ValueError(f"{word!r} is no category of the source; there are {there}")


def _target(word: str, categories: Sequence[Category]) -> str | int:
    """What the right side of a mapping means: a class name, the id of a category to go with, or "" = ignored."""
    word = plain(word)
    if word.casefold() in _IGNORE_WORDS:
        return ""
    try:
        return _find(word, categories)[0].id
    except ValueError:
        if not word or word.lstrip("-").isdigit():
            raise ValueError(f"the class {word!r} to map to is no id of the source: give a name, or 255") from None
        return word


def _follow(number: int, wishes: Mapping[int, str | int], targets: Mapping[int, str]) -> str:
    """The class name at the end of a chain such as 9=4, 4=thing. Where names change places, each takes the other's."""
    target, seen = wishes[number], {number}
    while isinstance(target, int) and target in wishes and target not in seen:
        seen.add(target)
        target = wishes[target]
    return targets[target] if isinstance(target, int) else target


def _refuse_strays(strays: list[Category]) -> None:
    if strays:
        what = some((_default(row) if row.color else row.id for row in strays), 8)
        word = _default(strays[0]) if strays[0].color else strays[0].id
        raise ValueError(
            f"the table of classes lacks {what} (in {strays[0].stray}): give each a class with "
            f'--map "{word}=NAME", or leave it out with --ignore "{word}"'
        )


def _named(targets: dict[int, str], categories: Sequence[Category], names: Sequence[str]) -> dict[int, str]:
    """Give `names` to the groups of ids that have none of their own, in rising order."""
    defaults = [_default(row) for row in sorted(categories, key=lambda row: row.id) if not row.name]
    open_groups = [name for name in dict.fromkeys(defaults) if name in targets.values()]
    free = [name for name in names if name not in targets.values()]
    if open_groups and free and open_groups[0].startswith("#"):
        raise ValueError(
            f"names alone do not say which colour is which: give a table NAME:R,G,B with --classes FILE, or --map "
            f'"{open_groups[0]}={free[0]},..."; there are {some(open_groups, 20)}'
        )
    if len(open_groups) != len(free):
        numbers = [number for number, name in sorted(targets.items()) if name]
        raise ValueError(
            f"{len(names)} names for {len(set(targets.values()) - {''})} classes: the source holds the ids "
            f"{some(numbers, 20)}; give a name for each, merge with --map, or leave out with --ignore"
        )
    given = dict(zip(open_groups, free, strict=True))
    return {number: given.get(name, name) for number, name in targets.items()}


def _order(targets: dict[int, str], names: Sequence[str] | None) -> list[str]:
    present = list(dict.fromkeys(name for name in targets.values() if name))
    if not names:
        return present
    names = [plain(name) for name in names]
    if extra := [name for name in present if name not in names]:
        raise ValueError(
            f"{some(map(repr, extra))} of the source is not among the classes {some(names, 8)}: add it, or use --map "
            f'"{extra[0]}=NAME" or --ignore "{extra[0]}"'
        )
    if missing := [name for name in names if name not in present]:
        raise ValueError(f"the class {missing[0]!r} is no category of the source; there are {some(present, 12)}")
    return names


def _colors(order: list[str], targets: dict[int, str], categories: Sequence[Category]) -> list | None:
    """The source's colours, if all classes have one and no two the same."""
    colors = {}
    for row in categories:
        if row.color and targets[row.id] and (targets[row.id] not in colors or _default(row) == targets[row.id]):
            colors[targets[row.id]] = row.color
    different = len(set(colors.values())) == len(order) == len(colors)
    return [colors[name] for name in order] if different else None


def _hint(order: list[str], categories: Sequence[Category]) -> str:
    if len(order) < 2 and any(row.id == UNLABELLED for row in categories):
        return '; with --map "unlabelled=background" what no shape covers becomes a class'
    if len({name.casefold() for name in order}) < len(order):
        name = next(name for k, name in enumerate(order) if name.casefold() in map(str.casefold, order[:k]))
        first = next(other for other in order if other.casefold() == name.casefold())
        return f'; if they mean one class, merge them with --map "{name}={first}"'
    return ""
