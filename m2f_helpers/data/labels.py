"""Finds label maps that would train silently wrong, and says in a line what to do. Used by notebook 02.

A Mask2Former accepts most damaged label maps without a word: an id equal to the number of classes is its "no object"
class, 255 is ignored, 16-bit ids wrap around. So every check here looks at the file as it lies on disk.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from m2f_helpers.palette import IGNORE, MAX_CLASSES, UNKNOWN, Palette, ade20k_palette, own_palette

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MANY_IDS = 12  # from so many ids on, look for the thin seams that smoothing filters leave


@dataclass(frozen=True)
class LabelProblem:
    """One fault of one file (or of a folder).

    `code` is a short fixed name such as `"rgb-mask"`; `message` says what is wrong and how to mend it; `severity` is
    `"error"` (training on the file would fail or learn nonsense) or `"warning"` (look at it, training works).
    """

    path: Path
    code: str
    message: str
    severity: str = "error"

    def __str__(self) -> str:
        return f"{self.severity}: {self.path}: {self.message} [{self.code}]"


class LabelError(ValueError):
    """A label map that cannot be read as class ids; `code` as in `LabelProblem`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def counted_classes(count: int | None, zero_is_other: bool | None = True) -> Palette | None:
    """Classes of which only the number is known: on disk 1..count with 0 = other, or 0..count-1. 150 are ADE20K's.

    A count of None means 150; None for both means that nothing is known, and gives None.
    """
    if count is None and zero_is_other is None:
        return None
    count, zero_is_other = 150 if count is None else count, zero_is_other is not False
    if not 2 <= count <= MAX_CLASSES:
        raise ValueError(f"--classes must lie between 2 and {MAX_CLASSES}, got {count}")
    ade20k = ade20k_palette()
    if count == len(ade20k) and zero_is_other:
        return ade20k
    ids = range(zero_is_other, count + zero_is_other)
    names = ade20k.names if count == len(ade20k) else [f"class {i}" for i in ids]
    return own_palette(names, on_disk=ids, ignored=(0,) * zero_is_other)


def check_pair(
    image: Path, label: Path, classes: Palette, num_queries: int = 100
) -> tuple[dict[int, int], list[LabelProblem]]:
    """Check a label map against its image: pixels per id on disk (empty if unreadable), and the problems."""
    try:
        label_map = read_label(label.read_bytes())
    except LabelError as error:
        return {}, [LabelProblem(label, error.code, str(error))]
    except OSError as error:
        return {}, [LabelProblem(label, "unreadable", f"cannot be read: {error.strerror or error}")]
    counts = count_ids(label_map)
    problems = check_ids(label, label_map, counts, classes, num_queries)
    try:
        problems += check_sizes(label, label_map.shape, seen_size(image))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        problems.append(LabelProblem(image, "unreadable-image", f"is not an image that can be read: {error}"))
    return counts, problems


def read_label(data: bytes) -> np.ndarray:
    """Decode the bytes of a label PNG to the numbers that stand in it, ids as on disk `(H, W)` uint8, never to colours.

    It has to be 8-bit grey, or a palette PNG, whose indices are the ids. Raises: LabelError with the reason otherwise.
    """
    _check_container(data)
    depth, kind = data[24], data[25]
    if depth == 16:
        raise LabelError("16-bit", "has 16 bits per pixel, of which mmseg keeps the lower 8: save it with 8 bits")
    if kind in (2, 6):
        raise LabelError("rgb-mask", _explain_rgb(data))
    if kind == 4:
        raise LabelError("alpha-mask", "has a transparency channel: save the ids alone, as 8-bit grey")
    if kind == 0 and depth < 8:
        raise LabelError("low-bit", f"has {depth} bits per pixel, which readers stretch to 0..255: save it with 8 bits")
    if kind == 3:
        return _decode_palette(data)
    label_map = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if label_map is None:
        raise LabelError("unreadable", "is a damaged PNG: copy or download it again")
    return label_map


def _check_container(data: bytes) -> None:
    if not data:
        raise LabelError("empty", "is an empty file: copy or download it again")
    if data[:2] == b"\xff\xd8":
        raise LabelError("jpeg-mask", "is a JPEG, which invents ids at every edge: make the mask again as PNG")
    if data[:8] != PNG_SIGNATURE or len(data) < 33:
        raise LabelError("not-png", "is not a PNG: label maps must be 8-bit grey or palette PNG")
    if b"IEND" not in data[-64:]:
        raise LabelError("truncated", "is a PNG that ends too early: copy or download it again")


