"""Fixtures shared by the tests."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # two test processes, and each torch would take all cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import nbformat
import pytest
from xdist.scheduler import LoadScopeScheduling

import m2f_helpers  # noqa: F401  first of all: registers the stand-in for mmcv's compiled ops
from m2f_helpers import execution, exercises
from m2f_helpers.classroom.cells import read_exercises

# What is expensive is made once per suite: the tests that use it go to one process. Longest first.
TOGETHER = {
    "tutorial": ("test_notebooks.py", "test_prose_numbers.py", "browser/test_pages.py", "browser/test_site.py"),
    "real": ("test_notebooks_real.py",),
    "evidence": ("architecture/",),
}
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SAMPLE = ROOT.parent / "shared" / "ade20k_sample"


class Together(LoadScopeScheduling):
    """Hands out whole files, and the files of `TOGETHER` as one."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """`"tutorial"` for tests/test_notebooks.py::test_03, the file itself where it shares nothing."""
    path = nodeid.split("::")[0].removeprefix("tests/")
    return next((name for name, paths in TOGETHER.items() if path.startswith(paths)), path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """The groups by file: marks of pytest-xdist 3.8 do not reach its scheduler under pytest 9.2."""
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups that take longest come first."""
    items.sort(key=lambda item: (*TOGETHER, group_of(item.nodeid)).index(group_of(item.nodeid)))


def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> None:
    """What is made once may be asked for only where it is made."""
    name = {"runs": "tutorial"}.get(fixturedef.argname, fixturedef.argname)
    group = group_of(request._pyfuncitem.nodeid)
    assert name not in TOGETHER or name == group, f"{request._pyfuncitem.nodeid} uses {name}: name its file in TOGETHER"


@pytest.fixture(scope="session")
def ade20k_sample() -> Path:
    """Two real ADE20K pairs, which lie beside the project and never in it."""
    if not SAMPLE.is_dir():
        pytest.skip("the two real ADE20K pairs (shared/ade20k_sample) are not here")
    return SAMPLE


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def with_solutions(notebook: Any) -> Any:
    """A copy that asks each exercise twice: as it comes, and in a new cell with the solution."""
    solved = copy.deepcopy(notebook)
    for exercise in reversed(read_exercises(notebook)):
        cell = nbformat.v4.new_code_cell(f"{exercise.solution}\n{exercise.question}", metadata={"tags": ["solution"]})
        solved.cells.insert(exercise.cell + 1, cell)
    return solved


def verdicts(notebook: Any) -> list[tuple[str, bool]]:
    """What `check` said in an executed notebook, in order: number of the exercise, right or not yet."""
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    found = [data[exercises.MIME] for data in outputs if exercises.MIME in data]
    return [(entry["exercise"], entry["right"]) for entry in found]


def run_all(out: Path, data: Path | None = None, wanted: tuple[str, ...] = ()) -> dict[str, execution.NotebookRun]:
    """Run the five notebooks, or those named, into `out`; one that fails is returned with its error for its own test.

    Below each exercise stands a cell more, with the solution.
    """
    common = {"PROFILE": "demo", "DATA_DIR": str(data) if data else "", "OUT_DIR": str(out)}
    runs, sources = {}, out / "solved"
    sources.mkdir(exist_ok=True)
    for name, path in execution.find_notebooks(wanted).items():
        nbformat.write(with_solutions(nbformat.read(path, as_version=4)), sources / path.name)
        runs[name] = execution.run_notebook(name, sources / path.name, out, common)
    return runs


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory) -> dict[str, execution.NotebookRun]:
    """All five notebooks, executed once, as `make tutorial` does, and then the optional ones in the same folder."""
    out = tmp_path_factory.mktemp("tutorial")
    return run_all(out) | run_all(out, wanted=("06", "07"))


@pytest.fixture(scope="session")
def real(tmp_path_factory, ade20k_sample) -> dict[str, execution.NotebookRun]:
    """The same on the two real ADE20K pairs."""
    return run_all(tmp_path_factory.mktemp("real"), data=ade20k_sample)


@pytest.fixture(scope="session")
def evidence():
    """Loss, backward and predict of the R50 model at 512x512, traced (`reference.Evidence`): about half a minute."""
    from m2f_helpers.architecture import reference

    return reference.reference_run()


@pytest.fixture(scope="session")
def small():
    """The same for the demo model with random weights and two pictures of 64x64: a few seconds."""
    from m2f_helpers.architecture import reference
    from m2f_helpers.config import base_config, build_model

    config = base_config("demo")
    config.model.data_preprocessor.size = (64, 64)
    return reference.trace_run(config, build_model(config), reference.reference_batch(64, images=2))


def check_executed(run: execution.NotebookRun) -> None:
    """Every cell ran, nothing was said on stderr except progress bars, and a picture was drawn."""
    assert not run.error, run.error
    cells = [c for c in nbformat.read(run.path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
    assert all(cell.execution_count for cell in cells), "a code cell did not run"
    outputs = [output for cell in cells for output in cell.outputs]
    noise = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert [text for text in noise if "%|" not in text] == [], "log lines or warnings on stderr"
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture was drawn"
