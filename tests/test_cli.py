"""The command line: every command explains itself, and bad input is one sentence."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from m2f_helpers import __version__
from m2f_helpers.cli import Sentences, main
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


@pytest.mark.parametrize("error", [ValueError("expected 3, got 4"), FileNotFoundError("a.png is missing")])
def test_bad_input_is_one_sentence(error):
    @click.group(cls=Sentences)
    def group():
        pass

    @group.command()
    def fail():
        raise error

    result = CliRunner().invoke(group, ["fail"])
    assert result.exit_code == 1 and result.output == f"Error: {error}\n"


def test_a_fault_of_ours_keeps_its_traceback():
    @click.group(cls=Sentences)
    def group():
        pass

    @group.command()
    def fail():
        raise KeyError("a bug")

    assert isinstance(CliRunner().invoke(group, ["fail"]).exception, KeyError)


def test_unknown_command_and_version():
    assert CliRunner().invoke(main, ["fly"]).exit_code == 2
    module = [sys.executable, "-m", "m2f_helpers", "--help"]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("Usage: m2f [OPTIONS] COMMAND")
    assert __version__ in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
