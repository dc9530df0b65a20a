"""`m2f pretrain`: the recipe of the weights in the package, the demo model trained from nothing on day scenes."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from m2f_helpers import checkpoints, config, files
from m2f_helpers.data.preparation import prepare
from m2f_helpers.data.scenes.dataset import make_scenes
from m2f_helpers.finetune import training
from m2f_helpers.profiles import get_profile

SCENES_SEED = 1  # none of these scenes is among the ones that the notebooks draw, seed 0


@dataclass(frozen=True)
class Recipe:
    """How the shipped weights are made; the defaults are the ones that made them. Images are 512 x 512."""

    scenes: int = 1200
    val_scenes: int = 32
    iterations: int = 1200
    crop: int = 160
    scales: tuple[int, ...] = (160, 176, 192, 208, 224)
    learning_rate: float = 1e-3
    seed: int = 0


def pretrain(work_dir: str | Path, out: str | Path, recipe: Recipe | None = None, device: str | None = None) -> Path:
    """Draw day scenes, train the demo model on them from random weights, and write the weights in 16 bit.

    Args:
        work_dir: for the images and the run; a run that was stopped goes on from its newest checkpoint.
        out: the `.pth` file to write; a `.json` beside it says hash, mIoU and recipe.
        recipe: None takes the one that made the shipped weights.
        device: see `training.train`.
    """
    recipe, work_dir, out = recipe or Recipe(), Path(work_dir), Path(out)
    drawn = make_scenes(work_dir / "day", recipe.scenes, recipe.val_scenes, "day", SCENES_SEED)
    images = prepare(drawn, work_dir / "prepared", workers=1).root
    # all steps of the published pipeline, colour changes too: the weights must not fall apart in another light
    edited = config.set_data(config.profile_edits(replace(get_profile("demo"), dropped_steps={})), images)
    edited = config.set_crop(edited, [recipe.crop, recipe.crop], scales=recipe.scales)
    edited = config.set_batch(edited, 8, recipe.learning_rate)
    edited = config.set_schedule(edited, recipe.iterations, max(1, recipe.iterations // 4), log_interval=20)
    resume = any((work_dir / "run").glob("iter_*.pth"))
    result = training.train(edited, work_dir / "run", seed=recipe.seed, device=device, resume=resume)
    return export(result.checkpoint, out, {"miou_day": round(result.miou, 4), "recipe": vars(recipe)})


def export(checkpoint: Path, out: Path, facts: dict) -> Path:
    """Write a checkpoint's weights in 16 bit, with the classes and nothing else, and a `.json` with facts beside it."""
    content = checkpoints.read_checkpoint(checkpoint)
    tensors, meta = content["state_dict"].items(), content["meta"]["dataset_meta"]
    state = {name: value.half() if value.is_floating_point() else value for name, value in tensors}
    kept = {"classes": tuple(meta["classes"]), "palette": [list(map(int, color)) for color in meta["palette"]]}
    checkpoints.save_atomically({"state_dict": state, "meta": {"dataset_meta": kept}}, out)
    facts = {
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "command": "m2f pretrain",
        **facts,
        "made_with": {"torch": version("torch"), "python": platform.python_version(), "processor": platform.machine()},
    }
    files.write(out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    return out
