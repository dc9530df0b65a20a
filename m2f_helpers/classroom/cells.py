"""Exercises and their solutions, read from a notebook."""

from __future__ import annotations

import ast
import copy
import re
from dataclasses import dataclass
from typing import Any

NAME_TAG = "student"  # the cell in which a student writes a name
SOLUTION = re.compile(r"^### Solution \d\d\.\d+\n.*?</details>\n?", re.M | re.S)


@dataclass(frozen=True)
class Exercise:
    """One exercise: the position of its code cell, the line that asks `check`, and the code of the folded solution."""

    number: str
    cell: int
    question: str
    solution: str


def read_exercises(notebook: Any) -> list[Exercise]:
    """Every code cell whose last statement is `check("NN.N", ...)`, with the Python block below `### Solution NN.N`."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = []
    for position, cell in enumerate(notebook.cells):
        last = ast.parse(cell.source).body[-1:] if cell.cell_type == "code" else []
        match = re.match(r"check\(['\"](\d\d\.\d+)['\"]", ast.unparse(last[0])) if last else None
        if match:
            number = match.group(1)
            solution = re.search(rf"^### Solution {number}\n.*?```python\n(.*?)```.*?</details>", text, re.M | re.S)
            question = ast.get_source_segment(cell.source, last[0])
            found.append(Exercise(number, position, question, solution.group(1) if solution else ""))
    return found


def asked_in(cell: Any) -> str:
    """Number of the exercise that a cell answers: of the last line that calls `check`. Works on broken code too."""
    found = re.findall(r"^\s*check\(\s*['\"](\d\d\.\d+)['\"]", cell.source, re.M) if cell.cell_type == "code" else []
    return found[-1] if found else ""


def without_solutions(notebook: Any) -> Any:
    """A copy in which no folded solution is left."""
    plain = copy.deepcopy(notebook)
    for cell in plain.cells:
        if cell.cell_type == "markdown":
            cell.source = SOLUTION.sub("", cell.source).strip()
    plain.cells = [cell for cell in plain.cells if cell.cell_type != "markdown" or cell.source]
    return plain
