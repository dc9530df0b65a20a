"""Whichever write of a command goes wrong: one sentence, whole inputs, and the next run makes it good."""

import sys

import pytest

from tests.faults.injector import check_trials, try_every_write
from tests.faults.table import data
from tests.pair_files import LABEL, add, png

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


def test_prepare_survives_a_fault_at_every_write(tmp_path):
    for k in range(3):
        add(tmp_path / "given/data", f"p{k}", label=png(LABEL), split="training" if k else "validation")
    command = ["prepare", "data", "out", "--size", "32", "32", "--workers", "1"]
    report = try_every_write(
        tmp_path / "given", command, ignore=["manifest.jsonl"], preload=["m2f_helpers.data.preparation"]
    )
    assert len(report["writes"]) > 20
    check_trials(report)


def test_scenes_survive_a_fault_at_every_write(tmp_path):
    (tmp_path / "given").mkdir()
    command = ["scenes", "out", "--train", "2", "--val", "1", "--size", "64", "64"]
    check_trials(
        try_every_write(
            tmp_path / "given", command, preload=["m2f_helpers.data.scenes.dataset"], hows=["fail", "kill"], every=4
        )
    )


def test_convert_survives_a_fault_at_every_write(tmp_path):
    for k in range(4):
        add(tmp_path / "given/mine", f"p{k}", split="")
    command = ["convert", "mine", "out", "--from", "ids"]
    check_trials(
        try_every_write(
            tmp_path / "given",
            command,
            preload=["m2f_helpers.data.convert", "colorcet", "filelock"],
            ignore=[".out.convert.lock"],
            every=4,
        )
    )


def test_predict_survives_a_fault_at_every_write(tmp_path):
    for k in range(2):
        add(tmp_path / "given/data", f"p{k}", label=False)
    command = ["predict", "data/images/training", "--out", "out", "--device", "cpu"]
    modules = ["m2f_helpers.inference.models", "m2f_helpers.inference.prediction", "pandas", "matplotlib.figure"]
    check_trials(try_every_write(tmp_path / "given", command, preload=modules, hows=["full", "kill"], every=7))


@pytest.mark.slow
def test_train_survives_a_kill_while_it_saves(tmp_path):
    """The history, to the last digit of every loss, is as without the kill; checkpoints, config and logs hold times."""
    data(tmp_path / "given")
    command = ["train", "--data", "data", "--out", "out", "--weights", "random", "--iterations", "1", "--overwrite"]
    report = try_every_write(
        tmp_path / "given",
        [*command, "--crop", "64", "64", "--batch-size", "2", "--device", "cpu"],
        ignore=["out/config.py", ".pth", "out/2*"],
        hows=["kill"],
        preload=["m2f_helpers.finetune.training"],
        only=["write out/.iter*", "replace *", "* out/last_checkpoint"],
        every=2,
    )
    assert any("replace out/iter_1.pth" in write for write in report["writes"])
    check_trials(report)
