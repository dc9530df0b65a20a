"""Brings pictures and label maps to one size: fast, resumable, and without damage to the labels. Built in notebook 02.

`prepare` reads a data set in ADE20K's layout and writes another one. Pictures go through a filter that averages (no
aliasing), label maps always take the nearest pixel, because an average of two class ids is a third class.

Every file is written under a temporary name and then renamed. `manifest.jsonl` in the destination remembers, line by
line, what was made from which source; `report.json` is the closing report. Both come out the same however often the run
was interrupted (apart from time stamps in the manifest).
"""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import psutil
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from m2f_helpers import ade20k
from m2f_helpers.labels import IGNORE, LabelProblem, check_ids, check_sizes, count_ids, read_label
from m2f_helpers.palette import NUM_CLASSES, ade20k_palette
from m2f_helpers.pictures import read_image

MODES = ("stretch", "crop", "pad")
PAD_COLOR = (124, 116, 104)  # RGB, the mean that the models subtract
JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 95]
PNG_OPTIONS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]  # fastest, and small for label maps
MANIFEST = "manifest.jsonl"
REPORT = "report.json"
_VERSION = 1
_CHUNK = 16  # pairs per message to a worker
# The arrays of the pair before are let go only here. Freed at once, their memory would go back to the system and be
# fetched again, page by page, for the next pair: a fifth of the whole time.
_LAST_ARRAYS: list[np.ndarray] = []
_WORTH_A_POOL = 150  # below so many pairs, starting workers takes longer than the work


# --- Arrays ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placement:
    """Which part of the source lands where: `source` and `target` are boxes (top, left, height, width) in pixels."""

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    size: tuple[int, int]


def place(source_size: Sequence[int], size: Sequence[int], mode: str = "stretch") -> Placement:
    """Plan a resize.

    Args:
        source_size: `[H, W]` of the source.
        size: `[H, W]` wanted.
        mode: `"stretch"` changes the aspect ratio, `"crop"` cuts the longer side at both ends, `"pad"` keeps everything
            and fills the rest below or to the right.

    Returns: the boxes.
    Raises: ValueError for another mode or a size below 1.
    """
    _check_size_and_mode(size, mode)
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
    """Resize a picture: pixels are averaged where it shrinks, interpolated where it grows.

    Args:
        image: RGB (or BGR) `(H, W, 3)` uint8.
        size: `[H, W]` wanted.
        mode: as in `place`; padding gets the mean colour of ImageNet, RGB 124, 116, 104.

    Returns: new `(*size, 3)` uint8 array.
    """
    return _place_image(image, place(image.shape[:2], size, mode), PAD_COLOR)


