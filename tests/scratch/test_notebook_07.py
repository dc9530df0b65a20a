"""Notebook 07, executed on the demo profile in the folder where notebook 04 left its model."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.conftest import NOTEBOOKS, check_executed, run_all
from tests.solutions import read_exercises, verdicts

NAME = "07_from_scratch"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def run(tutorial):
    """The notebook runs after the five, in their folder, so that the model of 04 is there to compare with."""
    out = Path(tutorial["04_finetune"].path).parent
    return run_all(out, wanted=(NAME,))[NAME]


def test_every_cell_runs_quietly_and_draws(run):
    check_executed(run)
    assert 0 < run.seconds < 900


def test_exercises_are_not_solved_as_they_come_and_right_with_the_solution(run):
    found = read_exercises(nbformat.read(NOTEBOOKS / f"{NAME}.ipynb", as_version=4))
    expected = [(exercise.number, right) for exercise in found for right in (False, True)]
    assert verdicts(nbformat.read(run.path, as_version=4)) == expected


def test_parts_change_nothing_and_losses_are_the_librarys(run):
    assert run.records["lines_of_the_model"] <= 350
    assert run.records["largest_difference"] < 1e-4 and run.records["difference_of_the_lean_way"] < 1e-3
    assert run.records["difference_in_float64"] < 1e-6
    assert run.records["loss_difference"] < 1e-4


def test_twenty_lines_train_as_well_as_notebook_04(run, tutorial):
    miou = run.records["miou"]
    assert run.records["steps"] == tutorial["04_finetune"].records["iterations"]
    assert miou["twenty lines"] == pytest.approx(miou["notebook 04"], abs=2.0)
    assert miou["twenty lines"] > miou["before"] + 10


def test_the_panoptic_map_has_segments(run):
    assert run.records["segments"] >= 5
