"""Numbers in prose, and where they come from.

A number in a markdown cell is good if a code cell beside it shows it (in its source or its output), if the notebook
records it, or if a row of `prose_numbers.csv` says where it comes from. Where those cells also show the number before
or after it, as with small numbers, a change by hand could hide: then a row is needed too, with `beside` for a source.
To see what lacks a source after a change, run `python -m tests.prose FOLDER` on a folder that `m2f run` wrote; the
lines it prints are rows to be filled in.
"""

from __future__ import annotations

import ast
import csv
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

BESIDE = "beside"  # the source of a row whose number is still looked up, in the cells beside it and the records
TABLE = Path(__file__).with_name("prose_numbers.csv")
FIELDS = ["where", "number", "context", "source"]
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?!\w)")
WORD = re.compile(r"\b(?:(?:half an?|an?|two|three|few) )?(?:minutes?|seconds)\b|\b(?:twenty|hundreds?|thousands?)\b")
NO_PROSE = [  # what is no statement: code, addresses, the list of references, numbers of notebooks and sections
    r"```.*?```",
    r"`[^`]*`",
    r"\]\([^)]*\)",
    r"^## References.*",
    r"(?<![\w.])0\d(?:\.\d+)?\b",
    r"[A-Za-z]+-\d+\b",
]


@dataclass(frozen=True)
class Row:
    """A line of the table: the number as it is printed, words around it, and its source."""

    where: str
    number: str
    context: str
    source: str


def read_table() -> list[Row]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [Row(**line) for line in csv.DictReader(file)]


def numbers(text: str) -> Iterator[tuple[str, float | None, str]]:
    """Each number of a prose text: as printed, its value (None for a word), and the words around it."""
    for pattern in NO_PROSE:
        text = re.sub(pattern, " ", text, flags=re.S | re.M)
    text = re.sub(r"\s+", " ", re.sub(r"(?<=\d) ?x ?(?=\d)", " x ", text))
    for match in NUMBER.finditer(text):
        scale = 1e6 if text[match.end() :].startswith(" million") else 1
        value = float(match.group().replace(",", "")) * scale
        yield match.group().rstrip(","), value, text[max(0, match.start() - 30) : match.end() + 30]
    for match in WORD.finditer(text):
        yield match.group(), None, text[max(0, match.start() - 30) : match.end() + 30]


def shown(printed: str, value: float, context: str, sources: Iterable[float]) -> bool:
    """Is the number one of the sources, rounded to the digits that are printed?"""
    digits = len(printed.partition(".")[2])
    scales = [1, 100] if f"{printed} %" in context else [1]
    for source in sources:
        for scale in scales:
            exact = abs(source * scale - value) < 1e-9
            if exact or (source * scale != int(source * scale) and round(source * scale, digits) == value):
                return True
    return False


def values_in(text: str) -> set[float]:
    """Numbers in what a cell printed; digits inside of words do not count."""
    found = re.findall(r"(?<![\w.#])\d[\d,_]*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)", re.sub(r"(?<=\d)x(?=\d)", " ", text))
    return {float(number.rstrip(",_").replace(",", "").replace("_", "")) for number in found}


def cell_values(cell: Any) -> set[float]:
    """The numbers that a code cell computes with or shows; no comments, no words, no progress bars."""
    nodes = ast.walk(ast.parse(cell.source))
    values = {
        float(node.value) for node in nodes if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    }
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        texts = [output.get("text", ""), data.get("text/plain", "")]
        texts.append(re.sub(r"<style.*?</style>|<[^>]+>", " ", data.get("text/html", ""), flags=re.S))
        values |= set().union(*(values_in(text) for text in texts if "%|" not in text))
    return values


def record_values(records: dict[str, Any]) -> set[float]:
    numbers = (value for value in records.values() if isinstance(value, (int, float)))
    return {float(value) for value in numbers if not isinstance(value, bool)}


def without_source(where: str, notebook: Any, records: dict[str, Any], rows: list[Row]) -> tuple[list[Row], set[Row]]:
    """The numbers of an executed notebook that have no source, as rows to be filled in; and the rows that were used."""
    cells = notebook.cells
    codes = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    missing, used = [], set()
    for i, cell in enumerate(cells):
        if cell.cell_type != "markdown":
            continue
        beside = [max((c for c in codes if c < i), default=None), min((c for c in codes if c > i), default=None)]
        sources = record_values(records).union(*(cell_values(cells[c]) for c in beside if c is not None))
        lacking, told = _check(where, cell.source, sources, rows)
        missing, used = missing + lacking, used | told
    return missing, used


def hidden(value: float, sources: Iterable[float]) -> bool:
    """Would a small whole number pass as well if it were one more or less? Others rarely would, and times vary."""
    return value in range(10) and any(abs(abs(source - value) - 1) < 1e-9 for source in sources)


def _check(where: str, text: str, sources: set[float], rows: list[Row]) -> tuple[list[Row], set[Row]]:
    missing, used = [], set()
    for printed, value, context in numbers(text):
        told = {row for row in rows if row.where == where and row.number == printed and row.context in context}
        used |= told
        seen = value is not None and shown(printed, value, context, sources)
        elsewhere = any(row.source != BESIDE for row in told)
        if not (elsewhere or (seen and (told or not hidden(value, sources)))):
            missing.append(Row(where, printed, context, BESIDE if seen else ""))
    return missing, used


def readme_without_source(text: str, records: dict[str, dict], rows: list[Row]) -> tuple[list[Row], set[Row]]:
    """The same for the README, which may quote a record of any notebook."""
    return _check("README", text, set().union(*(record_values(one) for one in records.values())), rows)


def main(folder: Path) -> None:
    from m2f_helpers.records import read_records

    writer, records = csv.DictWriter(sys.stdout, FIELDS), {}
    for path in sorted(folder.glob("0*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        records[path.stem] = read_records(notebook)
        missing, _ = without_source(path.stem, notebook, records[path.stem], read_table())
        writer.writerows(vars(row) for row in missing)
    readme = (TABLE.parent.parent / "README.md").read_text(encoding="utf-8")
    writer.writerows(vars(row) for row in readme_without_source(readme, records, read_table())[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
