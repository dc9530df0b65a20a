"""Fine-tuning through MMEngine's Runner: a bar, a history, checkpoints that survive anything. Taught in notebook 04.

The Runner does the work: data loaders, optimiser, schedule, validation, checkpoints. This module checks the config
before anything is built, chooses the device, and adds five small hooks; the config that lands in the output folder
stays a plain mmseg config.
"""

from __future__ import annotations

import copy
import itertools
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmengine.device.utils as device_utils
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_dist_info, is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from tqdm.auto import tqdm

from m2f_helpers import checkpoints, files
from m2f_helpers.checkpoints import newest_checkpoint
from m2f_helpers.config import Edited, as_config, finetune_edits
from m2f_helpers.finetune import preflight
from m2f_helpers.finetune.batches import LOSS_KINDS
from m2f_helpers.install.devices import choose_device
from m2f_helpers.profiles import Profile, get_profile

_run_numbers = itertools.count()


class TrainingDiverged(ValueError):
    """The loss or the weights are no longer numbers."""


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    `history` has one row per step (see `History`), `checkpoint` is the newest one, `config` a plain mmseg config that
    fits it, `log` the library's own log, `loaded` says in words which tensors the start weights filled, `interrupted`
    is True after Ctrl-C.
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
    source: Config | Edited,
    work_dir: str | Path,
    *,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    launcher: str = "none",
    progress: bool = True,
) -> TrainResult:
    """Train, and write config, checkpoints, history and log below `work_dir`.

    Args:
        source: the config, or what an edit of `m2f_helpers.config` returned.
        work_dir: output folder, made if needed. Without `resume`, checkpoints and history of an earlier run in it are
            replaced.
        seed: of weights, crops and order; the same seed on the same CPU gives the same losses.
        device: `"cuda"`, `"mps"` or `"cpu"`; None takes the first of these that is there.
        resume: go on from the newest checkpoint in `work_dir`, on the same schedule.
        launcher: `"pytorch"` under torchrun, else `"none"`.
        progress: show a bar.

    Returns: history and paths. After Ctrl-C too, with `interrupted=True` and a checkpoint of the step that was reached.
    Raises: ValueError if the config or data cannot work (`preflight.check`); TrainingDiverged with likely causes if the
        loss
        is no longer a number.
    """
    cfg = copy.deepcopy(as_config(source))
    work_dir = Path(work_dir).resolve()
    preflight.check(cfg)
    device = choose_device(device)
    _prepare(cfg, work_dir, seed, device, launcher)
    start = _start_point(cfg, work_dir, resume)
    with _on_device(device, launcher):
        runner = _Runner.from_cfg(cfg)
        hooks = _Hooks(start, progress)
        hooks.register(runner)
        interrupted = _run(runner, hooks)
    if interrupted:
        _say(f"stopped after step {runner.iter}; go on with resume=True (m2f train --resume), same folder: {work_dir}")
    return TrainResult(
        hooks.history.frame(),
        newest_checkpoint(work_dir),
        work_dir / "config.py",
        _log_file(runner),
        runner.loaded,
        interrupted,
    )


def finetune(
    profile: str | Profile,
    data: str | Path | None,
    work_dir: str | Path,
    *,
    weights: str | None = None,
    iterations: int = 0,
    crop_size: Sequence[int] = (),
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
) -> TrainResult | None:
    """`m2f train`: the profile's fine-tune in one call, under torchrun on all its ranks.

    Args:
        profile: name or `Profile`.
        data: data folder; None draws dusk scenes beside `work_dir`.
        work_dir: output folder.
        weights: a file, `"random"`, or None for the profile's own.
        iterations, crop_size, seed, device, resume: see `config.finetune_edits` and `train`.

    Returns: the result; None on the ranks of torchrun that are not the first.
    """
    from m2f_helpers.data.preparation import prepared_data

    profile = get_profile(profile)
    if not data:
        data = prepared_data(out_dir=Path(work_dir).parent, train=profile.train_scenes, val=profile.val_scenes)
    start = checkpoints.start_weights(weights or "", profile.weights)
    edited = finetune_edits(profile, data, start, iterations, crop_size)
    launcher = "pytorch" if "LOCAL_RANK" in os.environ else "none"
    result = train(edited, work_dir, seed=seed, device=device, resume=resume, launcher=launcher)
    return result if is_main_process() else None


