"""Edits of a real mmseg `Config` that reach the Runner, with a list of what each one changed. Taught in notebook 04.

`Config.fromfile` expands variables while it reads the file: `cfg.data_root` and
`cfg.train_dataloader.dataset.data_root` are two separate values afterwards, and the Runner reads only the second. Every
edit here does the whole job of one wish ("fewer iterations") at the places that count, on a copy, and says what it
changed and why. Its `source` is a config or what another edit returned.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401  explicitly: mmseg would hide why it cannot be imported
import mmseg.models  # noqa: F401
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from m2f_helpers import config_files
from m2f_helpers.checkpoints import CONFIGS
from m2f_helpers.data.dataset import READERS, PairDataset
from m2f_helpers.data.labels import count_ids, read_label
from m2f_helpers.data.layout import SPLITS, DataFolder, read_data
from m2f_helpers.palette import CLASSES_FILE, IGNORE, Palette, ade20k_palette, own_palette, palette_of
from m2f_helpers.profiles import Profile, get_profile
from m2f_helpers.quiet import one_line, quiet_initialisation

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
MISSING = "(not set)"
# what a config with a `PairDataset` needs before it is built; ours first, it brings the stand-in for compiled ops
IMPORTS = [PairDataset.__module__, "mmdet.models"]

PIPELINES = tuple(f"{loader}.dataset.pipeline" for loader in LOADERS) + ("test_pipeline",)
_DATASETS = tuple(f"{loader}.dataset" for loader in LOADERS)
CUSTOM_KEYS = "optim_wrapper.paramwise_cfg.custom_keys"
LABEL_ZERO = "label 0: the data set alone says what 0 means on disk; said twice it can disagree"

# Variables of the config file. Once it is read, the Runner looks at none of them: variable -> the places that count.
DEAD_KEYS: Mapping[str, tuple[str, ...]] = {
    "crop_size": ("model.data_preprocessor.size",),
    "data_preprocessor": ("model.data_preprocessor",),
    "data_root": tuple(f"{dataset}.data_root" for dataset in _DATASETS),
    "dataset_type": tuple(f"{dataset}.type" for dataset in _DATASETS),
    "embed_multi": tuple(f"{CUSTOM_KEYS}.{name}" for name in ("query_embed", "query_feat", "level_embed")),
    "img_ratios": (),
    "num_classes": ("model.decode_head.num_classes",),
    "optimizer": ("optim_wrapper.optimizer",),
    "train_pipeline": ("train_dataloader.dataset.pipeline",),
    "tta_model": (),
    "tta_pipeline": (),
    "vis_backends": ("visualizer.vis_backends",),
}


@dataclass(frozen=True)
class Change:
    """One value that an edit changed: where, from what, to what, and why, as `topic: reason`."""

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
        """Why the value at `key` was changed last, or else the one around it or inside it; empty if none was."""
        found = [c for c in self.changes if f"{key}.".startswith(f"{c.key}.") or c.key.startswith(f"{key}.")]
        closest = max(found, key=lambda change: (len(change.key), self.changes.index(change)), default=None)
        return closest.reason if closest else ""


Source = Config | Edited | str | Path  # what every function that wants a config takes


def as_config(source: Source, trust: bool = False) -> Config:
    """The config in whatever form it comes: itself, what an edit returned, or the path of a config file.

    A path is read by `config_files.read`, which without `trust` refuses a file that does more than assign values.

    Returns: the very config that was given, no copy.
    Raises: FileNotFoundError or ValueError naming the file, if it is not the config of a segmentation model.
    """
    if isinstance(source, (str, Path)):
        return config_files.read(source, trust)
    cfg = source.cfg if isinstance(source, Edited) else source
    if not isinstance(cfg, Config):
        raise ValueError(f"expected an mmengine Config or the path of one, got {type(cfg).__name__}")
    return cfg


def build_model(source: Source, seed: int | None = 0) -> Any:
    """The config's model on the CPU, without any download; SyncBN becomes batch norm, as the Runner does on one device.

    `seed` is that of the random start weights; None leaves them as they come, for a model whose weights will be loaded.
    torch's global generator is put back afterwards.
    """
    model_config = copy.deepcopy(as_config(source).model)
    model_config.pretrained = None
    if "init_cfg" in model_config.get("backbone", {}):
        model_config.backbone.init_cfg = None  # ImageNet's weights, which are loaded over or not wanted
    init_default_scope("mmseg")
    with torch.random.fork_rng(devices=[]), quiet_initialisation():
        torch.manual_seed(seed or 0)
        try:
            model = revert_sync_batchnorm(MODELS.build(model_config))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the config describes no model that can be built: {one_line(error)}") from None
        if seed is not None:
            model.init_weights()
    return model


def base_config(profile: str | Profile = "demo") -> Config:
    """The profile's whole config, which `Runner.from_cfg` takes once it has data (`set_data`) and an output folder."""
    return profile_edits(profile).cfg


