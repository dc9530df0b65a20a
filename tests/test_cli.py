"""The command line: every command explains itself, and bad input is one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile

import click
import pytest
from click.testing import CliRunner

from m2f_helpers import __version__
from m2f_helpers.cli import Door, main
from tests.conftest import ROOT


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0 and len(result.output.splitlines()) > 3
    assert main.commands[name].help.strip().endswith(".")


def test_listing_the_commands_imports_no_heavy_library():
    code = (
        "import sys; from m2f_helpers.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([n for n in ('torch', 'mmcv', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("[]")


def failing(error: Exception) -> click.Group:
    """A command line whose only command raises `error`."""

    @click.group(cls=Door)
    @click.option("--debug", is_flag=True)
    def group(debug):
        pass

    @group.command()
    def fail():
        raise error

    return group


PREDICTABLE = [
    (ValueError("expected 3, got 4"), "expected 3, got 4"),
    (FileNotFoundError("a.png is missing"), "a.png is missing"),
    (ImportError("libGL.so.1: cannot open shared object file"), "libGL.so.1.*`m2f check` says what is wrong"),
    (AssertionError("MMCV==2.2.0 is used but incompatible."), "MMCV==2.2.0.*`m2f check` says which version"),
    (NotImplementedError("aten::x is not implemented for the MPS device"), "PYTORCH_ENABLE_MPS_FALLBACK=1"),
    (MemoryError("Unable to allocate 3.78 GiB"), "memory does not suffice .Unable to allocate 3.78 GiB."),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory does not suffice .CUDA out of memory"),
]


@pytest.mark.parametrize(("error", "sentence"), PREDICTABLE)
def test_a_predictable_fault_is_one_sentence(error, sentence):
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == 1
    assert re.fullmatch(rf"Error: .*{sentence}.*\n|Error: {sentence}\n", result.output)


def test_a_fault_of_ours_says_so_and_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = CliRunner().invoke(failing(KeyError("a bug")), ["fail"])
    (report,) = tmp_path.iterdir()
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert "a fault of this project, not of your input: KeyError: 'a bug' (test_cli.py, line" in result.output
    assert str(report) in result.output and "Traceback (most recent call last)" in report.read_text()


def test_debug_lets_the_traceback_through():
    assert isinstance(CliRunner().invoke(failing(KeyError("a bug")), ["--debug", "fail"]).exception, KeyError)


def test_unknown_command_and_version():
    assert CliRunner().invoke(main, ["fly"]).exit_code == 2
    module = [sys.executable, "-m", "m2f_helpers", "--help"]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("Usage: m2f [OPTIONS] COMMAND")
    version = CliRunner().invoke(main, ["--version"]).output
    assert version == f"m2f, version {__version__}\n"  # of the installed distribution, and of the package itself
