"""One pair of files: read, check, resize, write. What a worker process of `preparation` does.

Imports little, so that workers start quickly.
"""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from m2f_helpers import files
from m2f_helpers.data.labels import IGNORE, LabelProblem, check_ids, check_sizes, count_ids, read_label
from m2f_helpers.data.resize import PAD_COLOR, place, place_image, place_label_map
from m2f_helpers.images import MAX_PIXELS, read_image

JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 95]
PNG_OPTIONS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    # ids have no gradients to predict: without a filter the file is smaller, and read in half the time while training
    PNG_OPTIONS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
_ARENA = 31 * 2**20  # bytes, see `keep_freed_memory`


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of the output."""

    size: tuple[int, int]
    mode: str
    num_classes: int
    reduce_zero_label: bool

    @property
    def fill(self) -> int:
        """Id for padding: 0 = other, or 255 where ids count from 0."""
        return 0 if self.reduce_zero_label else IGNORE


@dataclass(frozen=True)
class Job:
    """One pair to prepare: `key` is `split/name`, `dst` the destination's root."""

    key: str
    image: Path
    label: Path
    dst: Path
    settings: Settings

    @property
    def outputs(self) -> tuple[str, str]:
        """Files of the prepared pair."""
        return outputs(self.dst, self.key)

    def source_stamp(self) -> list:
        """Tells whether the source has changed: the picture's name and `files.stamp` of both; empty if one is gone."""
        try:
            return [self.image.name, *files.stamp(self.image), *files.stamp(self.label)]
        except OSError:
            return []


def outputs(dst: Path, key: str) -> tuple[str, str]:
    """Picture and label map of `key` below `dst`."""
    return os.path.join(dst, "images", f"{key}.jpg"), os.path.join(dst, "annotations", f"{key}.png")


class Result(NamedTuple):
    """One pair: its line of the manifest, or "" and the errors."""

    key: str
    line: str
    errors: list[list[str]]


def prepare_pair(job: Job) -> Result:
    """Check, resize and write one pair; nothing is written if anything is wrong with it."""
    try:
        record = _resize_and_write(job)
    except _Refused as refused:
        return failure(job, refused.problems)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"the disk is full; make room and run again, {job.dst} goes on from here"
            raise OSError(error.errno, text) from None
        path = Path(error.filename) if error.filename else job.image
        return failure(job, [LabelProblem(path, "unreadable", f"cannot be read: {error.strerror or error}")])
    return Result(job.key, json.dumps(record), [])


def _resize_and_write(job: Job) -> dict:
    """The record of one pair."""
    label_file, label_stamp, size, record = _label_file(job)
    image_file, image_stamp = _image_file(job, size)
    stamps = []
    for path, data in zip(job.outputs, (image_file, label_file), strict=True):
        stamps += [*files.write(path, data), zlib.crc32(data)]
    return {"key": job.key, "source": [job.image.name, *image_stamp, *label_stamp], "output": stamps, **record}


def _label_file(job: Job) -> tuple[np.ndarray, list[int], tuple[int, int], dict]:
    """The bytes to write, the source's stamp and size `(H, W)`, and what the manifest is to say of it."""
    settings = job.settings
    data, stamp = files.read(job.label)
    label_map = _named(job.label, read_label, data)
    before = count_ids(label_map)
    problems = check_ids(job.label, label_map, before, settings.num_classes, settings.reduce_zero_label)
    _refuse(problems)
    small = place_label_map(label_map, place(label_map.shape, settings.size, settings.mode), settings.fill)
    record = {"before": list(before), "after": count_ids(small)}
    record |= {"warnings": [describe(problem) for problem in problems]} if problems else {}
    return cv2.imencode(".png", small, PNG_OPTIONS)[1], stamp, label_map.shape, record


def _image_file(job: Job, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """The bytes to write and the source's stamp; `size` is that of the label map."""
    data, stamp = files.read(job.image)
    image = _named(job.image, _decode_bgr, data)
    _refuse(check_sizes(job.label, size, image.shape[:2]))
    small = place_image(image, place(size, job.settings.size, job.settings.mode), PAD_COLOR[::-1])
    return cv2.imencode(".jpg", small, JPEG_OPTIONS)[1], stamp


def _refuse(problems: list[LabelProblem]) -> None:
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise _Refused(errors)


class _Refused(Exception):
    def __init__(self, problems: list[LabelProblem]) -> None:
        super().__init__(str(problems[0]))
        self.problems = problems


def _named(path: Path, decode: Callable, data: bytes) -> np.ndarray:
    try:
        return decode(data)
    except (ValueError, cv2.error, MemoryError) as error:
        code = getattr(error, "code", "unreadable-image")
        raise _Refused([LabelProblem(path, str(code), str(error))]) from None


def failure(job: Job, problems: list[LabelProblem]) -> Result:
    """The result of a pair of which nothing was written."""
    return Result(job.key, "", [describe(problem) for problem in problems])


def describe(problem: LabelProblem) -> list[str]:
    """`[file, code, reason]`, as it stands in the report."""
    return ["/".join(problem.path.parts[-3:]), problem.code, problem.message]


# --- Pictures ----------------------------------------------------------------------------------------------------


def _decode_bgr(data: bytes) -> np.ndarray:
    """BGR, because OpenCV reads and writes it without a conversion; plain JPEGs take its fast decoder."""
    if not data:
        raise ValueError("is an empty file: copy or download it again")
    if _is_plain_jpeg(data):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            return image
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.ascontiguousarray(_to_rgb(picture)[..., ::-1])
    except Image.DecompressionBombError as error:
        raise ValueError(f"is too large: {error}") from None
    except (OSError, SyntaxError, EOFError, zlib.error) as error:
        raise ValueError(f"is not a picture that can be read: {' '.join(str(error).split())}") from None


def _is_plain_jpeg(data: bytes) -> bool:
    """True for a JPEG that OpenCV decodes as Pillow does: grey or three colours of 8 bits, not too large, and complete.

    Walks the segments up to the frame header (JPEG standard, ITU-T T.81, B.2.2), a tenth of the time of opening it with
    Pillow. The end marker counts: older OpenCV takes half a JPEG for a whole one, Pillow never does.
    """
    if data[:2] != b"\xff\xd8" or b"\xff\xd9" not in data[-64:]:
        return False
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return bits == 8 and components in (1, 3) and 0 < height * width <= MAX_PIXELS
        at += 2 + length
    return False


def _to_rgb(picture: Image.Image) -> np.ndarray:
    """As `images.read_image`, but what is transparent lies on white, as viewers show it."""
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = ImageOps.exif_transpose(picture).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    try:
        return read_image(picture)
    except ValueError as error:
        raise ValueError(str(error).replace("the PIL picture ", "")) from None


# --- Processes ---------------------------------------------------------------------------------------------------


def prepare_chunk(jobs: list[Job]) -> list[Result]:
    """Several pairs in one message between processes."""
    return [prepare_pair(job) for job in jobs]


def start_worker() -> None:
    """One thread per process, and no worker outlives a parent that was killed."""
    cv2.setNumThreads(1)
    keep_freed_memory()
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def keep_freed_memory() -> None:
    """Spare the system from fetching the same pages again for every pair, a tenth of the whole time.

    The C library gives large freed blocks back at once, up to the size of the largest one it has seen freed. So it is
    shown one of 31 MB (its own limit is 32 MB), which is never written to and therefore costs nothing.
    """
    np.empty(_ARENA, np.uint8)
