"""Which file is an image, which its mask, in folders as people keep them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from m2f_helpers.data.formats.source import Item, find_files, some, split_of

_IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb", "leftimg8bit"}
_MASK_WORD = r"masks?|labels?|annotations?|annots?|gts?|seg|segmentations?|groundtruth|ground_truth"
_MASK_FOLDER = re.compile(rf"(?:(.*)[_\- ])?(?:{_MASK_WORD}|segmentationclass|segmentationclassraw)", re.IGNORECASE)
_MASK_ENDING = re.compile(rf"[_\-. ](?:{_MASK_WORD}|l)$", re.IGNORECASE)
_LOSSLESS = (".png", ".gif", ".tif", ".tiff", ".bmp")


def match_masks(root: Path) -> tuple[list[Item], list[str]]:
    """Find the pairs below `root`, and say what was left over; `shapes` of an item are the classes of its masks, or "".

    A mask lies in a folder called masks, labels, annotations, ..., or its name ends in _mask, _label, ...; apart from
    such words (and `images`) its path equals that of its image. A folder more in its path is a class.

    Raises: ValueError if there is no pair, or two files make a claim to one place.
    """
    images, masks = _sort(root)
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    unmatched = []
    for path, key in masks:
        place = next(_places(key, images), None)
        if place is None:
            unmatched.append(path)
        elif other := found[place[0]].get(place[1]):
            raise ValueError(f"{path} and {other} are both masks of {images[place[0]]}: remove one")
        else:
            found[place[0]][place[1]] = path
    if not found:
        raise ValueError(_nothing(root, images, masks))
    return _items(images, found), _left_over(images, found, unmatched, root)


def _items(images: dict[str, Path], found: dict[str, dict[str, Path]]) -> list[Item]:
    items = []
    for key, masks in sorted(found.items()):
        if len(masks) > 1 and "" in masks:
            raise ValueError(f"{images[key]} has one mask for all classes, {masks['']}, and others by class")
        items.append(Item(key, images[key], split_of(key.split("/")[:-1]), tuple(masks.values()), tuple(masks)))
    return items


def _sort(root: Path) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """Images by key, and masks with theirs."""
    images, masks = {}, []
    for path in find_files(root):
        key, is_mask = _key(path.relative_to(root))
        if is_mask:
            masks.append((path, key))
        elif key not in images:
            images[key] = path
        elif twin := _mask_of_twins(images[key], path):  # a.jpg and a.png in one folder
            masks.append((twin, key))
            images[key] = images[key] if twin == path else path
        else:
            raise ValueError(f"{path} and {images[key]} would get the same name: rename one of them")
    for key in [key for key, path in images.items() if _bare(key) in images and path.suffix.lower() in _LOSSLESS]:
        masks.append((images.pop(key), key))  # a.jpg and a_mask.png in one folder
    return images, masks


def _key(path: Path) -> tuple[str, bool]:
    """Path without words like `images` and `masks`, and whether it is a mask's."""
    parts, is_mask = [], False
    for part in path.parts[:-1]:
        if part.casefold() in _IMAGE_FOLDERS:
            continue
        if not is_mask and (found := _MASK_FOLDER.fullmatch(part)):  # masks, train_labels
            is_mask, part = True, found.group(1) or ""
        parts += [part] if part else []
    return "/".join([*parts, path.stem]), is_mask


def _mask_of_twins(first: Path, second: Path) -> Path | None:
    """Of two files of one name, the one that is no JPEG if the other is."""
    lossless = [path for path in (first, second) if path.suffix.lower() in _LOSSLESS]
    return lossless[0] if len(lossless) == 1 and first.parent == second.parent else None


def _bare(key: str) -> str:
    """`a` of `a_mask`; "" if it has no such ending."""
    found = _MASK_ENDING.search(key)
    return key[: found.start()] if found else ""


def _places(key: str, images: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Images that a mask may belong to, with the class: as it stands, without `_mask`, without one folder."""
    for stem in filter(None, (key, _bare(key))):
        parts = stem.split("/")
        if stem in images:
            yield stem, ""
        for i in range(len(parts) - 1):
            if (shorter := "/".join(parts[:i] + parts[i + 1 :])) in images:
                yield shorter, parts[i]


def _nothing(root: Path, images: dict, masks: list) -> str:
    if images and masks:
        return (
            f"{root}: none of {len(images)} images has a mask of the same name (image {next(iter(images.values()))}, "
            f"mask {masks[0][0]}): give both the same name"
        )
    what = f"{len(images)} images and no mask" if images else f"{len(masks)} masks and no image"
    what = what if images or masks else "neither images nor masks"
    return f"{root} holds {what}: expected images/ and masks/ (or labels/, annotations/) with files of the same names"


def _left_over(images: dict, found: dict, unmatched: list[Path], root: Path) -> list[str]:
    notes = []
    if without := [path.relative_to(root) for key, path in images.items() if key not in found]:
        notes.append(f"{len(without)} images without a mask are left out: {some(without)}")
    if unmatched:
        names = some(path.relative_to(root) for path in unmatched)
        notes.append(f"{len(unmatched)} masks without an image are left out: {names}")
    return notes
