"""Pages of executed notebooks: everything that is in the notebook is on the page, and nothing comes from elsewhere."""

from __future__ import annotations

import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from m2f_helpers import export
from m2f_helpers.install import release

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WIDGET = {export.WIDGET_MIME: {"model_id": "a1", "version_major": 2, "version_minor": 0}}
TITLES = {"03_one": "03 One", "04_two": "04 Two", "05_three": "05 <Three>"}


def shown(data: dict, **metadata) -> nbformat.NotebookNode:
    return new_output("display_data", data, metadata=metadata)


def page(*cells, name: str = "04_two") -> BeautifulSoup:
    notebook = new_notebook(cells=[new_markdown_cell("# 04 Two"), *cells])
    before = nbformat.writes(notebook)
    soup = BeautifulSoup(export.page(notebook, name, TITLES), "html.parser")
    assert nbformat.writes(notebook) == before, "the notebook is left as it is"
    return soup


def code(source: str = "x", *outputs) -> nbformat.NotebookNode:
    return new_code_cell(source, outputs=list(outputs))


def table(rows: int) -> dict:
    return {"text/html": f"<table border=1><tbody>{'<tr><td>1</td></tr>' * rows}</tbody></table>", "text/plain": "t"}


def test_title_neighbours_and_contents():
    soup = page(new_markdown_cell("## 04.1 First & last"))
    assert soup.title.text == "04 Two · Mask2Former tutorial" and soup.html["lang"] == "en"
    assert {a["rel"][0]: a["href"] for a in soup.select(".steps a")} == {"prev": "03_one.html", "next": "05_three.html"}
    assert [a.text for a in soup.select(".pages a")] == ["03 One", "05 <Three>"]
    target = soup.find("a", string="04.1 First & last")["href"]
    assert soup.find(id=target[1:]).text == "04.1 First & last"


def test_widgets_give_way_to_their_twins_and_progress_bars_go():
    twin = shown(WIDGET | {"text/html": '<img alt="twin" src="x">', "text/plain": "t"})
    soup = page(code("x", twin, shown(WIDGET | {"text/plain": "0 percent"}), new_output("stream", text="a line")))
    assert soup.find(alt="twin") and "a line" in soup.text and "0 percent" not in soup.text
    assert "widget" not in str(soup.find("main"))


def test_every_image_has_its_words():
    named = shown({"image/png": PIXEL, "text/plain": "t"}, **{"image/png": {"alt": 'a "dog"'}})
    other = shown({"image/png": PIXEL, "text/plain": "a cat"})
    figure = shown({"image/png": PIXEL, "text/html": '<img src="x" alt="a figure">'})
    images = page(code("x", named, other, figure)).select("img")
    assert [image["alt"] for image in images] == ['a "dog"', "a cat", "a figure"]


def test_formulas_are_drawn_and_code_keeps_its_dollars():
    soup = page(new_markdown_cell("A cost $c_{ij}$ of 5 $ and 6 $, `$HOME$`\n\n$$\\frac{a}{b}$$\n\n```\n$x$\n```"))
    assert [math["display"] for math in soup.select("math")] == ["inline", "block"]
    assert [math.get("tabindex") for math in soup.select("math")] == [None, "0"], (
        "what may be scrolled is reached by keys"
    )
    assert soup.select_one("math msub").text == "cij" and soup.select_one("math[display=block] mfrac")
    assert [element.text.strip() for element in soup.select("main code, main pre")][:1] == ["$HOME$"]
    assert "$x$" in soup.text and "of 5 $ and 6 $" in soup.text and "M2FMATH" not in str(soup)


@pytest.mark.parametrize("rows, folded", [(export.FOLDED_ROWS, False), (export.FOLDED_ROWS + 1, True)])
def test_long_tables_are_folded(rows, folded):
    soup = page(code("x", shown(table(rows))))
    assert len(soup.select("main details table")) == folded
    assert soup.select_one("div.table > table") and len(soup.select("tr")) == rows
    assert not folded or f"table, {rows} rows" in soup.text


def test_indentation_of_annotated_source_survives():
    row = '<div class="m2f-src"><pre><span>        </span><span>return</span> <span>x</span></pre></div>'
    assert page(code("x", shown({"text/html": row}))).select_one(".m2f-src pre").text == "        return x"


def test_links_between_notebooks_lead_to_pages():
    soup = page(new_markdown_cell("[one](03_one.ipynb) [far](https://example.org/a.ipynb) [nine](09_nine.ipynb)"))
    links = {a.text: a["href"] for a in soup.select("main p a")}
    assert links == {"one": "03_one.html", "far": "https://example.org/a.ipynb"} and "nine" in soup.text


def test_the_cell_for_a_fresh_runtime_is_folded_and_other_code_is_not():
    soup = page(code(release.first_cell("")), code("y = 1"))
    assert "M2F_SOURCE" in soup.select_one("details pre").text and "y = 1" not in soup.select_one("main details").text


def test_nothing_is_loaded_from_elsewhere_and_nothing_needs_a_script():
    soup = page(new_markdown_cell("$x$"), code("x", shown({"image/png": PIXEL, "text/plain": "t"})))
    assert not soup.select("script, link, iframe")
    assert not re.findall(r"url\(|@import", soup.find("style").text)
    assert all(image["src"].startswith("data:") for image in soup.select("img"))
