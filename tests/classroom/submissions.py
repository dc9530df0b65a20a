"""Generated submissions with known points: students' editions, answered right, wrong or not at all, and spoilt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from m2f_helpers import execution
from m2f_helpers.classroom import editions
from m2f_helpers.classroom.cells import NAME_TAG, Exercise, asked_in, read_exercises

KINDS = ("plain", "loop", "crash", "hungry", "deletes", "no notebook", "renamed", "forged", "syntax", "exits")
ENDS = {  # what an answer is replaced by; the second: whether the kernel lives on
    "loop": ("while True:\n    pass", True),
    "crash": ("import os\n\nos._exit(1)", False),
    "hungry": ("full = []\nwhile True:\n    full.append(bytearray(2**26) + b'x')", False),
    "syntax": ("twice = [", True),
    "exits": ("raise SystemExit", True),
}
DELETES = """import pathlib
import shutil

assert pathlib.Path.home().resolve() == pathlib.Path.cwd()  # only where it is alone
shutil.rmtree(pathlib.Path.home())"""
FORGES = """from IPython.display import display

from m2f_helpers import exercises

exercises.compare = lambda *given: (True, "")
exercises.is_right = exercises.is_solved = lambda *given: True
exercises.check = check = lambda number, *given: display(
    {exercises.MIME: {"exercise": number, "right": True, "parts": [1]}}, raw=True
)"""


def generate(folder: Path, count: int, names: list[str], seed: int = 0) -> dict[str, dict[str, int]]:
    """Write submissions, a folder for each student. Returns the points that they deserve, by file and exercise."""
    chance = random.Random(seed)
    return dict(_one(folder, i, KINDS[i % len(KINDS)], names[i % len(names)], chance) for i in range(count))


def _one(folder: Path, i: int, kind: str, name: str, chance: random.Random) -> tuple[str, dict[str, int]]:
    source = nbformat.read(execution.list_notebooks()[name], as_version=4)
    notebook, asked = editions.student(source, name), read_exercises(source)
    ways = {e.number: chance.choice(("right", "right", "wrong", "missing")) for e in asked}
    spoilt = chance.choice(asked).number if kind in ENDS else ""
    if spoilt:
        ways[spoilt] = kind
    notebook.cells = list(_answered(notebook, {e.number: e for e in asked}, ways))
    _set_name(notebook, f"Student {i}")
    if kind in ("deletes", "forged"):
        where = next(j for j, cell in enumerate(notebook.cells) if asked_in(cell))
        notebook.cells.insert(where, nbformat.v4.new_code_cell(DELETES if kind == "deletes" else FORGES))
    path = folder / f"{i:02}" / ("Homework (1).ipynb" if kind == "renamed" else f"{name}.ipynb")
    path.parent.mkdir(parents=True)
    if kind == "renamed":
        notebook.cells.pop(0)  # and the title is gone
    nbformat.write(notebook, path)
    if kind == "no notebook":
        path.write_text("my dog ate it", encoding="utf-8")
    return path.relative_to(folder).as_posix(), _points(kind, ways, spoilt)


def _points(kind: str, ways: dict[str, str], spoilt: str) -> dict[str, int]:
    """What is right counts, up to where the kernel ended."""
    if kind == "no notebook":
        return {"": 0}
    numbers = sorted(ways)
    reached = numbers[: numbers.index(spoilt)] if spoilt and not ENDS[kind][1] else numbers
    return {number: int(number in reached and ways[number] == "right") for number in numbers}


def _answered(notebook: Any, asked: dict[str, Exercise], ways: dict[str, str]) -> Iterator[Any]:
    for cell in notebook.cells:
        if number := asked_in(cell):
            exercise, way = asked[number], ways[number]
            started = cell.source.replace(exercise.question, "").rstrip()
            answer = {"right": exercise.solution, "wrong": ""}.get(way) or ENDS.get(way, ("",))[0]
            cell.source = f"{started}\n{answer}\n{exercise.question}"
            if way == "missing":
                continue
        yield cell


def _set_name(notebook: Any, name: str) -> None:
    for cell in notebook.cells:
        if NAME_TAG in cell.metadata.get("tags", []):
            cell.source = f"STUDENT = {name!r}  # your name"
