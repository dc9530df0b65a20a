"""Twenty questions with answers and reasons: as a notebook that checks, and as a file that Moodle imports (GIFT)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat

from m2f_helpers import files

QUESTIONS = Path(__file__).with_name("texts") / "quiz.json"
LETTERS = "abcd"


@dataclass(frozen=True)
class Question:
    """One question: four options, the position of the right one, and why it is right."""

    number: str
    text: str
    options: Sequence[str]
    right: int
    reason: str


def read_questions() -> list[Question]:
    """The questions in the order of the notebooks. Numbers count as those of exercises do: `90.1` to `90.20`."""
    entries = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    return [Question(f"90.{i}", **entry) for i, entry in enumerate(entries, start=1)]


def write(folder: Path) -> None:
    """Write `quiz.ipynb` (for students, without reasons), `answers.md` (for teachers) and `quiz.gift.txt`."""
    questions = read_questions()
    nbformat.write(notebook(questions), folder / "quiz.ipynb")
    files.write(folder / "answers.md", answers(questions))
    files.write(folder / "quiz.gift.txt", gift(questions))


def notebook(questions: list[Question]) -> nbformat.NotebookNode:
    """A cell for each question; the student writes a letter, `check` says right or not yet."""
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [text("# Quiz\n\nTwenty questions about notebooks 01 to 05. Write the letter, run the cell.")]
    cells.append(code("from m2f_helpers.exercises import check"))
    for question in questions:
        lines = [f"- **{letter}** {option}" for letter, option in zip(LETTERS, question.options, strict=True)]
        cells.append(text(f"### {question.number}\n\n{question.text}\n\n" + "\n".join(lines)))
        cells.append(code(f'check("{question.number}", "")  # a, b, c or d'))
    for position, cell in enumerate(cells):
        cell["id"] = f"quiz-{position}"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def answers(questions: list[Question]) -> str:
    """For the teacher: each question with its answer and the reason."""
    parts = [f"{q.number} {q.text}\n\n**{LETTERS[q.right]}** {q.options[q.right]}\n\n{q.reason}\n" for q in questions]
    return "# Quiz: answers\n\n" + "\n".join(parts)


def gift(questions: list[Question]) -> str:
    """Moodle's GIFT format: `=` right, `~` wrong, `####` what is said to everybody afterwards."""
    parts = []
    for q in questions:
        options = "\n".join(f"  {'=' if i == q.right else '~'}{_escaped(o)}" for i, o in enumerate(q.options))
        parts.append(f"::{q.number}::[markdown]{_escaped(q.text)} {{\n{options}\n  ####{_escaped(q.reason)}\n}}\n")
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """GIFT gives these characters a meaning of their own."""
    return re.sub(r"([~=#{}:\\])", r"\\\1", text)
