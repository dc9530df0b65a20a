"""Loads a trained model for inference. Taught in notebook 05."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers import config_files
from m2f_helpers.checkpoints import load_state, newest_checkpoint, profile_weights, read_checkpoint
from m2f_helpers.config import as_config, base_config, build_model
from m2f_helpers.install.devices import choose_device
from m2f_helpers.palette import Palette, own_palette, palette_of
from m2f_helpers.profiles import get_profile


def load(
    config: Any = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    new_classes: bool = False,
    fallback: Any = None,
) -> Any:
    """Build a model for inference and fill it with a checkpoint's weights.

    Args:
        config: an MMEngine `Config`, what an edit of `m2f_helpers.config` returned, or the path of a config file. It is
            copied, never changed. None takes the config that the checkpoint carries.
        checkpoint: weights, read by `checkpoints.read_checkpoint`; None leaves the model as it was initialised, at
            random.
        device: `"cpu"`, `"cuda"`, ...; None takes a GPU if there is one.
        new_classes: the config may have other classes than the checkpoint; the class layer then stays at random, as it
            is before fine-tuning.
        fallback: the config if neither the caller nor the checkpoint has one.

    Returns: mmseg's segmentor in evaluation mode; `.cfg` holds the config, `.dataset_meta` the classes, which
        `palette.palette_of` reads: those that the checkpoint was trained on.
    Raises: FileNotFoundError or ValueError naming the file, and what was not in it: a half-filled model would guess.
    """
    device = choose_device(device)
    content = {} if checkpoint is None else read_checkpoint(checkpoint)
    if config is None:
        config = config_files.carried(content, checkpoint) or fallback
    else:
        config = copy.deepcopy(as_config(config))
    if config is None:
        raise ValueError(f"{checkpoint or 'load()'} carries no config: give the config that it was trained with")
    model = build_model(config, seed=None)
    if checkpoint is not None:
        report = load_state(model, content["state_dict"])
        others = [name for name in report.reshaped if not (new_classes and ".cls_embed." in name)]
        if report.missing or others:
            raise ValueError(f"{checkpoint} is of another model: {report.text}")
    palette = _classes(content, config, model.decode_head.num_classes)
    on_disk = [list(entry.on_disk) for entry in palette.classes]  # beyond mmseg's meta, for `palette_of` to read
    model.cfg, model.dataset_meta = config, {**palette.meta, "on_disk": on_disk, "ignored": list(palette.ignored)}
    return model.to(device).eval()


def _classes(content: dict[str, Any], config: Any, count: int) -> Palette:
    """What the model's `count` classes are called: as the checkpoint says, or the config, or by number.

    Only the config knows which ids they have in the learner's label files.
    """
    found = []
    for source in (content.get("meta", {}).get("dataset_meta"), config):
        with suppress(ValueError):  # it names none
            found += [palette] if len(palette := palette_of(source)) == count else []
    if not found:
        return own_palette([f"class {i}" for i in range(count)])
    return found[-1] if found[-1].names == found[0].names else found[0]


def load_profile(
    profile: str = "demo", config: Any = None, checkpoint: str | Path | None = None, device: str | None = None
) -> Any:
    """`load` with a profile's config and weights wherever none are given and the checkpoint carries none.

    The `ade20k` profile's own weights are fetched once, with their hash checked.
    """
    settings = get_profile(profile)
    if checkpoint is None:
        return load(base_config(settings) if config is None else config, profile_weights(settings.weights), device)
    return load(config, checkpoint, device, fallback=base_config(settings))


def load_finetuned(folder: str | Path, profile: str = "demo", device: str | None = None) -> Any | None:
    """The model that notebook 04 (or `m2f train`) left in a folder; None if there is none or one of another profile."""
    folder = Path(folder)
    if not (folder / "config.py").is_file():
        return None
    config, wanted = as_config(folder / "config.py"), base_config(profile)
    heads = config.model.decode_head, wanted.model.decode_head
    if config.model.backbone.depth != wanted.model.backbone.depth or heads[0].num_queries != heads[1].num_queries:
        return None
    return load(config, newest_checkpoint(folder), device)
