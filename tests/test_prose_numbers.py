"""A number in prose has a source: a record, the cell beside it, or a row of the table. Change one, and this fails."""

from __future__ import annotations

import nbformat
import pytest

from tests.conftest import NOTEBOOKS, ROOT
from tests.prose import Row, numbers, read_table, readme_without_source, without_source

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def executed(*cells):
    """A notebook of (prose, code, printed) triples, as if it had run."""
    notebook = nbformat.v4.new_notebook()
    for prose, code, printed in cells:
        output = nbformat.v4.new_output("stream", text=printed)
        notebook.cells += [nbformat.v4.new_markdown_cell(prose), nbformat.v4.new_code_cell(code, outputs=[output])]
    return notebook


def lacking(prose, code="", printed="", records=None, rows=()):
    return [row.number for row in without_source("n", executed((prose, code, printed)), records or {}, list(rows))[0]]


@pytest.mark.parametrize(
    ("good", "changed"),
    [
        ("it lights 6.2 % of the pixels", "it lights 6.3 % of the pixels"),
        ("a share of 0.062", "a share of 0.063"),
        ("the 1,234 pixels", "the 1,235 pixels"),
        ("4x7 cells", "4x8 cells"),
        ("2.56 million images", "2.57 million images"),
        ("all 30 terms", "all 31 terms"),
    ],
)
def test_a_changed_number_is_found(good, changed):
    code, printed = "size = (4, 7)", "0.06219 of 1,234 pixels; 2_560_000 images"
    assert lacking(good, code, printed, {"terms": 30}) == []
    assert len(lacking(changed, code, printed, {"terms": 30})) == 1


def test_a_cell_further_away_is_no_source():
    notebook = executed(
        ("one", "x = 1", ""), ("two", "y = 2", ""), ("about 77 things", "z = 3", "77"), ("77 again", "", "")
    )
    assert [row.number for row in without_source("n", notebook, {}, [])[0]] == []
    notebook.cells.append(nbformat.v4.new_code_cell("pass"))
    notebook.cells.append(nbformat.v4.new_markdown_cell("and 77 once more"))
    assert [row.context for row in without_source("n", notebook, {}, [])[0]] == ["and 77 once more"]


def test_a_percentage_is_not_a_plain_number():
    assert lacking("12 images", printed="0.12") == ["12"]
    assert lacking("12 % of the images", printed="0.12") == []


def test_words_need_a_row_and_a_row_needs_its_words():
    row = Row("n", "twenty", "about twenty photographs", "an exercise")
    assert lacking("take about twenty photographs") == ["twenty"]
    assert lacking("take about twenty photographs", rows=[row]) == []
    assert "twenty" in lacking("after twenty minutes", rows=[row])


def test_a_number_that_could_hide_behind_its_neighbour_needs_a_row():
    row = Row("n", "3", "about 3 images", "beside")
    assert lacking("about 3 images", printed="3 images of 4 classes") == ["3"]
    assert lacking("about 3 images", printed="3 images of 4 classes", rows=[row]) == []
    assert lacking("about 4 images", printed="3 images of 4 classes", rows=[row]) == ["4"]
    assert lacking("about 3 images", printed="2 images of 4 classes", rows=[row]) == ["3"], "it is still looked up"


def test_code_addresses_and_references_are_no_prose():
    text = "see `x = 5` in [06](06_own.ipynb) and section 04.2\n```\n99\n```\n## References\n- arXiv 2112.01527"
    assert list(numbers(text)) == []
    assert [number for number, _, _ in numbers("a decay of 0.05, see 04.6")] == ["0.05"]


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_notebook_has_a_source(tutorial, name):
    run = tutorial[name]
    missing, used = without_source(name, nbformat.read(run.path, as_version=4), run.records, read_table())
    assert not missing, "\n".join(f"{row.number}: ...{row.context}..." for row in missing)
    stale = {row for row in read_table() if row.where == name} - used
    assert not stale, f"rows of {name} that no text needs any more: {stale}"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_number_of_the_readme_has_a_source(tutorial):
    text, records = (ROOT / "README.md").read_text(encoding="utf-8"), {n: run.records for n, run in tutorial.items()}
    missing, used = readme_without_source(text, records, read_table())
    assert not missing, "\n".join(f"{row.number}: ...{row.context}..." for row in missing)
    assert not {row for row in read_table() if row.where == "README"} - used


def test_every_row_names_a_source_and_a_place():
    rows = read_table()
    assert all(len(row.source) > 5 and row.number in row.context for row in rows)
    assert {row.where for row in rows} <= {*NAMES, "README"}
