"""Labels that are shapes in a JSON: COCO and LabelMe."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from m2f_helpers.data.formats.masks import paint
from m2f_helpers.data.formats.source import REST, Category, Item, Source, find_files, key_of, plain, some, split_of

_COCO = ("images", "annotations", "categories")


def is_coco(content: Any) -> bool:
    """Whether a JSON's content has COCO's three lists."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _COCO)


def is_labelme(content: Any) -> bool:
    """Whether a JSON's content is LabelMe's, for one image."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def json_files(root: Path) -> Iterator[tuple[Path, Any]]:
    """JSON files at or below `root` that may hold labels, with their content; ValueError for one that is none."""
    own = ("classes.json", "convert.json", "report.json")
    for path in [root] if root.is_file() else [p for p in find_files(root, (".json",)) if p.name not in own]:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON ({error}): export it again") from None
        yield path, content


def coco_source(root: Path, why: str) -> Source:
    """COCO's JSON for one or several splits. Crowds lie below, then the smaller shape wins."""
    contents = [(path, content) for path, content in json_files(root) if is_coco(content)]
    if not contents:
        raise ValueError(f"{root}: no JSON with the lists images, annotations and categories")
    folder = root.parent if root.is_file() else root
    finder = _Finder(folder)
    items, notes, used = [], [], Counter()
    for path, content in contents:
        items += _coco_items(path, content, finder, notes, used)
    if not items:
        raise ValueError(f"{root}: none of the images that the JSON names is here ({some(finder.missing)})")
    if finder.missing:
        notes.append(f"{len(finder.missing)} images that the JSON names are not here: {some(finder.missing)}")
    notes.append("where shapes overlap, the smaller one wins; crowds lie below")
    rows = _coco_categories(contents, used, notes)
    numbers = {row.name: row.id for row in rows}
    return Source("coco", why, items, rows, lambda item, size: _read_coco(item, size, numbers), notes)


