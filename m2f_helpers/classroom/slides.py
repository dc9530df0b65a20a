"""Slides of an executed notebook: one HTML file, reveal.js inside, one idea to a slide, teacher's notes behind."""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup

from m2f_helpers import export
from m2f_helpers.classroom.cells import SOLUTION, asked_in

TALL = 12  # a code cell with more lines is folded on its slide
STYLE = """
.reveal { font-size: 22px; }
.reveal .slides { text-align: left; }
.reveal h1, .reveal h2, .reveal h3 { text-transform: none; }
.reveal h1 { font-size: 2em; }
.reveal h2 { font-size: 1.5em; }
.reveal section { max-height: 680px; overflow-y: auto; }
.reveal section img { display: block; margin: 0 auto; max-width: 100%; max-height: 440px; background: #fff; }
.reveal pre { width: 100%; max-height: 300px; overflow: auto; padding: .5em; font-size: 15px; background: #f5f7f9; }
.reveal pre { box-shadow: none; }
.reveal table { font-size: 15px; }
.reveal .table { max-height: 360px; overflow: auto; }
.reveal summary { font-size: 16px; color: #57606a; }
"""


def page(executed: Any, title: str, texts: Sequence[Any]) -> str:
    """The slides of a notebook.

    Args:
        executed: the teacher's edition with its outputs; it is left as it is.
        title: of the notebook.
        texts: the teacher's text of each section; what they say stands in the presenter's view (key S).

    Returns: a page that loads nothing from elsewhere.
    Raises: ModuleNotFoundError if the package that carries reveal.js is not installed.
    """
    notes = {section.heading: section for section in texts}
    shown, current, slides = export.static_outputs(without_notes(executed)), None, []
    for cells in split(shown.cells):
        heading = re.search(r"^## (\d\d\.\d+ .+)$", cells[0].source, re.M)
        current = notes.get(heading[1]) if heading else (None if cells[0].source.startswith("## ") else current)
        slides.append(_slide(cells, current))
    parts = {name: _library(path) for name, path in LIBRARY.items()}
    return _frame(html.escape(title), "\n".join(slides), parts)


LIBRARY = {
    "css": "dist/reveal.css",
    "theme": "dist/theme/white.css",
    "js": "dist/reveal.js",
    "notes": "plugin/notes/notes.js",
}


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
    """Cells by slide: a slide begins with each text, and with each heading inside one."""
    slides: list[list[Any]] = []
    for cell in cells:
        if cell.cell_type == "markdown":
            for text in re.split(r"\n(?=#{2,3} )", cell.source):
                slides.append([nbformat.v4.new_markdown_cell(text)])
        elif slides:
            slides[-1].append(cell)
    return slides


def _slide(cells: Sequence[Any], section: Any) -> str:
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    soup = BeautifulSoup(export.body(notebook), "html.parser")
    for code, cell in zip(soup.select("div.input_area"), [c for c in cells if c.cell_type == "code"], strict=False):
        if cell.source.count("\n") >= TALL:
            details = code.wrap(soup.new_tag("details"))
            summary = soup.new_tag("summary")
            summary.string = "code"
            details.insert(0, summary)
    return f"<section>{soup}{_aside(section)}</section>"


def _aside(section: Any) -> str:
    if section is None:
        return ""
    rows = [f"<p>{html.escape(section.aim)} ({section.minutes} min)</p>"]
    rows += [f"<p>Seen: {html.escape(seen)} Say: {html.escape(say)}</p>" for seen, say in section.mistakes]
    rows += [f"<p>Ask: {html.escape(question)}</p>" for question in section.questions]
    return f'<aside class="notes">{"".join(rows)}</aside>'


def _frame(title: str, slides: str, parts: Mapping[str, str]) -> str:
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · slides</title>
<style>{parts["css"]}</style><style>{parts["theme"]}</style><style>{STYLE}</style></head>
<body><div class="reveal"><div class="slides">
{slides}
</div></div>
<script>{parts["js"]}</script><script>{parts["notes"]}</script>
<script>Reveal.initialize({{hash: true, width: 1100, height: 700, center: false, plugins: [RevealNotes]}});</script>
</body></html>
"""