def resize_label_map(label_map: np.ndarray, size: Sequence[int], mode: str = "stretch", fill: int = 0) -> np.ndarray:
    """Resize a label map: every pixel takes the id of the nearest source pixel, so no id is invented.

    Args:
        label_map: ids, `(H, W)` uint8.
        size: `[H, W]` wanted.
        mode: as in `place`; the picture and its label map must use the same.
        fill: id for padding, 0 = other on disk, or 255 = ignore.

    Returns: new `(*size)` uint8 array; all its ids occur in the source, or are `fill` with mode `"pad"`.
    """
    plan = place(label_map.shape, size, mode)
    top, left, height, width = plan.source
    part = label_map[top : top + height, left : left + width]
    inner = cv2.resize(part, plan.target[:1:-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return _on_ground(inner, plan, fill)


def _place_image(image: np.ndarray, plan: Placement, color: Sequence[int]) -> np.ndarray:
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


def _check_size_and_mode(size: Sequence[int], mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {list(MODES)}, got {mode!r}")
    if len(size) != 2 or min(size) < 1 or max(size) > 8192:
        raise ValueError(f"size must be [H, W] with 1 to 8192 pixels each, got {list(size)}")


# --- Files -------------------------------------------------------------------------------------------------------


def _decode_bgr(data: bytes) -> np.ndarray:
    """BGR, because OpenCV reads and writes it without a conversion; plain JPEGs take its fast decoder."""
    if not data:
        raise ValueError("is an empty file: copy or download it again")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            # the end marker counts: older OpenCV takes half a JPEG for a whole one, Pillow never does
            whole_jpeg = picture.format in ("JPEG", "MPO") and b"\xff\xd9" in data[-64:]
            if whole_jpeg and picture.mode in ("RGB", "L"):
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                if image is not None:
                    return image
            return np.ascontiguousarray(_to_rgb(picture)[..., ::-1])
    except Image.DecompressionBombError as error:
        raise ValueError(f"is too large: {error}") from None
    except (OSError, SyntaxError, EOFError, zlib.error) as error:
        raise ValueError(f"is not a picture that can be read: {' '.join(str(error).split())}") from None


def _to_rgb(picture: Image.Image) -> np.ndarray:
    """As `pictures.read_image`, but what is transparent lies on white, as viewers show it."""
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = ImageOps.exif_transpose(picture).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    try:
        return read_image(picture)
    except ValueError as error:
        raise ValueError(str(error).replace("the PIL picture ", "")) from None


def _write(path: Path, data: bytes | np.ndarray) -> list[int]:
    """Write under a temporary name, then rename. Returns size and time stamp."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb", buffering=0) as file:
            file.write(data)
            status = os.fstat(file.fileno())
        os.replace(temporary, path)
        return [status.st_size, status.st_mtime_ns]
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


# --- One pair ----------------------------------------------------------------------------------------------------


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
class _Job:
    split: str
    pair: ade20k.Pair
    dst: Path
    settings: Settings

    @property
    def key(self) -> str:
        return f"{self.split}/{self.pair.name}"

    @property
    def outputs(self) -> tuple[Path, Path]:
        return _outputs(self.dst, self.key)


def _outputs(dst: Path, key: str) -> tuple[Path, Path]:
    split, name = key.split("/", 1)
    return dst / "images" / split / f"{name}.jpg", dst / "annotations" / split / f"{name}.png"


def _prepare_pair(job: _Job) -> dict:
    """Check, resize and write one pair. Returns its line of the manifest; `errors` in it if nothing was written."""
    source = _source_stamp(job.pair)
    try:
        image_data, label_data = job.pair.image.read_bytes(), job.pair.label.read_bytes()
        label_map = _named(job.pair.label, read_label, label_data)
        before = count_ids(label_map)
        problems = _check(job, label_map, before)
        if any(problem.severity == "error" for problem in problems):
            return _failure(job, [p for p in problems if p.severity == "error"])
        image = _named(job.pair.image, _decode_bgr, image_data)
        problems = check_sizes(job.pair.label, label_map.shape, image.shape[:2]) + problems
        if problems and problems[0].severity == "error":
            return _failure(job, problems[:1])
        return {"key": job.key, "source": source, **_resize_and_write(job, image, label_map, before)} | _warned(
            problems
        )
    except _Refused as refused:
        return _failure(job, [refused.problem])
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"the disk is full; make room and run again, {job.dst} goes on from here"
            raise OSError(error.errno, text) from None
        path = Path(error.filename) if error.filename else job.pair.image
        return _failure(job, [LabelProblem(path, "unreadable", f"cannot be read: {error.strerror or error}")])


class _Refused(Exception):
    def __init__(self, problem: LabelProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _named(path: Path, decode, data: bytes) -> np.ndarray:
    try:
        return decode(data)
    except (ValueError, cv2.error, MemoryError) as error:
        code = getattr(error, "code", "unreadable-image")
        raise _Refused(LabelProblem(path, str(code), str(error))) from None


def _check(job: _Job, label_map: np.ndarray, counts: dict[int, int]) -> list[LabelProblem]:
    settings = job.settings
    return check_ids(job.pair.label, label_map, counts, settings.num_classes, settings.reduce_zero_label)


def _resize_and_write(job: _Job, image: np.ndarray, label_map: np.ndarray, before: dict[int, int]) -> dict:
    settings = job.settings
    plan = place(image.shape[:2], settings.size, settings.mode)
    small = _place_image(image, plan, PAD_COLOR[::-1])
    small_labels = resize_label_map(label_map, settings.size, settings.mode, settings.fill)
    _LAST_ARRAYS[:] = image, label_map, small, small_labels
    datas = (cv2.imencode(".jpg", small, JPEG_OPTIONS)[1], cv2.imencode(".png", small_labels, PNG_OPTIONS)[1])
    stamps = []
    for path, data in zip(job.outputs, datas, strict=True):
        stamps += [*_write(path, data), zlib.crc32(data)]
    return {"output": stamps, "before": list(before), "after": count_ids(small_labels)}


def _failure(job: _Job, problems: list[LabelProblem]) -> dict:
    return {"key": job.key, "errors": [_describe(problem) for problem in problems]}


def _warned(problems: list[LabelProblem]) -> dict:
    return {"warnings": [_describe(problem) for problem in problems]} if problems else {}


def _describe(problem: LabelProblem) -> list[str]:
    return ["/".join(problem.path.parts[-3:]), problem.code, problem.message]


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _source_stamp(pair: ade20k.Pair) -> list:
    try:
        return [pair.image.name, *_stamp(pair.image), *_stamp(pair.label)]
    except OSError:
        return []


# --- Manifest ----------------------------------------------------------------------------------------------------


def _header(settings: Settings) -> dict:
    return json.loads(json.dumps({"version": _VERSION, "settings": settings.__dict__}))


def _read_manifest(dst: Path) -> tuple[dict, dict[str, dict]]:
    """Header and entries by key; a line that a killed run left unfinished is dropped."""
    path = dst / MANIFEST
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    records = [record for record in records if isinstance(record, dict)]
    if not records or "settings" not in records[0]:
        return {}, {record["key"]: record for record in records if "key" in record}
    return records[0], {record["key"]: record for record in records[1:] if "key" in record}


def _write_manifest(dst: Path, header: dict, entries: dict[str, dict]) -> None:
    lines = [header, *(entries[key] for key in sorted(entries))]
    _write(dst / MANIFEST, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _is_current(job: _Job, entry: dict | None) -> bool:
    """True if the output was made from this very source and lies there unchanged."""
    if entry is None or not entry.get("source") or entry["source"] != _source_stamp(job.pair):
        return False
    for k, path in enumerate(job.outputs):
        size, modified, checksum = entry["output"][3 * k : 3 * k + 3]
        try:
            found = _stamp(path)
        except OSError:
            return False
        if found != [size, modified] and (found[0] != size or zlib.crc32(path.read_bytes()) != checksum):
            return False
    return True


# --- Running -----------------------------------------------------------------------------------------------------


def prepare(
    src: str | Path,
    dst: str | Path,
    size: Sequence[int] = (512, 512),
    mode: str = "stretch",
    workers: int | None = None,
    num_classes: int = NUM_CLASSES,
    reduce_zero_label: bool = True,
    progress: bool = True,
) -> PrepareReport:
    """Resize a data set. A second run does only what is missing or changed; bad files are named and left out.

    Args:
        src: data set in ADE20K's layout (`images`, `annotations`, each with `training` and/or `validation`).
        dst: folder for the result, in the same layout, every picture as .jpg and every label map as .png.
        size: `[H, W]` in pixels.
        mode: `"stretch"`, `"crop"` or `"pad"`, see `place`.
        workers: processes; None takes one per core, or works in this process if there is little to do. A script that
            asks for more than 1 must do so below `if __name__ == "__main__":`.
        num_classes: classes without "other", for the check of the labels.
        reduce_zero_label: True if ids on disk run 1..num_classes with 0 = other, as in ADE20K; see `check_labels`.
        progress: show a bar with the rate.

    Returns: the report, also in `dst/report.json`.
    Raises: FileNotFoundError if `src` is no such data set; ValueError for impossible arguments; OSError if the disk is
        full.
    """
    start = time.perf_counter()
    _check_size_and_mode(size, mode)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    src, dst = ade20k.data_root(src), Path(dst)
    _check_destination(src, dst)
    settings = Settings((int(size[0]), int(size[1])), mode, num_classes, reduce_zero_label)
    jobs, lonely = _make_jobs(src, dst, settings)
    entries, todo, old_keys = _resume(dst, settings, jobs)
    kept = len(entries)
    workers = workers or _choose_workers(len(todo))
    failures: dict[str, list] = defaultdict(list)
    for problem in lonely:
        failures[f"{problem.path.parent.name}/{problem.path.stem}"].append(_describe(problem))
    with open(dst / MANIFEST, "a", encoding="utf-8") as manifest:
        for result in _run(todo, workers, progress):
            if "errors" in result:
                failures[result["key"]] += result["errors"]
                continue
            entries[result["key"]] = result
            manifest.write(json.dumps(result) + "\n")
            manifest.flush()
    _remove_outdated(dst, old_keys - entries.keys())
    _write_manifest(dst, _header(settings), entries)
    report = _report(dst, settings, entries, failures, kept, workers, time.perf_counter() - start)
    _write(dst / REPORT, report.to_json().encode())
    return report


def _check_destination(src: Path, dst: Path) -> None:
    a, b = src.resolve(), dst.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise ValueError(f"source {src} and destination {dst} must not contain each other: choose another destination")
    if dst.exists() and not dst.is_dir():
        raise ValueError(f"{dst} is a file: choose another destination")
    foreign = dst.is_dir() and not (dst / MANIFEST).exists() and any(not p.name.startswith(".") for p in dst.iterdir())
    if foreign:
        raise ValueError(f"{dst} holds files that `prepare` did not write: choose an empty or new folder")


def _make_jobs(src: Path, dst: Path, settings: Settings) -> tuple[list[_Job], list[LabelProblem]]:
    jobs, problems = [], []
    for split in ade20k.SPLITS:
        pairs, found = ade20k.scan(src, split)
        problems += found
        jobs += [_Job(split, pair, dst, settings) for pair in pairs]
    return jobs, problems


def _resume(dst: Path, settings: Settings, jobs: list[_Job]) -> tuple[dict[str, dict], list[_Job], set[str]]:
    """Clear up behind earlier runs. Returns what is done, what is to do, and all keys that ever had outputs."""
    header, old = _read_manifest(dst)
    reusable = old if header == _header(settings) else {}
    current = {job.key for job in jobs if _is_current(job, reusable.get(job.key))}
    for split in ade20k.SPLITS:
        for kind in ("images", "annotations"):
            folder = dst / kind / split
            if any(job.split == split for job in jobs):
                folder.mkdir(parents=True, exist_ok=True)
    dst.mkdir(parents=True, exist_ok=True)
    _remove_parts(dst)
    # entries that are not current keep their line, so that their outputs are still known as ours
    _write_manifest(dst, _header(settings), {key: _stale(entry, key in current) for key, entry in old.items()})
    return {key: old[key] for key in sorted(current)}, [job for job in jobs if job.key not in current], set(old)


def _stale(entry: dict, current: bool) -> dict:
    return entry if current else {**entry, "source": []}


def _remove_parts(dst: Path) -> None:
    """Temporary files of runs that no longer live."""
    for path in [*dst.glob(".*.part"), *dst.glob("*/*/.*.part")]:
        pid = path.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def _remove_outdated(dst: Path, keys: set[str]) -> None:
    """Outputs whose source is gone or has become bad: nobody shall train on them."""
    for key in keys:
        for path in _outputs(dst, key):
            path.unlink(missing_ok=True)


def _choose_workers(todo: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if todo < _WORTH_A_POOL else min(cores, 32)


def _run(jobs: list[_Job], workers: int, progress: bool) -> Iterator[dict]:
    if not jobs:
        return
    with tqdm(total=len(jobs), desc="preparing", unit="pair", disable=None if progress else True) as bar:
        results = map(_prepare_pair, jobs) if workers == 1 else _run_pool(jobs, workers)
        for result in results:
            bar.update()
            yield result


def _run_pool(jobs: list[_Job], workers: int) -> Iterator[dict]:
    """Results in any order. Only a few chunks are under way at a time, so memory does not grow with the data set."""
    chunks = [jobs[k : k + _CHUNK] for k in range(0, len(jobs), _CHUNK)]
    running: dict[Future, list[_Job]] = {}
    lost: list[_Job] = []
    with _pool(workers) as pool:
        try:
            while chunks or running:
                while chunks and len(running) < 3 * workers:
                    chunk = chunks.pop(0)
                    running[pool.submit(_prepare_chunk, chunk)] = chunk
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield from future.result()
                    del running[future]
        except BrokenProcessPool:
            lost = [job for chunk in [*running.values(), *chunks] for job in chunk]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if lost:
        yield from _find_killer(lost, workers, suspects=3 * workers * _CHUNK)


def _find_killer(jobs: list[_Job], workers: int, suspects: int) -> Iterator[dict]:
    """A worker died. Give each suspect a process of its own, then go on with the rest."""
    for job in jobs[:suspects]:
        with _pool(1) as pool:
            try:
                yield pool.submit(_prepare_pair, job).result()
            except BrokenProcessPool:
                text = "killed the process that read it (out of memory, or a damaged file)"
                yield _failure(job, [LabelProblem(job.pair.image, "worker-died", text)])
    if jobs[suspects:]:
        yield from _run_pool(jobs[suspects:], workers)


def _prepare_chunk(jobs: list[_Job]) -> list[dict]:
    return [_prepare_pair(job) for job in jobs]


def _pool(workers: int) -> ProcessPoolExecutor:
    """Fresh processes (spawn): forking a notebook's kernel, with its threads, can hang."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        wait([pool.submit(os.getpid) for _ in range(workers)], return_when=FIRST_COMPLETED).done.pop().result()
    except BrokenProcessPool:
        raise RuntimeError(
            'the worker processes could not start. In a script, call prepare below `if __name__ == "__main__":`, '
            "or pass workers=1"
        ) from None
    return pool


def _start_worker() -> None:
    """One thread per process, and no worker outlives a parent that was killed."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


# --- Report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassCount:
    """How much of one class the prepared data set holds; `id` as on disk, 0 = other."""

    id: int
    name: str
    pixels: int
    pictures: int


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did.

    `pairs` are all good pairs in the destination, `written` those of this run. `failed` and `warnings` hold
    [file, code, reason]; `vanished` names, per pair, classes that the resize left without a pixel.
    """

    root: Path
    settings: Settings
    pairs: int
    written: int
    failed: list[list[str]]
    warnings: list[list[str]]
    classes: list[ClassCount]
    vanished: dict[str, list[str]]
    workers: int = field(compare=False)
    seconds: float = field(compare=False)

    @property
    def ok(self) -> bool:
        """True if no file failed."""
        return not self.failed

    @property
    def pairs_per_second(self) -> float:
        """Rate of this run."""
        return self.written / self.seconds if self.seconds else 0.0

    def to_json(self) -> str:
        """The report without times, so that equal data give equal bytes."""
        content = {
            "settings": self.settings.__dict__,
            "pairs": self.pairs,
            "failed": self.failed,
            "warnings": self.warnings,
            "classes": [entry.__dict__ for entry in self.classes],
            "vanished": self.vanished,
        }
        return json.dumps(content, indent=1) + "\n"

    def table(self):
        """The classes as a pandas DataFrame, most pixels first."""
        import pandas as pd

        columns = ["id", "name", "pixels", "pictures"]
        rows = [[getattr(entry, column) for column in columns] for entry in self.classes]
        return pd.DataFrame(rows, columns=columns).sort_values("pixels", ascending=False, ignore_index=True)

    def __str__(self) -> str:
        """The closing report as text."""
        height, width = self.settings.size
        lines = [
            f"{self.pairs} pairs of {height} x {width} ({self.settings.mode}) in {self.root}: {self.written} written, "
            f"{self.pairs - self.written} kept; {self.seconds:.1f} s, {self.pairs_per_second:.0f} pairs/s, "
            f"{self.workers} process{'es' * (self.workers > 1)}",
            f"{sum(entry.id not in (0, IGNORE) for entry in self.classes)} classes; per class: {self.root / REPORT}",
        ]
        lines += [f"vanished from {key}: {', '.join(names)}" for key, names in list(self.vanished.items())[:5]]
        if len(self.vanished) > 5:
            lines.append(f"... and from {len(self.vanished) - 5} more pictures")
        lines += [f"warning: {file} {text}" for file, _, text in self.warnings[:5]]
        lines += [f"failed: {file} {text}" for file, _, text in self.failed[:20]]
        if len(self.failed) > 20:
            lines.append(f"... and {len(self.failed) - 20} more failures")
        return "\n".join(lines)


def _report(dst, settings, entries, failures, kept, workers, seconds) -> PrepareReport:
    pixels: dict[int, int] = {}
    pictures: dict[int, int] = {}
    vanished, warnings = {}, []
    for key in sorted(entries):
        after = {int(i): n for i, n in entries[key]["after"].items()}
        for i, count in after.items():
            pixels[i] = pixels.get(i, 0) + count
            pictures[i] = pictures.get(i, 0) + 1
        if gone := [i for i in entries[key]["before"] if i not in after]:
            vanished[key] = [_name(i, settings) for i in gone]
        warnings += entries[key].get("warnings", [])
    classes = [ClassCount(i, _name(i, settings), pixels[i], pictures[i]) for i in sorted(pixels)]
    failed = [problem for key in sorted(failures) for problem in failures[key]]
    written = len(entries) - kept
    return PrepareReport(dst, settings, len(entries), written, failed, warnings, classes, vanished, workers, seconds)


@cache
def _name(label_id: int, settings: Settings) -> str:
    if label_id == IGNORE:
        return "ignore"
    if label_id == 0 and settings.reduce_zero_label:
        return "other"
    if settings.num_classes == NUM_CLASSES and settings.reduce_zero_label:
        return ade20k_palette().names[label_id - 1]
    return f"class {label_id}"


# --- What the notebooks call -------------------------------------------------------------------------------------


def prepared_data(
    data_dir: str | Path = "",
    out_dir: str | Path = "runs",
    train: int = 48,
    val: int = 16,
    domain: str = "dusk",
    size: Sequence[int] = (512, 512),
    mode: str = "stretch",
) -> Path:
    """The prepared data set of notebooks 02, 04 and 05: made where it is missing, left alone where it is there.

    Args:
        data_dir: data set in ADE20K's layout; "" draws scenes into `out_dir/scenes` first.
        out_dir: everything is written below it.
        train: number of training scenes (only for `data_dir=""`).
        val: number of validation scenes (likewise).
        domain: `"day"` or `"dusk"` (likewise).
        size: `[H, W]` of the result.
        mode: see `place`.

    Returns: `out_dir/prepared`.
    Files that cannot be used are left out and printed.

    Raises: ValueError if no pair can be used; FileNotFoundError if `data_dir` is no data set.
    """
    from m2f_helpers.scenes import make_scenes  # here, so that the workers of `prepare` start without it

    out_dir = Path(out_dir)
    source = Path(data_dir) if data_dir else make_scenes(out_dir / "scenes", train, val, domain)
    report = prepare(source, out_dir / "prepared", size, mode)
    if not report.pairs:
        raise ValueError(f"{source} holds no pair that can be used: {report}")
    if not report.ok:
        print(report)
    return report.root
