"""Edits of a real mmseg `Config` that reach the Runner, with a list of what each one changed. Taught in notebook 04.

`Config.fromfile` expands variables while it reads the file: `cfg.data_root` and `cfg.train_dataloader.dataset.data_root` are
two separate values afterwards, and the Runner reads only the second. Every function here does the whole job of one wish
("other data", "fewer iterations") at the places that count, on a copy, and says what it changed and why.
"""

from __future__ import annotations

import copy
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config, ConfigDict

from m2f_helpers.profiles import Profile, get_profile

CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_FOLDERS = ("annotations", "labels", "masks")
SPLITS = (("training", "validation"), ("train", "val"), ("train", "validation"))
MISSING = "(not set)"

# Variables of the config file. Once it is read, the Runner looks at none of them.
DEAD_KEYS = (
    "crop_size",
    "data_preprocessor",
    "data_root",
    "dataset_type",
    "embed_multi",
    "img_ratios",
    "num_classes",
    "optimizer",
    "train_pipeline",
    "tta_model",
    "tta_pipeline",
    "vis_backends",
)


@dataclass(frozen=True)
class Change:
    """One value that an edit changed: where, from what, to what, and why."""

    key: str
    before: Any
    after: Any
    reason: str


@dataclass(frozen=True)
class Edited:
    """A new config and the changes that led to it. Every function of this module takes one in place of a config."""

    cfg: Config
    changes: tuple[Change, ...] = ()

    def reason_of(self, key: str) -> str:
        """Why the value at `key` (or around it) was changed last; empty if it was not."""
        for change in reversed(self.changes):
            if key == change.key or key.startswith(change.key + ".") or change.key.startswith(key + "."):
                return change.reason
        return ""


def base_config(profile: str | Profile = "demo") -> Config:
    """The profile's whole config: model, data pipelines, optimiser, schedule.

    Args:
        profile: `"demo"`, `"ade20k"`, or a `Profile`.

    Returns: a config that `Runner.from_cfg` takes once it has data (`set_data`) and an output folder.
    Raises: ValueError for an unknown profile.
    """
    return profile_edits(profile).cfg


def profile_edits(profile: str | Profile = "demo") -> Edited:
    """`base_config` together with all that differs from the installed config file, and why."""
    profile = get_profile(profile)
    edited = remove_dead_keys(published_config(profile))
    edited = _apply(edited, profile.model_changes, f"profile {profile.name}: {profile.title}")
    for kind in profile.dropped_steps:
        edited = drop_step(edited, kind)
    edited = set_crop(edited, list(profile.crop_size), scales=profile.scales, max_size=profile.max_size)
    edited = set_test_size(edited, list(profile.test_size))
    edited = set_batch(edited, profile.batch_size, profile.learning_rate)
    edited = set_schedule(edited, profile.iterations, log_interval=profile.log_interval)
    return set_workers(edited, 0)


def published_config(profile: str | Profile = "ade20k") -> Config:
    """The config file that the profile starts from, as mmsegmentation installed it, unchanged."""
    return Config.fromfile(str(CONFIGS / "mask2former" / f"{get_profile(profile).published}.py"))


def remove_dead_keys(source: Config | Edited) -> Edited:
    """Take away the file's variables that nothing reads any more, so that nobody can edit them in vain."""
    edited = _start(source)
    changes = []
    for key in DEAD_KEYS:
        if key in edited.cfg:
            before = edited.cfg._cfg_dict.pop(key)
            changes.append(Change(key, _plain(before), MISSING, "a variable of the file; the Runner does not read it"))
    return Edited(edited.cfg, edited.changes + tuple(changes))


