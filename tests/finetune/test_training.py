"""Training on a tiny scale: what it writes, that it repeats, stops, goes on and says what went wrong."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from mmseg.registry import DATASETS
from PIL import Image

from m2f_helpers import checkpoints, config, config_files, files
from m2f_helpers.cli import main
from m2f_helpers.data.scenes.dataset import make_scenes
from m2f_helpers.finetune import batches, runner, training
from m2f_helpers.finetune.runner import StepHook
from m2f_helpers.palette import own_palette, palette_of, write_classes
from tests.conftest import ROOT

STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("training") / "data", 6, 2, "day", size=[96, 96])


@pytest.fixture(scope="module")
def tiny(data):
    """The demo model on crops of 64 pixels, two at a time: a step takes a tenth of a second."""
    edited = config.finetune_edits("demo", data, None, iterations=STEPS, crop_size=[64, 64])
    return config.set_batch(config.set_test_size(edited, [64, 256]), 2)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return training.train(tiny, tmp_path_factory.mktemp("run"), seed=3, device="cpu", progress=False)


def read_history(folder):
    return pd.read_csv(folder / "history.csv")


def every_step(edited, interval=1):
    cfg = copy.deepcopy(edited.cfg)
    cfg.default_hooks.checkpoint.interval = interval
    return cfg


def at_step(monkeypatch, step, action):
    """Do something just before a step (counted from 0) of the next run."""
    regular = StepHook.before_train_iter

    def before(self, runner, batch_idx, data_batch=None):
        regular(self, runner, batch_idx, data_batch)
        if batch_idx == step:
            action(runner)

    monkeypatch.setattr(StepHook, "before_train_iter", before)


# --- what a run leaves -------------------------------------------------------------------------------------------


def test_history_has_a_row_per_step(run):
    history = run.history
    assert list(history["step"]) == list(range(1, STEPS + 1))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    parts = history["loss_cls"] + history["loss_mask"] + history["loss_dice"]
    assert parts.to_numpy() == pytest.approx(history["loss"].to_numpy(), rel=1e-4)
    assert history["mIoU"].isna().sum() == STEPS - 1 and 0 <= run.miou <= 1
    pd.testing.assert_frame_equal(read_history(run.checkpoint.parent), history, check_dtype=False)


def test_learning_rate_starts_high_and_ends_at_zero_with_the_last_step(run):
    lr = list(run.history["lr"])
    assert lr[0] == pytest.approx(1e-3, rel=0.01) and lr[-1] == 0 and lr == sorted(lr, reverse=True)


def test_checkpoint_is_plain_and_mmseg_loads_it(run, data):
    assert run.checkpoint.name == f"iter_{STEPS}.pth"
    for path in run.checkpoint.parent.glob("*.pth"):
        assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    model = init_model(str(run.config), str(run.checkpoint), device="cpu")
    picture = str(sorted((data / "images" / "validation").iterdir())[0])
    assert inference_model(model, picture).pred_sem_seg.data.shape == (1, 96, 96)
    assert model.dataset_meta["classes"][0] == "wall"


def test_config_that_is_left_is_plain_mmseg(run):
    cfg = Config.fromfile(str(run.config))
    assert cfg.train_cfg.max_iters == STEPS and "m2f" not in str(cfg.get("custom_hooks", "")).lower()
    assert cfg.default_hooks.checkpoint.type == "CheckpointHook"


def test_a_config_is_formatted_once_for_all_checkpoints(tiny, tmp_path, monkeypatch):
    formatted, plain = [], runner.FormatCode
    monkeypatch.setattr(runner, "FormatCode", lambda text, **style: (formatted.append(text), plain(text, **style))[1])
    training.train(every_step(config.set_schedule(tiny, 3)), tmp_path, device="cpu", progress=False)
    assert len(formatted) == 1 and len(list(tmp_path.glob("iter_*.pth"))) > 1
    style = {"based_on_style": "pep8", "blank_line_before_nested_class_or_def": True}
    style["split_before_expression_after_opening_paren"] = True
    assert (tmp_path / "config.py").read_text() == plain(formatted[0], style_config=style)[0], "MMEngine's own style"


def test_the_librarys_lines_go_to_the_log(tiny, tmp_path, capfd):
    result = training.train(config.set_schedule(tiny, 1), tmp_path, device="cpu", progress=True)
    seen = capfd.readouterr()
    assert [line[:33] for line in seen.out.splitlines()] == ["it seems that nothing was learnt:"]  # after one step
    assert [line for line in seen.err.replace("\r", "\n").splitlines() if line and "training:" not in line] == []
    assert "loss=" in seen.err and "lr=" in seen.err
    assert "Iter(train)" in result.log.read_text() and "mIoU" in result.log.read_text()


def test_overwrite_replaces_the_old_run_once_the_new_one_has_a_checkpoint(tiny, tmp_path, monkeypatch):
    old = training.train(config.set_schedule(tiny, 2), tmp_path, device="cpu", progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    options = dict(device="cpu", progress=False, overwrite=True)

    def fail(runner):
        raise RuntimeError("before the first checkpoint")

    with monkeypatch.context() as patch:
        at_step(patch, 0, fail)
        with pytest.raises(RuntimeError):
            training.train(config.set_schedule(tiny, 1), tmp_path, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    assert checkpoints.newest_checkpoint(tmp_path) == old.checkpoint
    result = training.train(config.set_schedule(tiny, 1), tmp_path, **options)
    assert result.checkpoint.name == "iter_1.pth" and len(result.history) == 1
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_1.pth"}


def test_a_second_run_goes_to_a_sub_folder_and_says_so(tiny, tmp_path, capsys):
    old = training.train(config.set_schedule(tiny, 2), tmp_path, device="cpu", progress=False)
    kept = old.checkpoint.read_bytes()
    edited = config.set_weights(config.set_schedule(tiny, 1), old.checkpoint)
    result = training.train(edited, tmp_path, device="cpu", progress=False)
    assert result.checkpoint == tmp_path / "run_2" / "iter_1.pth" and old.checkpoint.read_bytes() == kept
    said = capsys.readouterr().out
    assert "holds a run that reached step 2; it stays (--overwrite replaces it), and this run goes to" in said
    with pytest.raises(ValueError, match="the start weights lie in .*, whose run is to be overwritten"):
        training.train(edited, tmp_path, device="cpu", progress=False, overwrite=True)
    assert old.checkpoint.read_bytes() == kept


def test_two_runs_in_one_folder_at_once(tiny, tmp_path):
    with files.locked(tmp_path), pytest.raises(ValueError, match=f"is in use by process {os.getpid()}"):
        training.train(config.set_schedule(tiny, 1), tmp_path, device="cpu", progress=False)


def test_output_inside_the_data_is_refused(tiny, data):
    before = sorted(data.rglob("*"))
    for folder in (data / "run", data.parent):
        with pytest.raises(ValueError, match="must not contain each other: choose another output folder"):
            training.train(tiny, folder, device="cpu", progress=False)
    assert sorted(data.rglob("*")) == before


def test_bad_start_weights_leave_an_earlier_run_alone(tiny, tmp_path):
    old = training.train(config.set_schedule(tiny, 1), tmp_path / "run", device="cpu", progress=False)
    (tmp_path / "bad.pth").write_bytes(b"<html>please log in</html>")
    edited = config.set_weights(config.set_schedule(tiny, 1), tmp_path / "bad.pth")
    for folder, options in ((tmp_path / "run", {"overwrite": True}), (tmp_path / "new", {})):
        with pytest.raises(ValueError, match="bad.pth is a web page"):
            training.train(edited, folder, device="cpu", progress=False, **options)
    assert old.checkpoint.is_file() and len(read_history(tmp_path / "run")) == 1
    assert not (tmp_path / "new").exists()


def test_same_seed_same_losses(tiny, run, tmp_path):
    again = training.train(tiny, tmp_path / "a", seed=3, device="cpu", progress=False)
    assert list(again.history["loss"]) == list(run.history["loss"])
    other = training.train(config.set_schedule(tiny, 1), tmp_path / "b", seed=4, device="cpu", progress=False)
    assert other.history["loss"][0] != run.history["loss"][0]


def test_start_weights_are_loaded_and_said(tiny, run, tmp_path):
    edited = config.set_weights(config.set_schedule(tiny, 1), run.checkpoint)
    result = training.train(edited, tmp_path, device="cpu", progress=False)
    assert result.loaded == "loaded 246 of 246 tensors"
    assert result.history["loss"][0] < 0.9 * run.history["loss"][0]


def test_own_classes_in_three_lines(data, run, tmp_path):
    """Ids on disk as they are drawn (0..150), names of one's own; only the class layer and its loss weights are new."""
    edited = config.set_data(config.base_config("demo"), data)
    edited = config.set_classes(edited, [f"class {i}" for i in range(151)])
    edited = config.set_batch(config.set_crop(config.set_schedule(edited, 1), [64, 64]), 2)
    result = training.train(config.set_weights(edited, run.checkpoint), tmp_path, device="cpu", progress=False)
    assert result.loaded.startswith(
        "loaded 244 of 246 tensors; not loaded: decode_head.cls_embed.weight 151x64 -> 152x64"
    )
    meta = torch.load(result.checkpoint, weights_only=True)["meta"]["dataset_meta"]
    assert meta["classes"][150] == "class 150" and len(meta["palette"]) == 151


