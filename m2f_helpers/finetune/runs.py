"""What a run left in a folder, and how a new one gets on with it. Taught in notebook 04.

Nothing of an earlier run is removed before the new one has written its first checkpoint. The file `last_checkpoint`
says which checkpoint a folder stands at; it is rewritten last: a kill at any moment leaves one run or the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from m2f_helpers import checkpoints, config_files
from m2f_helpers.config import MISSING, comparable, get_value

_OWN_FILES = ("iter_*.pth", "best_*.pth", "history.csv", "config.py", "last_checkpoint")
_DATASET = "train_dataloader.dataset"
_COMPARED = {  # what a resumed run must have in common with the old one: words, places in the config
    "data": (f"{_DATASET}.data_root", f"{_DATASET}.split", f"{_DATASET}.indices"),
    "crop": ("model.data_preprocessor.size",),
    "batch size": ("train_dataloader.batch_size",),
    "learning rate": ("optim_wrapper.optimizer.lr",),
}
_FIXED = {  # weights of another shape cannot be gone on with at all
    "classes": (f"{_DATASET}.metainfo.classes", "model.decode_head.num_classes"),
    "model": ("model.backbone", "model.decode_head"),
}


@dataclass(frozen=True)
class Start:
    """Where a run begins: the folder, the steps that are done, the checkpoint to go on from, the files of an earlier
    run that go once the first checkpoint is there, and whether the learning rate is planned anew."""

    folder: Path
    step: int = 0
    checkpoint: Path | None = None
    outdated: tuple[Path, ...] = ()
    replan: bool = False
    notes: list[str] = field(default_factory=list)


def new_run(cfg: Config, folder: Path, overwrite: bool) -> Start:
    """Where a run that starts anew goes: into `folder`, or beside the run that is there into a sub-folder.

    Raises: ValueError if `overwrite` would take away the start weights.
    """
    earlier = _state(folder)
    if not earlier:
        return Start(folder)
    if not overwrite:
        number = next(n for n in range(2, 10_000) if not _state(folder / f"run_{n}"))
        note = f"{folder} holds {earlier}; it stays (--overwrite replaces it), and this run goes to"
        return Start(folder / f"run_{number}", notes=[f"{note} {folder / f'run_{number}'}"])
    weights = cfg.get("load_from")
    if weights and Path(weights).resolve().parent == folder.resolve():
        raise ValueError(
            f"{weights}: the start weights lie in {folder}, whose run is to be overwritten; copy them elsewhere, or "
            "leave --overwrite out"
        )
    return Start(folder, outdated=tuple(path for pattern in _OWN_FILES for path in folder.glob(pattern)))


def resumed_run(cfg: Config, folder: Path, accept_changes: bool) -> Start:
    """Go on from the newest checkpoint that can be read, if the config still fits it.

    Raises: FileNotFoundError if there is none; ValueError naming what differs.
    """
    path, content, notes = newest_readable(folder)
    if "iter" not in content["meta"]:
        raise ValueError(f"{path} holds weights and no run to go on with: start anew, and give it as --weights")
    done, old = content["meta"]["iter"], config_files.carried(content, path)
    if old is None:
        return Start(folder, done, path, notes=[*notes, f"{path} has no config in it: nothing could be compared"])
    if other := _differences(_FIXED, old, cfg):
        raise ValueError(
            f"{folder}: not resumed, the run there has another model ({'; '.join(other)[:300]}): start anew with "
            "another --out, and take its checkpoint as --weights"
        )
    differing = _differences(_COMPARED, old, cfg)
    before, after = (get_value(one, "train_cfg.max_iters") for one in (old, cfg))
    if after < before:
        differing.append(f"steps {before} -> {after}")
    if after < done:
        raise ValueError(f"{folder}: the run has done {done} steps already, more than {after}; give more --iterations")
    if differing and not accept_changes:
        raise ValueError(
            f"{folder}: not resumed, the run there was started with other values ({'; '.join(differing)}): give the "
            "old ones, start anew with another --out, or go on all the same with --accept-changes"
        )
    if after == done == before:
        notes.append(f"{path} is the last of {done} steps: nothing is left to do; more --iterations go on from it")
    elif after != before:
        notes.append(f"planned for {before} steps, now for {after}: the learning rate is planned anew from step {done}")
    return Start(folder, done, path, replan=after != before, notes=notes)


def newest_readable(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest checkpoint that is whole, its content, and a note for each damaged one that was passed over.

    Raises: FileNotFoundError if there is no checkpoint; ValueError if none can be read.
    """
    notes: list[str] = []
    for path in checkpoints.all_checkpoints(folder):
        try:
            return path, checkpoints.read_checkpoint(path), notes
        except ValueError as error:
            notes.append(f"going on from an earlier checkpoint, because {error}")
    if notes:
        raise ValueError(f"{folder}: no checkpoint can be read; {notes[0].split('because ')[1]}")
    raise FileNotFoundError(f"{folder}: no checkpoint iter_*.pth to go on from; start without resume")


def planned(folder: Path) -> tuple[int, int, list[int]]:
    """Iterations, batch size and crop `[H, W]` that the run in a folder was started with; nothing if unknown."""
    path, content, _ = newest_readable(folder)
    old = config_files.carried(content, path)
    if old is None:
        return 0, 0, []
    return old.train_cfg.max_iters, old.train_dataloader.batch_size, list(old.model.data_preprocessor.size)


def _state(folder: Path) -> str:
    """In words what run a folder holds; empty if none."""
    try:
        newest = checkpoints.newest_checkpoint(folder)
    except FileNotFoundError:
        return ""
    return f"a run that reached step {newest.stem.split('_')[1]}"


def _differences(places: dict[str, tuple[str, ...]], old: Config, new: Config) -> list[str]:
    found = []
    for name, keys in places.items():
        before, after = ([comparable(get_value(cfg, key, MISSING)) for key in keys] for cfg in (old, new))
        pair = next(((a, b) for a, b in zip(before, after, strict=True) if a != b), ())
        if pair:
            words = [_words(value) for value in pair if not isinstance(value, dict)]
            short = len(words) == 2 and max(map(len, words)) <= 80
            found.append(f"{name} {' -> '.join(words)}" if short else f"other {name}")
    return found


def _words(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return f"{value[0]} x {value[1]}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
