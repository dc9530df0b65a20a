"""nbgrader itself on a student's edition. Tried with nbgrader 0.9.6: an assignment is made, handed in, graded."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from importlib.util import find_spec

import nbformat
import pytest

from m2f_helpers import execution
from m2f_helpers.classroom import editions
from m2f_helpers.classroom.cells import asked_in, read_exercises

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("nbgrader") is None, reason="needs nbgrader: pip install nbgrader"),
]
NAME = "02_resize_ade20k"
SOURCE = nbformat.read(execution.list_notebooks()[NAME], 4)
ASKED = read_exercises(SOURCE)
SET_UP = "import numpy as np\nfrom m2f_helpers.data import resize\nfrom m2f_helpers.exercises import check"


def edition(answers, before=""):
    """The student's edition of notebook 02, cut down to its exercises, with these answers in them."""
    kept = [SOURCE.cells[0], nbformat.v4.new_code_cell(SET_UP)] + [SOURCE.cells[e.cell] for e in ASKED]
    made = editions.student(nbformat.v4.new_notebook(cells=kept, metadata=SOURCE.metadata), NAME)
    for cell in made.cells:
        if (number := asked_in(cell)) in answers:
            question = next(e.question for e in ASKED if e.number == number)
            cell.source = cell.source.replace(question, f"{answers[number]}\n{question}")
    if before:
        made.cells.insert(2, nbformat.v4.new_code_cell(before))
    return made


SOLVED = {e.number: e.solution for e in ASKED}
DELETES = "import pathlib, shutil\nfor path in pathlib.Path().iterdir():\n    path.unlink()"
SUBMITTED = {  # what is handed in, and what it is worth
    "empty": (edition({}), 0),
    "perfect": (edition(SOLVED), len(ASKED)),
    "loop": (edition(SOLVED | {"02.2": "while True:\n    pass"}), len(ASKED) - 1),
    "deletes": (edition(SOLVED, DELETES), len(ASKED)),
    "forged": (edition({}, "def check(*given):\n    print('right')"), 0),
}


def nbgrader(course, *words):
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # where its own tools are
    environment = os.environ | {"PATH": path, "HOME": str(course)}
    command = [sys.executable, "-m", "nbgrader", *words]
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def test_points_of_submissions_in_the_gradebook(tmp_path):
    (tmp_path / "source" / "m2f").mkdir(parents=True)
    nbformat.write(edition({}), tmp_path / "source" / "m2f" / f"{NAME}.ipynb")
    nbgrader(tmp_path, "generate_assignment", "m2f")
    released = nbformat.read(tmp_path / "release" / "m2f" / f"{NAME}.ipynb", 4)
    assert [c.source for c in released.cells] == [c.source for c in edition({}).cells], "nothing is emptied"
    for student, (notebook, _) in SUBMITTED.items():
        (tmp_path / "submitted" / student / "m2f").mkdir(parents=True)
        nbformat.write(notebook, tmp_path / "submitted" / student / "m2f" / f"{NAME}.ipynb")
    nbgrader(tmp_path, "autograde", "m2f", "--Execute.timeout=20")
    nbgrader(tmp_path, "export")
    with (tmp_path / "grades.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert {name: float(row["score"]) for name, row in rows.items()} == {name: n for name, (_, n) in SUBMITTED.items()}
    assert {float(row["max_score"]) for row in rows.values()} == {len(ASKED)}