def test_the_classes_of_a_folder_travel_to_the_checkpoint(run, tmp_path, monkeypatch):
    """Ids with a gap and two that mean the same: said on screen, trained, and known to whoever has the checkpoint."""
    palette = own_palette(["Straße, nass", "car", "sky"], None, [[3], [7, 9], [200]], ignored=[0])
    labels = np.zeros((64, 96), np.uint8)
    labels[:, :24], labels[:, 24:48], labels[:, 48:72], labels[:32, 72:] = 3, 7, 9, 200
    for i in range(5):
        for kind, array in (("images", np.full((64, 96, 3), 40 * i, np.uint8)), ("masks", labels)):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "data" / kind / f"p{i}.png")
    write_classes(tmp_path / "data" / "classes.json", palette)
    words = ["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--crop", "64", "64"]
    words += ["--weights", str(run.checkpoint), "--iterations", "2", "--batch-size", "2", "--device", "cpu"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "3 classes: Straße, nass, car, sky\n4 training and 1 validation pairs" in done.stdout
    assert "cls_embed.bias 151 -> 4 (the class layer starts new)" in done.stdout
    content = torch.load(tmp_path / "run" / "iter_2.pth", weights_only=True)
    assert palette_of(content["meta"]).names == palette.names
    assert palette_of(content["meta"]).colors.tolist() == palette.colors.tolist()
    cfg = config_files.parse(content["meta"]["cfg"], "iter_2.pth")
    assert cfg.val_dataloader.dataset.on_disk == [[3], [7, 9], [200]] and cfg.model.decode_head.num_classes == 3
    assert init_model(cfg, str(tmp_path / "run" / "iter_2.pth"), device="cpu").dataset_meta["classes"] == tuple(
        palette.names
    )
    label_map = DATASETS.build(cfg.val_dataloader.dataset)[0]["data_samples"].gt_sem_seg.data
    assert set(np.unique(label_map)) == {0, 1, 2, 255}


# --- stop, go on -------------------------------------------------------------------------------------------------


def test_ctrl_c_saves_and_resume_continues_on_the_same_schedule(tiny, run, tmp_path, monkeypatch, capfd):
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run as a background job
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda runner: os.kill(os.getpid(), signal.SIGINT))
        stopped = training.train(tiny, tmp_path, seed=3, device="cpu", progress=False)
    assert stopped.interrupted and stopped.checkpoint.name == "iter_3.pth" and len(stopped.history) == 3
    assert "stopped after step 3; go on with resume=True (m2f train --resume)" in "".join(capfd.readouterr())
    assert signal.getsignal(signal.SIGINT) is before
    resumed = training.train(tiny, tmp_path, seed=3, device="cpu", resume=True, progress=False)
    assert not resumed.interrupted and resumed.checkpoint.name == f"iter_{STEPS}.pth"
    assert list(resumed.history["step"]) == list(run.history["step"])
    assert list(resumed.history["lr"]) == pytest.approx(list(run.history["lr"]))
    assert list(resumed.history["loss"][:3]) == pytest.approx(list(run.history["loss"][:3]))


