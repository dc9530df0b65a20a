"""Time and memory of `inference.segment` against mmseg's `inference_model`, in one run.

    python benchmarks/inference.py                       # the demo model
    python benchmarks/inference.py --profile ade20k      # R50, random weights: time and memory do not depend on them

Times are the least of several rounds, both ways in turn on the same pictures. Memory is the highest resident set above
that of the loaded, warmed-up model, measured in a fresh process per way and size (Linux: VmHWM, reset before the call).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from m2f_helpers.quiet import quiet

SIZES = [(512, 683), (768, 1024), (2000, 3000), (3000, 4000)]


def build(profile: str):
    """The profile's model; the R50 with random weights, so that nothing has to be downloaded."""
    quiet()
    from m2f_helpers.config import base_config
    from m2f_helpers.inference import models

    return models.load_profile() if profile == "demo" else models.load(base_config(profile), None, "cpu")


def picture(size: tuple[int, int]) -> np.ndarray:
    from m2f_helpers.data.scenes.dataset import draw_scene

    scene = draw_scene(0, "day", [size[0] // 4, size[1] // 4]).image
    return np.ascontiguousarray(scene.repeat(4, 0).repeat(4, 1))


def run(model, way: str, image: np.ndarray) -> np.ndarray:
    """The class map, `(H, W)`, by `ours` or by `stock`; mmseg wants BGR and rewrites its config, which is put back."""
    if way == "ours":
        from m2f_helpers.inference.segment import segment

        return segment(model, image).label_map
    import copy

    from mmseg.apis import inference_model

    kept, model.cfg = model.cfg, copy.deepcopy(model.cfg)
    try:
        return inference_model(model, np.ascontiguousarray(image[..., ::-1])).pred_sem_seg.data[0].numpy()
    finally:
        model.cfg = kept


def peak_gb() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def measure_memory(profile: str, way: str, size: tuple[int, int]) -> dict:
    """In this process: memory above the warm model, and seconds, for one picture."""
    model, image = build(profile), picture(size)
    run(model, way, image[:64, :64])
    Path("/proc/self/clear_refs").write_text("5")
    before, started = peak_gb(), time.perf_counter()
    run(model, way, image)
    return {"gb": round(peak_gb() - before, 2), "seconds": round(time.perf_counter() - started, 2)}


def measure_time(profile: str, rounds: int) -> list[dict]:
    """Least seconds per picture for both ways, and how many pixels agree, at sizes that mmseg can hold."""
    model, rows = build(profile), []
    for size in SIZES[:2]:
        image, seconds, maps = picture(size), {}, {}
        for _ in range(rounds):
            for way in ("ours", "stock"):
                started = time.perf_counter()
                maps[way] = run(model, way, image)
                seconds[way] = min(seconds.get(way, np.inf), time.perf_counter() - started)
        agree = float((maps["ours"] == maps["stock"]).mean())
        rows.append({"size": f"{size[0]}x{size[1]}", **{k: round(v, 3) for k, v in seconds.items()}, "agree": agree})
    return rows


@click.command()
@click.option("--profile", default="demo", show_default=True)
@click.option("--rounds", default=8, show_default=True)
@click.option("--stock-limit", default=12.0, show_default=True, help="Largest picture, megapixels, given to mmseg.")
@click.option("--one", nargs=3, type=str, help="Internal: WAY HEIGHT WIDTH, memory of one picture as JSON.")
def main(profile: str, rounds: int, stock_limit: float, one: tuple[str, str, str] | None) -> None:
    """Print two tables: seconds per picture, and memory above the model."""
    if one:
        print(json.dumps(measure_memory(profile, one[0], (int(one[1]), int(one[2])))))
        return
    for row in measure_time(profile, rounds):
        ratio = row["stock"] / row["ours"]
        print(
            f"{row['size']:>10}  ours {row['ours']:.3f} s  mmseg {row['stock']:.3f} s  ({ratio:.2f} times as fast)",
            end="",
        )
        print(f"  equal pixels {row['agree']:.6%}", flush=True)
    for height, width in SIZES:
        for way in ("ours", "stock"):
            if way == "stock" and height * width > stock_limit * 1e6:
                continue
            command = [sys.executable, __file__, "--profile", profile, "--one", way, str(height), str(width)]
            done = subprocess.run(command, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"gb": "-", "seconds": "-"}
            print(f"{height}x{width:<5} {way:5}  {found['gb']} GB above the model, {found['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
