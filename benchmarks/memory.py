"""Memory of a training step and of a validation image, measured beside what `finetune.memory` estimates.

Each number is the growth of the process's peak, in a process of its own. The constants of `finetune/memory.py` come
from this table (`python benchmarks/memory.py`, Linux).
"""

from __future__ import annotations

import json
import subprocess
import sys

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops

CASES = [  # what, profile, crop or image (height, width), batch
    ("train", "demo", (96, 96), 8),
    ("train", "demo", (192, 192), 8),
    ("train", "demo", (256, 256), 8),
    ("train", "ade20k", (256, 256), 1),
    ("train", "ade20k", (384, 384), 1),
    ("train", "ade20k", (512, 512), 1),
    ("val", "demo", (512, 512), 1),
    ("val", "demo", (1024, 1536), 1),
    ("val", "demo", (2048, 3072), 1),
    ("val", "ade20k", (512, 512), 1),
    ("val", "ade20k", (1024, 1536), 1),
]


def main() -> None:
    """One line per case."""
    from m2f_helpers import config
    from m2f_helpers.finetune import memory

    print("| what | profile | size | batch | measured MB | estimated MB | ratio |\n|---|---|---|---|---|---|---|")
    for what, profile, size, batch in CASES:
        done = subprocess.run(
            [sys.executable, __file__, json.dumps([what, profile, size, batch])], capture_output=True, text=True
        )
        if done.returncode:
            print(f"| {what} | {profile} | {size} | {batch} | {done.stderr.splitlines()[-1]} | | |")
            continue
        measured = int(done.stdout.split()[-1]) / 1e6
        cfg = config.set_batch(config.set_crop(config.base_config(profile), list(size)), batch).cfg
        estimate = memory.training_bytes(cfg) if what == "train" else memory.validation_bytes(cfg, size)
        ratio = estimate / 1e6 / measured
        print(f"| {what} | {profile} | {size} | {batch} | {measured:.0f} | {estimate / 1e6:.0f} | {ratio:.2f} |")


def measure(what: str, profile: str, size: list[int], batch: int) -> None:
    """Print the bytes by which the peak grows."""
    import resource

    import torch
    from mmengine.optim import build_optim_wrapper
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from m2f_helpers import config

    cfg = config.set_crop(config.base_config(profile), list(size) if what == "train" else [64, 64]).cfg
    model = config.build_model(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    batch_data = {"inputs": [], "data_samples": []}
    shorter, longer = cfg.test_pipeline[1].scale[1], cfg.test_pipeline[1].scale[0]
    scale = 1 if what == "train" else min(shorter / min(size), longer / max(size))
    shape = tuple(round(n * scale) for n in size)
    for _ in range(batch):
        sample = SegDataSample(metainfo={"img_shape": shape, "ori_shape": tuple(size), "pad_shape": shape})
        label_map = torch.randint(0, 20, (1, size[0] // 32, size[1] // 32)).repeat_interleave(32, 1)
        sample.gt_sem_seg = PixelData(data=label_map.repeat_interleave(32, 2))
        batch_data["inputs"].append(torch.randint(0, 255, (3, *shape), dtype=torch.uint8))
        batch_data["data_samples"].append(sample)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if what == "train":
        for _ in range(2):
            model.train_step(batch_data, optimizer)
    else:
        model.eval()
        with torch.no_grad():
            model.val_step(batch_data)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


if __name__ == "__main__":
    measure(*json.loads(sys.argv[1])) if len(sys.argv) > 1 else main()
