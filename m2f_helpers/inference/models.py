"""Loads a trained model for inference. Taught in notebook 05."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers.checkpoints import load_weights, newest_checkpoint, profile_weights
from m2f_helpers.config import as_config, base_config, build_model
from m2f_helpers.install.devices import choose_device
from m2f_helpers.palette import ade20k_palette
from m2f_helpers.profiles import get_profile


def load(config: Any, checkpoint: str | Path | None, device: str | None = None) -> Any:
    """Build a model for inference and fill it with a checkpoint's weights.

    Args:
        config: an MMEngine `Config`, what an edit of `m2f_helpers.config` returned, or the path of a config file. It is
            copied, never changed.
        checkpoint: weights, read by `checkpoints.load_weights`; None leaves the model as it was initialised, at random.
        device: `"cpu"`, `"cuda"`, ...; None takes a GPU if there is one.

    Returns: mmseg's segmentor in evaluation mode; `.cfg` holds the copied config.
    Raises: FileNotFoundError or ValueError naming the file, and what was not in it: a half-filled model would guess.
    """
    device, config = choose_device(device), copy.deepcopy(as_config(config))
    model = build_model(config, seed=None)
    if checkpoint is not None:
        report = load_weights(model, checkpoint)
        if report.missing or report.reshaped:
            raise ValueError(f"{checkpoint} is of another model: {report.text}")
    model.cfg = config
    model.dataset_meta = {"classes": ade20k_palette().names, "palette": ade20k_palette().colors.tolist()}
    return model.to(device).eval()


def load_profile(
    profile: str = "demo", config: Any = None, checkpoint: str | Path | None = None, device: str | None = None
) -> Any:
    """`load` with a profile's config and weights wherever none are given.

    Args:
        profile: `"demo"` or `"ade20k"`.
        config: in place of the profile's.
        checkpoint: in place of the profile's; the `ade20k` profile's own is fetched once, with its hash checked.
        device: as in `load`.
    """
    settings = get_profile(profile)
    checkpoint = profile_weights(settings.weights) if checkpoint is None else checkpoint
    return load(base_config(settings) if config is None else config, checkpoint, device)


def load_finetuned(folder: str | Path, profile: str = "demo", device: str | None = None) -> Any | None:
    """The model that notebook 04 (or `m2f train`) left in a folder, if there is one and it is of this profile.

    Args:
        folder: with `config.py` and checkpoints.
        profile: `"demo"` or `"ade20k"`.
        device: as in `load`.

    Returns: the model, or None if the folder has none or one of another profile.
    """
    folder = Path(folder)
    if not (folder / "config.py").is_file():
        return None
    config, wanted = as_config(folder / "config.py"), base_config(profile)
    heads = config.model.decode_head, wanted.model.decode_head
    if config.model.backbone.depth != wanted.model.backbone.depth or heads[0].num_queries != heads[1].num_queries:
        return None
    return load(config, newest_checkpoint(folder), device)
