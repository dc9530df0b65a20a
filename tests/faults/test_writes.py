"""Whichever write of a command goes wrong: one sentence, whole inputs, and the next run makes it good."""

import sys

import pytest

from tests.faults.injector import check_trials, try_every_write
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