def _decode_palette(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return np.array(opened)
    except (OSError, SyntaxError, ValueError) as error:
        raise LabelError("unreadable", f"is a damaged PNG ({error}): copy or download it again") from None


def _explain_rgb(data: bytes) -> str:
    colors = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if colors is not None and (colors == colors[..., :1]).all():
        return "has three equal channels: save one of them as 8-bit grey PNG"
    return "holds colours instead of ids: `m2f convert DATA NEW --from colors` turns them into ids"


def count_ids(label_map: np.ndarray) -> dict[int, int]:
    """Pixels per id of a label map `(H, W)` uint8, `{id: pixels}` in the order of the ids.

    Counts runs of equal pixels, about four times as fast as a histogram on label maps.
    """
    flat = label_map.reshape(-1)
    ends = (flat[1:] != flat[:-1]).nonzero()[0]  # last pixel of every run but the last
    values, lengths = np.full(ends.size + 1, flat[-1], np.intp), np.empty(ends.size + 1)
    values[:-1] = flat[ends]
    lengths[:-1], lengths[-1] = ends, flat.size - 1
    lengths[1:] -= ends
    lengths[0] += 1
    pixels = np.bincount(values, lengths, 256)
    ids = pixels.nonzero()[0]
    return dict(zip(ids.tolist(), pixels[ids].astype(int).tolist(), strict=True))


def check_ids(
    path: Path, label_map: np.ndarray, counts: dict[int, int], classes: Palette, num_queries: int = 100
) -> list[LabelProblem]:
    """Check the ids of one decoded label map; `counts` as from `count_ids`."""
    ids, nothing = set(counts), set(classes.ignored)
    if ids == {0, IGNORE} and 0 in nothing:
        text = "holds only 0 and 255, and 255 means ignore: `m2f convert DATA NEW --from binary` makes a class of it"
        return [LabelProblem(path, "0-255-mask", text)]
    if ids <= nothing:
        text = 'holds nothing but "other": it trains no class (ADE20K itself has 14 such images)'
        return [LabelProblem(path, "all-other", text, "warning")]
    problems = _check_range(path, ids, classes)
    if len(ids - nothing) > num_queries:
        text = f"shows {len(ids - nothing)} classes, but the model has {num_queries} queries: some are never matched"
        problems.append(LabelProblem(path, "more-classes-than-queries", text, "warning"))
    if seams := _seams(label_map, counts):
        text = f"has {len(seams)} of {len(ids)} ids only in lines under 3 pixels wide: was it smoothed, or a JPEG?"
        problems.append(LabelProblem(path, "smoothed-mask", text, "warning"))
    return problems


def _check_range(path: Path, ids: set[int], classes: Palette) -> list[LabelProblem]:
    wrong = sorted(i for i in ids if classes.from_disk[i] == UNKNOWN)
    if not wrong:
        return []
    known = sorted({i for entry in classes.classes for i in entry.on_disk} | set(classes.ignored))
    shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
    whole = known[:-1] == list(range(known[-2] + 1))
    meant = f"0..{known[-2]}" if whole else ", ".join(map(str, known[:-1][:20])) + ", ..." * (len(known) > 21)
    if wrong == [len(classes)]:
        text = f'holds id {len(classes)}, the number of classes, which mmseg learns as "no object" (known are {meant})'
        return [LabelProblem(path, "id-equals-num-classes", text)]
    text = f"holds ids {shown} that no class has (known are {meant}, and 255 = ignore)"
    return [LabelProblem(path, "id-out-of-range", text)]


def _seams(label_map: np.ndarray, counts: dict[int, int]) -> set[int]:
    """Ids that nowhere fill 3 x 3 pixels, if they are at least five and half of all. Looks only where it may be so."""
    small = [i for i, pixels in counts.items() if pixels < label_map.size / 50]
    if len(counts) < _MANY_IDS or 2 * len(small) < len(counts):
        return set()
    kernel = np.ones((3, 3), np.uint8)
    inside = label_map[cv2.erode(label_map, kernel) == cv2.dilate(label_map, kernel)]
    thin = counts.keys() - (count_ids(inside).keys() if inside.size else set())
    return thin if len(thin) >= 5 and 2 * len(thin) >= len(counts) else set()


def check_sizes(label: Path, label_size: Iterable[int], image_size: Iterable[int]) -> list[LabelProblem]:
    """Compare sizes `(H, W)` of a label map and of its image as a person sees it."""
    height, width = label_size
    image_height, image_width = image_size
    if (height, width) == (image_height, image_width):
        return []
    text = f"is {width} x {height} (width x height) but its image is {image_width} x {image_height}"
    if (height, width) == (image_width, image_height):
        text += ": EXIF turns the image; `m2f convert DATA NEW` turns the mask likewise"
        return [LabelProblem(label, "turned", text)]
    return [LabelProblem(label, "size-mismatch", f"{text}: make the mask in the size of the image")]


def seen_size(image: Path) -> tuple[int, int]:
    """`(H, W)` of an image file after its EXIF orientation, read from the header alone."""
    with Image.open(image) as opened:
        width, height = opened.size
        turned = opened.getexif().get(274, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)
