"""Seconds per image and per training step: ours, mmseg, Hugging Face, in turn in one run on the CPU.

    python benchmarks/speed.py                          # the published R50 model with random weights
    python benchmarks/speed.py --profile demo --out benchmarks/results/demo.json

On a busy machine look at the CPU seconds (all threads together) and set OMP_WAIT_POLICY=passive, so that waiting does
not count: the wall clock then measures the others.

From an RGB image in memory to a class map at its own size, and from a batch of two crops to updated weights. Every
round runs all ways once; what is printed are medians over rounds, of seconds and of ratios to mmseg in the same round,
so that other work on the machine hits all ways alike. `floor` is what the multiply-adds alone would take at the rates
at which this machine, in this run, multiplies matrices and convolves.

Random weights take as long as trained ones with one exception: `segment` computes only classes that are likely
somewhere, and a random model finds all of them a little likely. So its class layer is made as sure as a trained one.

    ours            segment(): scratch model, fused, channels-last, kernel for deformable attention
    ours, PyTorch   the same without the kernel, as without numba
    mmseg           mmseg's inference_model with mmcv's PyTorch code for deformable attention
    mmseg + kernel  the same with the kernel behind it: what the stand-in does where numba is installed
    m2f train       a training step: the same with fewer copies of the masks
    Hugging Face    transformers' model and its class map, on the same normalised input (extra interop)
"""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from m2f_helpers.config import base_config
from m2f_helpers.data.scenes.dataset import draw_scene
from m2f_helpers.finetune.runner import spare_copies
from m2f_helpers.inference import models
from m2f_helpers.inference.lean import lean_model
from m2f_helpers.inference.segment import _prepare, segment
from m2f_helpers.install import kernels
from m2f_helpers.quiet import quiet
from m2f_helpers.scratch import losses
from m2f_helpers.scratch.model import Mask2Former

SIZES = [(512, 512), (512, 683), (768, 1024)]
Way = Callable[[], Any]


def scene(size: tuple[int, int]) -> np.ndarray:
    """A drawn scene at that size, RGB."""
    small = draw_scene(0, "day", [-(-size[0] // 4), -(-size[1] // 4)]).image
    return np.ascontiguousarray(small.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]])


def build(profile: str) -> Any:
    """The profile's model; the R50 with random weights and sure of its classes."""
    if profile == "demo":
        return models.load_profile()
    model = models.load(base_config(profile), None, "cpu")
    with torch.no_grad():
        model.decode_head.cls_embed.weight.mul_(12)  # best of 151 probabilities: 0.9 in the mean, as in trained models
    return model


def inference_ways(model: Any, other: Any, image: np.ndarray) -> dict[str, Way]:
    """Each way from the image to its class map `(H, W)`."""
    from mmseg.apis import inference_model

    def mmseg() -> np.ndarray:
        kept, model.cfg = model.cfg, copy.deepcopy(model.cfg)  # mmseg rewrites it
        try:
            return inference_model(model, np.ascontiguousarray(image[..., ::-1])).pred_sem_seg.data[0].numpy()
        finally:
            model.cfg = kept

    ways = {"mmseg": without_kernel(mmseg), "ours, PyTorch": without_kernel(lambda: segment(model, image).label_map)}
    if kernels.available():
        ways |= {"mmseg + kernel": mmseg, "ours": lambda: segment(model, image).label_map}
    return ways | ({"Hugging Face": lambda: by_hugging_face(other, model, image)} if other else {})


def without_kernel(way: Way) -> Way:
    def run() -> Any:
        with kernels.disabled():
            return way()

    return run


@torch.no_grad()
def by_hugging_face(other: Any, model: Any, image: np.ndarray) -> np.ndarray:
    from transformers import Mask2FormerImageProcessor

    inputs, _ = _prepare(model, image, "scene")
    result = other(inputs)
    maps = Mask2FormerImageProcessor().post_process_semantic_segmentation(result, target_sizes=[image.shape[:2]])
    return maps[0].numpy()


def training_ways(model: Any) -> dict[str, Way]:
    """Each way through one training step: two crops of 512x512 (demo: of its own size), loss, gradients, AdamW."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    height, width = model.data_preprocessor.size
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, height, width, generator=generator)
    maps = [torch.from_numpy(draw_scene(i, "day", [height, width]).label_map.astype(np.int64)) - 1 for i in range(2)]
    maps = [m.where(m >= 0, 255) for m in maps]
    samples = [SegDataSample(gt_sem_seg=PixelData(data=m[None])) for m in maps]
    targets = [losses.target(m) for m in maps]
    stock = copy.deepcopy(model).train()
    ours = Mask2Former.from_mmseg(model).train()
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    points = stock.decode_head.num_points

    def step(network: Any, compute: Callable[[], dict[str, torch.Tensor]]) -> Way:
        optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-5)

        def run() -> None:
            optimiser.zero_grad()
            sum(compute().values()).backward()
            optimiser.step()

        return run

    spared = spare_copies(copy.deepcopy(stock))
    by_mmseg = step(stock, lambda: stock.decode_head.loss(stock.extract_feat(inputs), samples, None))
    by_train = step(spared, lambda: spared.decode_head.loss(spared.extract_feat(inputs), samples, None))
    by_ours = step(ours, lambda: losses.losses(ours(inputs), targets, points))
    ways = {"mmseg": without_kernel(by_mmseg), "ours, PyTorch": without_kernel(by_ours)}
    with_kernel = {"mmseg + kernel": by_mmseg, "m2f train": by_train, "ours": by_ours}
    return ways | (with_kernel if kernels.available() else {})


def measure(ways: dict[str, Way], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of seconds, of CPU seconds, and of their ratios to mmseg in the same round; the first call is cold."""
    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
    taken: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in clocks} for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            started = {clock: now() for clock, now in clocks.items()}
            way()
            for clock, now in clocks.items():
                taken[name][clock].append(now() - started[clock])
    found: dict[str, dict[str, float]] = {name: {} for name in ways}
    for name in ways:
        for clock, label in (("seconds", "times"), ("cpu_seconds", "cpu_times")):
            ratios = [a / b for a, b in zip(taken["mmseg"][clock], taken[name][clock], strict=True)]
            found[name] |= {clock: median(taken[name][clock]), label: median(ratios)}
    return found


