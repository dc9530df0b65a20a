"""The notebooks that use a data folder, executed on the two real ADE20K pairs."""

from __future__ import annotations

import pytest

from m2f_helpers.profiles import get_profile
from tests.conftest import check_executed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.mark.parametrize("name", ["02_resize_ade20k", "03_architecture", "04_finetune", "05_inference"])
def test_every_cell_runs_on_real_pictures(real, name):
    check_executed(real[name])


def test_02_prepares_both_pairs(real):
    records = real["02_resize_ade20k"].records
    assert records["pairs_written"] == 2
    assert records["invented_ids_nearest"] == 0 < records["invented_ids_bilinear"]
    assert records["classes_present"] == 8  # ids 1 2 3 5 7 10 14 18 on disk, as the sample's own README lists them


def test_04_trains_as_many_steps_as_one_pair_is_worth(real):
    records = real["04_finetune"].records
    assert records["iterations"] == get_profile("demo").iterations_for(1) == 4
    assert records["lr_last"] == 0 and records["same_weights_in_mmseg"] is True
    assert records["loss_seen"] == pytest.approx(records["loss_predicted"], rel=0.25)


def test_05_agrees_with_mmseg(real):
    assert real["05_inference"].records["agreement_with_mmseg"] == 1.0