def test_second_ctrl_c_stops_at_once(tiny, tmp_path, monkeypatch):
    def twice(runner):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 1, twice)
    with pytest.raises(KeyboardInterrupt):
        training.train(tiny, tmp_path, device="cpu", progress=False)


def test_fewer_copies_give_the_same_losses_and_gradients_to_the_bit(tiny):
    model = config.build_model(tiny).train()
    batch = batches.first_batch(tiny, model)
    batch.samples[0].gt_sem_seg.data[:] = 255  # nothing in it to learn

    def learnt():
        torch.manual_seed(0)  # of the sampled points
        model.zero_grad()
        losses = model.loss(batch.inputs, batch.samples)
        sum(losses.values()).backward()
        return losses, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    losses, gradients = learnt()
    runner.spare_copies(model)
    fewer, same = learnt()
    assert losses == fewer and len(losses) == 12 and min(losses.values()) >= 0
    assert len(same) > 100 and all(map(torch.equal, gradients, same))
    truths, _ = model.decode_head._seg_data_to_instance_data(batch.samples)
    assert [len(truth.masks) > 0 for truth in truths] == [False, True]
    assert all(truth.masks.dtype == torch.float32 for truth in truths), "mmdet would cast them each time it samples"


def test_new_tensors_are_filled_with_nan_only_outside_training(tiny, tmp_path, monkeypatch):
    seen = []
    at_step(monkeypatch, 1, lambda runner: seen.append(torch.utils.deterministic.fill_uninitialized_memory))
    training.train(config.set_schedule(tiny, 2), tmp_path, device="cpu", progress=False)
    assert seen == [False] and torch.utils.deterministic.fill_uninitialized_memory


