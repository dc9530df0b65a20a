"""Executed notebooks as pages: HTML that stands alone, for screens of every width, dark rooms, paper and no network."""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Mapping
from typing import Any

from bs4 import BeautifulSoup, Tag
from latex2mathml.converter import convert
from nbconvert import HTMLExporter

from m2f_helpers.resources import resource

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
FOLDED_ROWS = 24  # a table with more rows is folded
FRESH_RUNTIME = "import importlib.util\nimport os\n"  # how the cell begins that installs on a fresh runtime
# Code stays as it is; between one or two dollars stands a formula.
FORMULA = re.compile(r"(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])", re.S)


def page(notebook: Any, name: str, titles: Mapping[str, str]) -> str:
    """One HTML page of an executed notebook: nothing is loaded from elsewhere, and no script is needed.

    Args:
        notebook: an executed `nbformat.NotebookNode`; it is left as it is.
        name: its name, such as `04_finetune`.
        titles: title by name of the notebooks that have a page in the same folder, in order; this one among them.
    """
    static = static_outputs(notebook)
    formulas = _take_out_formulas(static)
    soup = _rendered(static)
    _link_pages(soup, titles)
    _fold_tables(soup)
    first = soup.select_one("div.input_area")
    if first is not None and first.get_text().lstrip().startswith(FRESH_RUNTIME):
        _fold(soup, first, "the cell that installs on a fresh runtime")
    for block in soup.select("pre"):
        block["tabindex"] = "0"  # what can be scrolled must be reachable without a mouse
    links = [f'<li><a href="#{h["id"]}">{html.escape(h.get_text())}</a></li>' for h in soup.select("h2[id]")]
    return _frame(_put_back(str(soup), formulas), f"<ul>{''.join(links)}</ul>", name, titles)


def body(notebook: Any) -> str:
    """The cells of a notebook as HTML without a frame; formulas are MathML. The notebook is left as it is."""
    static = static_outputs(notebook)
    formulas = _take_out_formulas(static)
    return _put_back(str(_rendered(static)), formulas)


def _rendered(notebook: Any) -> BeautifulSoup:
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    soup = BeautifulSoup(exporter.from_notebook_node(notebook)[0], "html.parser")
    for anchor in soup.select("a.anchor-link"):
        anchor.decompose()
    return soup


def _put_back(text: str, formulas: Mapping[str, str]) -> str:
    for mark, formula in formulas.items():
        text = text.replace(mark, formula)
    return text


def title_of(notebook: Any) -> str:
    """The first heading: `# 04 Fine-tune` gives `04 Fine-tune`."""
    lines = notebook.cells[0].source.splitlines() if notebook.cells else []
    return next((line[2:].strip() for line in lines if line.startswith("# ")), "")


def static_outputs(notebook: Any) -> Any:
    """A copy of an executed notebook whose outputs show without a kernel and without JavaScript.

    Widgets give way to the static twin in the same output; outputs that are a widget and nothing else (progress bars)
    are gone; every image is an `<img>` with its text alternative.
    """
    static = copy.deepcopy(notebook)
    static.metadata.pop("widgets", None)
    for cell in static.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _make_static(output)]
    return static


def _make_static(output: Any) -> bool:
    """Change one output in place; False if nothing of it can be shown."""
    data = output.get("data", {})
    widget = data.pop(WIDGET_MIME, None)
    if "image/png" in data:
        alt = output.metadata.get("image/png", {}).get("alt") or data.get("text/plain", "figure")
        tag = f'<img src="data:image/png;base64,{data.pop("image/png").strip()}" alt="{html.escape(alt)}">'
        data.setdefault("text/html", tag)
    return widget is None or bool(set(data) - {"text/plain"})


def formula(latex: str, display: str) -> str:
    """A formula as MathML, which browsers draw themselves; `display` is `"inline"` or `"block"`."""
    mathml = convert(latex.strip(), display=display)
    return mathml.replace("<math ", '<math tabindex="0" ', 1) if display == "block" else mathml  # it may be scrolled


def _take_out_formulas(notebook: Any) -> dict[str, str]:
    """Put a mark in place of each formula in the text, in place; `{mark: MathML}`."""
    found: dict[str, str] = {}

    def replace(match: re.Match) -> str:
        code, block, inline = match.groups()
        if code:
            return code
        mark = f"M2FMATH{len(found)}X"
        found[mark] = formula(block or inline, "block" if block else "inline")
        return mark

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(replace, cell.source)
    return found


def _link_pages(soup: BeautifulSoup, titles: Mapping[str, str]) -> None:
    """Links to notebooks lead to their pages; to those without a page they become plain words."""
    for link in soup.select('a[href$=".ipynb"]'):
        name = link["href"].split("/")[-1].removesuffix(".ipynb")
        if name in titles:
            link["href"] = f"{name}.html"
        elif ":" not in link["href"]:
            link.unwrap()


def _fold_tables(soup: BeautifulSoup) -> None:
    """Long tables are folded, and each may be wider than the page without moving the rest."""
    for table in soup.select("table"):
        rows = len(table.select("tbody > tr"))
        table.attrs.pop("border", None)
        scrolled = {"class": "table", "tabindex": "0", "role": "group", "aria-label": "table"}
        frame = table.wrap(soup.new_tag("div", attrs=scrolled))
        if rows > FOLDED_ROWS and not frame.find_parent("details"):
            _fold(soup, frame, f"table, {rows} rows")


def _fold(soup: BeautifulSoup, element: Tag, words: str) -> None:
    summary = soup.new_tag("summary")
    summary.string = words
    element.wrap(soup.new_tag("details")).insert(0, summary)


def _frame(body: str, contents: str, name: str, titles: Mapping[str, str]) -> str:
    style = resource("page.css").read_text(encoding="utf-8")
    title = html.escape(titles[name] or name)
    here = {name: f"<b>{html.escape(titles[name])}</b>"}
    pages = "".join(f"<li>{here.get(other) or _link(other, words)}</li>" for other, words in titles.items())
    names = list(titles)
    at = names.index(name)
    steps = [_link(n, f"← {titles[n]}", "prev") for n in names[max(at - 1, 0) : at]]
    steps += [_link(n, f"{titles[n]} →", "next") for n in names[at + 1 : at + 2]]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · Mask2Former tutorial</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#text">to the text</a>
<nav class="side" aria-label="Contents"><details open><summary>Contents</summary>
<ul class="pages">{pages}</ul>{contents}</details></nav>
<main id="text">
{body}
<nav class="steps" aria-label="Previous and next">{"".join(steps)}</nav>
</main>
</body>
</html>
"""


def _link(name: str, words: str, rel: str = "") -> str:
    return f'<a href="{name}.html"{f" rel={rel}" if rel else ""}>{html.escape(words)}</a>'
