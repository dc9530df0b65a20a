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
