"""Memory that training and validation will need, worked out before the first step. Taught in notebook 04."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from mmengine.config import Config

from m2f_helpers.data.labels import seen_size
from m2f_helpers.install.devices import free_memory

LOOKED_AT = 500  # validation images whose size is read

# Fitted to the table of benchmarks/memory.py (Linux, float32, torch 2.13), which they meet to -11 ... +22 %.
_FIXED = 100_000_000  # whatever the size
_PER_PIXEL, _STRETCH = 450, 1.15  # bytes, and a factor on what the widths of the model give
_PER_POINT = 10
_KEPT_IN_VALIDATION = 0.2  # without gradients few of a step's activations stay
# OpenMMLab's metafile: 3.31 GB on a GPU for 2 crops of 512 x 512, for which the CPU's constants give 5.1 GB.
_ON_A_GPU = 0.65


def step_bytes(cfg: Config) -> int:
    """Rough memory of weights and a training step, from the sizes in the config.

    Weights count four times (weight, gradient, two moments of AdamW), 4 bytes each; `training_bytes` has three of them.
    """
    return int(4 * _parameters(cfg) + training_bytes(cfg))


def training_bytes(cfg: Config) -> int:
    """By how much memory grows from a model that is built to the end of its first step.

    It grows with the pixels of a batch and the width of the model.
    """
    head, batch = cfg.model.decode_head, cfg.train_dataloader.batch_size
    height, width = cfg.model.data_preprocessor.size
    points = batch * head.num_queries * (head.transformer_decoder.num_layers + 1) * head.train_cfg.num_points
    estimate = batch * height * width * _per_pixel(cfg) + points * _PER_POINT + _FIXED
    return int(estimate + 12 * _parameters(cfg))


def validation_bytes(cfg: Config, size: tuple[int, int]) -> int:
    """By how much memory grows while an image of `(H, W)` pixels is validated: mmseg keeps a score for each class."""
    classes, scale = cfg.model.decode_head.num_classes, _test_scale(cfg, size)
    pixels = size[0] * size[1]
    in_network = pixels * scale**2
    kept = _KEPT_IN_VALIDATION * _per_pixel(cfg) + 5.2 * classes
    return int(pixels * (4 * classes + 8) + in_network * kept + _FIXED)  # 4 bytes a score, 8 the winner


def too_little(cfg: Config, images: Iterable[Path], device: str = "cpu") -> list[str]:
    """A sentence if training, or validation of these images, will not fit into what is free, and what makes it fit."""
    share, free = _ON_A_GPU if device.startswith("cuda") else 1, free_memory(device)
    sizes = [_size_of(path) for path in list(images)[:LOOKED_AT]]
    largest = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    step, validation = step_bytes(cfg), 16 * _parameters(cfg) + validation_bytes(cfg, largest)
    said = f"GB, {free / 1e9:.1f} GB are free on {device}"
    if step * share > free:
        return [f"a training step needs about {step * share / 1e9:.1f} {said}: {_what_fits(cfg, free / share)}"]
    if validation > free:
        small = (16 * _parameters(cfg) + validation_bytes(cfg, (512, 512))) / 1e9
        return [
            f"validating an image of {largest[0]} x {largest[1]} pixels needs about {validation / 1e9:.1f} {said}: "
            f"make the images smaller first, `m2f prepare DATA NEW --size 512 512` (then about {small:.1f} GB)"
        ]
    return []


def _what_fits(cfg: Config, free: float) -> str:
    """The largest batch, or else the largest crop, whose estimate is below what is free."""

    def fits(batch: int, side: tuple[int, int]) -> bool:
        changed = Config(dict(model=cfg.model, train_dataloader=dict(batch_size=batch)))
        changed.model.data_preprocessor.size = side
        return step_bytes(changed) <= free

    batch, crop = cfg.train_dataloader.batch_size, tuple(cfg.model.data_preprocessor.size)
    if best := _largest(range(1, batch), lambda n: fits(n, crop)):
        return f"take --batch-size {best} (Python: set_batch)"
    if best := _largest(range(64, min(crop), 32), lambda n: fits(1, (n, n))):
        return f"take --batch-size 1 --crop {best} {best} (Python: set_batch, set_crop)"
    return "no batch or crop is small enough for this model: free some memory, or take --profile demo"


def _largest(numbers: range, fits: Callable[[int], bool]) -> int:
    return next((n for n in reversed(numbers) if fits(n)), 0)


def _size_of(path: Path) -> tuple[int, int]:
    try:
        return seen_size(path)
    except (OSError, ValueError):  # others say what is wrong with it
        return 0, 0


def _test_scale(cfg: Config, size: tuple[int, int]) -> float:
    resize = next((step for step in cfg.test_pipeline if step["type"] == "Resize"), None)
    if resize is None or not min(size):
        return 1.0
    longer, shorter = max(resize["scale"]), min(resize["scale"])
    return min(longer / max(size), shorter / min(size))


def _base(cfg: Config) -> int:
    return cfg.model.backbone.get("base_channels", 64)


def _deep(cfg: Config) -> int:
    return {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}.get(cfg.model.backbone.get("depth", 50), 16)


def _parameters(cfg: Config) -> float:
    head = cfg.model.decode_head
    layers, decoder = head.pixel_decoder.encoder.num_layers, head.transformer_decoder.num_layers
    return 5_700 * _base(cfg) ** 2 * _deep(cfg) / 16 + head.feat_channels**2 * (22 + 16 * layers + 20 * decoder)


def _per_pixel(cfg: Config) -> float:
    """Bytes that a pixel of the crop costs in backbone, pixel decoder and the masks of the queries."""
    head = cfg.model.decode_head
    layers, decoder = head.pixel_decoder.encoder.num_layers, head.transformer_decoder.num_layers
    widths = _base(cfg) * (1.4 * _deep(cfg) + 8) + head.feat_channels * (1.6 * layers + 3)
    return _STRETCH * (widths + head.num_queries * (decoder + 1) * 1.2) + _PER_PIXEL
