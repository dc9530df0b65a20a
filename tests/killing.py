"""Run by test_training.py in a process of its own: trains in forked children and kills each at a random moment.

Everything is imported once; a child that is killed takes nothing with it but its own run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from m2f_helpers.quiet import quiet

quiet()

import torch  # noqa: E402

from m2f_helpers import checkpoints, config  # noqa: E402
from m2f_helpers.finetune import training  # noqa: E402


def in_child(work, wait=None) -> int:
    """Run `work` in a forked child, kill it when `wait` returns; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    if wait is not None:
        wait()
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(data: str, work: str, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    work_dir, rng, report = Path(work), random.Random(seed), []
    edited = config.finetune_edits("demo", data, None, iterations=30, crop_size=[64, 64])
    edited = config.set_batch(edited, 1)
    edited.cfg.default_hooks.checkpoint.interval = 1

    def train() -> None:
        resume = bool(list(work_dir.glob("iter_*.pth")))
        training.train(edited, work_dir, device="cpu", resume=resume, progress=False)

    def read() -> None:
        checkpoints.read_checkpoint(checkpoints.newest_checkpoint(work_dir))
        torch.load(checkpoints.newest_checkpoint(work_dir), weights_only=True)

    def saved() -> set[str]:
        return {path.name for pattern in ("iter_*.pth", ".iter_*.part") for path in work_dir.glob(pattern)}

    def a_moment() -> None:
        """One child in five is killed before its first checkpoint, two while they write it, two some steps later."""
        before, until = saved(), time.time() + (rng.uniform(0, 1) if rng.random() < 0.2 else 60)
        while saved() == before and time.time() < until:
            time.sleep(0.0005)
        time.sleep(rng.choice([0, 0.002, rng.uniform(0, 0.6)]))

    for _ in range(kills):
        status = in_child(train, a_moment)
        found = list(work_dir.glob("iter_*.pth"))
        step = int(checkpoints.newest_checkpoint(work_dir).stem.split("_")[1]) if found else 0
        report.append({"status": status, "step": step, "readable": in_child(read) == 0 if found else None})
    print(json.dumps({"kills": report, "last": in_child(train)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
