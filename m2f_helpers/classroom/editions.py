"""The editions of a class, all from the one source of each notebook: student, teacher, slides, handout, quiz, plan.

What a teacher needs beside a section stands in `texts/NN.json`, by the section's heading: its aim, its minutes, whether
it may be skipped, mistakes with what to say, questions for the room. A heading without such an entry is an error.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat

from m2f_helpers import execution, export, files
from m2f_helpers.classroom import handout, quiz, slides
from m2f_helpers.classroom.cells import NAME_TAG, asked_in, read_exercises, without_solutions
from m2f_helpers.classroom.needed import SKIP, needed
from m2f_helpers.quiet import one_line
from m2f_helpers.resources import resource

TEXTS = Path(__file__).with_name("texts")
PARTS = ("student", "teacher", "slides", "handout", "quiz")
PLANS = ((5, "Five lessons"), (8, "Eight lessons"))
DAY = 360  # minutes of work in one day


@dataclass(frozen=True)
class Section:
    """What a teacher needs for one section. `mistakes` are pairs: what is seen, what to say."""

    heading: str
    aim: str
    minutes: int
    skip: bool
    mistakes: Sequence[Sequence[str]]
    questions: Sequence[str]


def build(out: str | Path, minutes: int = 45, runs: str | Path = "runs", zipped: bool = False) -> dict[str, int]:
    """Make every edition of the five notebooks in one folder, or leave everything as it was.

    An earlier edition in `out` is replaced, anything else is refused. `minutes` is the length of a lesson. What
    `m2f run` left in `runs` is used again. `zipped` packs student and teacher editions as well.

    Returns: number of files by part.
    Raises: ValueError or OSError in one sentence; then nothing is left behind.
    """
    out = Path(out).resolve()
    if not 20 <= minutes <= 180:
        raise ValueError(f"expected lessons of 20 to 180 minutes, got {minutes}")
    if out.exists() and any(out.iterdir()) and not (out / "plan.md").is_file():
        raise ValueError(f"{out} holds other things than an edition; give a new or empty folder")
    sources = {name: read_source(path) for name, path in execution.find_notebooks(()).items()}
    if not sources:
        raise ValueError(f"{resource('notebooks')} holds no notebook; install the project again")
    texts = {name: sections(name, notebook) for name, notebook in sources.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    files.remove_orphans(out.parent, f".{out.name}.*.part")
    with files.replacing(out) as work:
        work.mkdir()
        write_all(work, sources, texts, minutes, Path(runs).resolve(), zipped)
    return {part: sum(path.is_file() for path in (out / part).rglob("*")) for part in PARTS}


def write_all(
    work: Path, sources: Mapping[str, Any], texts: Mapping[str, list[Section]], minutes: int, runs: Path, zipped: bool
) -> None:
    """Every part, into a folder that exists."""
    for part in PARTS:
        (work / part).mkdir()
    for name, source in sources.items():
        nbformat.write(student(source, name), work / "student" / f"{name}.ipynb")
        executed = run_teacher(teacher(source, texts[name]), name, runs)
        nbformat.write(executed, work / "teacher" / f"{name}.ipynb")
        title = export.title_of(source)
        files.write(work / "slides" / f"{name}.html", slides.page(executed, title, texts[name]))
        handout.write(work / "handout", name, executed, title)
    quiz.write(work / "quiz")
    files.write(work / "plan.md", plan(texts, minutes))
    for part in ("student", "teacher") if zipped else ():
        shutil.make_archive(str(work / part), "zip", work / part)


def read_source(path: Path) -> Any:
    """A notebook as it is in the project. ValueError for one that is no notebook, or holds outputs."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path} is not a notebook: {one_line(error)}") from None
    if any(cell.get("outputs") for cell in notebook.cells):
        raise ValueError(f"{path} holds outputs: strip it first (nbstripout --keep-id {path})")
    return notebook


def headings(notebook: Any) -> list[str]:
    """The numbered sections of a notebook, in order: `02.1 Images of every size`."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"^## (\d\d\.\d+ .+)$", text, re.M)


def sections(name: str, notebook: Any) -> list[Section]:
    """The teacher's texts of a notebook, in the order of its sections. ValueError naming a section without one."""
    path = TEXTS / f"{name[:2]}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    lost = [heading for heading in headings(notebook) if heading not in known]
    if lost:
        raise ValueError(f"{path.name} has no text for the section {lost[0]!r} of {name}")
    return [Section(heading, **known[heading]) for heading in headings(notebook)]


def student(source: Any, name: str) -> Any:
    """No solutions, a cell for the name, and the metadata by which nbgrader grades it."""
    edition = without_solutions(source)
    edition.metadata["m2f"] = {"edition": "student", "notebook": name}
    before = {cell.get("id") for cell in edition.cells}
    cells = []
    for cell in edition.cells:
        cells.append(cell)
        if number := asked_in(cell):
            proof = f'from m2f_helpers.exercises import is_solved\n\nassert is_solved("{number}"), "{number}: not yet"'
            tags = ["raises-exception"]  # until it is solved, "Run all" goes on behind it
            metadata = {"tags": tags, "nbgrader": _nbgrader(f"grade-{number}")}
            cells.append(nbformat.v4.new_code_cell(proof, metadata=metadata))
    name_cell = nbformat.v4.new_code_cell('STUDENT = ""  # your name', metadata={"tags": [NAME_TAG]})
    edition.cells = [cells[0], name_cell, *cells[1:]]
    for position, cell in enumerate(edition.cells):  # ids that stay the same from one build to the next
        cell["id"] = cell.get("id") if cell.get("id") in before else f"class-{name[:2]}-{position}"
    return edition