def test_a_slow_run_saves_after_ten_steps(tiny, tmp_path, monkeypatch):
    """A kill costs at most ten steps or thirty seconds: here every step counts as thirty seconds."""
    monkeypatch.setattr(runner, "LOSE_SECONDS", 0)
    monkeypatch.setattr(runner, "SAVING_SHARE", 0)
    saved = []
    at_step(monkeypatch, 11, lambda runner: saved.extend(p.name for p in tmp_path.glob("iter_*.pth")))
    training.train(config.set_schedule(tiny, 12), tmp_path, device="cpu", progress=False)
    assert saved == ["iter_10.pth"]


@pytest.mark.parametrize("hook", ["none", "MMEngine's default", "another interval"])
def test_the_last_step_is_saved_whatever_checkpoint_hook_the_config_has(tiny, tmp_path, hook):
    cfg = every_step(config.set_schedule(tiny, 2), 100)
    cfg.default_hooks.checkpoint.save_last = False
    if hook == "none":
        cfg.default_hooks.checkpoint = None
    elif hook == "MMEngine's default":  # it counts epochs: epoch_1.pth
        del cfg.default_hooks["checkpoint"]
    result = training.train(cfg, tmp_path, device="cpu", progress=False)
    assert result.checkpoint.name == "iter_2.pth" and len(read_history(tmp_path)) == 2
    assert checkpoints.read_checkpoint(result.checkpoint)["meta"]["iter"] == 2


def test_resume_with_more_steps_plans_the_rate_anew(tiny, tmp_path, capsys):
    training.train(config.set_schedule(tiny, 4), tmp_path, device="cpu", progress=False)
    longer = training.train(config.set_schedule(tiny, 8), tmp_path, device="cpu", resume=True, progress=False)
    straight = training.train(config.set_schedule(tiny, 8), tmp_path / "b", device="cpu", progress=False)
    assert list(longer.history["lr"][4:]) == pytest.approx(list(straight.history["lr"][4:]))
    assert longer.history["lr"][4] > 1e-4 and longer.history["lr"].iloc[-1] == 0
    assert "planned for 4 steps, now for 8: the learning rate is planned anew from step 4" in capsys.readouterr().out


