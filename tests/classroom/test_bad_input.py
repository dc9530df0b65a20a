"""Bad input on the command line: one sentence, exit status 1, and nothing new in the folder."""

from __future__ import annotations

import errno
import os

import nbformat
import pytest
from click.testing import CliRunner

from m2f_helpers import cli, execution, files
from m2f_helpers.classroom import grading, kit


def is_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_json(folder, patch):
    (folder / "02_resize_ade20k.ipynb").write_text("my dog ate it")
    patch.setattr(execution, "find_notebooks", lambda _: {"02_resize_ade20k": folder / "02_resize_ade20k.ipynb"})


def dirty(folder, patch):
    no_json(folder, patch)
    output = nbformat.v4.new_output("stream", text="1")
    cell = nbformat.v4.new_code_cell("print(1)", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "02_resize_ade20k.ipynb")


def no_notebook(folder, patch):
    patch.setattr(execution, "find_notebooks", lambda _: {})


def full_disk(folder, patch):
    (folder / "in").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 02")]), folder / "in" / "a.ipynb")
    patch.setattr(grading, "execute", lambda notebook, _: (notebook, ""))
    patch.setattr(kit, "resolve", lambda *_: [])
    patch.setattr(kit, "check_wheel", is_full)
    patch.setattr(files, "write", is_full)


def nothing(*_):
    pass


PLATFORM = "expected a platform out of linux, macos, windows, got amiga"
FULL = "the disk is full: make room and call again"
KIT = "kit new --python 3.12 --platform"
ROWS = [
    ("grade empty", lambda folder, _: (folder / "empty").mkdir(), "expected submitted notebooks (*.ipynb), found none"),
    ("grade missing", nothing, "expected submitted notebooks (*.ipynb), found none"),
    ("grade in --out new", full_disk, FULL),
    (f"{KIT} amiga", nothing, PLATFORM),
    (f"{KIT} linux --wheel missing.whl", nothing, "is not a wheel of this project"),
    (f"{KIT} linux", full_disk, FULL),
    ("build new", no_notebook, "holds no notebook"),
    ("build new", no_json, "02_resize_ade20k.ipynb is not a notebook: Notebook does not appear to be JSON"),
    ("build new", dirty, "02_resize_ade20k.ipynb holds outputs: strip it first"),
    ("build new --minutes 5", nothing, "expected lessons of 20 to 180 minutes, got 5"),
]


@pytest.mark.parametrize(("words", "prepare", "sentence"), ROWS)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, words, prepare, sentence):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(cli.main, ["class", *words.split()])
    said = [line for line in done.output.splitlines() if line.startswith("Error: ")]
    assert done.exit_code == 1 and len(said) == 1 and sentence in said[0], done.output
    assert "Traceback" not in done.output
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.is_file()] == []
