"""Labels that are images themselves: ids, colours, 0/255, one mask for each class, Pascal VOC, Cityscapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from m2f_helpers.data.formats import pairing, tables
from m2f_helpers.data.formats.source import REST, UNLABELLED, Category, Item, Source, find_files, key_of, some, split_of
from m2f_helpers.data.formats.tables import Table
from m2f_helpers.quiet import one_line

_JPEG = (".jpg", ".jpeg", ".webp")
_MOST_COLORS = 254
_APART = 60  # distance in RGB from which two colours of a JPEG mask are two classes


def open_mask(path: Path) -> Image.Image:
    """A mask, loaded. ValueError or FileNotFoundError naming the file."""
    try:
        with Image.open(path) as mask:
            mask.load()
            return mask
    except FileNotFoundError:
        raise FileNotFoundError(f"the mask {path} does not exist") from None
    except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a mask that can be read ({one_line(error)}): export it again") from None


def mask_ids(path: Path) -> np.ndarray:
    """The numbers in a mask file, `(H, W)` int32: grey values of 1, 8 or 16 bits, or a palette's indices."""
    if path.suffix.lower() in _JPEG:
        raise ValueError(f"{path} is a JPEG, which changes ids: save masks as PNG, or try --from colors")
    mask = open_mask(path)
    if mask.mode == "1":
        return np.array(mask).astype(np.int32) * 255
    if mask.mode in ("P", "L", "I") or mask.mode.startswith("I;16"):
        return np.array(mask).astype(np.int32)
    rgb = np.array(mask.convert("RGB"))
    if (rgb == rgb[..., :1]).all():  # grey, saved with three channels
        return rgb[..., 0].astype(np.int32)
    raise ValueError(f"{path} holds colours, not ids: use --from colors")


def mask_colors(path: Path) -> np.ndarray:
    """The colours in a mask file as numbers 0xRRGGBB, `(H, W)` int32."""
    return np.array(open_mask(path).convert("RGB")).astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def color_of(code: int) -> tuple[int, int, int]:
    """RGB of a number 0xRRGGBB."""
    return (code >> 16, code >> 8 & 255, code & 255)


def ids_source(root: Path, why: str, table: Table | None) -> Source:
    """Masks whose numbers are the ids; 255 is ignored."""
    items, notes = _items(root, "ids")
    _, seen = _census(items, mask_ids)
    source = Source("ids", why, items, [], lambda item, _: mask_ids(item.labels[0]), notes)
    source.categories = _by_table(seen, table) if table and table.ids else _unnamed(seen)
    if not table:
        notes.append('the ids have no names: --classes "a,b,..." gives some, in rising order of the ids')
    return source


def _items(root: Path, form: str) -> tuple[list[Item], list[str]]:
    items, notes = pairing.match_masks(root)
    if wrong := next((item for item in items if "" not in item.shapes), None):
        raise ValueError(f"{wrong.labels[0]} lies in a folder of its own class: use --from binary, not {form}")
    return items, notes


def _census(items: Iterable[Item], read: Callable[[Path], np.ndarray]) -> tuple[Counter, dict[int, str]]:
    """Pixels of every value in the masks, and the first file that holds it."""
    counts, where = Counter(), {}
    for item in tqdm(items, desc="looking at the masks", delay=2):
        values, pixels = np.unique(read(item.labels[0]), return_counts=True)
        for value, number in zip(values.tolist(), pixels.tolist(), strict=True):
            counts[value] += number
            where.setdefault(value, str(item.labels[0]))
    return counts, where


def _by_table(seen: dict[int, str], table: Table) -> list[Category]:
    owners = {i: (k, name) for k, (name, ids) in enumerate(zip(table.names, table.ids, strict=True)) for i in ids}
    rows = [Category(i, name, tuple(table.colors[k]) if table.colors else None) for i, (k, name) in owners.items()]
    rows += [Category(i, "", ignored=True) for i in {*table.ignored, 255}]
    return rows + [Category(i, "", stray=path) for i, path in sorted(seen.items()) if i not in {r.id for r in rows}]


