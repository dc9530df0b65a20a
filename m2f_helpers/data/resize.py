"""Brings one image and its label map to another size without damage to the labels. Built in notebook 02.

Images go through a filter that averages (no aliasing), label maps always take the nearest pixel, because an average
of two class ids is a third class. `preparation.prepare` does it for a whole data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MODES = ("stretch", "crop", "pad")
PAD_COLOR = (124, 116, 104)  # RGB, the mean that the models subtract


@dataclass(frozen=True)
class Placement:
    """Which part of the source lands where: `source` and `target` are boxes (top, left, height, width) in pixels."""

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    size: tuple[int, int]


def place(source_size: Sequence[int], size: Sequence[int], mode: str = "stretch") -> Placement:
    """Plan a resize from `source_size` to `size`, both `[H, W]`; ValueError for another mode or a size below 1.

    `"stretch"` changes the aspect ratio, `"crop"` cuts the longer side at both ends, `"pad"` keeps everything and fills
    the rest below or to the right.
    """
    check_size_and_mode(size, mode)
    (src_h, src_w), (height, width) = source_size, size
    whole = (0, 0, src_h, src_w)
    if mode == "stretch":
        return Placement(whole, (0, 0, height, width), (height, width))
    if mode == "crop":
        cut_h, cut_w = min(src_h, round(src_w * height / width)), min(src_w, round(src_h * width / height))
        cut_h, cut_w = max(1, cut_h), max(1, cut_w)
        box = ((src_h - cut_h) // 2, (src_w - cut_w) // 2, cut_h, cut_w)
        return Placement(box, (0, 0, height, width), (height, width))
    scale = min(height / src_h, width / src_w)
    fit = (max(1, min(height, round(src_h * scale))), max(1, min(width, round(src_w * scale))))
    return Placement(whole, (0, 0, *fit), (height, width))


def resize_image(image: np.ndarray, size: Sequence[int], mode: str = "stretch") -> np.ndarray:
    """Resize an RGB (or BGR) image `(H, W, 3)` uint8 to `size` `[H, W]`; `mode` as in `place`.

    Pixels are averaged where it shrinks, interpolated where it grows; padding is ImageNet's mean, RGB 124, 116, 104.
    """
    return place_image(image, place(image.shape[:2], size, mode), PAD_COLOR)


def resize_label_map(label_map: np.ndarray, size: Sequence[int], mode: str = "stretch", fill: int = 0) -> np.ndarray:
    """Resize ids `(H, W)` uint8 to `size` `[H, W]`; `mode` as for the image.

    Every pixel takes the id of the nearest source pixel, so no id is invented; `fill` (0 = other on disk, 255 = ignore)
    is for padding.
    """
    return place_label_map(label_map, place(label_map.shape, size, mode), fill)


def place_label_map(label_map: np.ndarray, plan: Placement, fill: int) -> np.ndarray:
    """`resize_label_map` with a plan that is made already."""
    top, left, height, width = plan.source
    part = label_map[top : top + height, left : left + width]
    inner = cv2.resize(part, plan.target[:1:-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return _on_ground(inner, plan, fill)


def place_image(image: np.ndarray, plan: Placement, color: Sequence[int]) -> np.ndarray:
    """`resize_image` with a plan that is made already; `color` fills the padding, in the image's channel order."""
    top, left, height, width = plan.source
    part = image[top : top + height, left : left + width]
    new_h, new_w = plan.target[2:]
    if new_h <= height and new_w <= width:
        inner = cv2.resize(part, (new_w, new_h), interpolation=cv2.INTER_AREA)
    else:  # first shrink the side that shrinks, then enlarge the other
        inner = cv2.resize(part, (min(new_w, width), min(new_h, height)), interpolation=cv2.INTER_AREA)
        inner = cv2.resize(inner, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    return _on_ground(inner, plan, color)


def _on_ground(inner: np.ndarray, plan: Placement, fill: int | Sequence[int]) -> np.ndarray:
    if inner.shape[:2] == plan.size:
        return inner
    ground = np.empty((*plan.size, *inner.shape[2:]), np.uint8)
    ground[:] = fill
    ground[: inner.shape[0], : inner.shape[1]] = inner
    return ground


def check_size_and_mode(size: Sequence[int], mode: str) -> None:
    """ValueError with got and expected, unless `place` can work with both."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {list(MODES)}, got {mode!r}")
    if len(size) != 2 or min(size) < 1 or max(size) > 8192:
        raise ValueError(f"size must be [H, W] with 1 to 8192 pixels each, got {list(size)}")
