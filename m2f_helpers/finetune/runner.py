"""MMEngine's Runner with quiet logs, safe reading and whole files, and the hooks that look after each step."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mmdet.models.task_modules.samplers import MaskPseudoSampler, MaskSamplingResult
from mmengine.config import config as mmengine_config
from mmengine.dist import all_reduce, get_dist_info, is_main_process, master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmseg.models.decode_heads import Mask2FormerHead
from tqdm.auto import tqdm
from yapf.yapflib.yapf_api import FormatCode

from m2f_helpers import checkpoints, files
from m2f_helpers.finetune.batches import LOSS_KINDS
from m2f_helpers.finetune.runs import Start
from m2f_helpers.quiet import one_line

LOSE_STEPS, LOSE_SECONDS = 10, 30  # a kill costs at most the longer of the two ...
SAVING_SHARE = 20  # ... unless saving would then take more than one part in so many of the time


@lru_cache(maxsize=8)
def _formatted(text: str, options: str) -> tuple[str, bool]:
    return FormatCode(text, **json.loads(options))


# MMEngine formats the whole config anew for each checkpoint, a fifth of a second; the same text gives the same
mmengine_config.FormatCode = lambda text, **options: _formatted(text, json.dumps(options))


class TrainingDiverged(ValueError):
    """The loss or the weights are no longer numbers."""


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


def _rows_of(path: Path) -> list[dict[str, float]]:
    """The rows of an earlier `history.csv`; none, and a sentence, if somebody has made something else of it."""
    try:
        return pd.read_csv(path).astype({"step": int}).to_dict("records")
    except (ValueError, KeyError) as error:  # what pandas and the decoder raise are ValueErrors
        tqdm.write(f"{path} cannot be read ({one_line(error)}): the history starts anew")
        return []


class CarefulRunner(Runner):
    """MMEngine's Runner, built with `from_cfg` and then told by `begin` where it starts."""

    loaded = "random start weights"
    start = Start(Path())
    saved_step, saved_at, saving_took = 0, 0.0, 0.0

    def begin(self, start: Start) -> History:
        """Take note of where the run starts; the history so far."""
        self.start, self.history = start, History(start.folder / "history.csv")
        self.saved_step, self.saved_at = start.step, time.monotonic()
        if start.step and self.history.path.is_file():
            self.history.rows = [row for row in _rows_of(self.history.path) if row["step"] <= start.step]
        return self.history

    def build_model(self, model: Any) -> torch.nn.Module:
        """As always; a Mask2Former then handles its true masks with less copying, to the same losses."""
        return spare_copies(super().build_model(model))

    def build_logger(self, log_level: Any = "INFO", **kwargs: Any) -> Any:
        """As always, but only errors reach the screen."""
        logger = super().build_logger(log_level, **kwargs)
        for handler in logger.handlers:
            if not hasattr(handler, "baseFilename"):
                handler.setLevel("ERROR")
        return logger

    def dump_config(self) -> None:
        """Not at once: the config is written with the first checkpoint, an earlier run's stays until then."""

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = False, revise_keys: Any = ()
    ) -> dict:
        """Read without running anything, and load what fits."""
        content = checkpoints.read_checkpoint(filename)
        self.call_hook("after_load_checkpoint", checkpoint=content)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        self.loaded = checkpoints.load_state(model, content["state_dict"]).text
        self._has_loaded = True
        self.logger.info(f"{filename}: {self.loaded}")
        return content

    def resume(self, filename: str, resume_optimizer: bool = True, *args: Any, **kwargs: Any) -> None:
        """Go on; with another number of steps, on the new plan of the learning rate from the step that was reached."""
        super().resume(filename, resume_optimizer, resume_param_scheduler=not self.start.replan)
        if self.start.replan:
            for group in self.optim_wrapper.param_groups:
                group["lr"] = group["initial_lr"]
            self.param_schedulers = self.build_param_scheduler(self.cfg.param_scheduler)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a scheduler wants the optimiser to step first
                for scheduler in self.param_schedulers * self.iter:
                    scheduler.step()

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Write it under a temporary name first; with the first one, an earlier run's files go."""
        bad = [name for name, value in self.model.named_parameters() if not torch.isfinite(value).all()]
        if bad:
            raise TrainingDiverged(f"the weights {', '.join(bad[:3])} are no longer numbers")
        began, final = time.monotonic(), Path(out_dir) / filename
        part = Path(files.temporary_name(final))
        try:
            super().save_checkpoint(out_dir, part.name, *args, **kwargs)
            if is_main_process():
                os.replace(part, final)
        except OSError as error:
            good = f"; step {self.saved_step} is saved, --resume goes on from it" if self.saved_step else ""
            raise OSError(files.sentence(error, final) + good) from None
        finally:
            if is_main_process():
                part.unlink(missing_ok=True)
        if final.name.startswith("iter_"):  # else it is the best one so far, a copy of one that is there
            self._commit(final)
            self.saved_step, self.saved_at = int(final.stem.split("_")[1]), time.monotonic()
            self.saving_took = self.saved_at - began

    @master_only
    def _commit(self, final: Path) -> None:
        """The order makes a kill harmless: until `last_checkpoint` is written, the folder stands where it stood."""
        files.write(final.parent / "config.py", self.cfg.pretty_text)
        self.history.save()
        files.write(final.parent / checkpoints.LAST, final.name)
        kept = {final.name, "config.py", "history.csv", checkpoints.LAST}
        for path in self.start.outdated:
            if path.name not in kept:
                path.unlink(missing_ok=True)
        self.start = Start(self.start.folder, self.start.step)


