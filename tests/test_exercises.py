"""`check` says right to the right answer and to nothing else; answers cannot be read from the files."""

from __future__ import annotations

import json

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from m2f_helpers import exercises
from m2f_helpers.classroom.cells import read_exercises
from tests.conftest import NOTEBOOKS, with_solutions

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """An empty folder of answers, and nothing solved."""
    monkeypatch.setattr(exercises, "ANSWERS", tmp_path)
    monkeypatch.setattr(exercises, "_solved", set())
    exercises._load.cache_clear()
    yield tmp_path
    exercises._load.cache_clear()


def said(number, answer, *cases):
    """What `check` shows: the line of text, and the verdict as data."""
    InteractiveShell.instance()
    with capture_output() as captured:
        exercises.check(number, answer, *cases)
    (output,) = captured.outputs
    assert output.data[exercises.MIME]["exercise"] == number
    return output.data["text/plain"], output.data[exercises.MIME]["right"]


RIGHT_AND_WRONG = [
    (21, 6, [21, 21.0, np.int64(21), torch.tensor(21)], [20, 22, 21.4, None, "21 terms", True, []]),
    (0.4649, 2, [0.4649, 0.46, 0.465, np.float32(0.463)], [0.48, 0.44, 0.0, float("nan"), 46]),
    ("learning_rate", 6, ["learning_rate", " Learning_Rate "], ["", "lr", None]),
    ([(4, 6), (8, 12)], 6, [[[4, 6], [8, 12]], torch.tensor([[4, 6], [8, 12]])], [[(4, 6)], [(6, 4), (8, 12)]]),
    ({"a": 1, "b": 2}, 6, [{"b": 2, "a": 1}], [{"a": 2, "b": 1}, {"a": 1}]),
    ({5, 255}, 6, [{255, 5}], [{5}, {5, 254}]),
    (True, 6, [True, np.bool_(True)], [False, 1, None]),
]  # fmt: skip


@pytest.mark.parametrize(("truth", "digits", "right", "wrong"), RIGHT_AND_WRONG)
def test_right_and_not_yet(answers, truth, digits, right, wrong):
    exercises.seal("04.1", truth, hint="think", digits=digits, folder=answers)
    for answer in right:
        assert said("04.1", answer) == ("04.1: right. Notebook 04: 1 of 1 solved.", True), answer
    for answer in wrong:
        text, verdict = said("04.1", answer)
        assert not verdict and "not yet" in text and "Hint: think" in text, answer


def test_a_function_is_asked_about_each_case(answers):
    exercises.seal("02.2", lambda a, b: a + b, (1, 2), (3, 4), hint="add", folder=answers)
    assert said("02.2", lambda a, b: b + a, (1, 2), (3, 4))[1]
    text, verdict = said("02.2", lambda a, b: a * b + 1, (1, 2), (3, 4))
    assert not verdict and "1 of 2 values are right" in text
    assert not said("02.2", [3, 8], (1, 2), (3, 4))[1]


@pytest.mark.parametrize("answer", [lambda x: 1 / 0, lambda: 1, print])
def test_never_raises(answers, answer):
    exercises.seal("02.2", lambda x: x, 1, hint="think", folder=answers)
    text, verdict = said("02.2", answer, 1)
    assert not verdict and "not yet" in text


def test_an_unknown_exercise_is_named(answers):
    exercises.seal("02.1", 1, hint="think", folder=answers)
    assert said("02.9", 1) == ("02.9: there is no exercise 02.9; notebook 02 has 02.1", False)
    assert "has none" in said("55.1", 1)[0]


def test_progress_counts_each_once_and_takes_back(answers):
    for number in ("04.1", "04.2", "04.3"):
        exercises.seal(number, 7, hint="think", folder=answers)
    assert "1 of 3" in said("04.1", 7)[0]
    assert "1 of 3" in said("04.1", 7)[0]
    assert "2 of 3" in said("04.3", 7)[0]
    said("04.1", 8)
    assert "2 of 3" in said("04.2", 7)[0]


def test_the_answer_is_not_in_the_file(answers):
    exercises.seal("04.1", ["windowpane", 987654], hint="think", folder=answers)
    exercises.seal("04.2", ["windowpane", 987654], hint="think", folder=answers)
    text = (answers / "04.json").read_text()
    assert "windowpane" not in text and "987654" not in text
    first, second = (entry["hashes"] for entry in json.loads(text).values())
    assert not set(first) & set(second), "the same answer looks different in each exercise"


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_has_an_answer_a_hint_and_a_solution(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    found = read_exercises(notebook)
    assert [exercise.number for exercise in found] == list(exercises._load(name[:2]))
    for exercise in found:
        assert exercise.solution, f"{exercise.number}: no solution as code"
        assert "TODO" in notebook.cells[exercise.cell].source, exercise.number
    assert len(with_solutions(notebook).cells) == len(notebook.cells) + len(found)