def set_data(source: Config | Edited, root: str | Path, max_val: int = 0) -> Edited:
    """Point training, validation and test at a folder of pictures and label maps.

    Args:
        source: config, or what another edit returned.
        root: ADE20K layout (`images/training`, `annotations/training`, `.../validation`), the same with `train` and `val`,
            or flat (`images/`, and `annotations/`, `labels/` or `masks/`): then every fifth picture is for validation.
        max_val: use at most this many pictures for validation and test; 0 means all.

    Returns: the edited config.
    Raises: FileNotFoundError if the folder is not there or has no such layout.
    """
    found = find_layout(root)
    values: dict[str, Any] = {}
    for loader in LOADERS:
        part = found.train if loader == "train_dataloader" else found.val
        indices = part.indices
        if loader != "train_dataloader" and max_val:
            indices = max_val if indices is None else indices[:max_val]
        where = f"{loader}.dataset"
        values[f"{where}.data_root"] = str(found.root)
        values[f"{where}.data_prefix"] = {"img_path": part.images, "seg_map_path": part.labels}
        if indices is not None:
            values[f"{where}.indices"] = indices
        if found.suffix != ".jpg":
            values[f"{where}.img_suffix"] = found.suffix
    return _apply(source, values, f"data in {found.root.name}/, layout {found.name}")


@dataclass(frozen=True)
class Part:
    """One split: folders relative to the root, the pictures in it, and which of them belong to it (None: all)."""

    images: str
    labels: str
    pictures: int
    indices: list[int] | None = None


@dataclass(frozen=True)
class Layout:
    """How a data folder is laid out: its name for people, the suffix of its pictures, the two splits."""

    name: str
    root: Path
    suffix: str
    train: Part
    val: Part