def _unnamed(seen: dict[int, str]) -> list[Category]:
    if len(seen) > _MOST_COLORS + 1:
        first = next(iter(seen.values()))
        text = f"the masks hold {len(seen)} different ids (see {first})"
        raise ValueError(f"{text}: expected masks, these look like images")
    return [Category(i, "", ignored=i == 255) for i in sorted(seen)]


def binary_source(root: Path, why: str, table: Table | None) -> Source:
    """Masks of 0 and 255: one an image, or one for each class, of which the smaller wins where they overlap."""
    items, notes = pairing.match_masks(root)
    names = sorted({name for item in items for name in item.shapes})
    if names == [""]:
        names = table.names if table and len(table.names) == 2 else ["background", "foreground"]
        rows = [Category(0, names[0]), Category(255, names[1])]
        return Source("binary", why, items, rows, lambda item, _: _two_values(item.labels[0]) * 255, notes)
    if "" in names:
        raise ValueError(f"{root}: some masks lie in a folder of their class, others do not: sort them all, or none")
    rows = [*(Category(i, name) for i, name in enumerate(names)), REST]
    notes.append("where masks overlap, the smaller one wins")
    ids = {name: i for i, name in enumerate(names)}
    return Source("binary", why, items, rows, lambda item, _: _stack(item, ids), notes)


def _two_values(path: Path) -> np.ndarray:
    """1 where a mask of 0 and 255 (or 0 and 1) is set, `(H, W)` int32. What a JPEG made of 0 and 255 counts as well."""
    mask = np.array(open_mask(path).convert("L")) if path.suffix.lower() in _JPEG else mask_ids(path)
    values = np.unique(mask)
    if path.suffix.lower() in _JPEG and values.size > 2:
        return (mask > 127).astype(np.int32)
    if values.size > 2 or (values.size == 2 and values[0] != 0) or values.max() not in (0, 1, 255, values.max()):
        raise ValueError(f"{path} holds {some(values)}: expected a mask of 0 and 255; for ids use --from ids")
    return (mask > 0).astype(np.int32)


def _stack(item: Item, ids: dict[str, int]) -> np.ndarray:
    masks = [(ids[name], _two_values(path).astype(bool)) for name, path in zip(item.shapes, item.labels, strict=True)]
    if len({mask.shape for _, mask in masks}) > 1:
        raise ValueError(f"the masks of {item.image} differ in size: {some(mask.shape for _, mask in masks)}")
    return paint(masks, masks[0][1].shape)


