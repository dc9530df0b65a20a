"""One pair of files: read, check, resize, write. What a worker process of `preparation` does.

Imports little, so that workers start quickly.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from m2f_helpers import files
from m2f_helpers.data.labels import LabelProblem, check_ids, check_sizes, count_ids, read_label
from m2f_helpers.data.resize import PAD_COLOR, place, place_image, place_label_map
from m2f_helpers.images import decode_bgr
from m2f_helpers.palette import IGNORE, Palette, ade20k_palette

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
    classes: Palette

    def as_json(self) -> dict:
        """For manifest and report; ADE20K's classes by that name."""
        classes = {entry.name: list(entry.on_disk) for entry in self.classes.classes}
        classes = "ADE20K" if self.classes == ade20k_palette() else classes
        return {"size": list(self.size), "mode": self.mode, "classes": classes, "ignored": list(self.classes.ignored)}


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
        """Tells whether the source has changed: the image's name and `files.stamp` of both; empty if one is gone."""
        try:
            return [self.image.name, *files.stamp(self.image), *files.stamp(self.label)]
        except OSError:
            return []


def outputs(dst: Path, key: str) -> tuple[str, str]:
    """Image and label map of `key` below `dst`."""
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
        return failure(job, refused.args[0])
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
    problems = check_ids(job.label, label_map, before, settings.classes)
    _refuse(problems)
    plan = place(label_map.shape, settings.size, settings.mode)
    small = place_label_map(label_map, plan, int(settings.classes.to_disk[IGNORE]))
    record = {"before": list(before), "after": count_ids(small)}
    record |= {"warnings": [describe(problem) for problem in problems]} if problems else {}
    return cv2.imencode(".png", small, PNG_OPTIONS)[1], stamp, label_map.shape, record


def _image_file(job: Job, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """The bytes to write and the source's stamp; `size` is that of the label map."""
    data, stamp = files.read(job.image)
    image = _named(job.image, decode_bgr, data)
    _refuse(check_sizes(job.label, size, image.shape[:2]))
    small = place_image(image, place(size, job.settings.size, job.settings.mode), PAD_COLOR[::-1])
    return cv2.imencode(".jpg", small, JPEG_OPTIONS)[1], stamp


def _refuse(problems: list[LabelProblem]) -> None:
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise _Refused(errors)


class _Refused(Exception):
    """Raised with the problems of a pair."""


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
