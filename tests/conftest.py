"""Fixtures shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import m2f_helpers  # noqa: F401  first of all: registers the stand-in for mmcv's compiled ops

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SAMPLE = ROOT.parent / "shared" / "ade20k_sample"


@pytest.fixture(scope="session")
def ade20k_sample() -> Path:
    """Two real ADE20K pairs, which lie beside the project and never in it."""
    if not SAMPLE.is_dir():
        pytest.skip("the two real ADE20K pairs (shared/ade20k_sample) are not here")
    return SAMPLE
