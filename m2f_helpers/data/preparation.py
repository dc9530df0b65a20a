"""Prepares a data set: every pair in one size, fast, resumable, and nothing trusted unseen. Built in notebook 02.

`manifest.jsonl` in the destination remembers, line by line, what was made from which source; `report.json` is the
closing report. Both come out the same however often the run was interrupted (apart from time stamps in the manifest).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from m2f_helpers import files
from m2f_helpers.data import pairs
from m2f_helpers.data.labels import LabelProblem
from m2f_helpers.data.layout import DataFolder, read_data
from m2f_helpers.data.pairs import Job, Result, Settings
from m2f_helpers.data.resize import check_size_and_mode
from m2f_helpers.palette import CLASSES_FILE, IGNORE, Palette, ade20k_palette, write_classes
from m2f_helpers.resources import out_folder

MANIFEST = "manifest.jsonl"
REPORT = "report.json"
_VERSION = 2  # raised when the same source and settings would give other bytes
_CHUNK = 16  # pairs per message to a worker
_WORTH_A_POOL = 150  # below so many pairs, starting workers takes longer than the work


def _header(settings: Settings) -> dict:
    return {"version": _VERSION, "settings": settings.as_json()}


def _read_manifest(dst: Path) -> tuple[dict, dict[str, str]]:
    """Header, and lines by key; a line that a killed run left unfinished is dropped."""
    header, lines = {}, {}
    for record, line in files.json_lines(dst / MANIFEST):
        header = record if "settings" in record else header
        lines |= {record["key"]: line} if "key" in record else {}
    return header, lines


def _write_manifest(dst: Path, header: dict, lines: dict[str, str]) -> None:
    files.write(dst / MANIFEST, "\n".join([json.dumps(header), *(lines[key] for key in sorted(lines)), ""]))


def _is_current(job: Job, line: str | None) -> bool:
    """True if the output was made from this very source and lies there unchanged."""
    record = json.loads(line) if line else {}
    if not record.get("source") or record["source"] != job.source_stamp():
        return False
    for k, path in enumerate(job.outputs):
        size, modified, checksum = record["output"][3 * k : 3 * k + 3]
        try:
            found = files.stamp(path)
        except OSError:
            return False
        if found != [size, modified] and (found[0] != size or zlib.crc32(files.read(path)[0]) != checksum):
            return False
    return True


def prepare(
    src: str | Path,
    dst: str | Path,
    size: Sequence[int] = (512, 512),
    mode: str = "stretch",
    workers: int | None = None,
    classes: Palette | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Resize a data set. A second run does only what is missing or changed; bad files are named and left out.

    Args:
        src: data set that `layout.read_data` can read.
        dst: folder for the result, in ADE20K's layout, every image as .jpg and every label map as .png.
        size: `[H, W]` in pixels, 1 to 8192.
        mode: `"stretch"`, `"crop"` or `"pad"`, see `place`.
        workers: processes; None takes one per core, or works in this process if there is little to do. A script that
            asks for more than 1 must do so below `if __name__ == "__main__":`.
        classes: what the ids in the label maps mean; None takes the folder's own, see `DataFolder.classes`.

    Returns: the report, also in `dst/report.json`.
    Raises: FileNotFoundError if `src` is no such data set; ValueError for impossible arguments, or if another process
        writes into `dst`; OSError if the disk is full.
    """
    check_size_and_mode(size, mode)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    files.check_apart(src, dst)
    data, dst = read_data(src), Path(dst)
    _check_destination(dst)
    settings = Settings((int(size[0]), int(size[1])), mode, classes or data.classes)
    with files.locked(dst):
        return _prepare(data, dst, settings, workers, progress)