class StepHook(Hook):
    """History, bar and check for NaN around each step."""

    def __init__(self, history: History, progress: bool) -> None:
        self.history, self.progress = history, progress
        self.batch = self.bar = None

    def before_train(self, runner: Runner) -> None:
        """Show the bar."""
        hide = not self.progress or not is_main_process()
        self.bar = tqdm(total=runner.max_iters, initial=runner.iter, desc="training", unit="step", disable=hide)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch, to say what was in it if the step fails."""
        self.batch = data_batch

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add a row, or stop at a loss that is no number."""
        row = _row(runner, outputs)
        if not pd.notna(row["loss"]) or abs(row["loss"]) == float("inf"):
            raise TrainingDiverged("the loss is no longer a number")
        self.history.rows.append(row)
        self.bar.set_postfix(loss=f"{row['loss']:.2f}", lr=f"{row['lr']:.1e}", refresh=False)
        self.bar.update()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """The mIoU belongs to the step before."""
        if self.history.rows and metrics:
            self.history.rows[-1]["mIoU"] = metrics["mIoU"] / 100
            if runner.saved_step == runner.iter:  # else the history would be ahead of the checkpoint
                self.history.save()

    def after_train(self, runner: Runner) -> None:
        """All rows, if the last step has its checkpoint."""
        if runner.saved_step == runner.iter:
            self.history.save()


class SaveHook(Hook):
    """Last in line after each step: a checkpoint when too much would be lost, or at the end if the config's own hook
    wrote none, and a stop if somebody asked for it.

    On all ranks alike, or they would wait for each other for ever.
    """

    def __init__(self) -> None:
        self.stop_asked = False

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Called between two steps."""
        seconds = time.monotonic() - runner.saved_at
        due = seconds >= max(LOSE_SECONDS, SAVING_SHARE * runner.saving_took)  # a kill now would cost too much
        due = due and runner.iter + 1 - runner.saved_step >= LOSE_STEPS
        wanted = torch.tensor([self.stop_asked, due], dtype=torch.int)  # (2,)
        if get_dist_info()[1] > 1:
            all_reduce(wanted, "max")
        stop, save = wanted.tolist()
        last = self.is_last_train_iter(runner)
        if last:
            self.stop_asked = False
        elif stop:
            runner.train_loop.stop_training = True
        if (stop or save or last) and runner.saved_step <= runner.iter:
            hooks = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and not hook.by_epoch)
            if hook := next(hooks, None):
                hook._save_checkpoint_with_step(runner, runner.iter + 1, meta={})  # counts it, and removes old ones
            else:  # the config does without, or has MMEngine's default: that one writes epoch_1.pth, after the end
                runner.save_checkpoint(runner.work_dir, f"iter_{runner.iter + 1}.pth", by_epoch=False)


def spare_copies(model: torch.nn.Module) -> torch.nn.Module:
    """Let a Mask2Former, changed in place, copy its masks less often on the way to the same losses."""
    if isinstance(head := getattr(model, "decode_head", None), Mask2FormerHead):
        head._seg_data_to_instance_data = _with_float_masks(head._seg_data_to_instance_data)
        if type(head.sampler) is MaskPseudoSampler:
            head.sampler = _IndexSampler()
    return model


def _with_float_masks(convert: Callable[[Any], tuple[list, list]]) -> Callable[[Any], tuple[list, list]]:
    """mmseg hands the true masks on as int64, twice the memory, and mmdet casts them to float each time it samples."""

    def converted(samples: Any) -> tuple[list, list]:
        instances, metas = convert(samples)
        for instance in instances:
            instance.masks = instance.masks.float()  # (N, H, W), 0 or 1
        return instances, metas

    return converted


class _IndexSampler(MaskPseudoSampler):
    """mmdet copies all masks, predicted and true, into a result of which only the indices are used."""

    def sample(
        self, assign_result: Any, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs: Any
    ) -> MaskSamplingResult:
        """As always, of the first pixel of each mask `(N, H, W)`."""
        pixels = (InstanceData(masks=each.masks[:, :1, :1]) for each in (pred_instances, gt_instances))
        return super().sample(assign_result, *pixels, **kwargs)


def _row(runner: Runner, outputs: dict[str, Any]) -> dict[str, float]:
    lr = max(runner.optim_wrapper.get_lr()["lr"])
    row = {"step": runner.iter + 1, "lr": lr, "loss": float(outputs["loss"].detach())}
    for kind in LOSS_KINDS:
        row[f"loss_{kind}"] = sum(float(v.detach()) for k, v in outputs.items() if k.endswith(f"loss_{kind}"))
    return {**row, "mIoU": float("nan")}