class _Finder:
    """Finds the image that a JSON names, wherever below the folder it lies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_name = defaultdict(list)
        self.missing: list[str] = []
        for path in find_files(folder):
            self.by_name[path.name].append(path)

    def find(self, name: str, json_path: Path) -> Path | None:
        """The image whose path ends in `name`; nearest to the JSON where there are several."""
        wanted = tuple(part for part in Path(name.replace("\\", "/")).parts if part not in ("/", ".", ".."))
        found = self.by_name.get(wanted[-1], []) if wanted else []
        ending = [path for path in found if path.parts[-len(wanted) :] == wanted] or found
        if not ending:
            self.missing.append(name)
            return None
        split = _json_split(json_path, self.folder)

        def fits(path: Path) -> tuple[bool, int]:
            common = sum(a == b for a, b in zip(path.parts, json_path.parts, strict=False))
            return split_of(path.relative_to(self.folder).parts) == split, common

        return max(ending, key=fits)


def _json_split(path: Path, folder: Path) -> str:
    """`train/_annotations.coco.json` and `annotations/instances_train2017.json` say their split."""
    return split_of([*path.relative_to(folder).parts[:-1], *path.stem.replace("-", "_").split("_")])


def _coco_items(path: Path, content: dict, finder: _Finder, notes: list[str], used: Counter) -> list[Item]:
    names = _names(path, content["categories"])
    shapes = defaultdict(list)
    for entry in content["annotations"]:
        if isinstance(entry, dict) and "segments_info" in entry:
            raise ValueError(f"{path} is a panoptic JSON: give the folder of its PNGs, or the instance JSON")
        shapes[_field(path, entry, "image_id")].append(entry)
    split = _json_split(path, finder.folder)
    items = []
    for image in content["images"]:
        file = finder.find(str(_field(path, image, "file_name")), path)
        entries = shapes.pop(_field(path, image, "id"), [])
        if file is None:
            continue
        used.update(names[_category(path, entry, names)] for entry in entries)
        size = (image.get("height"), image.get("width"))
        data = (size, [(names[entry["category_id"]], entry) for entry in entries], path)
        items.append(Item(key_of(file, finder.folder), file, split, (path,), data))
    if shapes:
        raise ValueError(f"{path}: annotations speak of images that are not in its list: ids {some(shapes)}")
    return items


def _field(path: Path, entry: Any, name: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise ValueError(f"{path}: an entry has no {name!r}: {str(entry)[:80]}")
    return entry[name]


def _names(path: Path, categories: list) -> dict[Any, str]:
    names = {_field(path, entry, "id"): plain(_field(path, entry, "name")) for entry in categories}
    if len(names) < len(categories):
        raise ValueError(f"{path}: two categories have the same id: number them anew")
    return names


def _category(path: Path, entry: dict, names: dict) -> Any:
    number = _field(path, entry, "category_id")
    if number not in names:
        raise ValueError(f"{path}: annotation {entry.get('id')} has category_id {number}, there are {some(names, 10)}")
    return number


def _coco_categories(contents: list, used: Counter, notes: list[str]) -> list[Category]:
    """Categories that some annotation uses. Different files may number them differently, so names decide."""
    numbers: dict[str, int] = {}
    for path, content in contents:
        for number, name in _names(path, content["categories"]).items():
            if numbers.setdefault(name, number) != number:
                notes.append(f"{path.name} numbers {name!r} as {number}, another file as {numbers[name]}: names count")
    if idle := [name for name in numbers if not used[name]]:
        notes.append(f"{len(idle)} categories without any shape are left out: {some(idle)}")
    taken: set[int] = set()
    rows = []
    for name in (name for name in numbers if used[name]):
        number = numbers[name] if isinstance(numbers[name], int) and numbers[name] not in taken else 10**6 + len(rows)
        taken.add(number)
        rows.append(Category(number, name))
    return [*sorted(rows, key=lambda row: row.id), REST]


def _read_coco(item: Item, size: tuple[int, int], numbers: dict[str, int]) -> np.ndarray:
    stated, entries, path = item.shapes
    size = size if None in stated else tuple(int(v) for v in stated)
    layers = {True: [], False: []}
    for name, entry in entries:
        where = f"{path}: annotation {entry.get('id')} of {item.image.name}"
        mask = _coco_mask(entry.get("segmentation"), size, where)
        if mask is not None:
            layers[bool(entry.get("iscrowd"))].append((numbers[name], mask))
    label_map = paint(layers[True], size)
    above = paint(layers[False], size)
    return np.where(above == REST.id, label_map, above)


def _coco_mask(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray | None:
    if not segmentation:
        raise ValueError(f"{where} has a box but no shape: export it with segmentation")
    if isinstance(segmentation, list):
        return polygon_mask(segmentation, size, where)
    if not isinstance(segmentation, dict) or list(segmentation.get("size", [])) != list(size):
        raise ValueError(f"{where}: expected run lengths of size {list(size)}, got {str(segmentation)[:60]}")
    try:
        counts = segmentation["counts"]
        if isinstance(counts, list):
            if sum(counts) != size[0] * size[1] or min(counts) < 0:
                raise ValueError(f"they cover {sum(counts)} pixels")
            segmentation = coco.frPyObjects(segmentation, *size)
        return coco.decode(segmentation).astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: its run lengths do not fit an image of {list(size)} ({error})") from None


def polygon_mask(polygons: list, size: tuple[int, int], where: str) -> np.ndarray | None:
    """The area of flat polygons `[x, y, x, y, ...]` in pixels, boolean `(H, W)`; None for less than three points.

    Raises: ValueError for anything that is no polygon, and for points outside the image: then the shape was drawn on
        an image of another size.
    """
    polygons = [_flat(polygon, where) for polygon in polygons]
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    height, width = size
    for polygon in polygons:
        x, y = np.array(polygon[::2]), np.array(polygon[1::2])
        slack_x, slack_y = max(2, width / 100), max(2, height / 100)
        if x.min() < -slack_x or y.min() < -slack_y or x.max() > width + slack_x or y.max() > height + slack_y:
            raise ValueError(
                f"{where} reaches over x = {x.min():.0f}..{x.max():.0f}, y = {y.min():.0f}..{y.max():.0f}, outside the "
                f"image of {width} x {height}: it was drawn on another size"
            )
    if not polygons:
        return None
    return coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))).astype(bool)


def _flat(polygon: Any, where: str) -> list[float]:
    try:
        points = np.array(polygon, dtype=float).ravel()
    except (TypeError, ValueError):
        points = np.array([np.nan])
    if len(points) % 2 or not np.isfinite(points).all():
        raise ValueError(f"{where}: expected a polygon of numbers x, y, x, y, ..., got {str(polygon)[:60]}")
    return points.tolist()


def labelme_source(root: Path, why: str) -> Source:
    """One JSON for each image. Where shapes overlap, the later one wins, as it is drawn."""
    folder = root.parent if root.is_file() else root
    finder = _Finder(folder)
    items, kinds, labels = [], Counter(), set()
    for path, content in json_files(root):
        if not is_labelme(content):
            raise ValueError(f"{path} is no JSON of LabelMe: it has no list of shapes")
        for shape in content["shapes"]:
            kinds[shape.get("shape_type") or "polygon"] += 1
            labels.add(_labelme_name(path, shape))
        items.append(_labelme_item(path, content, finder))
    if not items:
        raise ValueError(f"{root}: no JSON file")
    notes = ["where shapes overlap, the later one wins"]
    if thin := {kind: number for kind, number in kinds.items() if kind not in _AREAS}:
        notes.append(f"shapes without an area are left out: {some(f'{n} of type {kind}' for kind, n in thin.items())}")
    numbers = {name: i for i, name in enumerate(sorted(labels))}
    rows = [*(Category(i, name, ignored=name == "__ignore__") for name, i in numbers.items()), REST]
    return Source("labelme", why, items, rows, lambda item, size: _read_labelme(item, size, numbers), notes)


def _labelme_name(path: Path, shape: dict) -> str:
    name = plain(_field(path, shape, "label"))
    return "background" if name == "_background_" else name


def _labelme_item(path: Path, content: dict, finder: _Finder) -> Item:
    name = str(content.get("imagePath") or "")
    beside = [path.with_suffix(suffix) for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".bmp", ".tif", ".webp")]
    image = finder.find(name, path) or next((p for p in beside if p.is_file()), None)
    if image is None:
        hint = "; it lies inside the JSON: save it as a file first" if content.get("imageData") else ""
        raise FileNotFoundError(f"{path}: the image {name or path.stem} is not below {finder.folder}{hint}")
    split = split_of(path.relative_to(finder.folder).parts[:-1])
    return Item(key_of(image, finder.folder), image, split, (path,), content)


def _read_labelme(item: Item, size: tuple[int, int], numbers: dict[str, int]) -> np.ndarray:
    content, path = item.shapes, item.labels[0]
    stated = (content.get("imageHeight"), content.get("imageWidth"))
    size = size if None in stated else tuple(int(v) for v in stated)
    label_map = paint([], size)
    for k, shape in enumerate(content["shapes"]):
        area = _AREAS.get(shape.get("shape_type") or "polygon")
        if area:
            mask = area(shape, size, f"{path}: shape {k} ({shape['label']})")
            if mask is not None:
                label_map[mask] = numbers[_labelme_name(path, shape)]
    return label_map


def _rectangle(shape: dict, size: tuple[int, int], where: str) -> np.ndarray | None:
    (x0, y0), (x1, y1) = _two_points(shape, where)
    return polygon_mask([[x0, y0, x1, y0, x1, y1, x0, y1]], size, where)


def _circle(shape: dict, size: tuple[int, int], where: str) -> np.ndarray:
    (x, y), (edge_x, edge_y) = _two_points(shape, where)
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= (edge_x - x) ** 2 + (edge_y - y) ** 2


def _bitmap(shape: dict, size: tuple[int, int], where: str) -> np.ndarray:
    (left, top), _ = _two_points(shape, where)
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as part:
            part = np.array(part).astype(bool)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{where}: its mask cannot be read ({error})") from None
    mask = np.zeros(size, bool)
    target = mask[int(top) : int(top) + part.shape[0], int(left) : int(left) + part.shape[1]]
    target |= part[: target.shape[0], : target.shape[1]]
    return mask


def _two_points(shape: dict, where: str) -> list[list[float]]:
    points = shape.get("points") or []
    if len(points) != 2 or len(_flat(points, where)) != 4:
        raise ValueError(f"{where}: expected two points, got {len(points)}")
    return points


_AREAS = {"rectangle": _rectangle, "circle": _circle, "mask": _bitmap}
_AREAS["polygon"] = lambda shape, size, where: polygon_mask([shape.get("points") or []], size, where)
