"""Grades submitted notebooks, each in a process of its own, and writes one table.

Of a notebook run the cells that its answers need and those that the student wrote or changed. The answers come out as
data and are compared here, where a submission cannot reach. A submission is foreign code: the limits and the empty
folder that is its home stop what goes wrong by accident, not ill will (see `m2f class grade --help`).
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import psutil
from tqdm.auto import tqdm

from m2f_helpers import execution, exercises, files
from m2f_helpers.classroom.cells import NAME_TAG, Exercise, asked_in, read_exercises
from m2f_helpers.classroom.needed import SKIP, needed
from m2f_helpers.quiet import one_line, shortened

TABLE = "grades.csv"
KEPT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "SYSTEMROOT", "OMP_NUM_THREADS", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Limits:
    """Minutes for a whole submission, seconds for one cell, gigabytes of memory for all its processes together."""

    minutes: float = 10
    cell_seconds: int = 120
    memory: float = 4


@dataclass(frozen=True)
class Grade:
    """One exercise of one submission: points are 1 or 0, the message says why."""

    name: str
    file: str
    notebook: str
    exercise: str
    points: int
    message: str


def grade(folder: str | Path, out: str | Path, limits: Limits = Limits(), jobs: int = 1) -> list[Grade]:
    """Grade every notebook below a folder. What was graded before, and has not changed since, is not run again.

    Args:
        folder: with submitted notebooks, in any sub-folders; nothing in it is changed.
        out: folder for `grades.csv` and the executed notebooks; made if needed.
        limits: of each submission; `jobs` of them are graded at the same time.

    Returns: the rows of `grades.csv`, by file; the table is whole after every submission.
    Raises: FileNotFoundError or ValueError if there is no notebook, or `out` lies inside `folder`.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if folder == out or folder in out.parents:
        raise ValueError(f"--out {out} lies inside the submissions {folder}; choose a folder outside")
    submissions = sorted(path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not submissions:
        raise FileNotFoundError(f"{folder}: expected submitted notebooks (*.ipynb), found none")
    out.mkdir(parents=True, exist_ok=True)
    known = read_known(out, {path: _digest(path) for path in submissions})
    todo = [path for path in submissions if path not in known]
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(grade_one, path, folder, out, limits): path for path in todo}
        for done in tqdm(as_completed(waiting), total=len(todo), desc="grading", unit="notebook", disable=not todo):
            known[waiting[done]] = done.result()
            write_table(out, known)
    write_table(out, known)
    return [row for path in submissions for row in known[path]]


def grade_one(path: Path, folder: Path, out: Path, limits: Limits) -> list[Grade]:
    """Grade one submission; whatever is wrong with it becomes its message."""
    file = path.relative_to(folder).as_posix()
    digest = _digest(path)
    try:
        submission = nbformat.read(path, as_version=4)
        ours = source_of(submission, path)
        source = nbformat.read(ours, as_version=4)
        asked = read_exercises(source)
        name = student_of(submission) or path.stem
        asking = prepare(submission, source, asked)
    except Exception as error:  # damaged, empty, another notebook: a row, never the end of the others
        rows = [Grade(path.stem, file, "", "", 0, f"cannot be graded: {one_line(error)}")]
    else:
        executed, fault = execute(asking, limits)
        files.write(out / f"{digest}.ipynb", nbformat.writes(executed))
        rows = [Grade(name, file, ours.stem, e.number, *judge(executed, e, fault)) for e in asked]
    files.write(out / f"{digest}.json", json.dumps([asdict(row) for row in rows], ensure_ascii=False))
    return rows


def source_of(submission: Any, path: Path) -> Path:
    """Our notebook that a submission is an edition of: by its metadata, its title, or the name of its file."""
    text = next((cell.source for cell in submission.cells if cell.cell_type == "markdown"), "")
    told = str(submission.metadata.get("m2f", {}).get("notebook", ""))
    match = re.match(r"(\d\d)_", told) or re.match(r"#\s*(\d\d)\b", text.strip()) or re.match(r"(\d\d)_", path.name)
    ours = [p for name, p in execution.list_notebooks().items() if match and name.startswith(match[1])]
    if not ours:
        raise ValueError("neither its title nor its file name begins with the number of a notebook")
    return ours[0]


def student_of(submission: Any) -> str:
    """The name that stands in the cell for it, read without running it; empty if there is none."""
    for cell in submission.cells:
        if NAME_TAG in cell.metadata.get("tags", []):
            found = re.search(r"=\s*(\"[^\"\n]*\"|'[^'\n]*')", cell.source)
            return ast.literal_eval(found[1]).strip() if found else ""
    return ""


def prepare(submission: Any, source: Any, asked: list[Exercise]) -> Any:
    """A copy in which our own question stands behind each answer, and cells that no answer needs are marked as such."""
    asking = copy.deepcopy(submission)
    leave_out(asking, source)
    wanted = {exercise.number: exercise for exercise in asked}
    for position in reversed(range(len(asking.cells))):
        cell = asking.cells[position]
        number = asked_in(cell)
        if number in wanted:
            exercise = wanted.pop(number)
            text = f"from m2f_helpers.exercises import hand_in\n{exercise.question.replace('check', 'hand_in', 1)}"
            question = nbformat.v4.new_code_cell(text, metadata={"tags": ["graded"], "exercise": number})
            asking.cells.insert(position + 1, question)
        if "parameters" in cell.metadata.tags:  # as we have them, whatever was tried last
            asking.cells.insert(position + 1, nbformat.v4.new_code_cell(parameters_of(source)))
    return asking


