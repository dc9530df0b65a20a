"""Checks of a config and its data before anything is built: one sentence per fault. Taught in notebook 04."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from m2f_helpers.checkpoints import read_checkpoint
from m2f_helpers.config import LOADERS, PIPELINES, Source, as_config, class_names, get_value, mmseg_names
from m2f_helpers.data.dataset import PairDataset, classes_on_disk
from m2f_helpers.data.labels import check_pair
from m2f_helpers.data.layout import Pair, match, read_data
from m2f_helpers.finetune import memory
from m2f_helpers.finetune.differences import silent_edits
from m2f_helpers.palette import UNKNOWN

CHECKED_LABELS = 50
SMALLEST_RATE = 1e-7
ADE20K = "ADE20KDataset"
TRAIN_ORDER = ("LoadImageFromFile", "LoadAnnotations", "RandomCrop", "PackSegInputs")
TEST_ORDER = ("LoadImageFromFile", "Resize", "LoadAnnotations", "PackSegInputs")


def check(source: Source, device: str = "cpu") -> None:
    """Make sure that a config and its data can be trained on.

    Raises: ValueError with all faults, one sentence per line.
    """
    found = problems(source, device)
    if len(found) > 1:
        raise ValueError("this cannot be trained:\n" + "\n".join(f"- {line}" for line in found))
    if found:
        raise ValueError(found[0])


def problems(source: Source, device: str = "cpu") -> list[str]:
    """All faults of a config and its data, one sentence each; an empty list if there is none."""
    cfg = as_config(source)
    found = [edit.text for edit in silent_edits(cfg)]
    for look in (_classes, _pipelines, _schedule, _optimizer, _batch_norm, _loaders, _weights):
        found += look(cfg)
    found += list(_data(cfg)) or _labels(cfg)
    if found:
        return found
    dataset = cfg.val_dataloader.dataset
    images = [pair.image for pair in pairs_of(dataset)][: dataset.get("indices")]
    return memory.too_little(cfg, images, device)


def _classes(cfg: Config) -> Iterator[str]:
    head = cfg.model.decode_head
    count, weights = head.num_classes, head.loss_cls.class_weight
    if len(weights) != count + 1:
        yield (
            f"the loss has {len(weights)} class weights for {count} classes; expected {count + 1}, the last for "
            "'no object': use set_classes(cfg, names)"
        )
    for name in LOADERS:
        dataset = cfg[name].dataset
        metainfo = dataset.get("metainfo") or {}
        names, palette = metainfo.get("classes"), metainfo.get("palette")
        if dataset.type == "BaseSegDataset" and not names:
            yield f"{name}: a data set without class names; use set_classes(cfg, names)"
        if isinstance(names, str):
            yield f"{name}: metainfo.classes is the text {names!r}; expected a list of names"
        elif (known := len(names or class_names(cfg))) != count:
            yield f"{name}: the data has {known} classes, the head {count}; use set_classes(cfg, names)"
        elif names and palette and len(palette) != len(names):
            yield f"{name}: {len(palette)} colours for {len(names)} classes; use set_classes(cfg, names, palette)"


def _pipelines(cfg: Config) -> Iterator[str]:
    for key in PIPELINES:
        steps = get_value(cfg, key, None)
        if steps is None:
            yield f"{key} is missing; start from base_config(profile)"
            continue
        kinds = [step["type"] for step in mmseg_names(steps)]
        order = TRAIN_ORDER if key.startswith("train") else TEST_ORDER
        missing = [kind for kind in order if kind not in kinds]
        if missing:
            yield (
                f"{key} lacks {', '.join(missing)}; expected {' > '.join(order)} with others in between, "
                f"got {' > '.join(kinds)}"
            )
        elif [kinds.index(kind) for kind in order] != sorted(kinds.index(kind) for kind in order):
            yield f"{key} is in the wrong order: expected {' > '.join(order)}, got {' > '.join(kinds)}"
        yield from _zero_label(cfg, key, steps)
    steps = get_value(cfg, PIPELINES[0], None) or []
    crop = next((step["crop_size"] for step in steps if step["type"] == "RandomCrop"), None)
    size = cfg.model.data_preprocessor.get("size")
    if crop is not None and (size is None or any(a > b for a, b in zip(crop, size, strict=True))):
        yield (
            f"crops of {list(crop)} pixels do not fit the data preprocessor's size {size and list(size)}; "
            "use set_crop(cfg, [H, W])"
        )


def _batch_norm(cfg: Config) -> Iterator[str]:
    """At the backbone's last level, 32 times smaller than the crop, batch norm needs two values to compare."""
    size, norm = cfg.model.data_preprocessor.get("size") or (64, 64), cfg.model.backbone.get("norm_cfg") or {}
    values = cfg.train_dataloader.get("batch_size", 1) * ceil(size[0] / 32) * ceil(size[1] / 32)
    if values == 1 and "BN" in norm.get("type", "") and norm.get("requires_grad", True):
        yield (
            f"one crop of {size[0]} x {size[1]} pixels leaves batch norm a single value; take a larger --crop or "
            "--batch-size (Python: set_crop, set_batch)"
        )


