"""The first cell installs from the right place and replaces nothing; one address stands everywhere or nowhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from m2f_helpers.cli import main
from m2f_helpers.install import release
from tests.conftest import ROOT
from tests.test_runtimes import write_stub

HOME = "https://github.com/someone/mask2former-tutorial"
THERE = object()


def run_cell(monkeypatch, folder: Path, home: str = "", missing: tuple[str, ...] = ("m2f_helpers",)) -> list[list[str]]:
    """Execute the first cell in `folder` and return the commands it would start."""
    calls = []

    def note(command, **options):
        kept = [Path(word).read_text() for word in command if word.endswith("kept.txt")]
        calls.append([*command[3:], *kept])
        return subprocess.CompletedProcess(command, 0, stdout="numpy==2.0\ntorch==2.9+cpu\n")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else THERE)
    monkeypatch.setattr(subprocess, "run", note)
    exec(release.first_cell(home), {})
    return calls


@pytest.fixture
def places(tmp_path) -> dict[str, Path]:
    """A checkout with a notebook folder, wheels beside the notebook and where Kaggle shows its data sets."""
    folder = tmp_path / "checkout" / "notebooks"
    wheel, kaggle = folder / "m2f_helpers-2.0-py3-none-any.whl", tmp_path / "checkout/input/mine/m2f_helpers-1.0-x.whl"
    for file in (wheel, kaggle, tmp_path / "checkout/m2f_helpers/__init__.py"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    os.utime(kaggle, (0, 0))
    return {"folder": folder, "wheel": wheel, "kaggle": kaggle, "checkout": tmp_path / "checkout"}


def test_where_everything_is_the_cell_does_nothing(monkeypatch, places):
    assert run_cell(monkeypatch, places["folder"], missing=()) == []


def test_sources_in_their_order(monkeypatch, places):
    def source() -> str:
        return run_cell(monkeypatch, places["folder"], HOME)[1][-2]

    monkeypatch.setenv("M2F_SOURCE", "somewhere.whl")
    assert source() == "somewhere.whl"
    monkeypatch.delenv("M2F_SOURCE")
    for place in ("wheel", "kaggle"):
        assert Path(source()).resolve() == places[place]
        places[place].unlink()
    assert Path(source()).resolve() == places["checkout"]
    (places["checkout"] / "m2f_helpers/__init__.py").unlink()
    assert source() == f"git+{HOME}"


def test_pip_is_constrained_to_all_that_is_installed(monkeypatch, places):
    ask, install = run_cell(monkeypatch, places["folder"])
    assert ask == ["list", "--format=freeze"]
    assert install[:3] == ["install", "--quiet", "--constraint"]
    assert install[-1] == "numpy==2.0\ntorch==2.9+cpu\n"


def test_the_package_without_its_libraries_is_a_fresh_runtime_too(monkeypatch, places):
    assert len(run_cell(monkeypatch, places["folder"], missing=("mmseg",))) == 2


@pytest.mark.parametrize(
    "missing, words", [(("m2f_helpers", "torch"), "torch is missing"), (("m2f_helpers",), "its wheel")]
)
def test_what_cannot_work_is_one_sentence_and_nothing_is_installed(monkeypatch, tmp_path, places, missing, words):
    folder = places["folder"] if "torch" in missing else tmp_path
    with pytest.raises(SystemExit, match=words):
        run_cell(monkeypatch, folder, missing=missing)


def make_wheel(folder: Path, name: str, version: str, module: str, needs: str = "") -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    write_stub(folder, name, version)
    with zipfile.ZipFile(path) as file:
        parts = {entry: file.read(entry).decode() for entry in file.namelist()}
    info = f"{name}-{version}.dist-info/METADATA"
    parts[info] += f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(path, "w") as file:
        for entry, text in {**parts, f"{module}.py": f"version = {version!r}\n"}.items():
            file.writestr(entry, text)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("needs, installs", [("used>=1.0", True), ("used>=2.0", False)])
def test_real_pip_adds_and_never_replaces(tmp_path, needs, installs):
    """A fresh environment that uses `used 1.0`, while the folder of wheels offers `used 2.0` as well."""
    offered, notebook = tmp_path / "offered", tmp_path / "notebook"
    offered.mkdir()
    notebook.mkdir()
    old = [make_wheel(offered, "used", "1.0", "used"), make_wheel(offered, "torch", "2.9", "torch")]
    make_wheel(offered, "used", "2.0", "used")
    make_wheel(notebook, "m2f_helpers", "9.0", "m2f_helpers", needs)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    environ = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(offered),
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": os.devnull,
    }
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=200)
    subprocess.run([python, "-m", "pip", "install", "-q", *old], check=True, timeout=200, env=environ)
    code = release.first_cell("") + "\nimport m2f_helpers\nprint(m2f_helpers.version)"
    done = subprocess.run([python, "-c", code], cwd=notebook, capture_output=True, text=True, timeout=200, env=environ)
    assert done.stdout.strip() == ("9.0" if installs else ""), done.stderr
    used = subprocess.run([python, "-c", "import used; print(used.version)"], capture_output=True, text=True)
    assert used.stdout.strip() == "1.0"


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A checkout of two notebooks."""
    for name in ("pyproject.toml", "README.md", "notebooks/01_install.ipynb", "notebooks/04_finetune.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.*")) if path.is_file()}


def test_release_writes_one_address_everywhere_and_takes_it_out_again(copy):
    CliRunner().invoke(main, ["release", ""])
    before = texts(copy)
    assert not any("github.com/someone" in text or "Open in" in text for text in before.values())
    for _ in range(2):  # the second time there is nothing to change
        done = CliRunner().invoke(main, ["release", HOME + "/"])
        assert done.exit_code == 0, done.output
    assert done.output.strip() == "nothing to change"
    after = texts(copy)
    assert {name for name in after if after[name] != before[name]} == set(before)
    assert f'home = "{HOME}"' in after["pyproject.toml"]
    notebook = nbformat.read(copy / "notebooks" / "04_finetune.ipynb", as_version=4)
    assert f'HOME = "{HOME}"' in next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    link = "https://colab.research.google.com/github/someone/mask2former-tutorial/blob/main/notebooks/04_finetune.ipynb"
    assert link in notebook.cells[0].source and link in after["README.md"]
    assert "[page](https://someone.github.io/mask2former-tutorial/notebooks/04_finetune.html)" in after["README.md"]
    CliRunner().invoke(main, ["release", ""])
    assert texts(copy) == before


@pytest.mark.parametrize(
    "address", ["m2f-helpers", "http://github.com/a/b", "https://example.org/a/b", 'https://github.com/a/b"']
)
def test_release_refuses_other_addresses_and_changes_nothing(copy, address):
    before = texts(copy)
    done = CliRunner().invoke(main, ["release", address])
    assert done.exit_code == 1 and "expected an address like https://github.com/OWNER/NAME" in done.output
    assert texts(copy) == before


def test_release_wants_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["release", HOME])
    assert done.exit_code == 1 and str(tmp_path) in done.output.replace("\n", "")
