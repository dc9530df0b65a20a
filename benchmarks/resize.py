"""How close `m2f prepare` comes to what the codecs alone cost.

    python benchmarks/resize.py [--pairs 2000] [--distinct 100] [--folder DIR]

Draws pairs of 683 x 512, then measures, each of them in turn and several times, on the same files:
- the floor: decode, resize, encode of the picture and of the label map, called directly from memory, one process;
- `prepare` with 1 and with 2 processes, from and to disk, everything included;
- the memory of `prepare` (all its processes, highest value) for 100 pairs and for all.

Prints one line per number and its bar; exit status 1 if a bar is missed. Other work on the machine spoils the numbers,
so the load is printed first. On a busy machine look at the lines "by processor time": they count only seconds in which
the processes ran. "2 x 2 / 1" is the speed-up that two free cores would allow.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

from m2f_helpers import resize, scenes
from m2f_helpers.ade20k import list_pairs

SIZE = [512, 512]


def make_source(folder: Path, pairs: int, distinct: int) -> Path:
    scenes.make_scenes(folder / f"source{distinct}", distinct, 0, "day", size=[512, 683])
    if pairs == distinct:
        return folder / f"source{distinct}"
    root = folder / f"source{pairs}"
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        target = root / kind / "training"
        target.mkdir(parents=True, exist_ok=True)
        files = sorted((folder / f"source{distinct}" / kind / "training").glob(f"*.{suffix}"))
        for k in range(pairs):
            shutil.copyfile(files[k % distinct], target / f"pair_{k:06d}.{suffix}")
    return root


def processor_time() -> float:
    """Seconds of processor time of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def floor_pass(datas: list[tuple[np.ndarray, np.ndarray]], size: list[int]) -> np.ndarray:
    """Seconds and processor seconds for one pass over all pairs, codecs and resizes only."""
    height, width = size
    start = np.array([time.perf_counter(), processor_time()])
    for image_data, label_data in datas:
        image = cv2.imdecode(image_data, cv2.IMREAD_COLOR)
        cv2.imencode(".jpg", cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), resize.JPEG_OPTIONS)
        label = cv2.imdecode(label_data, cv2.IMREAD_GRAYSCALE)
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        cv2.imencode(".png", label, resize.PNG_OPTIONS)
    return np.array([time.perf_counter(), processor_time()]) - start


def prepare_pass(source: Path, folder: Path, workers: int) -> tuple[np.ndarray, float]:
    """Seconds and processor seconds, and the highest memory in MB, of one complete run into a new folder."""
    target = folder / "target"
    shutil.rmtree(target, ignore_errors=True)
    with MemoryWatch() as memory:
        start = np.array([time.perf_counter(), processor_time()])
        report = resize.prepare(source, target, SIZE, workers=workers, progress=False)
        seconds = np.array([time.perf_counter(), processor_time()]) - start
    assert report.ok and report.written == report.pairs
    shutil.rmtree(target)
    return seconds, memory.highest / 2**20


class MemoryWatch:
    """Highest resident memory of this process and its children, looked up 10 times a second."""

    def __enter__(self) -> MemoryWatch:
        self.highest, self.stop = 0, threading.Event()
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
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.highest = max(self.highest, total)


def measure(folder: Path, pairs: int, distinct: int, rounds: int) -> list[tuple[str, float, str, bool]]:
    few, many = make_source(folder, distinct, distinct), make_source(folder, pairs, distinct)
    datas = [
        tuple(np.frombuffer(path.read_bytes(), np.uint8) for path in (pair.image, pair.label))
        for pair in list_pairs(few, "training")
    ]
    floor_pass(datas[:20], SIZE), prepare_pass(few, folder, 1)  # warm up
    floors, ones, twos, memory = [], [], [], []
    for _ in range(rounds):
        passes = max(1, pairs // distinct // 4)
        floors.append(distinct * passes / sum(floor_pass(datas, SIZE) for _ in range(passes)))
        seconds, megabytes = prepare_pass(many, folder, 1)
        ones.append(pairs / seconds)
        memory.append(megabytes)
        twos.append(pairs / prepare_pass(many, folder, 2)[0])
    few_memory = prepare_pass(few, folder, 1)[1]
    floor, one, two = (np.max(rates, axis=0) for rates in (floors, ones, twos))  # the round least disturbed by others
    growth = statistics.median(memory) - few_memory
    return [
        ("codec floor, pairs/s", floor[0], "", True),
        ("prepare, 1 process, pairs/s", one[0], "", True),
        ("prepare, 2 processes, pairs/s", two[0], "", True),
        ("share of the floor, 1 process", one[0] / floor[0], ">= 0.90", one[0] / floor[0] >= 0.9),
        ("2 processes / 1 process", two[0] / one[0], ">= 1.80", two[0] / one[0] >= 1.8),
        ("by processor time: share", one[1] / floor[1], "", True),
        ("by processor time: 2 x 2 / 1", 2 * two[1] / one[1], "", True),
        (f"memory, {distinct} pairs, MB", few_memory, "", True),
        (f"growth to {pairs} pairs, MB", growth, "<= 15", growth <= 15),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--distinct", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; without it, a temporary folder")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = measure(Path(folder), arguments.pairs, arguments.distinct, arguments.rounds)
    for name, value, bar, met in rows:
        print(f"{name:32s} {value:8.2f}  {bar:8s} {'' if met else 'MISSED'}")
    return int(not all(met for *_, met in rows))


if __name__ == "__main__":
    sys.exit(main())