def _nbgrader(grade_id: str) -> dict[str, Any]:
    """Of a locked cell worth a point, schema 3. The student's cells have none: nbgrader would empty a solution."""
    kind = {"grade": True, "locked": True, "solution": False, "task": False, "points": 1, "schema_version": 3}
    return {"grade_id": grade_id.replace(".", "-"), "cell_type": "code", **kind}


def teacher(source: Any, texts: Sequence[Section]) -> Any:
    """Solutions filled in, and a note at the head of each section."""
    edition = copy.deepcopy(source)
    for exercise in read_exercises(source):
        cell = edition.cells[exercise.cell]
        started = cell.source.replace(exercise.question, "").rstrip()
        cell.source = f"{started}\n\n# Solution\n{exercise.solution}\n{exercise.question}"
    notes = {section.heading: f"\n\n{note(section)}" for section in texts}
    for cell in edition.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"^## (.+)$", lambda head: head[0] + notes.get(head[1], ""), cell.source, flags=re.M)
    return edition


def note(section: Section) -> str:
    """The teacher's text of a section as a block quote."""
    lines = [f"**For the teacher.** {section.aim} ({section.minutes} min{', may be skipped' if section.skip else ''})"]
    lines += [f"- *Seen:* {seen} *Say:* {say}" for seen, say in section.mistakes]
    lines += [f"- *Ask:* {question}" for question in section.questions]
    return "\n".join(f"> {line}" for line in [lines[0], "", *lines[1:]])


def run_teacher(edition: Any, name: str, runs: Path) -> Any:
    """Execute a teacher's notebook; what it makes stays in `runs`, the notebook itself does not.

    Where `runs` holds the notebook as `m2f run` executed it, only the solutions run, with the cells that they need.
    """
    runs.mkdir(parents=True, exist_ok=True)
    before = earlier_run(edition, runs / f"{name}.ipynb")
    solutions = {position for position, cell in enumerate(edition.cells) if asked_in(cell)}
    codes = [cell.source if cell.cell_type == "code" else "" for cell in edition.cells]
    runs_now = needed(codes, solutions) if before else range(len(codes))
    running = copy.deepcopy(edition)
    for position, cell in enumerate(running.cells):
        if position not in runs_now:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), SKIP]
    executed = _execute(running, name, runs)
    executed.cells = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata["tags"] = [tag for tag in cell.metadata.get("tags", []) if tag != SKIP]
        if before and cell.id in before.outputs and not asked_in(cell):
            cell.outputs = before.outputs[cell.id]
    executed.metadata.pop("papermill", None)  # times, and folders of this machine
    executed.metadata |= before.metadata if before else {}
    return executed


def earlier_run(edition: Any, path: Path) -> Any:
    """Outputs by cell, and the state of widgets, of an executed notebook; None if it is not of today's code."""
    try:
        run = nbformat.read(path, as_version=4)
    except Exception:  # there is none, or a damaged one: everything is run again
        return None
    there = {cell.get("id"): cell for cell in run.cells if cell.cell_type == "code"}
    ours = [cell for cell in edition.cells if cell.cell_type == "code" and not asked_in(cell)]
    if any(cell.id not in there or there[cell.id].source != cell.source for cell in ours):
        return None
    outputs = {name: cell.outputs for name, cell in there.items()}
    widgets = {key: value for key, value in run.metadata.items() if key == "widgets"}
    return SimpleNamespace(outputs=outputs, metadata=widgets)


def _execute(edition: Any, name: str, runs: Path) -> Any:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{name}.ipynb"
        nbformat.write(edition, path)
        run = execution.run_notebook(f"{name}.teacher", path, runs, {"OUT_DIR": str(runs)})
        if run.error:
            raise ValueError(f"the teacher's edition does not run: {run.error}")
        executed = nbformat.read(run.path, as_version=4)
        os.unlink(run.path)
    return executed


def plan(texts: Mapping[str, Sequence[Section]], minutes: int) -> str:
    """The plans as Markdown: five and eight lessons, one day, and what has to be ready before."""
    everything = [section for name in sorted(texts) for section in texts[name]]
    lines = ["# Plan", "", (TEXTS / "before.md").read_text(encoding="utf-8").strip()]
    for lessons, title in PLANS:
        parts = divide(choose(everything, lessons * minutes), lessons)
        lines += ["", f"## {title} of {minutes} minutes", ""]
        lines += [f"{i}. {_named(part)}" for i, part in enumerate(parts, start=1)]
    lines += ["", "## One day", "", f"{_named(choose(everything, DAY))}. A break after each notebook.", ""]
    return "\n".join(lines)


def choose(everything: Sequence[Section], minutes: int) -> list[Section]:
    """The sections that fit: what may be skipped goes first, from the longest on, then the longest of the rest."""
    chosen = list(everything)
    for section in sorted(everything, key=lambda section: (not section.skip, -section.minutes)):
        if sum(kept.minutes for kept in chosen) <= minutes:
            break
        chosen.remove(section)
    return chosen


def divide(chosen: Sequence[Section], lessons: int) -> list[list[Section]]:
    """The sections in order, cut into lessons of as nearly equal length as whole sections allow."""
    total, parts, passed = sum(section.minutes for section in chosen), [[] for _ in range(lessons)], 0
    for section in chosen:
        middle = passed + section.minutes / 2
        parts[min(lessons - 1, int(middle / total * lessons))].append(section)
        passed += section.minutes
    return parts


def _named(part: Sequence[Section]) -> str:
    return "; ".join(f"{section.heading} ({section.minutes} min)" for section in part)