def find_layout(root: str | Path) -> Layout:
    """Recognise the layout of a data folder; see `set_data` for the three that are known.

    Raises: FileNotFoundError naming what was looked for.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the folder that holds images/ and annotations/")
    labels = next((name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    if not (root / "images").is_dir() or labels is None:
        raise FileNotFoundError(f"{root}: expected the folders images/ and one of {', '.join(LABEL_FOLDERS)}")
    for train, val in SPLITS:
        if all((root / kind / split).is_dir() for kind in ("images", labels) for split in (train, val)):
            suffix, count = _count(root / "images" / train)
            count_val = _count(root / "images" / val)[1]
            parts = (
                Part(f"images/{train}", f"{labels}/{train}", count),
                Part(f"images/{val}", f"{labels}/{val}", count_val),
            )
            return Layout(f"images/{train}, {labels}/{train}", root, suffix, *parts)
    return _flat_layout(root, labels)


def _flat_layout(root: Path, labels: str) -> Layout:
    suffix, count = _count(root / "images")
    if count < 2:
        raise FileNotFoundError(
            f"{root}/images: expected at least two pictures, one to train and one to validate, got {count}"
        )
    val = list(range(0, count, 5))
    train = [i for i in range(count) if i % 5]
    parts = (Part("images", labels, len(train), train), Part("images", labels, len(val), val))
    return Layout(f"images, {labels} (every fifth picture for validation)", root, suffix, *parts)


def _count(folder: Path) -> tuple[str, int]:
    """The suffix that most pictures in the folder have, and how many have it."""
    counts = {suffix: sum(1 for _ in folder.rglob(f"*{suffix}")) for suffix in IMAGE_SUFFIXES}
    suffix = max(counts, key=lambda name: counts[name])
    if not counts[suffix]:
        raise FileNotFoundError(f"{folder}: no picture with one of the suffixes {', '.join(IMAGE_SUFFIXES)}")
    return suffix, counts[suffix]


def set_crop(
    source: Config | Edited, size: Sequence[int], scales: Sequence[int] | None = None, max_size: int | None = None
) -> Edited:
    """Train on crops of another size.

    Args:
        source: config, or what another edit returned.
        size: `[H, W]`, pixels.
        scales: shorter sides, one of which is drawn at random before the crop; None scales the ones there along.
        max_size: largest longer side after that resize; None keeps it.

    Returns: the edited config: the crop, the padding in the data preprocessor, and the resize before the crop.
    Raises: ValueError unless the size is two whole numbers of at least 32.
    """
    if len(size) != 2 or not all(isinstance(n, int) and n >= 32 for n in size):
        raise ValueError(f"expected a crop size [H, W] of whole numbers of at least 32 pixels, got {size}")
    edited = _start(source)
    values: dict[str, Any] = {"model.data_preprocessor.size": tuple(size)}
    pipeline = "train_dataloader.dataset.pipeline"
    crop = _step(edited.cfg, pipeline, "RandomCrop")
    before = min(_get(edited.cfg, f"{crop}.crop_size"))
    values[f"{crop}.crop_size"] = tuple(size)
    resize = _step(edited.cfg, pipeline, "RandomChoiceResize", needed=False)
    if resize is not None:
        old = _get(edited.cfg, f"{resize}.scales")
        values[f"{resize}.scales"] = list(scales) if scales else [max(1, s * min(size) // before) for s in old]
        if max_size:
            values[f"{resize}.max_size"] = max_size
    return _apply(edited, values, f"training crop {size[0]} x {size[1]} pixels")


def drop_step(source: Config | Edited, kind: str) -> Edited:
    """Leave a step out of the training pipeline, for example `"PhotoMetricDistortion"` or `"RandomFlip"`.

    Raises: ValueError if the pipeline has no such step.
    """
    edited = _start(source)
    key = "train_dataloader.dataset.pipeline"
    steps = _get(edited.cfg, key)
    kept = [step for step in steps if step["type"] != kind]
    if len(kept) == len(steps):
        raise ValueError(f"{key} has no {kind} step; it has {', '.join(step['type'] for step in steps)}")
    return _apply(edited, {key: kept}, f"training pipeline without {kind}")


def set_test_size(source: Config | Edited, size: Sequence[int]) -> Edited:
    """Resize pictures at validation, test and inference.

    Args:
        source: config, or what another edit returned.
        size: `[shorter, longer]` side limit, pixels; the aspect ratio stays.

    Returns: the edited config. `test_pipeline`, which mmseg's `inference_model` reads, follows.
    """
    edited = _start(source)
    values = {}
    for pipeline in ("val_dataloader.dataset.pipeline", "test_dataloader.dataset.pipeline", "test_pipeline"):
        values[_step(edited.cfg, pipeline, "Resize") + ".scale"] = (size[1], size[0])
    return _apply(edited, values, f"pictures at inference: shorter side {size[0]} pixels; labels keep their size")


def set_batch(source: Config | Edited, batch_size: int, learning_rate: float | None = None) -> Edited:
    """Change the number of training pictures per step and device, and with it the learning rate.

    Args:
        source: config, or what another edit returned.
        batch_size: at least 1.
        learning_rate: at the start of the schedule; None keeps it.

    Returns: the edited config.
    Raises: ValueError for a batch below 1 or a learning rate outside (0, 1).
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
    values: dict[str, Any] = {"train_dataloader.batch_size": batch_size}
    if learning_rate is not None:
        if not 0 < learning_rate < 1:
            raise ValueError(f"expected a learning rate between 0 and 1, got {learning_rate}")
        values["optim_wrapper.optimizer.lr"] = learning_rate
    return _apply(source, values, "batch size and learning rate belong together")