def read_history(work_dir: str | Path) -> pd.DataFrame:
    """The history that a run wrote to `history.csv`, one row per step. FileNotFoundError if there is none."""
    path = Path(work_dir) / "history.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no history; train into this folder first")
    return pd.read_csv(path)


@dataclass
class History:
    """Rows of the history: `step` (from 1), `lr`, `loss`, its parts `loss_cls`, `loss_mask`, `loss_dice` (each summed
    over all predictions), `mIoU` (0..1, only where validation ran)."""

    path: Path | None = None
    rows: list[dict[str, float]] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """As a DataFrame with fixed columns."""
        return pd.DataFrame(self.rows, columns=["step", "lr", "loss", *(f"loss_{kind}" for kind in LOSS_KINDS), "mIoU"])

    def save(self) -> None:
        """Write `history.csv`; the file is whole at any moment."""
        if self.path is not None and is_main_process():
            files.write(self.path, self.frame().to_csv(index=False))


class _Runner(Runner):
    """MMEngine's Runner, with quiet logs, safe reading and whole files."""

    loaded = "random start weights"

    def build_logger(self, log_level: Any = "INFO", **kwargs: Any) -> Any:
        logger = super().build_logger(log_level, **kwargs)
        for handler in logger.handlers:
            if not hasattr(handler, "baseFilename"):
                handler.setLevel("ERROR")
        return logger

    @master_only
    def dump_config(self) -> None:
        files.write(Path(self.work_dir) / "config.py", self.cfg.pretty_text)

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = False, revise_keys: Any = ()
    ) -> dict:
        content = checkpoints.read_checkpoint(filename)
        self.call_hook("after_load_checkpoint", checkpoint=content)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        self.loaded = checkpoints.load_state(model, content["state_dict"]).text
        self._has_loaded = True
        self.logger.info(f"{filename}: {self.loaded}")
        return content

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        bad = [name for name, value in self.model.named_parameters() if not torch.isfinite(value).all()]
        if bad:
            raise TrainingDiverged(f"the weights {', '.join(bad[:3])} are no longer numbers")
        part = f"{filename}.part"
        super().save_checkpoint(out_dir, part, *args, **kwargs)
        if is_main_process():
            os.replace(Path(out_dir) / part, Path(out_dir) / filename)


class _Stopped(Exception):
    """Raised between two steps after Ctrl-C, when the checkpoint is written."""


class _Hooks(Hook):
    """History, bar, check for NaN, stop on request: what happens around each step."""

    def __init__(self, start: int, progress: bool) -> None:
        self.start, self.progress = start, progress
        self.history = History()
        self.batch: Any = None
        self.stop_asked = False
        self.bar: Any = None

    def register(self, runner: Runner) -> None:
        runner.register_hook(checkpoints.CleanCheckpointHook(), "VERY_LOW")
        runner.register_hook(self, "VERY_HIGH")
        runner.register_hook(_StopHook(self), "LOWEST")

    def before_train(self, runner: Runner) -> None:
        self.history.path = Path(runner.work_dir) / "history.csv"
        if self.start and self.history.path.is_file():
            rows = pd.read_csv(self.history.path).to_dict("records")
            self.history.rows = [row for row in rows if row["step"] <= self.start]
        hide = not self.progress or not is_main_process()
        self.bar = tqdm(total=runner.max_iters, initial=self.start, desc="training", unit="step", disable=hide)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batch = data_batch

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        row = _row(runner, outputs)
        if not pd.notna(row["loss"]) or abs(row["loss"]) == float("inf"):
            raise TrainingDiverged("the loss is no longer a number")
        self.history.rows.append(row)
        self.bar.set_postfix(loss=f"{row['loss']:.2f}", lr=f"{row['lr']:.1e}", refresh=False)
        self.bar.update()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.history.save()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self.history.rows and metrics:
            self.history.rows[-1]["mIoU"] = metrics["mIoU"] / 100
            self.history.save()

    def after_train(self, runner: Runner) -> None:
        self.history.save()


class _StopHook(Hook):
    """Last in line after each step: writes a checkpoint and stops if somebody asked for it, on all ranks alike."""

    def __init__(self, state: _Hooks) -> None:
        self.state = state

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        asked = torch.tensor(int(self.state.stop_asked))
        if get_dist_info()[1] > 1:
            all_reduce(asked, "max")
        if asked and not self.is_last_train_iter(runner):
            runner.save_checkpoint(runner.work_dir, f"iter_{runner.iter + 1}.pth", by_epoch=False)
            raise _Stopped