@torch.no_grad()
def floor(model: Any, image: np.ndarray) -> dict[str, float]:
    """Multiply-adds of the lean network and the seconds that they take at the best rate measured here."""
    inputs, _ = _prepare(model, image, "scene")
    lean = lean_model(model)
    with kernels.disabled(), FlopCounterMode(display=False) as counter:
        lean(inputs, every=False)
    counts = {str(op): flops / 2 for op, flops in counter.get_flop_counts()["Global"].items()}
    convolution = sum(macs for op, macs in counts.items() if "conv" in op)
    matrices = sum(counts.values()) - convolution
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    x, w = torch.randn(1, 256, 128, 128).to(memory_format=torch.channels_last), torch.randn(256, 256, 3, 3)
    matrix_rate = 2048**3 / best(lambda: a @ b)
    convolution_rate = 128**2 * 256**2 * 9 / best(lambda: torch.conv2d(x, w, padding=1))
    return {
        "convolutions_g": convolution / 1e9,
        "matrices_g": matrices / 1e9,
        "convolution_g_per_s": convolution_rate / 1e9,
        "matrix_g_per_s": matrix_rate / 1e9,
        "seconds": convolution / convolution_rate + matrices / matrix_rate,
    }


def best(way: Way, rounds: int = 7) -> float:
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        way()
        found.append(time.perf_counter() - started)
    return min(found)


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"cpu": next(iter(names), platform.machine()), "threads": torch.get_num_threads(), "load": load, **versions}


def show(title: str, found: dict[str, dict[str, float]]) -> None:
    print(title)
    for name, numbers in found.items():
        wall, cpu = (
            f"{numbers[a]:8.3f} {numbers[b]:6.2f}x" for a, b in (("seconds", "times"), ("cpu_seconds", "cpu_times"))
        )
        print(f"  {name:15} {wall}   CPU {cpu}", flush=True)


@click.command()
@click.option("--profile", default="ade20k", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--size", "sizes", nargs=2, type=int, multiple=True, default=SIZES, show_default=True)
@click.option("--training/--no-training", default=True, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the numbers as JSON.")
def main(profile: str, rounds: int, sizes: list[tuple[int, int]], training: bool, out: Path | None) -> None:
    """Print a table per image size, and one for a training step."""
    quiet()
    model = build(profile)
    try:
        from interop import hugging_face  # beside this script

        other = hugging_face(model)
    except ImportError:
        other = None
    report: dict[str, Any] = {"profile": profile, "rounds": rounds, "machine": machine()}
    print(json.dumps(report["machine"]))
    for size in sizes:
        image, name = scene(size), f"{size[0]}x{size[1]}"
        ways = inference_ways(model, other, image)
        report[name] = measure(ways, rounds)
        report[name]["floor"] = floor(model, image)
        agree = float((ways["mmseg"]() == ways.get("ours", ways["ours, PyTorch"])()).mean())
        show(
            f"{name}, equal pixels {agree:.6%}, floor {report[name]['floor']['seconds']:.3f} s",
            {way: numbers for way, numbers in report[name].items() if way != "floor"},
        )
        report[name]["equal_pixels"] = agree
    if training:
        report["training step, batch 2"] = measure(training_ways(model), rounds)
        show("training step, batch 2", report["training step, batch 2"])
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