def _zero_label(cfg: Config, key: str, steps: Any) -> Iterator[str]:
    """The pipeline and the data set must agree on what 0 means."""
    dataset = cfg["test_dataloader" if key == "test_pipeline" else key.split(".")[0]].dataset
    wanted = dataset.get("reduce_zero_label", dataset.type == ADE20K)
    step = next((step for step in steps if step["type"] in ("LoadAnnotations", "LoadLabels")), {})
    if step.get("reduce_zero_label") not in (None, wanted):
        said = f"reduce_zero_label={step['reduce_zero_label']}, the data set {wanted}"
        yield f"{key}: LoadAnnotations has {said}; make them equal"


def _schedule(cfg: Config) -> Iterator[str]:
    steps = cfg.train_cfg.get("max_iters", 0)
    if not isinstance(steps, int) or steps < 1:
        said = f"train_cfg.max_iters is {steps}; expected a whole number of at least 1"
        yield f"{said}: use set_schedule(cfg, iterations)"
        return
    end = max((scheduler.get("end", steps) for scheduler in cfg.get("param_scheduler") or []), default=steps)
    if end != steps:
        said = f"the learning rate reaches its end at step {end}, training ends at {steps}"
        yield f"{said}; use set_schedule(cfg, iterations)"


def _optimizer(cfg: Config) -> Iterator[str]:
    lr = cfg.optim_wrapper.optimizer.lr
    if not isinstance(lr, (int, float)) or not 0 < lr < 1:
        fix = "use set_batch(cfg, batch_size, learning_rate)"
        yield f"the learning rate is {lr}; expected a number between 0 and 1: {fix}"
    elif lr < SMALLEST_RATE:
        yield (
            f"the learning rate is {lr}; nothing is learnt below {SMALLEST_RATE}, because AdamW moves a weight by at "
            "most the rate in a step: the published one is 0.0001"
        )
    elif lr > 0.01:
        yield f"the learning rate is {lr}; Mask2Former diverges above 0.01, the published one is 0.0001"


def _loaders(cfg: Config) -> Iterator[str]:
    for name in LOADERS:
        loader = cfg[name]
        if loader.get("batch_size", 1) < 1:
            yield f"{name}.batch_size is {loader.batch_size}; expected at least 1: use set_batch(cfg, batch_size)"
        if loader.get("persistent_workers") and not loader.get("num_workers"):
            yield f"{name}: persistent_workers without workers; use set_workers(cfg, workers)"
        if not _registered(loader.dataset.type):
            said = f"{name}: there is no data set class {loader.dataset.type!r}"
            yield f"{said}; ADE20K's is {ADE20K!r}, your own take set_classes(cfg, names)"


def _registered(name: str) -> bool:
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    return DATASETS.get(name) is not None


def _weights(cfg: Config) -> Iterator[str]:
    path = cfg.get("load_from")
    if path and not Path(path).is_file():
        fix = "use set_weights(cfg, path), or checkpoints.fetch(name) for published weights"
        yield f"load_from: {path} is no file; {fix}"
    elif path:
        try:
            read_checkpoint(path)
        except (ValueError, OSError) as error:
            yield str(error)
    if path and cfg.model.backbone.get("init_cfg"):
        yield "the backbone would download weights that load_from overwrites at once; use set_weights(cfg, path)"


def _data(cfg: Config) -> Iterator[str]:
    for name in LOADERS[:2]:
        try:
            pairs_of(cfg[name].dataset)
        except (ValueError, OSError) as error:
            yield f"{name}: {error}"


def pairs_of(dataset: ConfigDict) -> list[Pair]:
    """The pairs that a data set of a config will read.

    Raises: ValueError or OSError if there are none, or if mmseg's own data set class would stop at one.
    """
    root = Path(dataset.get("data_root") or "")
    if dataset.type == PairDataset.__name__:
        return read_data(root).need(dataset.split).splits[dataset.split]
    folders = [root / dataset.data_prefix.get(key, "") for key in ("img_path", "seg_map_path")]
    if gone := [folder for folder in folders if not folder.is_dir()]:
        raise FileNotFoundError(f"{gone[0]} is no folder; use set_data(cfg, root)")
    pairs, problems = match(*folders)
    if problems or not pairs:
        raise ValueError(f"{problems[0] if problems else f'{folders[0]} is empty'}; use set_data(cfg, root)")
    return pairs


def _labels(cfg: Config) -> list[str]:
    """The first label maps of the training data, looked at as they lie on disk; all of them if none has a class."""
    dataset, found, taught = cfg.train_dataloader.dataset, [], False
    try:
        classes = classes_on_disk(**{"reduce_zero_label": dataset.type == ADE20K, **dataset})
    except ValueError as error:
        return [f"train_dataloader: {error}"]
    pairs = pairs_of(dataset)
    for i, pair in enumerate(pairs):
        if i >= CHECKED_LABELS and taught:
            break
        ids, problems = check_pair(pair.image, pair.label, classes, cfg.model.decode_head.num_queries)
        taught, found = taught or bool((classes.from_disk[list(ids)] < UNKNOWN).any()), found + problems
    errors = [f"{problem.path}: {problem.message}" for problem in found if problem.severity == "error"]
    if not errors and not taught:
        said = f"in all {len(pairs)} training label maps every pixel is ignored"
        return [f"nothing can be learnt: {said}; `m2f check --data` shows which ids they hold"]
    more = [f"... and {len(errors) - 5} more label maps like these"] if len(errors) > 5 else []
    return errors[:5] + more