def profile_edits(profile: str | Profile = "demo") -> Edited:
    """`base_config` together with all that differs from the installed config file, and why."""
    profile = get_profile(profile)
    edited = remove_dead_keys(published_config(profile))
    for reason, values in profile.model_changes.items():
        edited = _apply(edited, values, reason)
    edited = _inherit_zero_label(edited)
    for kind, why in profile.dropped_steps.items():
        edited = drop_step(edited, kind, why)
    edited = set_crop(edited, list(profile.crop_size), scales=profile.scales, max_size=profile.max_size)
    edited = set_test_size(edited, list(profile.test_size))
    edited = set_batch(edited, profile.batch_size, profile.learning_rate, reason=profile.learning_reason)
    edited = set_schedule(edited, profile.iterations, log_interval=profile.log_interval)
    return set_workers(edited, 0)


def finetune_edits(
    profile: str | Profile,
    data: str | Path,
    weights: str | Path | None = None,
    iterations: int = 0,
    crop_size: Sequence[int] = (),
    classes: Sequence[str] = (),
) -> Edited:
    """Everything that a fine-tune of the profile needs, in one call: data, classes, schedule, crop, start weights.

    Args:
        profile: name or `Profile`.
        data: folder that `layout.read_data` can read.
        weights: checkpoint file to start from; None starts at random.
        iterations: optimiser steps; 0 takes the profile's number, fitted to the number of images.
        crop_size: `[H, W]` of the training crop, pixels; empty takes the profile's.
        classes: names in place of the folder's, see `named_classes`.
    """
    profile, found = get_profile(profile), read_data(data)
    palette = named_classes(found, classes) if classes else None
    edited = set_data(profile_edits(profile), data, max_val=profile.max_val, classes=palette)
    if len(crop_size):
        edited = set_crop(edited, list(crop_size))
    images = len(found.train)
    edited = set_schedule(edited, iterations or profile.iterations_for(images), log_interval=profile.log_interval)
    return set_weights(edited, weights)


def named_classes(data: DataFolder, names: Sequence[str]) -> Palette:
    """The classes of a folder under other names, in the order of their ids.

    Where the folder has no classes of its own, its label maps decide what the ids on disk are: 1 to N with 0 = other if
    id N occurs, else 0 to N-1.

    Raises: ValueError if the number of names is not the number of classes in the folder's `classes.json`.
    """
    known = data.classes
    if known is not ade20k_palette() and len(known) == len(names):
        return own_palette(names, known.colors, [entry.on_disk for entry in known.classes], known.ignored)
    if (data.root / CLASSES_FILE).is_file():
        raise ValueError(f"{data.root / CLASSES_FILE} has {len(known)} classes, {len(names)} names were given")
    if len(names) in ids_on_disk(data):
        return own_palette(names, None, range(1, len(names) + 1), ignored=[0])
    return own_palette(names)


def ids_on_disk(data: DataFolder) -> set[int]:
    """The ids that occur in the folder's label maps, without 255; files that are no label maps are passed over."""
    ids: set[int] = set()
    for pair in data.pairs:
        with suppress(ValueError, OSError):  # preflight names the file
            ids |= count_ids(read_label(pair.label.read_bytes())).keys()
    return ids - {IGNORE}


def published_config(profile: str | Profile = "ade20k") -> Config:
    """The config file that the profile starts from, as mmsegmentation installed it, unchanged."""
    return Config.fromfile(str(CONFIGS / "mask2former" / f"{get_profile(profile).published}.py"))


def remove_dead_keys(source: Source) -> Edited:
    """Take away the file's variables that nothing reads any more, so that nobody can edit them in vain."""
    edited, why = _start(source), "dead variable: the Runner does not read it"
    gone = [Change(key, plain(edited.cfg._cfg_dict.pop(key)), MISSING, why) for key in DEAD_KEYS if key in edited.cfg]
    return Edited(edited.cfg, (*edited.changes, *gone))


