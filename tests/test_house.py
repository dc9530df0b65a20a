"""Imports point one way: the contract in pyproject holds, and would notice an import that points upward."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]


def lint(folder) -> subprocess.CompletedProcess:
    return subprocess.run([*LINT, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package and its contract, to break."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "m2f_helpers", folder / "m2f_helpers", ignore=shutil.ignore_patterns("*.pth", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_imports_keep_the_contract(house):
    done = lint(house)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "upward"),
    [
        ("data/labels.py", "from m2f_helpers.config import base_config"),
        ("inference/models.py", "from m2f_helpers.finetune import training"),
        ("finetune/training.py", "from m2f_helpers.inference import models"),
        ("files.py", "from m2f_helpers.palette import ade20k_palette"),
    ],
)
def test_an_upward_import_breaks_it(house, module, upward):
    path = house / "m2f_helpers" / module
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(before + f"\n{upward}\n", encoding="utf-8")
        done = lint(house)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1 and "BROKEN" in done.stdout


def test_rooms_have_no_code_in_their_init_and_no_module_is_too_long():
    modules = {path: path.read_text(encoding="utf-8") for path in (ROOT / "m2f_helpers").rglob("*.py")}
    rooms = [text for path, text in modules.items() if path.name == "__init__.py" and path.parent.name != "m2f_helpers"]
    assert rooms and all(text.count('"""') == 2 and text.strip().endswith('"""') for text in rooms)
    data = {"statements.py"}  # the claims: rows, no logic
    long = {path.name for path, text in modules.items() if text.count("\n") > 600}
    assert long <= data
    assert len(list((ROOT / "m2f_helpers").glob("*.py"))) <= 17


CALLS = "permute|reshape|flatten|transpose|squeeze|unsqueeze|argmax|amax|cat|stack|einsum|interpolate"
SHAPING = re.compile(rf"\.({CALLS})\(|= upsample\(|keepdim")


@pytest.mark.parametrize("module", ["inference/segment.py", "inference/upsampling.py", "finetune/batches.py"])
def test_a_line_that_changes_a_shape_says_to_which(module):
    """In a comment with the letters of the house: `(B, Q, H, W)`."""
    text = (ROOT / "m2f_helpers" / module).read_text(encoding="utf-8")
    docstrings = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    words = {n for node in docstrings for n in range(node.lineno, node.end_lineno + 1)}
    lines = [line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in words and SHAPING.search(line)]
    assert len(lines) >= 2 and [line for line in lines if not re.search(r"#.*\(.*\)", line)] == []