def paint(masks: list[tuple[int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Ids `(H, W)` int32 from boolean masks: large ones first, so that the smaller win; `UNLABELLED` where none is."""
    label_map = np.full(size, UNLABELLED, np.int32)
    for value, mask in sorted(masks, key=lambda entry: -entry[1].sum()):
        label_map[mask] = value
    return label_map


def colors_source(root: Path, why: str, table: Table | None) -> Source:
    """Masks whose colours are the classes: by a table, or by the colours that are found."""
    items, notes = _items(root, "colors")
    counts, where = _census(items, mask_colors)
    lossy = any(item.labels[0].suffix.lower() in _JPEG for item in items)
    if table and table.colors:
        named = zip(table.names, table.colors, strict=True)
        rows = [Category(int.from_bytes(bytes(color), "big"), name, tuple(color)) for name, color in named]
    else:
        rows = [Category(c, "", color_of(c)) for c in _main_colors(counts, lossy)]
        notes.append("the colours have no names: --classes FILE with lines NAME:R,G,B, or --map, gives some")
    known = {row.id for row in rows}
    off = {code: counts[code] for code in counts if code not in known}
    if off and lossy:
        notes.append(_off_colors(off, counts))
        codes = np.array(sorted(known), np.int32)
        return Source("colors", why, items, rows, lambda item, _: _nearest(mask_colors(item.labels[0]), codes), notes)
    rows += [Category(code, "", color_of(code), stray=where[code]) for code in sorted(off)]
    return Source("colors", why, items, rows, lambda item, _: mask_colors(item.labels[0]), notes)


def _main_colors(counts: Counter, lossy: bool) -> list[int]:
    """All colours; of JPEGs those that are frequent and far from a more frequent one."""
    if not lossy and len(counts) > _MOST_COLORS:
        raise ValueError(
            f"the masks hold {len(counts)} colours: they were smoothed or are no masks; export them without smoothing "
            "(antialiasing), as PNG, or give the table of colours with --classes FILE"
        )
    if not lossy:
        return sorted(counts)
    chosen: list[int] = []
    for code, number in counts.most_common(4096):
        far = all(np.linalg.norm(np.subtract(color_of(code), color_of(other))) > _APART for other in chosen)
        if far and number > sum(counts.values()) / 5000:
            chosen.append(code)
    return sorted(chosen)


def _off_colors(off: dict[int, int], counts: Counter) -> str:
    share = sum(off.values()) / sum(counts.values())
    names = some(f"#{code:06x}" for code in sorted(off, key=off.get, reverse=True))
    text = f"{share:.1%} of the masks' pixels have a colour beside the table, as JPEGs do ({names})"
    return f"{text}: the nearest was taken"


def _nearest(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Each colour replaced by the nearest of the table."""
    found, inverse = np.unique(codes, return_inverse=True)
    wide = lambda values: np.stack(color_of(values.astype(np.int64)), -1)  # noqa: E731
    distance = ((wide(found)[:, None] - wide(table)[None]) ** 2).sum(-1)
    return table[distance.argmin(1)][inverse].reshape(codes.shape)


def voc_source(root: Path, why: str, table: Table | None) -> Source:
    """`JPEGImages` and `SegmentationClass`, 21 classes, 255 = border; `ImageSets/Segmentation` says the split."""
    if table and table.colors:  # CVAT writes this layout with a table of its own
        source = colors_source(root, why, table)
        source.format = "voc"
    else:
        items, notes = _items(root, "voc")
        source = Source("voc", why, items, tables.voc_categories(), lambda item, _: mask_ids(item.labels[0]), notes)
    splits = _image_sets(root)
    source.items = [replace(item, split=splits.get(item.image.stem, item.split)) for item in source.items]
    if splits and (rest := [item.key for item in source.items if item.image.stem not in splits]):
        source.items = [item for item in source.items if item.image.stem in splits]
        source.notes.append(f"{len(rest)} pairs that no list in ImageSets names are left out: {some(rest)}")
    return source


def _image_sets(root: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for path in sorted(root.rglob("ImageSets/Segmentation/*.txt")):
        if split := split_of([path.stem]):
            splits |= dict.fromkeys(path.read_text(encoding="utf-8").split(), split)
    return splits


def cityscapes_source(root: Path, why: str, table: Table | None) -> Source:
    """`*_leftImg8bit.png` with `*_gtFine_labelIds.png`; the table reduces 34 ids to 19 classes."""
    labels = {}
    for path in find_files(root, (".png",)):
        for kind in ("gtFine", "gtCoarse"):
            if path.stem.endswith(f"_{kind}_labelIds"):
                labels.setdefault(path.stem.removesuffix(f"_{kind}_labelIds"), path)
    items, without = [], []
    for image in find_files(root):
        if image.stem.endswith("_leftImg8bit"):
            stem = image.stem.removesuffix("_leftImg8bit")
            split = split_of(image.relative_to(root).parts[:-1])
            if stem in labels:
                items.append(Item(key_of(image, root).removeprefix("leftImg8bit/"), image, split, (labels[stem],)))
            else:
                without.append(stem)
    if not items:
        raise ValueError(f"{root}: no NAME_leftImg8bit.png with a NAME_gtFine_labelIds.png; unpack both archives here")
    notes = [f"{len(without)} images without label ids are left out: {some(without)}"] if without else []
    return Source("cityscapes", why, items, tables.cityscapes_categories(), lambda i, _: mask_ids(i.labels[0]), notes)
