"""The write-up that this tutorial grew out of, statement by statement, beside what really runs. For notebook 03.

`write_up.json` holds what was said, in our words, and the verdict; the evidence is what this run's claims measured.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from m2f_helpers.architecture.claims import Checked, item
from m2f_helpers.architecture.notes import covered, permalink, repository_link
from m2f_helpers.architecture.reference import config_file
from m2f_helpers.architecture.tracing import function_source

VERDICTS = ("true", "lines moved", "misleading", "wrong", "cannot be checked")


@dataclass(frozen=True)
class Place:
    """A line of the installed source: its name for people, its number, and its address in the library's repository.

    `function` is the full name of an annotated function, empty for a line of the config.
    """

    label: str
    line: int
    link: str
    function: str = ""


@dataclass(frozen=True)
class Statement:
    """A statement of the write-up: what it said, whether that is so, and what is right."""

    id: str
    section: str
    said: str
    verdict: str
    correct: str
    claims: tuple[str, ...]
    place: Place | None = None


@dataclass(frozen=True)
class Answer:
    """A statement with the claims that speak to it, as measured."""

    statement: Statement
    checked: tuple[Checked, ...]

    @property
    def evidence(self) -> list[str]:
        """For each claim, what it says and what was measured, in words."""
        return [f"{entry.claim.statement} [{entry.evidence}]" for entry in self.checked]

    @property
    def holds(self) -> bool:
        """Whether everything that the verdict rests on was measured as expected."""
        return all(entry.holds for entry in self.checked)


@cache
def statements() -> tuple[Statement, ...]:
    """All statements, in the order of the write-up.

    Raises: ValueError if the line that one speaks about is not in the installed source.
    """
    rows = json.loads(Path(__file__).with_name("write_up.json").read_text(encoding="utf-8"))
    return tuple(
        Statement(row["id"], row["section"], row["said"], row["verdict"], row["correct"], tuple(row["claims"]),
                  find_place(row["function"], row["at"]) if "at" in row else None)
        for row in rows
    )  # fmt: skip


def answers(checked: Iterable[Checked]) -> list[Answer]:
    """Every statement with its evidence, from all claims. KeyError if one that a statement needs is not among them."""
    by_name = {entry.claim.name: entry for entry in checked}
    return [Answer(row, tuple(by_name[name] for name in row.claims)) for row in statements()]


def verdicts(found: Iterable[Answer]) -> dict[str, int]:
    """How many statements got which verdict, in the order of `VERDICTS`."""
    counts = Counter(answer.statement.verdict for answer in found)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def write_up_text(found: Iterable[Answer]) -> str:
    """The page for a terminal."""
    found = list(found)
    lines, section = [], ""
    for answer in found:
        row = answer.statement
        if row.section != section:
            section = row.section
            lines.append(f"\n{section}")
        place = f" ({row.place.label}, line {row.place.line})" if row.place else ""
        failed = "" if answer.holds else ", BUT THE EVIDENCE FAILED"
        lines += item(f"{row.id:4} said: {row.said}", 5)
        lines += item(f"     {row.verdict}{failed}: {row.correct}".rstrip(": ") + place, 5)
        for text in answer.evidence:
            lines += item(f"     {text}", 5)
    total = ", ".join(f"{number} {verdict}" for verdict, number in verdicts(found).items())
    return "\n".join([*lines, f"\n{len(found)} statements: {total}"]).strip()


def find_place(function: str, anchor: str) -> Place:
    """The line that contains `anchor`, in an annotated function or, for "config", in the published config.

    Raises: ValueError if there is no such function, or not exactly one such line.
    """
    if function == "config":
        file = config_file()
        lines = file.read_text(encoding="utf-8").splitlines()
        numbers = [number for number, line in enumerate(lines, 1) if anchor in line]
        if len(numbers) != 1:
            raise ValueError(f"{anchor!r} must stand on one line of {file.name}; it stands on {numbers}")
        return Place("config", numbers[0], repository_link("mmseg", f"configs/mask2former/{file.name}", numbers[0]))
    entry = next((entry for entry in covered() if entry.qualname == function), None)
    if entry is None:
        raise ValueError(f"{function!r} is not among the annotated functions of notes.json")
    line = function_source(entry.load()).line_of(anchor)
    return Place(entry.qualname, line, permalink(entry.load(), line) or "", entry.name)