def set_schedule(
    source: Config | Edited, iterations: int, val_interval: int | None = None, log_interval: int | None = None
) -> Edited:
    """Train for another number of steps; the learning rate reaches its end exactly then.

    Args:
        source: config, or what another edit returned.
        iterations: optimiser steps, at least 1.
        val_interval: steps between two validations; None means once, at the end.
        log_interval: steps between two log lines; None means about twenty lines in all.

    Returns: the edited config: loop, every scheduler's end, validation, checkpoints, log lines.
    Raises: ValueError for less than one step.
    """
    if iterations < 1:
        raise ValueError(f"expected at least one iteration, got {iterations}")
    edited = _start(source)
    interval = val_interval or iterations
    values: dict[str, Any] = {
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": interval,
        "default_hooks.checkpoint.interval": max(1, min(interval, iterations // 4)),
        "default_hooks.checkpoint.max_keep_ckpts": 2,
        "default_hooks.logger.interval": log_interval or max(1, iterations // 20),
    }
    schedulers = _get(edited.cfg, "param_scheduler")
    old_end = max(scheduler.get("end", 0) for scheduler in schedulers)
    for i, scheduler in enumerate(schedulers):
        for key in ("begin", "end"):
            if scheduler.get(key):
                values[f"param_scheduler.{i}.{key}"] = round(scheduler[key] * iterations / old_end)
    return _apply(edited, values, f"{iterations} steps; the learning rate must end with them")


def set_workers(source: Config | Edited, workers: int) -> Edited:
    """Number of processes that load pictures, for all three data loaders; 0 loads in the main process."""
    if workers < 0:
        raise ValueError(f"expected a number of workers of at least 0, got {workers}")
    values = {}
    for loader in LOADERS:
        values[f"{loader}.num_workers"] = workers
        values[f"{loader}.persistent_workers"] = workers > 0
    return _apply(source, values, "persistent workers need workers")


def set_weights(source: Config | Edited, path: str | Path | None) -> Edited:
    """Start from the weights in a file, without a second download; None starts from random weights.

    Raises: FileNotFoundError if there is no such file.
    """
    if path is not None and not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    value = None if path is None else str(Path(path).resolve())
    values = {"load_from": value, "model.backbone.init_cfg": None}
    return _apply(source, values, "all weights come from load_from: no ImageNet download for the backbone")


def _start(source: Config | Edited) -> Edited:
    """A copy that may be changed."""
    if isinstance(source, Edited):
        return Edited(copy.deepcopy(source.cfg), source.changes)
    if not isinstance(source, Config):
        raise ValueError(f"expected an mmengine Config, got {type(source).__name__}")
    return Edited(copy.deepcopy(source))


def _apply(source: Config | Edited, values: Any, reason: str) -> Edited:
    """Set `{dotted key: value}` on a copy and note what really changed."""
    edited = _start(source)
    changes = []
    for key, value in values.items():
        before = _plain(_get(edited.cfg, key, MISSING))
        if before != _plain(value) or type(before) is not type(_plain(value)):
            _set(edited.cfg, key, value)
            changes.append(Change(key, before, _plain(value), reason))
    return Edited(edited.cfg, edited.changes + tuple(changes))


def _get(cfg: Config, key: str, default: Any = KeyError) -> Any:
    """The value at a dotted key; numbers are positions in a list."""
    node: Any = cfg._cfg_dict
    for part in key.split("."):
        try:
            node = node[int(part)] if isinstance(node, (list, tuple)) else dict.__getitem__(node, part)
        except (KeyError, IndexError, TypeError):
            if default is KeyError:
                raise ValueError(
                    f"the config has no {key}; it is not the config of a Mask2Former in mmsegmentation"
                ) from None
            return default
    return node


def _set(cfg: Config, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node: Any = cfg._cfg_dict
    for part in parents:
        if isinstance(node, (list, tuple)):
            node = node[int(part)]
        else:
            node = node.setdefault(part, ConfigDict())
    node[int(last) if isinstance(node, list) else last] = ConfigDict(value=copy.deepcopy(value))["value"]


def _plain(value: Any) -> Any:
    """ConfigDict to dict, all the way down, for comparing and showing."""
    if isinstance(value, dict):
        return {key: _plain(dict.__getitem__(value, key)) for key in value}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def _step(cfg: Config, pipeline: str, kind: str, needed: bool = True) -> str | None:
    """Dotted key of the first step of that type in a pipeline."""
    for i, step in enumerate(_get(cfg, pipeline)):
        if step.get("type") == kind:
            return f"{pipeline}.{i}"
    if needed:
        raise ValueError(f"{pipeline} has no {kind} step, so its size cannot be set")
    return None