def set_data(source: Source, root: str | Path, max_val: int = 0, classes: Palette | None = None) -> Edited:
    """Point training, validation and test at a folder of images and label maps, and the model at its classes.

    Args:
        root: folder that `layout.read_data` can read.
        max_val: use at most this many images for validation and test; 0 means all.
        classes: None takes the ones that `set_classes` gave before, else the folder's.

    Returns: the edited config; another number of classes than before makes the class layer start at random.
    Raises: FileNotFoundError if the folder is not there or has no such layout; ValueError if a split has no pair.
    """
    found, edited = read_data(root).need(), _start(source)
    values: dict[str, Any] = {}
    readers: dict[str, Any] = {"custom_imports": {"imports": IMPORTS, "allow_failed_imports": True}}
    for loader in LOADERS:
        where, training = f"{loader}.dataset", loader == "train_dataloader"
        values[f"{where}.type"] = PairDataset.__name__
        values[f"{where}.data_root"] = str(found.root.resolve())
        values[f"{where}.data_prefix"] = {}
        values[f"{where}.split"] = SPLITS[not training]
        if max_val and not training:
            values[f"{where}.indices"] = min(max_val, len(found.val))
        for i, step in enumerate(get_value(edited.cfg, f"{where}.pipeline")):
            if step["type"] in READERS:
                readers[f"{where}.pipeline.{i}.type"] = READERS[step["type"]]
    edited = _apply(edited, values, f"data: the images in {found.root.resolve().name}/, layout {found.layout}")
    edited = _apply(edited, readers, "data: read as prediction reads, so that training sees the same pixels")
    dataset = edited.cfg.train_dataloader.dataset
    if classes is None and dataset.get("metainfo") and not dataset.get("on_disk"):
        return edited  # set_classes has said it
    return _set_palette(edited, found.classes if classes is None else classes)


def _set_palette(source: Source, palette: Palette) -> Edited:
    """Classes into head, loss and data sets: ADE20K's, which need no words, or one's own."""
    count, of_ade20k = len(palette), palette is ade20k_palette()
    zero = {f"{key}.reduce_zero_label": of_ade20k for key in _DATASETS}
    edited = _apply(_inherit_zero_label(source), zero, LABEL_ZERO)
    head = "model.decode_head"
    values: dict[str, Any] = {f"{head}.num_classes": count, f"{head}.loss_cls.class_weight": [1.0] * count + [0.1]}
    for key in _DATASETS:
        if not of_ade20k or get_value(edited.cfg, f"{key}.metainfo", None):
            values[f"{key}.metainfo"] = None if of_ade20k else palette.meta
        if get_value(edited.cfg, f"{key}.type") != PairDataset.__name__:
            values[f"{key}.type"] = "BaseSegDataset"
        elif not of_ade20k or get_value(edited.cfg, f"{key}.on_disk", None):
            on_disk = None if of_ade20k else [list(entry.on_disk) for entry in palette.classes]
            values |= {f"{key}.on_disk": on_disk, f"{key}.ignored": [] if of_ade20k else list(palette.ignored)}
    return _apply(edited, values, f"classes: {count}, and in the loss one weight more, 0.1, for 'no object'")


def mmseg_names(steps: Any) -> Any:
    """A pipeline with mmseg's names for the steps that read files, which `set_data` gave others."""
    theirs = {ours: theirs for theirs, ours in READERS.items()}
    return [{**step, "type": theirs.get(step.get("type"), step.get("type"))} for step in steps]


def _inherit_zero_label(source: Source) -> Edited:
    """Let every pipeline take from the data set what 0 means on disk, so that the two cannot disagree."""
    keys = [_step(as_config(source), pipeline, "LoadAnnotations", needed=False) for pipeline in PIPELINES]
    return _apply(source, {f"{key}.reduce_zero_label": None for key in keys if key}, LABEL_ZERO)


