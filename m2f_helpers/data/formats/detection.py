"""Recognises the format of a folder, and says by what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from m2f_helpers.data.formats import masks, pairing, polygons
from m2f_helpers.data.formats.source import Source, find_files, some, spread
from m2f_helpers.data.formats.tables import Table, table_beside

_MASK_FORMATS: dict[str, Callable[[Path, str, Table | None], Source]] = {
    "ids": masks.ids_source,
    "voc": masks.voc_source,
    "cityscapes": masks.cityscapes_source,
    "colors": masks.colors_source,
    "binary": masks.binary_source,
}
FORMATS = ("auto", "ids", "coco", "voc", "cityscapes", "labelme", "colors", "binary")
_LOOK_AT = 20


def open_source(root: str | Path, form: str = "auto", table: Table | None = None) -> Source:
    """Understand a folder, or a JSON file, of images and labels.

    `form` is one of `FORMATS`; `"auto"` looks at the files. `table` holds class names, perhaps with ids or colours;
    None takes the table that lies in the folder, if any.

    Returns: the source; `why` says by what its format was recognised.
    Raises: FileNotFoundError or ValueError: what was found there instead.
    """
    root = Path(root)
    if form not in FORMATS:
        raise ValueError(f"expected one of the formats {', '.join(FORMATS)}, got {form!r}")
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: give the folder that holds the images and their labels")
    if root.is_file() and root.suffix.lower() != ".json":
        raise ValueError(f"{root} is a file: unpack it, or give the folder that holds the images and their labels")
    form, why = detect(root) if form == "auto" else (form, "as asked for")
    if form in ("coco", "labelme"):
        source = (polygons.coco_source if form == "coco" else polygons.labelme_source)(root, why)
    else:
        beside = table_beside(root) if not table and form != "cityscapes" else None
        table = table or beside
        if beside and form == "ids" and not beside.ids:  # a line for each id
            table = replace(beside, ids=[(i,) for i in range(len(beside.names))])
        source = _MASK_FORMATS[form](root, why, table)
        source.notes += [f"the classes come from {beside.origin}"] if beside else []
    if table and not table.ids and not table.colors:
        source.names = table.names
    return source


def detect(root: Path) -> tuple[str, str]:
    """The format of a folder and the reason for thinking so. ValueError if nothing fits."""
    for path, content in islice(polygons.json_files(root), 5):
        if polygons.is_coco(content):
            return "coco", f"{path.name} has the lists images, annotations and categories"
        if polygons.is_labelme(content):
            return "labelme", f"{path.name} has a list of shapes for one image"
    if root.is_file():
        raise ValueError(f"{root} is a JSON of another kind: expected COCO's or LabelMe's")
    names = [path.stem for path in find_files(root, (".png",))]
    if found := next((name for name in names if name.endswith(("_gtFine_labelIds", "_gtCoarse_labelIds"))), None):
        return "cityscapes", f"there are files such as {found}.png"
    if any(root.rglob("SegmentationClass")) and any(root.rglob("JPEGImages")):
        return "voc", "there are the folders JPEGImages and SegmentationClass"
    return _detect_masks(root)


def _detect_masks(root: Path) -> tuple[str, str]:
    items, _ = pairing.match_masks(root)
    by_class = sorted({name for item in items for name in item.shapes} - {""})
    if by_class:
        return "binary", f"the masks lie in a folder for each class: {some(by_class)}"
    chosen = spread([item.labels[0] for item in items], _LOOK_AT)
    kinds = [_kind(path) for path in chosen]
    form = next(kind for kind in ("colors", "ids", "binary") if kind in kinds)
    found = {"colors": "colours", "ids": f"ids such as {_values(chosen)}", "binary": "nothing but 0 and 255"}
    return form, f"{kinds.count(form)} of {len(kinds)} masks looked at hold {found[form]}"


def _kind(path: Path) -> str:
    mask = masks.open_mask(path)
    if mask.mode in ("RGB", "RGBA", "CMYK", "LA", "PA"):
        rgb = np.array(mask.convert("RGB"))
        if (rgb != rgb[..., :1]).any():
            return "colors"
    values = np.unique(np.array(mask.convert("L")) if mask.mode != "P" else np.array(mask))
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    return "binary" if set(values.tolist()) <= {0, 255} or (lossy and mask.mode == "L") else "ids"


def _values(paths: Sequence[Path]) -> str:
    seen = {value for path in paths if _kind(path) == "ids" for value in np.unique(masks.mask_ids(path)).tolist()}
    return some(sorted(seen), 8)