def _run(runner: Runner, hooks: _Hooks) -> bool:
    """Train; True if it was stopped by Ctrl-C."""
    try:
        with _stop_on_signal(hooks):
            runner.train()
        return False
    except _Stopped:
        runner.train_loop._iter += 1
        return True
    except ValueError as error:
        known = ("matrix contains invalid numeric entries", "cost matrix is infeasible", "no longer")
        if not any(text in str(error) for text in known):
            raise
        raise TrainingDiverged(_explain(runner, hooks, str(error))) from None
    finally:
        if hooks.bar is not None:
            hooks.bar.close()


def _explain(runner: Runner, hooks: _Hooks, what: str) -> str:
    lr = max(runner.optim_wrapper.get_lr()["lr"])
    amp = "on: switch it off" if "Amp" in type(runner.optim_wrapper).__name__ else "off"
    try:
        good = f"the last good checkpoint is {newest_checkpoint(runner.work_dir)}"
    except FileNotFoundError:
        good = "no checkpoint was written yet"
    return (
        f"training stopped at step {runner.iter + 1}: {what}. Usual causes: the learning rate (now "
        f"{lr:g}; try a tenth), mixed "
        f"precision ({amp}), the pictures ({_input_range(hooks.batch)}; expected 0..255). {good[0].upper()}{good[1:]}"
    )


def _input_range(batch: Any) -> str:
    try:
        values = [image.float() for image in batch["inputs"]]
        return f"values {min(float(v.min()) for v in values):g}..{max(float(v.max()) for v in values):g}"
    except (TypeError, KeyError, AttributeError):
        return "not readable"


def _row(runner: Runner, outputs: dict[str, Any]) -> dict[str, float]:
    parts = {
        f"loss_{kind}": sum(float(v.detach()) for k, v in outputs.items() if k.endswith(f"loss_{kind}"))
        for kind in LOSS_KINDS
    }
    lr = max(runner.optim_wrapper.get_lr()["lr"])
    return {"step": runner.iter + 1, "lr": lr, "loss": float(outputs["loss"].detach()), **parts, "mIoU": float("nan")}


def _prepare(cfg: Config, work_dir: Path, seed: int, device: str, launcher: str) -> None:
    """What the Runner needs beyond the learner's wishes: folder, seed, names of its own, the process group's kind."""
    cfg.work_dir = str(work_dir)
    cfg.randomness = {"seed": seed, "deterministic": device == "cpu"}
    cfg.launcher = launcher
    cfg.experiment_name = f"{work_dir.name}_{os.getpid()}_{next(_run_numbers)}"
    cfg.env_cfg.cudnn_benchmark = device != "cpu"
    if not (cfg.default_hooks.get("visualization") or {}).get("draw"):
        cfg.default_hooks.pop("visualization", None)  # without `draw` it does nothing but warn about it
    if "visualizer" in cfg:
        cfg.visualizer.pop("name", None)  # one name for two runs would mean one folder for both
    if launcher != "none" and device == "cpu":
        cfg.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}


def _start_point(cfg: Config, work_dir: Path, resume: bool) -> int:
    """Set what to load; the number of steps that are done already."""
    cfg.resume = resume
    if is_main_process():
        files.remove_orphans(work_dir)
    if not resume:
        _remove_run(work_dir)
        return 0
    path = newest_checkpoint(work_dir)
    cfg.load_from = str(path)
    return int(path.stem.split("_")[1])


@master_only
def _remove_run(work_dir: Path) -> None:
    """Take away what an earlier run left in the folder: a new run would be mixed up with it, and resume from it."""
    for pattern in ("iter_*.pth", "best_*.pth", "*.pth.part", "history.csv", "last_checkpoint"):
        for path in work_dir.glob(pattern):
            path.unlink()


@contextmanager
def _on_device(device: str, launcher: str) -> Iterator[None]:
    """MMEngine takes its device from a constant; within the block that is ours."""
    before, device_utils.DEVICE = device_utils.DEVICE, device
    if launcher != "none" and device == "cpu" and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        device_utils.DEVICE = before


@contextmanager
def _stop_on_signal(hooks: _Hooks) -> Iterator[None]:
    """The first Ctrl-C asks for a stop after the step; the second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if hooks.stop_asked:
            raise KeyboardInterrupt
        hooks.stop_asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_file(runner: Runner) -> Path:
    return Path(runner._log_dir) / f"{runner.timestamp}.log"


@master_only
def _say(text: str) -> None:
    tqdm.write(text)
