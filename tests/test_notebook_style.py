"""What every notebook must look like, checked without a kernel."""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
import tokenize
from io import StringIO

import nbformat
import papermill
import pytest

from m2f_helpers import execution
from m2f_helpers.classroom.cells import read_exercises
from m2f_helpers.install import release
from tests.conftest import NOTEBOOKS, ROOT

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
HEADINGS = ["What you will learn", "What you need", "Summary", "Exercises", "References"]
COMMON = {"PROFILE": "demo", "DATA_DIR": "", "OUT_DIR": "runs"}
FORBIDDEN = {
    r"^\s*!": "a shell escape",
    r"^\s*%cd": "%cd",
    r"sys\.path": "sys.path",
    r"filterwarnings|simplefilter": "a warnings filter",
    r"except\s*:|except (Base)?Exception": "an error swallowed",
    r"""["'](/|[A-Z]:\\)[\w.-]+/""": "an absolute path",
    r"show=True|plt\.show\(": "a window",
}


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def notebook(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def parameters_cell(notebook) -> str:
    cells = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1, "exactly one cell is tagged `parameters`"
    return cells[0]


def test_five_numbered_notebooks_and_then_the_optional_ones():
    numbers = [name[:2] for name in NAMES]
    assert numbers[:5] == ["01", "02", "03", "04", "05"] and set(numbers[5:]) <= {"06", "07"}
    assert [name[:2] for name in execution.find_notebooks([])] == numbers[:5]


def test_valid_with_kernel_and_without_outputs(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


def test_title_and_headings_in_order(notebook, name):
    text = "\n".join(prose(notebook))
    headings = re.findall(r"^(#+) (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
    assert headings[0][0] == "#" and headings[0][1].startswith(f"{name[:2]} ")
    second = [title for level, title in headings if level == "##"]
    assert [title for title in second if title in HEADINGS] == HEADINGS
    numbered = [title for title in second if title not in HEADINGS]
    sections = [re.match(rf"{name[:2]}\.(\d+) \S", title) for title in numbered]
    assert all(sections), numbered
    assert [int(match.group(1)) for match in sections] == list(range(1, len(sections) + 1))


def test_parameters_are_literals_with_comments(notebook):
    source = parameters_cell(notebook)
    values = {}
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name), ast.unparse(node)
        parameter = node.targets[0].id
        values[parameter] = ast.literal_eval(node.value)
        assert parameter.isupper()
        assert json.loads(json.dumps(values[parameter])) == values[parameter], f"{parameter}: not for papermill"
    for parameter, default in COMMON.items():
        assert values[parameter] == default
    tokens = list(tokenize.generate_tokens(StringIO(source).readline))
    comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    assigned = {node.end_lineno for node in ast.parse(source).body}
    assert assigned <= comments, "each parameter has a comment on its line"


def test_papermill_reads_every_parameter_too(name):
    """papermill's reader gives up on a line whose comment holds an equals sign, and then warns on every run."""
    path = NOTEBOOKS / f"{name}.ipynb"
    assert papermill.inspect_notebook(str(path)).keys() == execution.read_parameters(path).keys()


def test_sizes(notebook, name):
    code, text = code_cells(notebook), prose(notebook)
    lines = [len(source.splitlines()) for source in code]
    longest = 60 if name.startswith("03") else 45
    assert 25 <= len(notebook.cells) <= longest, len(notebook.cells)
    assert len(text) >= len(code)
    assert statistics.median(lines) <= 8 and max(lines) <= 30, sorted(lines)
    words = len(re.sub(r"```.*?```", "", "\n".join(text), flags=re.S).split())
    assert 700 <= words <= 3600, words


def test_nothing_forbidden(notebook):
    for source in code_cells(notebook):
        for pattern, what in FORBIDDEN.items():
            assert not re.search(pattern, source, flags=re.M), f"{what} in:\n{source}"


def test_fresh_runtime_cell_is_the_template_and_first(notebook, name):
    home = release.PYPROJECT_LINE.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    assert code_cells(notebook)[0] == release.first_cell(home), 'write it with `m2f release ""`'
    assert re.findall(r"\[Open in .*", prose(notebook)[0]) == ([release.badges(home, name)] if home else [])


def test_quiet_and_the_package_come_before_the_libraries(notebook):
    imports = code_cells(notebook)[1]
    assert imports.startswith("from m2f_helpers.quiet import quiet\n\nquiet()\n")


def test_links_to_files_resolve(notebook):
    for target in re.findall(r"\]\(([^)#]+)\)", "\n".join(prose(notebook))):
        if not target.startswith("http"):
            assert (NOTEBOOKS / target).exists(), target


def test_exercises_are_checked_marked_and_solved(notebook, name):
    """From easy to hard, each with a cell that ends in `check`, a solution as code, and one open project at the end."""
    text, number = "\n".join(prose(notebook)), name[:2]
    marked = re.findall(rf"^### Exercise ({number}\.\d) (★+)$", text, flags=re.M)
    found = read_exercises(notebook)
    assert [exercise.number for exercise in found] == [exercise for exercise, _ in marked]
    assert [exercise for exercise, _ in marked] == [f"{number}.{i + 1}" for i in range(len(marked))]
    stars = [len(mark) for _, mark in marked]
    assert stars == sorted(stars) and stars[0] == 1 and stars[-1] == 3
    assert (3 if number > "05" else 4) <= len(stars) <= 6
    project = re.search(rf"^### Project {number} ★★★\n(.*?)(?=^## )", text, flags=re.M | re.S)
    assert project and re.search(r"\bdone when\b", project.group(1)), "an open project says when it is done"


def test_there_are_enough_exercises():
    notebooks = [nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4) for name in NAMES]
    assert sum(len(read_exercises(notebook)) for notebook in notebooks) >= 22


def test_readme_has_a_row_for_each_notebook(notebook, name):
    title = prose(notebook)[0].splitlines()[0].removeprefix("# ")
    number, words = title.split(" ", 1)
    row = rf"^\| *{number} *\| *\[{re.escape(words)}\]\(notebooks/{name}\.ipynb\)"
    assert re.search(row, (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M), title


def test_pictures_of_the_readme_come_from_tagged_cells():
    notebooks = [nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4) for name in NAMES]
    tags = [tag for found in notebooks for cell in found.cells for tag in cell.metadata.get("tags", [])]
    tagged = sorted(tag.removeprefix("figure-") for tag in tags if tag.startswith("figure-"))
    files = sorted(path.stem for path in (NOTEBOOKS / "figures").glob("*.png"))
    shown = re.findall(r"\(notebooks/figures/([\w-]+)\.png\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert tagged == files == sorted(shown)
    assert 4 <= len(files) <= 8
    for path in (NOTEBOOKS / "figures").glob("*.png"):
        assert path.stat().st_size < 400_000, f"{path.name} is too large"


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."]])
def test_ruff(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_nbstripout():
    paths = [str(NOTEBOOKS / f"{name}.ipynb") for name in NAMES]
    command = [sys.executable, "-m", "nbstripout", "--verify", "--keep-id", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
