"""Fine-tuning through MMEngine's Runner: a bar, a history, checkpoints that survive anything. Taught in notebook 04.

The Runner does the work. This module checks the config before anything is built, chooses device and folder, and says
what came of it; the config that lands in the output folder stays a plain mmseg config.
"""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmengine.device.utils as device_utils
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from torch.utils import deterministic
from tqdm.auto import tqdm

from m2f_helpers import checkpoints, files
from m2f_helpers.checkpoints import newest_checkpoint
from m2f_helpers.config import Source, as_config, class_names, finetune_edits, set_batch
from m2f_helpers.data.layout import read_data
from m2f_helpers.finetune import learning, preflight, runs
from m2f_helpers.finetune.runner import CarefulRunner, SaveHook, StepHook, TrainingDiverged
from m2f_helpers.install.devices import choose_device, free_memory, missing_operators_explained
from m2f_helpers.profiles import Profile, get_profile

_run_numbers = itertools.count()


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    `history` has one row per step (see `History`), `checkpoint` is the newest one, `config` a plain mmseg config that
    fits it, `log` the library's own log, `loaded` says in words which tensors the start weights filled.
    """

    history: pd.DataFrame
    checkpoint: Path
    config: Path
    log: Path
    loaded: str
    interrupted: bool = False

    @property
    def miou(self) -> float:
        """The last mIoU that was measured, 0..1; NaN if there was no validation."""
        measured = self.history["mIoU"].dropna()
        return float(measured.iloc[-1]) if len(measured) else float("nan")


def train(
    source: Source,
    work_dir: str | Path,
    *,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    launcher: str = "none",
    progress: bool = True,
) -> TrainResult:
    """Train, and write config, checkpoints, history and log below `work_dir`.

    Args:
        source: the config, or what an edit of `m2f_helpers.config` returned.
        work_dir: output folder, made if needed. If it holds a run already, the new one goes to a sub-folder `run_2`,
            `run_3`, ...
        seed: of weights, crops and order; the same seed on the same CPU gives the same losses.
        device: `"cuda"`, `"cuda:1"`, `"mps"` or `"cpu"`; None takes the fastest that is here.
        resume: go on from the newest checkpoint in `work_dir` that can be read; with more steps than it was planned
            for, the learning rate is planned anew.
        overwrite: put the new run in place of one that `work_dir` holds, once it has written its first checkpoint.
        accept_changes: resume although data, crop, batch size or learning rate are not the old ones.
        launcher: `"pytorch"` under torchrun, else `"none"`.
        progress: show a bar.

    Returns: history and paths. After Ctrl-C too, with `interrupted=True` and a checkpoint of the step that was reached.
    Raises: ValueError if config, data, device or what the folder holds cannot work (`preflight.check`); OSError if the
        disk is full; TrainingDiverged with likely causes if the loss is no longer a number.
    """
    cfg, work_dir = copy.deepcopy(as_config(source)), Path(work_dir).resolve()
    device = choose_device(device)
    preflight.check(cfg, device)
    files.check_apart(cfg.train_dataloader.dataset.data_root, work_dir)
    start = runs.resumed_run(cfg, work_dir, accept_changes) if resume else runs.new_run(cfg, work_dir, overwrite)
    _prepare(cfg, start, seed, device, launcher)
    with _folder(start.folder), _on_device(device, launcher):
        for note in start.notes:
            _say(note)
        return _train(cfg, start, device, progress)


def _train(cfg: Config, start: runs.Start, device: str, progress: bool) -> TrainResult:
    runner = CarefulRunner.from_cfg(cfg)
    step, save, counts = StepHook(runner.begin(start), progress), SaveHook(), learning.PixelCounts()
    hooks = {step: "VERY_HIGH", counts: "NORMAL", checkpoints.CleanCheckpointHook(): "VERY_LOW", save: "LOWEST"}
    for hook, priority in hooks.items():
        runner.register_hook(hook, priority)
    try:
        with _stop_on_signal(save), missing_operators_explained():
            runner.train()
    except (ValueError, RuntimeError, MemoryError) as error:
        raise _explained(runner, step, device, error) from None
    finally:
        if step.bar is not None:
            step.bar.close()
    history = runner.history.frame()
    if save.stop_asked:
        again = f"go on with resume=True (m2f train --resume), same folder: {start.folder}"
        _say(f"stopped after step {runner.iter}; {again}")
    elif remark := learning.remarks(history, counts, class_names(cfg), cfg.load_from is None):
        _say(remark)
    newest, log = newest_checkpoint(start.folder), Path(runner._log_dir) / f"{runner.timestamp}.log"
    return TrainResult(history, newest, start.folder / "config.py", log, runner.loaded, save.stop_asked)


def finetune(
    profile: str | Profile,
    data: str | Path | None,
    work_dir: str | Path,
    *,
    weights: str | None = None,
    iterations: int = 0,
    crop_size: Sequence[int] = (),
    batch_size: int = 0,
    classes: Sequence[str] = (),
    resume: bool = False,
    **options: Any,
) -> TrainResult | None:
    """`m2f train`: the profile's fine-tune in one call, under torchrun on all its ranks.

    Args:
        profile, work_dir: name or `Profile`, and the output folder.
        data: data folder; None draws dusk scenes beside `work_dir`.
        weights: a file, `"random"`, or None for the profile's own.
        iterations, crop_size, batch_size, classes: see `config.finetune_edits`; what is left out is, with `resume`, as
            the run was started with.
        resume: see `train`.
        **options: `seed`, `device`, `overwrite`, `accept_changes` of `train`.

    Returns: the result; None on the ranks of torchrun that are not the first.
    """
    from m2f_helpers.data.preparation import prepared_data

    profile = get_profile(profile)
    if not data:
        data = prepared_data(out_dir=Path(work_dir).parent, train=profile.train_scenes, val=profile.val_scenes)
    if resume:
        steps, batch, crop = runs.planned(Path(work_dir))
        iterations, batch_size, crop_size = iterations or steps, batch_size or batch, crop_size or crop
    start = checkpoints.start_weights(weights or "", profile.weights)
    edited = finetune_edits(profile, data, start, iterations, crop_size, classes)
    if batch_size:
        edited = set_batch(edited, batch_size)
    _say(described(edited))
    launcher = "pytorch" if "LOCAL_RANK" in os.environ else "none"
    result = train(edited, work_dir, resume=resume, launcher=launcher, **options)
    return result if is_main_process() else None


def described(source: Source) -> str:
    """What will be learnt from what, in two lines: "11 classes: sky, building, ..." and the numbers of pairs."""
    cfg = as_config(source)
    names, data = class_names(cfg), read_data(cfg.train_dataloader.dataset.data_root)
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    own = "" if cfg.train_dataloader.dataset.get("metainfo") else " (ADE20K's; --classes names other ones)"
    return f"{len(names)} classes: {shown}{own}\n{data}"


def _explained(runner: CarefulRunner, step: StepHook, device: str, error: Exception) -> Exception:
    """What can go wrong on the way, in one sentence; any other error as it is."""
    diverged = ("matrix contains invalid numeric entries", "cost matrix is infeasible", "no longer")
    if isinstance(error, ValueError) and any(text in str(error) for text in diverged):
        return TrainingDiverged(f"{_why_it_diverged(runner, step, str(error))}. {_last_good(runner)}")
    if isinstance(error, MemoryError) or any(text in str(error) for text in ("out of memory", "allocate memory")):
        crop, batch = runner.cfg.model.data_preprocessor.size, runner.cfg.train_dataloader.batch_size
        return ValueError(
            f"the memory of {device} does not suffice at step {runner.iter + 1} "
            f"({free_memory(device) / 1e9:.1f} GB are free now): {batch} crops of {crop[0]} x {crop[1]} pixels are too "
            f"many; take a smaller --crop or --batch-size. {_last_good(runner)}"
        )
    return error


def _why_it_diverged(runner: CarefulRunner, step: StepHook, what: str) -> str:
    lr = max(runner.optim_wrapper.get_lr()["lr"])
    amp = "on: switch it off" if "Amp" in type(runner.optim_wrapper).__name__ else "off"
    try:
        values = [image.float() for image in step.batch["inputs"]]
        seen = f"values {min(float(v.min()) for v in values):g}..{max(float(v.max()) for v in values):g}"
    except (TypeError, KeyError, AttributeError):
        seen = "not readable"
    return (
        f"training stopped at step {runner.iter + 1}: {what}. Usual causes: the learning rate (now {lr:g}; try a "
        f"tenth), mixed precision ({amp}), the images ({seen}; expected 0..255)"
    )


def _last_good(runner: CarefulRunner) -> str:
    if not runner.saved_step:
        return "No checkpoint was written yet"
    return f"The last good checkpoint is {newest_checkpoint(runner.work_dir)}"


def _prepare(cfg: Config, start: runs.Start, seed: int, device: str, launcher: str) -> None:
    """What the Runner needs beyond the learner's wishes: folder, seed, names of its own, the process group's kind."""
    cfg.work_dir = str(start.folder)
    cfg.resume = start.checkpoint is not None
    if start.checkpoint:
        cfg.load_from = str(start.checkpoint)
    cfg.randomness = {"seed": seed, "deterministic": device == "cpu"}
    cfg.launcher = launcher
    cfg.experiment_name = f"{start.folder.name}_{os.getpid()}_{next(_run_numbers)}"
    cfg.env_cfg.cudnn_benchmark = device != "cpu"
    if not (cfg.default_hooks.get("visualization") or {}).get("draw"):
        cfg.default_hooks.pop("visualization", None)  # without `draw` it does nothing but warn about it
    if cfg.train_cfg.get("val_interval", 1) >= cfg.train_cfg.max_iters:
        # judged once, at the end: the best would be the last
        (cfg.default_hooks.get("checkpoint") or {}).pop("save_best", None)
    if "visualizer" in cfg:
        cfg.visualizer.pop("name", None)  # one name for two runs would mean one folder for both
    if launcher != "none" and device == "cpu":
        cfg.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """The output folder, for this run alone; away again if it is new and nothing came of it."""
    new = not folder.exists()
    with files.locked(folder) if _is_first() else nullcontext():
        try:
            if _is_first():
                files.remove_orphans(folder)
            yield
        except BaseException:
            if new and not checkpoints.all_checkpoints(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _is_first() -> bool:
    """Whether this process speaks and writes for all of torchrun's; known before they have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _on_device(device: str, launcher: str) -> Iterator[None]:
    """MMEngine takes its device from a constant; within the block that is ours.

    And PyTorch, when told to be deterministic, fills each new tensor with NaN before it is written to: good for finding
    code that reads what nobody wrote, and an eighth of a step of the demo profile.
    """
    before, device_utils.DEVICE = device_utils.DEVICE, device.split(":")[0]
    filled, deterministic.fill_uninitialized_memory = deterministic.fill_uninitialized_memory, False
    if launcher != "none" and device == "cpu" and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    try:
        with torch.cuda.device(device) if ":" in device else nullcontext():  # within the block, "cuda" is this one
            yield
    finally:
        device_utils.DEVICE = before
        deterministic.fill_uninitialized_memory = filled


@contextmanager
def _stop_on_signal(save: SaveHook) -> Iterator[None]:
    """The first Ctrl-C asks for a stop after the step; the second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if save.stop_asked:
            raise KeyboardInterrupt
        save.stop_asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    if _is_first():
        tqdm.write(text)