def test_resume_with_other_settings_is_refused_or_confirmed(tiny, tmp_path):
    first = training.train(config.set_schedule(tiny, 3), tmp_path, device="cpu", progress=False)
    options = dict(device="cpu", resume=True, progress=False)
    other_data = make_scenes(tmp_path.parent / f"{tmp_path.name}_other", 4, 2, "day", size=[96, 96])
    longer = config.set_schedule(tiny, 4)
    for edited, words in (
        (config.set_crop(longer, [96, 64]), "crop 64 x 64 -> 96 x 64"),
        (config.set_batch(longer, 3), "batch size 2 -> 3"),
        (config.set_batch(longer, 2, 1e-5), "learning rate 0.001 -> 1e-05"),
        (config.set_data(longer, other_data), "data .*data -> .*_other"),
        (config.set_classes(longer, [f"class {i}" for i in range(151)]), "another model .*other classes"),
        (config.set_schedule(tiny, 2), "has done 3 steps already, more than 2"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            training.train(edited, tmp_path, **options)
        assert "\n" not in str(caught.value)
    assert checkpoints.newest_checkpoint(tmp_path) == first.checkpoint
    again = training.train(config.set_batch(longer, 3), tmp_path, accept_changes=True, **options)
    assert len(again.history) == 4 and list(again.history["loss"][:3]) == list(first.history["loss"])


@pytest.mark.parametrize("damage", ["cut", "middle"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tiny, tmp_path, capsys, damage):
    training.train(every_step(config.set_schedule(tiny, 4)), tmp_path, device="cpu", progress=False)
    newest = tmp_path / "iter_4.pth"
    content = bytearray(newest.read_bytes())
    if damage == "middle":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    result = training.train(every_step(config.set_schedule(tiny, 4)), tmp_path, resume=True, progress=False)
    assert len(result.history) == 4 and checkpoints.read_checkpoint(result.checkpoint)["meta"]["iter"] == 4
    said = capsys.readouterr().out
    assert "going on from an earlier checkpoint, because" in said and "iter_4.pth is" in said


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(tiny, tmp_path, monkeypatch):
    regular = os.replace

    def full(source, target):
        if str(target).endswith("iter_2.pth"):
            raise OSError(28, "No space left on device")
        return regular(source, target)

    every = every_step(config.set_schedule(tiny, 3))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=r"iter_2.pth: the disk is full: .*; step 1 is saved, --resume"):
            training.train(every, tmp_path, device="cpu", progress=False)
    assert sorted(p.name for p in tmp_path.glob(".*part")) == []
    assert len(training.train(every, tmp_path, device="cpu", resume=True, progress=False).history) == 3


def test_nothing_to_resume_is_one_sentence(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint iter_.*start without resume"):
        training.train(tiny, tmp_path, device="cpu", resume=True, progress=False)


def test_a_half_written_checkpoint_is_never_taken(tmp_path):
    for name in ("iter_9.pth", "iter_10.pth", "iter_11.pth.part", "best_mIoU_iter_12.pth"):
        (tmp_path / name).write_bytes(b"")
    assert checkpoints.newest_checkpoint(tmp_path).name == "iter_10.pth"


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_resumes_every_time(data, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.killing", str(data), str(tmp_path), "10", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["kills"]) == 10 and report["last"] == 0
    steps = [kill["step"] for kill in report["kills"]]
    assert steps == sorted(steps) and steps[-1] > 0, report  # a kill never costs a step that was saved
    assert all(kill["readable"] is not False for kill in report["kills"])
    assert sum(kill["status"] == -signal.SIGKILL for kill in report["kills"]) >= 5, report
    history = read_history(tmp_path)
    assert list(history["step"]) == list(range(1, 31)) and history["lr"].iloc[-1] == 0


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_nan_stops_with_causes_and_the_last_good_checkpoint(tiny, tmp_path, monkeypatch):
    def poison(runner):
        next(runner.model.decode_head.parameters()).data.fill_(math.nan)

    at_step(monkeypatch, 3, poison)
    with pytest.raises(training.TrainingDiverged) as caught:
        training.train(every_step(tiny), tmp_path, device="cpu", progress=False)
    text = str(caught.value)
    for part in ("at step 4", "learning rate (now 0.000", "mixed precision (off)", "expected 0..255", "iter_3.pth"):
        assert part in text, text
    assert "\n" not in text
    newest = checkpoints.newest_checkpoint(tmp_path)
    assert newest.name == "iter_3.pth"
    state = checkpoints.read_checkpoint(newest)["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


def test_weights_that_are_no_numbers_are_never_saved(tiny, tmp_path, monkeypatch):
    regular = StepHook.after_train_iter

    def after(self, runner, batch_idx, data_batch=None, outputs=None):
        regular(self, runner, batch_idx, data_batch, outputs)
        if batch_idx == 1:
            next(runner.model.parameters()).data.fill_(math.inf)

    monkeypatch.setattr(StepHook, "after_train_iter", after)
    with pytest.raises(training.TrainingDiverged, match="weights backbone.* are no longer numbers.*iter_1.pth"):
        training.train(every_step(tiny), tmp_path, device="cpu", progress=False)


def test_a_silent_edit_is_refused_with_the_edit_that_works(tiny, tmp_path):
    cfg = copy.deepcopy(tiny.cfg)
    cfg.optimizer = dict(type="SGD", lr=1.0)
    with pytest.raises(ValueError, match="cfg.optimizer = .* has no effect, nothing reads it; use set_batch"):
        training.train(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- command line, several processes, the real model -------------------------------------------------------------


def test_command_trains_and_resumes(data, tmp_path):
    words = ["train", "--data", str(data), "--out", str(tmp_path), "--weights", "random", "--crop", "64", "64"]
    words += ["--device", "cpu", "--iterations", "1"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().endswith("iter_1.pth") and "mIoU 0." in done.stdout
    done = CliRunner().invoke(main, [*words, "--resume"])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(main, [*words, "--profile", "huge"]).exit_code == 1


@pytest.mark.slow
def test_torchrun_on_two_processes(data, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    words = ["tests.two_ranks", str(tmp_path), "train", "--data", str(data), "--out", str(tmp_path / "run")]
    words += ["--weights", "random", "--crop", "64", "64", "--iterations", "3", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch + words, cwd=ROOT, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    saved = checkpoints.read_checkpoint(tmp_path / "run" / "iter_3.pth")["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in one.items())
    assert len(list((tmp_path / "run").glob("iter_*.pth"))) == 1
    assert done.stderr.count("training:   0%") == 1, "one bar, on the first rank"
    assert done.stdout.count("mIoU 0.") == 1


@pytest.mark.slow
def test_the_real_model_on_real_pictures_offline(ade20k_sample, tmp_path, monkeypatch):
    """R50 as published, random weights, two steps; what is left is loaded by plain mmseg with plain torch."""
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("no network here")

    monkeypatch.setattr(socket, "create_connection", refuse)
    options = dict(weights="random", iterations=2, crop_size=[128, 128], device="cpu")
    result = training.finetune("ade20k", ade20k_sample, tmp_path, **options)
    assert len(result.history) == 2 and result.history["loss"].notna().all()
    model = init_model(str(result.config), str(result.checkpoint), device="cpu")
    assert sum(p.numel() for p in model.parameters()) == 44_041_367
    for path in tmp_path.glob("*.pth"):
        path.unlink()  # half a gigabyte each


def test_a_history_that_cannot_be_read_starts_anew(tmp_path, capfd):
    for content in (b"a,b\n1,2\n", b"\xff\0", b""):
        (tmp_path / "history.csv").write_bytes(content)
        begun = runner.CarefulRunner.begin(SimpleNamespace(), runner.Start(tmp_path, step=3))
        assert begun.rows == [] and "the history starts anew" in "".join(capfd.readouterr())
