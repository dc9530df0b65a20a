"""Whichever write of a command goes wrong: one sentence, whole inputs, and the next run makes it good."""

import sys
from pathlib import Path

import nbformat
import pytest

from m2f_helpers import checkpoints, config
from tests.faults import rows_train
from tests.faults.injector import check_trials, try_every_write
from tests.faults.table import data
from tests.pair_files import LABEL, add, png

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


def test_prepare_survives_a_fault_at_every_write(tmp_path):
    for k in range(3):
        add(tmp_path / "given/data", f"p{k}", label=png(LABEL), split="training" if k else "validation")
    command = ["prepare", "data", "out", "--size", "32", "32", "--workers", "1"]
    check_trials(try_every_write(tmp_path / "given", command))


def test_scenes_survive_a_fault_at_every_write(tmp_path):
    (tmp_path / "given").mkdir()
    command = ["scenes", "out", "--train", "1", "--val", "1", "--size", "64", "64"]
    check_trials(try_every_write(tmp_path / "given", command))


def test_convert_survives_a_fault_at_every_write(tmp_path):
    for k in range(4):
        add(tmp_path / "given/mine", f"p{k}", split="")
    command = ["convert", "mine", "out", "--from", "ids"]
    check_trials(try_every_write(tmp_path / "given", command))


@pytest.mark.slow
def test_predict_survives_a_fault_at_every_write(tmp_path):
    for k in range(2):
        add(tmp_path / "given/data", f"p{k}", label=False)
    config.set_test_size(config.profile_edits("demo"), [32, 64]).cfg.dump(tmp_path / "given/small.py")
    command = ["predict", "data/images/training", "--out", "out", "--config", "small.py", "--device", "cpu"]
    check_trials(try_every_write(tmp_path / "given", command))


@pytest.mark.slow
def test_run_survives_a_fault_at_every_write(tmp_path):
    (tmp_path / "given/notebooks").mkdir(parents=True)
    for number in "12":
        cells = ['PROFILE = "demo"\nOUT_DIR = ""', f"from m2f_helpers.records import record\nrecord('n', {number})"]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c, id=f"c{len(c)}") for c in cells])
        notebook.cells[0].metadata["tags"] = ["parameters"]
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / f"given/notebooks/0{number}_tiny.ipynb")
    modules, logs = ["tests.faults.tiny_notebooks"], ["out/*.partial.ipynb"]
    check_trials(try_every_write(tmp_path / "given", ["run", "--out", "out"], preload=modules, logs=logs))


@pytest.mark.slow
def test_train_survives_a_fault_at_every_write(tmp_path):
    """With an earlier run in the folder: at any moment one run or the other can be gone on with."""
    data(tmp_path / "given", pairs=3)
    rows_train.run_before()(tmp_path / "given")
    command = "train --data data --out out --weights random --iterations 1 --crop 64 64 --batch-size 1 --device cpu"
    report = try_every_write(
        tmp_path / "given",
        [*command.split(), "--overwrite"],
        logs=["out/2*"],
        results=["out/*"],
        hows=["full", "kill"],
        holds="tests.faults.test_writes:a_run_is_there",
    )
    check_trials(report)


def a_run_is_there(root: Path) -> None:
    checkpoints.read_checkpoint(checkpoints.newest_checkpoint(root / "out"))