def set_crop(
    source: Source, size: Sequence[int], scales: Sequence[int] | None = None, max_size: int | None = None
) -> Edited:
    """Train on crops of another size: the crop, the padding in the data preprocessor, and the resize before the crop.

    Args:
        size: `[H, W]`, pixels.
        scales: shorter sides, one of which is drawn at random before the crop; None scales the ones there along.
        max_size: largest longer side after that resize; None keeps it.

    Raises: ValueError unless the size is two whole numbers of at least 32.
    """
    if len(size) != 2 or not all(isinstance(n, int) and n >= 32 for n in size):
        raise ValueError(f"expected a crop size [H, W] of whole numbers of at least 32 pixels, got {size}")
    cfg = as_config(source)
    crop = _step(cfg, PIPELINES[0], "RandomCrop")
    before = min(get_value(cfg, f"{crop}.crop_size"))
    values: dict[str, Any] = {"model.data_preprocessor.size": tuple(size), f"{crop}.crop_size": tuple(size)}
    if resize := _step(cfg, PIPELINES[0], "RandomChoiceResize", needed=False):
        old = get_value(cfg, f"{resize}.scales")
        values[f"{resize}.scales"] = list(scales) if scales else [max(1, s * min(size) // before) for s in old]
        if max_size:
            values[f"{resize}.max_size"] = max_size
    why = f"image size: {size[0]} x {size[1]} pixels in training; what a step costs grows with the pixels"
    return _apply(source, values, why)


def drop_step(source: Source, kind: str, reason: str = "") -> Edited:
    """Leave a step out of the training pipeline, for example `"RandomFlip"`; `reason` is for `finetune.differences`.

    Raises: ValueError if the pipeline has no such step.
    """
    key = PIPELINES[0]
    steps = get_value(as_config(source), key)
    kept = [step for step in steps if step["type"] != kind]
    if len(kept) == len(steps):
        raise ValueError(f"{key} has no {kind} step; it has {', '.join(step['type'] for step in steps)}")
    return _apply(source, {key: kept}, f"augmentation: no {kind}" + (f", because {reason}" if reason else ""))


def set_test_size(source: Source, size: Sequence[int]) -> Edited:
    """Resize images at validation, test and inference to at most `[shorter, longer]` pixels; the aspect ratio stays.

    `test_pipeline`, which mmseg's `inference_model` reads, follows.
    """
    steps = [_step(as_config(source), pipeline, "Resize") for pipeline in PIPELINES[1:]]
    values = {f"{step}.scale": (size[1], size[0]) for step in steps}
    return _apply(source, values, f"image size: shorter side {size[0]} pixels at inference; labels keep their size")


def set_batch(source: Source, batch_size: int, learning_rate: float | None = None, reason: str = "") -> Edited:
    """Change the number of training images per step and device, and with it the learning rate.

    Args:
        batch_size: at least 1.
        learning_rate: at the start of the schedule; None keeps it.
        reason: why these values, for `finetune.differences`; may be empty.

    Raises: ValueError for a batch below 1 or a learning rate outside (0, 1).
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
    values: dict[str, Any] = {"train_dataloader.batch_size": batch_size}
    if learning_rate is not None:
        if not 0 < learning_rate < 1:
            raise ValueError(f"expected a learning rate between 0 and 1, got {learning_rate}")
        values["optim_wrapper.optimizer.lr"] = learning_rate
    return _apply(source, values, f"optimiser: {reason or f'{batch_size} images per step and a rate to go with them'}")


def set_schedule(
    source: Source, iterations: int, val_interval: int | None = None, log_interval: int | None = None
) -> Edited:
    """Train for another number of steps: loop, every scheduler's end, validation, checkpoints, log lines.

    Args:
        iterations: optimiser steps, at least 1.
        val_interval: steps between two validations; None means once, at the end.
        log_interval: steps between two log lines; None means about twenty lines in all.

    Raises: ValueError for less than one step.
    """
    if iterations < 1:
        raise ValueError(f"expected at least one iteration, got {iterations}")
    interval = val_interval or iterations
    upkeep: dict[str, Any] = {
        "default_hooks.checkpoint.interval": min(interval, max(25, iterations // 4)),
        "default_hooks.checkpoint.max_keep_ckpts": 2,
        "default_hooks.logger.interval": log_interval or max(1, iterations // 20),
    }
    edited = _apply(source, upkeep, "upkeep: checkpoints and log lines often enough for a run of this length")
    values: dict[str, Any] = {"train_cfg.max_iters": iterations, "train_cfg.val_interval": interval}
    schedulers = get_value(edited.cfg, "param_scheduler")
    old_end = max(scheduler.get("end", 0) for scheduler in schedulers)
    for i, scheduler in enumerate(schedulers):
        for key in ("begin", "end"):
            if scheduler.get(key):
                values[f"param_scheduler.{i}.{key}"] = round(scheduler[key] * iterations / old_end)
    why = f"schedule: {iterations} steps; the learning rate has to end with them, or it stays where it starts"
    return _apply(edited, values, why)


def set_classes(source: Source, classes: Sequence[str], palette: Sequence[Sequence[int]] | None = None) -> Edited:
    """Train on classes of your own: head, loss weights, data set, names and colours.

    Args:
        classes: names in the order of their ids, which start at 0 in memory; 255 is ignored.
        palette: one RGB colour 0..255 per class; None takes colours that the eye tells apart.

    Returns: the edited config. The class layer of loaded weights does not fit any more and starts at random.
    Raises: ValueError for a single string, less than two names, a name that is there twice, or a palette that does not
        fit (`palette.own_palette`).
    """
    cfg = as_config(source)
    kept = get_value(cfg, "train_dataloader.dataset.on_disk", None)
    if kept and len(kept) == len(classes):  # other names for the classes of the folder
        ignored = get_value(cfg, "train_dataloader.dataset.ignored", ())
        return _set_palette(source, own_palette(classes, palette, kept, ignored))
    return _set_palette(source, own_palette(classes, palette))


def class_names(cfg: Config) -> list[str]:
    """Names of the classes that the training data set has, in the order of their ids."""
    return palette_of(cfg).names


def set_workers(source: Source, workers: int) -> Edited:
    """Number of processes that load images, for all three data loaders; 0 loads in the main process."""
    if workers < 0:
        raise ValueError(f"expected a number of workers of at least 0, got {workers}")
    values = {f"{loader}.num_workers": workers for loader in LOADERS}
    values |= {f"{loader}.persistent_workers": workers > 0 for loader in LOADERS}
    why = "upkeep: images are loaded here, because starting workers takes longer than a short run gains"
    return _apply(source, values, why)


def set_weights(source: Source, path: str | Path | None) -> Edited:
    """Start from the weights in a file, without a second download; None starts from random weights.

    Raises: FileNotFoundError if there is no such file.
    """
    if path is not None and not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    value = None if path is None else str(Path(path).resolve())
    values = {"load_from": value, "model.backbone.init_cfg": None}
    return _apply(source, values, "start weights: all from load_from, so the backbone needs no download from ImageNet")


def _start(source: Source) -> Edited:
    """A copy that may be changed."""
    return Edited(copy.deepcopy(as_config(source)), source.changes if isinstance(source, Edited) else ())


def _apply(source: Source, values: Any, reason: str) -> Edited:
    """Set `{dotted key: value}` on a copy and note what really changed."""
    edited = _start(source)
    changes = []
    for key, value in values.items():
        before = plain(get_value(edited.cfg, key, MISSING))
        if before != plain(value) or type(before) is not type(plain(value)):
            _set(edited.cfg, key, value)
            changes.append(Change(key, before, plain(value), reason))
    return Edited(edited.cfg, edited.changes + tuple(changes))


def get_value(cfg: Config, key: str, default: Any = KeyError) -> Any:
    """The value at a dotted key; numbers are positions in a list."""
    node: Any = cfg._cfg_dict
    for part in key.split("."):
        try:
            node = node[int(part)] if isinstance(node, (list, tuple)) else dict.__getitem__(node, part)
        except (KeyError, IndexError, TypeError):
            if default is KeyError:
                said = f"the config has no {key}; it is not the config of a Mask2Former in mmsegmentation"
                raise ValueError(said) from None
            return default
    return node


def _set(cfg: Config, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node: Any = cfg._cfg_dict
    for part in parents:
        node = node[int(part)] if isinstance(node, (list, tuple)) else node.setdefault(part, ConfigDict())
    node[int(last) if isinstance(node, list) else last] = ConfigDict(value=copy.deepcopy(value))["value"]


def plain(value: Any) -> Any:
    """ConfigDict to dict, all the way down, for comparing and showing."""
    if isinstance(value, dict):
        return {key: plain(dict.__getitem__(value, key)) for key in value}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value


def comparable(value: Any) -> Any:
    """As `plain`, with lists for tuples: a config that was written and read has lost the difference."""
    if isinstance(value, dict):
        return {key: comparable(dict.__getitem__(value, key)) for key in value}
    return [comparable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _step(cfg: Config, pipeline: str, kind: str, needed: bool = True) -> str | None:
    """Dotted key of the first step of that type in a pipeline."""
    for i, step in enumerate(get_value(cfg, pipeline)):
        if step.get("type") == kind:
            return f"{pipeline}.{i}"
    if needed:
        raise ValueError(f"{pipeline} has no {kind} step, so its size cannot be set")
    return None
