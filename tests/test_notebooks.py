"""The five notebooks, executed on the demo profile; what they recorded has to be right, not only there."""

from __future__ import annotations

import nbformat
import pytest

from m2f_helpers.classroom.cells import read_exercises
from tests.conftest import NOTEBOOKS, check_executed, verdicts

NAMES = ["01_install", "02_resize_ade20k", "03_architecture", "04_finetune", "05_inference"]
OPTIONAL = ["06_own_data", "07_from_scratch"]
SECONDS = {  # limits for a busy machine; a notebook that hangs is what they are for
    "01_install": 240,
    "02_resize_ade20k": 240,
    "03_architecture": 480,
    "04_finetune": 900,
    "05_inference": 480,
    "06_own_data": 900,
    "07_from_scratch": 900,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.mark.parametrize("name", NAMES + OPTIONAL)
def test_every_cell_runs_quietly_and_draws(tutorial, name):
    check_executed(tutorial[name])
    assert 0 < tutorial[name].seconds < SECONDS[name]


@pytest.mark.parametrize("name", NAMES + OPTIONAL)
def test_exercises_are_not_solved_as_they_come_and_right_with_the_solution(tutorial, name):
    found = read_exercises(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4))
    expected = [(exercise.number, right) for exercise in found for right in (False, True)]
    assert verdicts(nbformat.read(tutorial[name].path, as_version=4)) == expected


def test_01_install(tutorial):
    records = tutorial["01_install"].records
    assert records["parameters"] == 44_041_367
    assert records["wrong"] == 0
    assert records["stand_in_difference"] <= 1e-5
    assert records["answers"] == 10
    assert records["likeness_first"] < 0.1 and records["likeness_last"] > 0.9


def test_02_resize(tutorial):
    records = tutorial["02_resize_ade20k"].records
    assert records["pairs_written"] == 64
    assert records["invented_ids_nearest"] == 0 < records["invented_ids_bilinear"]
    assert records["classes_present"] >= 20
    assert records["thin_overlap_at_16"] < 0.5
    assert 0.07 < records["share_of_rarest_100"] < 0.08


def test_03_architecture(tutorial):
    records = tutorial["03_architecture"].records
    assert records["parameters"] == 44_041_367
    assert records["notes"] >= 80 and records["claims"] >= 130 and records["claims_false"] == 0
    assert records["executed_lines_without_shape"] == 0
    assert records["max_disagreement"] <= 1e-5


def test_04_finetune(tutorial):
    records = tutorial["04_finetune"].records
    assert records["miou_after"] >= 0.80
    assert records["miou_after"] - records["miou_before"] >= 0.15
    assert records["loss_last"] < 0.8 * records["loss_first"]
    assert records["lr_last"] == 0 or records["lr_last"] < 1e-5
    assert records["loss_seen"] == pytest.approx(records["loss_predicted"], rel=0.25)
    assert records["silent_edits_found"] == 8
    assert records["same_weights_in_mmseg"] is True
    assert records["ignored_loss_times"] > 2
    assert max(records["miou_from_random"], records["miou_rate_x_10"]) < 0.1


def test_05_inference(tutorial):
    records = tutorial["05_inference"].records
    assert records["agreement_with_mmseg"] == 1.0
    assert records["miou"] >= 0.80
    assert 1 <= records["queries_used"] <= 20
    assert records["figures"] >= 8
    assert records["forgotten"] > 2  # points of mIoU on day scenes
    assert records["person_share_of_photograph"] < 0.1


def test_04_and_05_speak_of_the_same_model(tutorial):
    """05 evaluates what 04 trained, on the same pictures."""
    after = tutorial["04_finetune"].records["miou_after"]
    assert tutorial["05_inference"].records["miou"] == pytest.approx(after, abs=1e-4)


def test_06_finds_the_faults_and_speaks_its_own_classes(tutorial):
    records = tutorial["06_own_data"].records
    assert records["faults_found"] == 4, "numbering, a turned label, two misspelt names"
    assert records["classes"] == 9
    assert records["miou_own"] >= 0.70
    assert records["parameters_that_learn_frozen"] < 0.6 * records["parameters_that_learn"]
    shares = [int(images) for images in records["curve"]]
    assert len(shares) == 3 and shares[2] == pytest.approx(4 * shares[0], abs=2)


def test_07_parts_change_nothing_and_losses_are_the_librarys(tutorial):
    records = tutorial["07_from_scratch"].records
    assert records["lines_of_the_model"] <= 350
    assert records["largest_difference"] < 1e-4 and records["difference_of_the_lean_way"] < 1e-3
    assert records["difference_in_float64"] < 1e-6
    assert records["loss_difference"] < 1e-4
    assert records["segments"] >= 5


def test_07_trains_as_well_as_04(tutorial):
    records, by_library = tutorial["07_from_scratch"].records, tutorial["04_finetune"].records
    assert records["steps"] == by_library["iterations"]
    assert records["miou"]["twenty lines"] == pytest.approx(100 * by_library["miou_after"], abs=2)
    assert records["miou"]["notebook 04"] == pytest.approx(100 * by_library["miou_after"], abs=0.01)
    assert records["miou"]["before"] == pytest.approx(100 * by_library["miou_before"], abs=0.01)
