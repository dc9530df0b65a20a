"""Slides of an executed notebook: one HTML file, reveal.js inside, one idea to a slide, teacher's notes behind."""

from __future__ import annotations

import copy
import html
import math
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup

from m2f_helpers import export
from m2f_helpers.classroom.cells import SOLUTION, asked_in
from m2f_helpers.resources import resource

TALL = 12  # a code cell with more lines is folded on its slide
ROOM = 19  # lines of text that a slide holds
WIDTH = 100  # letters in one of them
FORMULA = re.compile(r"\$\$.*?\$\$", re.S)


def page(executed: Any, title: str, texts: Sequence[Any]) -> str:
    """The slides of an executed teacher's edition, as a page that loads nothing from elsewhere.

    `texts` are the teacher's text of each section; what they say stands in the presenter's view (key S).
    Raises: ModuleNotFoundError if the package that carries reveal.js is not installed.
    """
    notes = {section.heading: section for section in texts}
    shown, current, where, slides = export.static_outputs(without_notes(executed)), None, "", []
    for cells in split(shown.cells):
        heading = re.match(r"##? (.+)$", cells[0].source, re.M) if cells[0].cell_type == "markdown" else None
        where, current = (heading[1], notes.get(heading[1])) if heading else (where, current)
        slides.append(_slide(cells, current, "" if heading else where))
    pages = "\n".join(slides)
    style, script = (resource(f"classroom/texts/slides.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)} · slides</title>
<style>{_library("dist/reveal.css")}</style><style>{_library("dist/theme/white.css")}</style><style>{style}</style></head>
<body><div class="reveal"><div class="slides">
{pages}
</div></div>
<script>{_library("dist/reveal.js")}</script><script>{_library("plugin/notes/notes.js")}</script>
<script>{script}</script>
</body></html>
"""


def _library(path: str) -> str:
    found = find_spec("sphinx_revealjs")  # carries reveal.js (MIT), so that no network is needed
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError('slides need reveal.js: pip install "m2f-helpers[classroom]"', name="sphinx_revealjs")
    text = (Path(found.submodule_search_locations[0]) / "_static" / "revealjs" / path).read_text(encoding="utf-8")
    if path.endswith(".css"):
        return re.sub(r"@import[^;]+;|url\([^)]*\)", "", text)  # web fonts: the system's do
    return text.replace("</script", "<\\/script")


def without_notes(executed: Any) -> Any:
    """A copy without the teacher's block quotes, and without what the code of exercises gives away."""
    plain = copy.deepcopy(executed)
    kept = []
    for cell in plain.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"^> \*\*For the teacher\.\*\*.*?(?:\n(?!>)|\Z)", "", cell.source, flags=re.M | re.S)
            cell.source = SOLUTION.sub("", cell.source).strip()
            kept += [cell] if cell.source else []
        elif not asked_in(cell) and not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            kept.append(cell)
    plain.cells = kept
    return plain


def split(cells: Sequence[Any]) -> list[list[Any]]:
    """Cells by slide: each text, with the code behind it if there is room, and each figure or large output alone."""
    slides: list[list[Any]] = []
    for cell in cells:
        if cell.cell_type == "markdown":
            texts = [part for text in re.split(r"\n(?=#{1,3} )", cell.source) for part in portions(text)]
            slides += [[nbformat.v4.new_markdown_cell(text)] for text in texts]
        elif slides:
            large = [output for output in cell.outputs if lines_of(_output(output)) > TALL]
            rest = nbformat.v4.new_code_cell(cell.source, outputs=[o for o in cell.outputs if o not in large])
            full = sum(map(lines_of, slides[-1])) + lines_of(rest) > ROOM
            slides += [[rest]] if full else []
            slides[-1] += [] if full else [rest]
            slides += [[_output(output)] for output in large]
    return slides


def portions(text: str) -> list[str]:
    """A text cut between paragraphs and rows of lists into parts that a slide holds."""
    text = FORMULA.sub(lambda found: " ".join(found[0].split()), text)  # each on one line
    parts: list[str] = []
    for block in re.split(r"(\n\n(?!\s)|\n(?=(?:[-*]|\d+\.) ))", text):
        longer = (parts[-1] if parts else "") + block
        if not parts or lines_of(nbformat.v4.new_markdown_cell(longer)) > ROOM and block.strip():
            parts.append(block)
        else:
            parts[-1] = longer
    return parts


def _output(output: Any) -> Any:
    return nbformat.v4.new_code_cell("", outputs=[output])


def lines_of(cell: Any) -> float:
    """Roughly how many lines of text a cell is high on a slide; a figure counts as more than any text."""
    if cell.cell_type == "markdown":
        rows = [math.ceil(len(row) / WIDTH) for row in cell.source.split("\n")]
        return sum(rows) + cell.source.count("\n\n") * 0.6 + cell.source.count("$$") + cell.source.startswith("#")
    high = cell.source.count("\n") + 1 if cell.source else 0
    total = 0.7 * high if high <= TALL else 1.0
    for output in cell.outputs:
        data = output.get("data", {})
        html_, text = "".join(data.get("text/html", "")), "".join(output.get("text", data.get("text/plain", "")))
        if "<img" in html_ or "<svg" in html_:
            return 2 * ROOM
        total += 0.9 * html_.count("<tr") + len(re.sub(r"<[^>]+>", "", html_)) / 200 if html_ else 0
        total += 0 if html_ else sum(0.7 * math.ceil(len(row) / 110) for row in text.split("\n"))
    return total


def _slide(cells: Sequence[Any], section: Any, where: str) -> str:
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    soup = BeautifulSoup(export.body(notebook), "html.parser")
    for code, cell in zip(soup.select("div.input_area"), [c for c in cells if c.cell_type == "code"], strict=False):
        if not cell.source:
            code.decompose()
        elif cell.source.count("\n") >= TALL:
            details = code.wrap(soup.new_tag("details"))
            summary = soup.new_tag("summary")
            summary.string = "code"
            details.insert(0, summary)
    head = f'<p class="where">{html.escape(where)}</p>' if where else ""
    return f"<section>{head}{soup}{_aside(section)}</section>"


def _aside(section: Any) -> str:
    if section is None:
        return ""
    rows = [f"<p>{html.escape(section.aim)} ({section.minutes} min)</p>"]
    rows += [f"<p>Seen: {html.escape(seen)} Say: {html.escape(say)}</p>" for seen, say in section.mistakes]
    rows += [f"<p>Ask: {html.escape(question)}</p>" for question in section.questions]
    return f'<aside class="notes">{"".join(rows)}</aside>'
