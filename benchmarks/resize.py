"""How close `m2f prepare` comes to what the codecs alone cost.

    python benchmarks/resize.py [--pairs 2000] [--distinct 100] [--rounds 3] [--folder DIR]

Draws pairs of 683 x 512, then measures, each of them in turn and several times, on the same files:
- the floor: decode, resize, encode of the picture and of the label map, called directly from memory, in a process of
  its own; once as anybody would call them, and once with `pairs.keep_freed_memory`, a trick of `prepare` that makes
  the codecs themselves a little faster;
- `prepare` with 1 and with 2 processes, from and to disk, everything included;
- the memory of `prepare` (all its processes, highest value) for few pairs and for many.

Other work on the machine can only slow a round down, so each number is the best of its rounds; the slowest is printed
beside it. Exit status 1 if a bar is missed. On a busy machine look at the lines "by processor time": they count only
seconds in which the processes ran. "2 x 2 / 1" is the speed-up that two free cores would allow.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import psutil

from m2f_helpers.data import pairs, preparation
from m2f_helpers.data.layout import read_data

SIZE = [512, 512]
Row = tuple[str, bool]  # a line, and whether its bar is met


def make_source(folder: Path, number: int, distinct: int) -> Path:
    """`number` pairs, of which `distinct` differ."""
    from m2f_helpers.data.scenes import dataset  # here, because worker processes read this file too

    dataset.make_scenes(folder / f"source{distinct}", distinct, 0, "day", size=[512, 683])
    if number == distinct:
        return folder / f"source{distinct}"
    root = folder / f"source{number}"
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        target = root / kind / "training"
        target.mkdir(parents=True, exist_ok=True)
        files = sorted((folder / f"source{distinct}" / kind / "training").glob(f"*.{suffix}"))
        for k in range(number):
            shutil.copyfile(files[k % distinct], target / f"pair_{k:06d}.{suffix}")
    return root


def clocks() -> np.ndarray:
    """Seconds, and seconds of processor time of this process and its finished children."""
    times = os.times()
    return np.array([time.perf_counter(), times.user + times.system + times.children_user + times.children_system])


# --- What is measured --------------------------------------------------------------------------------------------


@cache
def file_contents(source: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The bytes of all pairs."""
    files = [(pair.image, pair.label) for pair in read_data(source).train]
    return [tuple(np.frombuffer(path.read_bytes(), np.uint8) for path in pair) for pair in files]


def floor_rate(source: Path, passes: int) -> np.ndarray:
    """Pairs a second and a processor second, codecs and resizes only."""
    height, width = SIZE
    contents = file_contents(source)
    start = clocks()
    for image_data, label_data in contents * passes:
        image = cv2.imdecode(image_data, cv2.IMREAD_COLOR)
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", small)
        label = cv2.imdecode(label_data, cv2.IMREAD_GRAYSCALE)
        small_label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        cv2.imencode(".png", small_label)
    return len(contents) * passes / (clocks() - start)


def floor_process(keep_memory: bool) -> ProcessPoolExecutor:
    """A process for the floor alone, so that what `prepare` does to this one cannot change it."""
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))
    if keep_memory:
        process.submit(pairs.keep_freed_memory).result()
    return process


def prepare_rate(source: Path, folder: Path, workers: int) -> np.ndarray:
    """Pairs a second and a processor second of one complete run into a new folder.

    The folder stays: on ext4, files that are created within seconds after many were deleted cost five times as much.
    """
    start = clocks()
    report = preparation.prepare(source, tempfile.mkdtemp(dir=folder), SIZE, workers=workers, progress=False)
    seconds = clocks() - start
    assert report.ok and report.written == report.pairs
    return report.pairs / seconds


def prepare_memory(source: Path, folder: Path, workers: int) -> float:
    """Highest memory in MB of one complete run. Apart from the timed runs, because looking it up takes time itself."""
    with MemoryWatch() as memory:
        prepare_rate(source, folder, workers)
    return memory.highest / 2**20


class MemoryWatch:
    """Highest resident memory of this process and those that it starts meanwhile, looked up 10 times a second."""

    def __enter__(self) -> MemoryWatch:
        self.highest, self.stop = 0, threading.Event()
        self.before = psutil.Process().children(recursive=True)
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self.stop.wait(0.1):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += 0 if process in self.before else process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.highest = max(self.highest, total)


# --- The table ---------------------------------------------------------------------------------------------------


def measure(folder: Path, number: int, distinct: int, rounds: int) -> list[Row]:
    """All rows."""
    few, many = make_source(folder, distinct, distinct), make_source(folder, number, distinct)
    return speed_rows(few, many, folder, distinct, number, rounds) + memory_rows(few, many, folder, distinct, number)


def speed_rows(few: Path, many: Path, folder: Path, distinct: int, number: int, rounds: int) -> list[Row]:
    """How much of the codecs' speed is left, and how much faster two processes are."""
    quarter = make_source(folder, max(distinct, number // 4), distinct)
    passes = max(1, number // 4 // distinct)
    plain, kept, ones, twos = [], [], [], []
    with floor_process(False) as plain_process, floor_process(True) as kept_process:
        for process in (plain_process, kept_process):
            process.submit(floor_rate, few, 1).result()  # warm up
        prepare_rate(few, folder, 1)
        for _ in range(rounds):
            for source in (quarter, quarter, many):
                plain.append(plain_process.submit(floor_rate, few, passes).result())
                ones.append(prepare_rate(source, folder, 1))
                kept.append(kept_process.submit(floor_rate, few, passes).result())
            twos.append(prepare_rate(many, folder, 2))
    floor, strict, one, two = (np.max(rates, axis=0) for rates in (plain, kept, ones, twos))
    return [
        rate_row("codec floor", plain),
        rate_row("codec floor, keeping freed memory", kept),
        rate_row("prepare, 1 process", ones),
        rate_row("prepare, 2 processes", twos),
        row("share of the floor", (one / floor)[0], least=0.9),
        row("share of the one keeping memory", (one / strict)[0]),
        row("2 processes / 1 process", (two / one)[0], least=1.8),
        row("by processor time: share", (one / floor)[1]),
        row("by processor time: 2 x 2 / 1", 2 * (two / one)[1]),
    ]


def memory_rows(few: Path, many: Path, folder: Path, distinct: int, number: int) -> list[Row]:
    """How much memory it takes, and whether more pairs take more."""
    rows = []
    for workers in (1, 2):
        low, high = (prepare_memory(source, folder, workers) for source in (few, many))
        rows.append(row(f"memory, {distinct} pairs, processes: {workers}, MB", low))
        rows.append(row(f"growth from {distinct} to {number} pairs, MB", high - low, most=15))
    return rows


def row(name: str, value: float, least: float = -np.inf, most: float = np.inf, more: str = "") -> Row:
    """One line, and whether its bar is met."""
    bar = f"  bar >= {least}" if least > -np.inf else f"  bar <= {most}" if most < np.inf else ""
    met = least <= value <= most
    return f"{name:40s} {value:8.2f}{more}{bar}{'' if met else ' MISSED'}", met


def rate_row(name: str, rates: list[np.ndarray]) -> Row:
    """The best round, and the slowest in brackets."""
    values = [rate[0] for rate in rates]
    return row(f"{name}, pairs/s", max(values), more=f"  (slowest round {min(values):.0f})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--distinct", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; without it, a temporary folder")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = measure(Path(folder), arguments.pairs, arguments.distinct, arguments.rounds)
    print("\n".join(text for text, _ in rows))
    return int(not all(met for _, met in rows))


if __name__ == "__main__":
    sys.exit(main())
