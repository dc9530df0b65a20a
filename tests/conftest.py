"""Fixtures shared by the tests."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # two test processes, and each torch would take all cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import nbformat
import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

import m2f_helpers  # noqa: F401  first of all: registers the stand-in for mmcv's compiled ops
from m2f_helpers import execution, exercises
from m2f_helpers.classroom.cells import read_exercises

# Which tests go to one process, by a pattern of their names: what one of them makes, the others use. Longest first; the
# site needs what the first two have executed.
GROUPS = {
    "training": r"test_notebooks\.py.*\b(test_)?0[2457]_",
    "reading": r"test_notebooks\.py|browser/test_(pages|lab_notebooks)\.py",
    "real": r"test_notebooks_real\.py",
    "evidence": r"architecture/",
    "site": r"browser/test_site\.py|test_prose_numbers\.py",
}
FIRST = {"04_finetune": ["02_resize_ade20k"], "05_inference": ["04_finetune"], "07_from_scratch": ["04_finetune"]}
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SAMPLE = ROOT.parent / "shared" / "ade20k_sample"


class Together(LoadScopeScheduling):
    """Hands out whole files, and the tests of one of the `GROUPS` as one."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """`"training"` for tests/test_notebooks.py::test_04_finetune, the file itself where it is in no group."""
    found = (name for name, pattern in GROUPS.items() if re.search(pattern, nodeid))
    return next(found, nodeid.split("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """The groups by name: marks of pytest-xdist 3.8 do not reach its scheduler under pytest 9.2."""
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups that take longest come first."""
    items.sort(key=lambda item: (*GROUPS, group_of(item.nodeid)).index(group_of(item.nodeid)))


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


class Executed(Mapping[str, execution.NotebookRun]):
    """Notebooks, executed when they are first asked for, once in all test processes together.

    Below each exercise stands a cell more, with the solution. One that fails is there with its error, for its own test.
    """

    def __init__(self, out: Path, names: Sequence[str], **parameters: Any) -> None:
        self.out, self.names, self.parameters = out, names, {"PROFILE": "demo", "OUT_DIR": str(out), **parameters}
        (out / "solved").mkdir(parents=True, exist_ok=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> execution.NotebookRun:
        for earlier in FIRST.get(name, ()):
            self[earlier]
        known, source = self.out / "solved" / f"{name}.json", self.out / "solved" / f"{name}.ipynb"
        with FileLock(f"{known}.lock"):
            if not known.exists():
                nbformat.write(with_solutions(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)), source)
                run = execution.run_notebook(name, source, self.out, self.parameters)
                known.write_text(json.dumps(asdict(run), default=str), encoding="utf-8")
        found = json.loads(known.read_text(encoding="utf-8"))
        return execution.NotebookRun(**{**found, "path": Path(found["path"])})


@pytest.fixture(scope="session")
def of_all_processes(tmp_path_factory) -> Path:
    """A folder that the test processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def tutorial(of_all_processes) -> Executed:
    """The five notebooks, as `make tutorial` runs them, and the optional ones; the learning curve of 06 is short."""
    names = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]
    return Executed(of_all_processes / "tutorial", names, CURVE_STEPS=10)


@pytest.fixture(scope="session")
def real(of_all_processes, ade20k_sample) -> Executed:
    """Those that use a data folder, on the two real ADE20K pairs; the model of 03 is traced on a small input."""
    names = ["02_resize_ade20k", "03_architecture", "04_finetune", "05_inference"]
    return Executed(of_all_processes / "real", names, DATA_DIR=str(ade20k_sample), INPUT_SIZE=128)


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