def _prepare(data: DataFolder, dst: Path, settings: Settings, workers: int | None, progress: bool) -> PrepareReport:
    start = time.perf_counter()
    jobs = _make_jobs(data, dst, settings)
    lines, todo, old_keys = _resume(dst, settings, jobs)
    kept = len(lines)
    workers = workers or _choose_workers(len(todo))
    failures: dict[str, list] = defaultdict(list)
    pairs.keep_freed_memory()
    for problem in data.problems:
        failures[f"{problem.path.parent.name}/{problem.path.stem}"].append(pairs.describe(problem))
    with open(dst / MANIFEST, "a", encoding="utf-8") as manifest:
        for result in _run(todo, workers, progress):
            if result.errors:
                failures[result.key] += result.errors
            else:
                lines[result.key] = result.line
                manifest.write(f"{result.line}\n")  # a run that is killed loses the last few and does them again
    for path in (path for key in old_keys - lines.keys() for path in pairs.outputs(dst, key)):
        Path(path).unlink(missing_ok=True)  # its source is gone or has become bad: nobody shall train on it
    _write_manifest(dst, _header(settings), lines)
    _write_classes(dst, settings.classes)
    report = _report(dst, settings, lines, failures, kept, workers, time.perf_counter() - start)
    files.write(dst / REPORT, report.to_json())
    return report


def _check_destination(dst: Path) -> None:
    foreign = dst.is_dir() and not (dst / MANIFEST).exists() and any(not p.name.startswith(".") for p in dst.iterdir())
    if foreign:
        raise ValueError(f"{dst} holds files that `prepare` did not write: choose an empty or new folder")


def _make_jobs(data: DataFolder, dst: Path, settings: Settings) -> list[Job]:
    pairs_of = data.splits.items()
    return [Job(f"{split}/{p.name}", p.image, p.label, dst, settings) for split, found in pairs_of for p in found]


def _resume(dst: Path, settings: Settings, jobs: list[Job]) -> tuple[dict[str, str], list[Job], set[str]]:
    """Clear up behind earlier runs. Returns what is done, what is to do, and all keys that ever had outputs."""
    header, old = _read_manifest(dst)
    reusable = old if header == _header(settings) else {}
    current = {job.key for job in jobs if _is_current(job, reusable.get(job.key))}
    files.remove_orphans(dst)
    files.remove_orphans(dst, "*/*/**/.*.part")
    done = {key: old[key] for key in sorted(current)}
    # what is not current keeps its line, so that its outputs are still known as ours
    stale = {key: json.dumps(json.loads(line) | {"source": []}) for key, line in old.items() if key not in done}
    _write_manifest(dst, _header(settings), stale | done)
    for folder in sorted({os.path.dirname(path) for job in jobs for path in job.outputs}):  # `dst` is known as ours now
        os.makedirs(folder, exist_ok=True)
    return done, [job for job in jobs if job.key not in current], set(old)


def _write_classes(dst: Path, classes: Palette) -> None:
    """`classes.json` beside the data, unless they are what a folder without one is taken for."""
    if classes == ade20k_palette():
        (dst / CLASSES_FILE).unlink(missing_ok=True)
    else:
        write_classes(dst / CLASSES_FILE, classes)


