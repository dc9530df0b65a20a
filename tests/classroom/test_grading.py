"""Grading: points for right answers and for nothing else, whatever a submission does to itself."""

from __future__ import annotations

import csv
import json
import os

import nbformat
import psutil
import pytest

from m2f_helpers import execution
from m2f_helpers.classroom import grading
from m2f_helpers.classroom.cells import read_exercises
from m2f_helpers.classroom.needed import needed
from tests.classroom import submissions

EXERCISES = {e.number: e for e in read_exercises(nbformat.read(execution.list_notebooks()["02_resize_ade20k"], 4))}
SET_UP = "import numpy as np\nfrom m2f_helpers.data import resize\nfrom m2f_helpers.exercises import check"
STARTED = {  # what the cells of these exercises hold beside the answer
    "02.3": "small_map = np.arange(24).reshape(4, 6)",
    "02.4": "mast = np.ones((96, 288), np.uint8)\nmast[:, 6:18] = 94",
}
ANSWERED = [n for n in ("02.1", "02.2", "02.3", "02.4") if n in EXERCISES]


def submission(path, answers, name="Ada Żółć", before=""):
    """A short edition of notebook 02: the cell for the name, what the exercises need, and an answer to each."""
    code = nbformat.v4.new_code_cell
    cells = [
        nbformat.v4.new_markdown_cell("# 02 Resize ADE20K"),
        code(f"STUDENT = {name!r}  # your name", metadata={"tags": ["student"]}),
        code(SET_UP),
        code(before),
    ]
    for number, answer in answers.items():
        cells.append(code(f"{STARTED.get(number, '')}\n{answer}\n{EXERCISES[number].question}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


SOLVED = {number: EXERCISES[number].solution for number in ANSWERED}
LIMITS = grading.Limits(minutes=4, cell_seconds=10, memory=1)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    root = tmp_path_factory.mktemp("grading")
    folder, one = root / "submissions", SOLVED["02.1"]
    submission(folder / "perfect" / "02.ipynb", SOLVED)
    submission(folder / "lazy.ipynb", {number: "" for number in ANSWERED}, name="")
    submission(folder / "stuck.ipynb", {"02.1": one, "02.2": "while True: pass", "02.4": SOLVED["02.4"]})
    submission(folder / "dead.ipynb", {"02.1": one, "02.2": "import os; os._exit(3)"})
    removes = "import shutil, pathlib; shutil.rmtree(pathlib.Path.home())"
    submission(folder / "wild.ipynb", {"02.1": one}, before=removes)
    submission(folder / "hungry.ipynb", {"02.1": one, "02.2": "full = []\nwhile True: full.append(b'x' * 2**26)"})
    submission(folder / "forged.ipynb", {"02.1": "twice = 0"}, before=submissions.FORGES)
    submission(folder / "broken.ipynb", {"02.1": "twice = [", "02.2": SOLVED["02.2"]})
    (folder / "no.ipynb").write_text("my dog ate it")
    return folder, root / "out", grading.grade(folder, root / "out", LIMITS, jobs=2)


def points(rows, file):
    return {row.exercise: row.points for row in rows if row.file == file}


def message(rows, file, exercise=""):
    return next(row.message for row in rows if row.file == file and row.exercise == exercise)


@pytest.mark.slow
def test_right_answers_count_and_missing_ones_do_not(graded):
    _, _, rows = graded
    assert points(rows, "perfect/02.ipynb") == {n: int(n in ANSWERED) for n in EXERCISES}
    assert set(points(rows, "lazy.ipynb").values()) == {0}
    assert {row.name for row in rows if row.file == "perfect/02.ipynb"} == {"Ada Żółć"}
    assert {row.name for row in rows if row.file == "lazy.ipynb"} == {"lazy"}  # nameless: the file's name


@pytest.mark.slow
def test_a_bad_cell_costs_only_itself(graded):
    _, _, rows = graded
    assert points(rows, "stuck.ipynb") == {n: int(n in ("02.1", "02.4")) for n in EXERCISES}
    assert points(rows, "broken.ipynb") == {n: int(n == "02.2") for n in EXERCISES}
    assert points(rows, "wild.ipynb")["02.1"] == 1  # it removed its own home, not the teacher's
    assert points(rows, "forged.ipynb")["02.1"] == 0  # our question, our `check`


@pytest.mark.slow
def test_what_ends_a_kernel_keeps_what_was_right_before(graded):
    _, _, rows = graded
    assert points(rows, "dead.ipynb")["02.1"] == points(rows, "hungry.ipynb")["02.1"] == 1
    assert message(rows, "broken.ipynb", "02.1") == "NameError: name 'twice' is not defined"
    assert message(rows, "dead.ipynb", "02.2") == "the kernel could not be kept alive"
    assert message(rows, "hungry.ipynb", "02.2") == "stopped because it used more than 1 GB of memory"
    assert message(rows, "no.ipynb").startswith("cannot be graded: ")
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if "runner" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_the_table_is_for_a_spreadsheet_and_submissions_stay(graded):
    folder, out, rows = graded
    with (out / grading.TABLE).open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows) and table[0].keys() == set(grading.Grade.__dataclass_fields__)
    assert "Ada Żółć" in {row["name"] for row in table}
    assert json.loads((folder / "lazy.ipynb").read_text())["cells"][-1]["outputs"] == []


@pytest.mark.slow
def test_a_second_run_does_only_what_changed(graded, monkeypatch):
    folder, out, rows = graded
    again = []
    run = grading.grade_one
    monkeypatch.setattr(grading, "grade_one", lambda path, *rest: (again.append(path.name), run(path, *rest))[1])
    assert grading.grade(folder, out, LIMITS) == rows and again == []
    submission(folder / "lazy.ipynb", {"02.1": SOLVED["02.1"]})
    assert points(grading.grade(folder, out, LIMITS), "lazy.ipynb")["02.1"] == 1 and again == ["lazy.ipynb"]


def test_bad_folders_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected submitted notebooks .* found none"):
        grading.grade(tmp_path, tmp_path.parent / "grades")
    with pytest.raises(ValueError, match="lies inside the submissions"):
        grading.grade(tmp_path, tmp_path / "grades")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_generated_submissions_get_the_points_that_they_deserve(tmp_path):
    count = int(os.environ.get("M2F_SUBMISSIONS", 4))  # 30: all five notebooks, each kind three times
    names = sorted(execution.find_notebooks(())) if count >= 30 else ["05_inference", "02_resize_ade20k"]
    deserved = submissions.generate(tmp_path / "in", count, names, seed=count)
    limits = grading.Limits(cell_seconds=60 if count >= 30 else 20)
    rows = grading.grade(tmp_path / "in", tmp_path / "out", limits, jobs=2)
    assert {file: points(rows, file) for file in deserved} == deserved
    assert 0 < sum(row.points for row in rows) < len(rows)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["import os", "a = 1", "b = 2", "print(a)"], {1, 3}),
        (["a = [1]", "a.append(2)", "print(a)", "a"], {0, 1, 3}),  # changed as well as made
        (["a = 1", "a = 2", "a"], {1, 2}),  # made afresh
        (["a = 1", "a += 1", "a"], {0, 1, 2}),
        (["a = {}", "a['b'] = 1", "a"], {0, 1, 2}),
        (["def f():\n    return g()", "def g():\n    return c", "c = 1", "f()"], {0, 1, 2, 3}),  # read when called
        (["x = 1", "def f(x):\n    return x", "[x for x in 'ab']", "f(2)"], {1, 3}),  # names of their own
        (["a = 1", "if a:\n    b = 2", "b = 1", "b"], {2, 3}),
        (["a = 1", "a = (", "a"], {0, 2}),  # no Python
        (["a = 1", "b = 2", "%%time\n!ls\nc = a", "c"], {0, 2, 3}),
    ],
)
def test_cells_that_an_answer_needs(sources, expected):
    assert needed(sources, {len(sources) - 1}) == expected


@pytest.mark.parametrize("name", execution.find_notebooks(()))
def test_the_training_is_not_among_them(name):
    source = nbformat.read(execution.list_notebooks()[name], 4)
    asking = grading.prepare(source, source, read_exercises(source))
    running = [
        c.source for c in asking.cells if c.cell_type == "code" and grading.SKIP not in c.metadata.get("tags", [])
    ]
    assert len(running) < len([c for c in asking.cells if c.cell_type == "code"])
    assert not any("training.train(" in source for source in running)
