"""Fixtures shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import m2f_helpers  # noqa: F401  first of all: registers the stand-in for mmcv's compiled ops
from m2f_helpers import execution

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SAMPLE = ROOT.parent / "shared" / "ade20k_sample"


@pytest.fixture(scope="session")
def ade20k_sample() -> Path:
    """Two real ADE20K pairs, which lie beside the project and never in it."""
    if not SAMPLE.is_dir():
        pytest.skip("the two real ADE20K pairs (shared/ade20k_sample) are not here")
    return SAMPLE


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory) -> dict[str, execution.NotebookRun]:
    """All five notebooks, executed once per test session on the demo profile as `make tutorial` does."""
    return run_all(tmp_path_factory.mktemp("tutorial"))


@pytest.fixture(scope="session")
def tutorial_on_real_pairs(tmp_path_factory, ade20k_sample) -> dict[str, execution.NotebookRun]:
    """All five notebooks, executed once per test session on the two real ADE20K pairs."""
    return run_all(tmp_path_factory.mktemp("real"), data=ade20k_sample)


def run_all(out: Path, data: Path | None = None) -> dict[str, execution.NotebookRun]:
    """Run every notebook into `out`; one that fails is returned with its error, so that its own test says so."""
    common = {"PROFILE": "demo", "DATA_DIR": str(data) if data else "", "OUT_DIR": str(out)}
    notebooks = execution.list_notebooks()
    return {name: execution.run_notebook(name, path, out, common) for name, path in notebooks.items()}


@pytest.fixture(scope="session")
def evidence():
    """Loss, backward and predict of the R50 model at 512x512, traced (`reference.Evidence`): about half a minute."""
    from m2f_helpers import reference

    return reference.reference_run()


@pytest.fixture(scope="session")
def small():
    """The same for the demo model with random weights and two pictures of 64x64: a few seconds."""
    from m2f_helpers import reference
    from m2f_helpers.config import base_config

    config = base_config("demo")
    config.model.data_preprocessor.size = (64, 64)
    return reference.trace_run(config, reference.build_model(config), reference.reference_batch(64, images=2))