def _choose_workers(todo: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if todo < _WORTH_A_POOL else min(cores, 32)


def _run(jobs: list[Job], workers: int, progress: bool) -> Iterator[Result]:
    if not jobs:
        return
    with tqdm(total=len(jobs), desc="preparing", unit="pair", disable=None if progress else True) as bar:
        results = map(pairs.prepare_pair, jobs) if workers == 1 else _run_pool(jobs, workers)
        for result in results:
            bar.update()
            yield result


def _run_pool(jobs: list[Job], workers: int) -> Iterator[Result]:
    done = 0
    with _pool(workers) as pool:
        try:
            for result in pool.map(pairs.prepare_pair, jobs, chunksize=_CHUNK):
                done += 1
                yield result
        except BrokenProcessPool:
            pass
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if done < len(jobs):
        yield from _find_killer(jobs[done:], workers, suspects=3 * workers * _CHUNK)


def _find_killer(jobs: list[Job], workers: int, suspects: int) -> Iterator[Result]:
    """A worker died. Give each suspect a process of its own, then go on with the rest."""
    for job in jobs[:suspects]:
        with _pool(1) as pool:
            try:
                yield pool.submit(pairs.prepare_pair, job).result()
            except BrokenProcessPool:
                text = "killed the process that read it (out of memory, or a damaged file)"
                yield pairs.failure(job, [LabelProblem(job.image, "worker-died", text)])
    if jobs[suspects:]:
        yield from _run_pool(jobs[suspects:], workers)


def _pool(workers: int) -> ProcessPoolExecutor:
    """Fresh processes (spawn): forking a notebook's kernel, with its threads, can hang."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=pairs.start_worker)
    try:
        wait([pool.submit(os.getpid) for _ in range(workers)], return_when=FIRST_COMPLETED).done.pop().result()
    except BrokenProcessPool:
        raise RuntimeError(
            'the worker processes could not start. In a script, call prepare below `if __name__ == "__main__":`, '
            "or pass workers=1"
        ) from None
    return pool


@dataclass(frozen=True)
class ClassCount:
    """How much of one class the prepared data set holds; `id` as on disk, 0 = other."""

    id: int
    name: str
    pixels: int
    images: int


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

    def to_json(self) -> str:
        """The report without times, so that equal data give equal bytes."""
        content = {
            "settings": self.settings.as_json(),
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

        table = pd.DataFrame(self.classes, columns=list(ClassCount.__dataclass_fields__))
        return table.sort_values("pixels", ascending=False, ignore_index=True)

    def __str__(self) -> str:
        """The closing report as text."""
        height, width = self.settings.size
        rate = self.written / self.seconds if self.seconds else 0
        lines = [
            f"{self.pairs} pairs of {height} x {width} ({self.settings.mode}) in {self.root}: {self.written} written, "
            f"{self.pairs - self.written} kept; {self.seconds:.1f} s, {rate:.0f} pairs/s, "
            f"{self.workers} process{'es' * (self.workers > 1)}",
            f"{sum(c.id not in self.settings.classes.ignored for c in self.classes)} classes: {self.root / REPORT}",
        ]
        lines += [f"vanished from {key}: {', '.join(names)}" for key, names in list(self.vanished.items())[:5]]
        if len(self.vanished) > 5:
            lines.append(f"... and from {len(self.vanished) - 5} more images")
        lines += [f"warning: {file} {text}" for file, _, text in self.warnings[:5]]
        lines += [f"failed: {file} {text}" for file, _, text in self.failed[:20]]
        if len(self.failed) > 20:
            lines.append(f"... and {len(self.failed) - 20} more failures")
        return "\n".join(lines)


def _report(dst, settings, lines, failures, kept, workers, seconds) -> PrepareReport:
    pixels, images, vanished, warnings = Counter(), Counter(), {}, []
    for key in sorted(lines):
        record = json.loads(lines[key])
        after = {int(i): n for i, n in record["after"].items()}
        pixels.update(after)
        images.update(after.keys())
        if gone := [i for i in record["before"] if i not in after]:
            vanished[key] = [_name(i, settings.classes) for i in gone]
        warnings += record.get("warnings", [])
    classes = [ClassCount(i, _name(i, settings.classes), pixels[i], images[i]) for i in sorted(pixels)]
    failed = [problem for key in sorted(failures) for problem in failures[key]]
    written = len(lines) - kept
    return PrepareReport(dst, settings, len(lines), written, failed, warnings, classes, vanished, workers, seconds)


def _name(label_id: int, classes: Palette) -> str:
    in_memory = int(classes.from_disk[label_id])
    if in_memory != IGNORE:
        return classes.names[in_memory]
    return "other" if label_id == 0 else "ignore"


def prepared_data(
    data_dir: str | Path = "", out_dir: str | Path = "runs", train: int = 48, val: int = 16, domain: str = "dusk"
) -> Path:
    """The prepared data set of notebooks 02, 04 and 05: made where it is missing, left alone where it is there.

    Args:
        data_dir: data set that `layout.read_data` can read; "" draws scenes (`train`, `val`, `domain` as for
            `make_scenes`) into `out_dir/scenes` first.
        out_dir: everything is written below it; see `resources.out_folder` for a relative one.

    Returns: `out_dir/prepared`, 512 x 512. Files that cannot be used are left out and printed.
    Raises: ValueError if no pair can be used; FileNotFoundError if `data_dir` is no data set.
    """
    from m2f_helpers.data.scenes.dataset import make_scenes  # here: the workers of a script import what it imports

    out_dir = out_folder(out_dir)
    source = Path(data_dir) if data_dir else make_scenes(out_dir / "scenes", train, val, domain)
    report = prepare(source, out_dir / "prepared")
    if not report.pairs:
        raise ValueError(f"{source} holds no pair that can be used: {report}")
    if not report.ok:
        print(report)
    return report.root
