"""The table of faults through the real command line: the sentence, exit status 1, and nothing lost or left behind."""

from __future__ import annotations

import importlib
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
from click.testing import CliRunner

from m2f_helpers.cli import main
from tests.conftest import ROOT

HERE = Path(__file__).parent
ROWS = [
    pytest.param(row, id=f"{path.stem.removeprefix('rows_')}: {row.name}")
    for path in sorted(HERE.glob("rows_*.py"))
    for row in importlib.import_module(f"tests.faults.{path.stem}").ROWS
]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below the folder with its bytes, every folder with None; the file of a lock left out."""
    found = (path for path in folder.rglob("*") if path.name != ".m2f.lock")
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in found}


@pytest.mark.parametrize("row", ROWS)
def test_fault(row, tmp_path, monkeypatch):
    row.build(tmp_path)
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, shlex.split(row.command))
    assert result.exit_code == row.status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert "Traceback" not in result.output and "a fault of this project" not in result.output
    lines = [line for line in result.output.splitlines() if re.search(row.sentence, line)]
    assert lines and len(lines[0]) < 800, result.output
    after = contents(tmp_path)
    assert {name: after.get(name, "gone") for name in before} == before
    assert [n for n in after if n not in before and not any(fnmatch(n, pattern) for pattern in row.new)] == []


def test_the_table_is_long_and_no_row_is_there_twice():
    names = [parameter.id for parameter in ROWS]
    assert len(set(names)) == len(names)
    promised = re.search(r"(\d+) faults are tried", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(names) == int(promised[1])