def leave_out(asking: Any, source: Any) -> None:
    """Mark the cells that need not run: those of ours, unchanged, on which no answer and no other cell depends."""
    ours = {cell.source.strip() for cell in source.cells if not asked_in(cell)}
    codes = [cell.source if cell.cell_type == "code" else "" for cell in asking.cells]
    theirs = {position for position, code in enumerate(codes) if code.strip() and code.strip() not in ours}
    proofs = {position for position, cell in enumerate(asking.cells) if cell.metadata.get("nbgrader", {}).get("grade")}
    runs = needed(codes, theirs - proofs)
    for position, cell in enumerate(asking.cells):
        tags = [tag for tag in cell.metadata.get("tags", []) if tag not in ("graded", SKIP)]
        cell.metadata["tags"] = tags if position in runs else [*tags, SKIP]


def parameters_of(source: Any) -> str:
    """Our own values, and a folder for outputs that is never the checkout of whoever grades."""
    ours = [cell.source for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]
    return "\n".join([*ours, "import pathlib", 'OUT_DIR = str(pathlib.Path.home() / "runs")'])


def execute(notebook: Any, limits: Limits) -> tuple[Any, str]:
    """Run a notebook in a process of its own, in an empty folder. Returns it, and what stopped it, if something did."""
    with tempfile.TemporaryDirectory(prefix="m2f-grade-", ignore_cleanup_errors=True) as temporary:
        work, source = Path(temporary) / "work", Path(temporary) / "submission.ipynb"
        work.mkdir()
        nbformat.write(notebook, source)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {"HOME": str(work), "USERPROFILE": str(work)}
        environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        command = [sys.executable, "-m", "m2f_helpers.classroom.runner", str(source), str(limits.cell_seconds)]
        quiet = {stream: subprocess.DEVNULL for stream in ("stdin", "stdout", "stderr")}
        process = psutil.Popen(command, cwd=work, env=environment, **quiet)
        fault = watch(process, limits)
        try:
            return nbformat.read(source, as_version=4), fault
        except Exception:  # the submission overwrote or removed its own file
            return notebook, fault or "the submission damaged its own notebook while it ran"


def watch(process: psutil.Popen, limits: Limits) -> str:
    """Wait for a process; end it and all its children when they use too much. Returns what was too much."""
    end = time.monotonic() + limits.minutes * 60
    while process.poll() is None:
        family = [process]
        with suppress(psutil.NoSuchProcess):
            family = [*process.children(recursive=True), process]
        if time.monotonic() > end:
            fault = f"stopped after {limits.minutes:g} minutes"
        elif _memory(family) > limits.memory * 2**30:
            fault = f"stopped because it used more than {limits.memory:g} GB of memory"
        else:
            time.sleep(0.2)
            continue
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        return fault
    return "" if process.returncode == 0 else "the kernel could not be kept alive"


def judge(executed: Any, exercise: Exercise, fault: str) -> tuple[int, str]:
    """Points and message for one exercise."""
    cells = [c for c in executed.cells if c.metadata.get("exercise") == exercise.number and "graded" in c.metadata.tags]
    if not cells:
        return 0, "no cell asks for it"
    outputs = cells[-1].get("outputs", [])
    handed = [output.data[exercises.MIME] for output in outputs if exercises.MIME in output.get("data", {})]
    if handed:
        try:
            right = exercises.is_right(exercise.number, handed[-1]["parts"])
        except (TypeError, KeyError, RecursionError):  # handed in by something else than our question
            right = False
        return int(right), "right" if right else "not yet"
    errors = [" ".join(f"{o.ename}: {o.evalue}".split()) for o in outputs if o.output_type == "error"]
    return 0, shortened(errors[0], 200) if errors else fault or "the answer could not be looked at"


def read_known(out: Path, digests: dict[Path, str]) -> dict[Path, list[Grade]]:
    """Rows of submissions graded in an earlier run, by path."""
    stored = {path: out / f"{digest}.json" for path, digest in digests.items()}
    there = {path: file.read_text(encoding="utf-8") for path, file in stored.items() if file.is_file()}
    return {path: [Grade(**row) for row in json.loads(text)] for path, text in there.items()}


def write_table(out: Path, known: dict[Path, list[Grade]]) -> None:
    """Write `grades.csv`; it begins with a byte-order mark, so that Excel reads names right."""
    rows = [row for path in sorted(known) for row in known[path]]
    files.write(out / TABLE, pd.DataFrame(rows).to_csv(index=False).encode("utf-8-sig"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.as_posix().encode() + path.read_bytes()).hexdigest()[:16]


def _memory(family: list[psutil.Process]) -> int:
    total = 0
    for member in family:
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total
