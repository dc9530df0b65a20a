"""Colab and Kaggle: what their kernels have loaded must not be replaced.

`runtimes/` holds what is installed there, as recorded. The first cell constrains pip to all of it, so a range that no
longer allows one of those versions means that nothing can be installed there any more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

from m2f_helpers.install import release
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHON = {"colab": "3.13", "kaggle": "3.12"}
WHEEL_IN = {"colab": ".", "kaggle": "../input/m2f-helpers"}  # beside the notebook; an attached data set, read-only
LIVE = [
    "ipython",
    "ipykernel",
    "ipywidgets",
    "jupyter-client",
    "traitlets",
    "tornado",
    "nbclient",
    "nbconvert",
    "mistune",
]
LIVE += ["numpy", "pandas", "matplotlib", "pillow", "psutil"]  # what a kernel there has loaded, or draws with


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(runtime: str) -> dict[str, str]:
    lines = (ROOT / "tests" / "runtimes" / f"{runtime}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


def clashes(requirements: list[str], installed: dict[str, str]) -> list[str]:
    """Requirements that what is installed does not satisfy; what is missing there may be added."""
    wanted = [Requirement(line) for line in requirements]
    there = [(entry, installed[canonical(entry.name)]) for entry in wanted if canonical(entry.name) in installed]
    return [str(entry) for entry, version in there if not entry.specifier.contains(Version(version))]


@pytest.mark.parametrize("runtime", PYTHON)
def test_no_range_asks_for_another_version(runtime):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = pins(runtime)
    assert clashes(project["dependencies"], installed) == []
    assert len(installed) > 100 and {"torch", "ipython", "ipykernel", "nbconvert", "numpy"} <= set(installed)
    assert clashes(["ipython>=8.15"], installed) == ["ipython>=8.15"], "the first edition's floor"


def write_stub(folder: Path, name: str, version: str) -> None:
    """A wheel that weighs nothing: the resolver needs only name and version."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: stub\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


def resolve(runtime: str, wheel: Path, folder: Path) -> dict[str, str]:
    """What pip would put on the runtime, as `{name: version}`; asks the package index for metadata."""
    installed = pins(runtime)
    torch = installed.pop("torch").split("+")[0] + "+stub"
    write_stub(folder, "torch", torch)
    kept = [f"{name}=={version}" for name, version in installed.items() if name not in ("pip", "torchvision")]
    (folder / "kept.txt").write_text("\n".join([*kept, f"torch=={torch}"]))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    command += ["--python-version", PYTHON[runtime], "--only-binary", ":all:", "--target", str(folder / "target")]
    command += ["--find-links", str(folder), "--constraint", str(folder / "kept.txt")]
    command += ["--report", str(folder / "report.json"), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    if "No matching distribution" in done.stderr and "Could not fetch" in done.stderr + done.stdout:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())["install"]
    return {canonical(entry["metadata"]["name"]): entry["metadata"]["version"] for entry in report}


@pytest.mark.online
@pytest.mark.parametrize("runtime", PYTHON)
def test_pip_finds_a_set_of_versions_that_changes_nothing(runtime, wheel, tmp_path):
    installed = pins(runtime)
    chosen = resolve(runtime, wheel, tmp_path)
    changed = {n: v for n, v in chosen.items() if installed.get(n, v).split("+")[0] != v.split("+")[0]}
    new = sorted(set(chosen) - set(installed))
    print(f"{runtime}: {len(chosen) - len(new)} kept, {len(new)} new: {', '.join(new)}")
    assert changed == {}
    assert {"m2f-helpers", "mmcv-lite", "mmdet", "mmengine", "mmsegmentation"} <= set(new) and len(new) <= 20


@pytest.mark.online
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("runtime", PYTHON)
def test_notebooks_run_with_what_the_runtime_has(runtime, wheel, tmp_path):
    """Install by the first cell of the notebooks into an environment like the runtime's, and run notebooks there."""
    installed = pins(runtime)
    python = tmp_path / "venv" / "bin" / "python"
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "M2F_SOURCE")}
    working = tmp_path / "working"
    attached = working / WHEEL_IN[runtime]
    for folder in (working, attached):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(wheel, attached)

    def call(*words: str) -> str:
        done = subprocess.run([python, *words], cwd=working, env=environ, capture_output=True, text=True, timeout=3000)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    like = [f"{name}=={installed[name]}" for name in LIVE]
    call("-m", "pip", "install", "--quiet", "setuptools", f"torch=={torch.__version__.split('+')[0]}", *like)
    before = set(call("-m", "pip", "list", "--format=freeze").splitlines())
    call("-c", release.first_cell(""))
    assert before <= set(call("-m", "pip", "list", "--format=freeze").splitlines()), "something was replaced"
    print(call("-m", "m2f_helpers", "run", "1", "2", "3", "5", "--out", "runs"))
    assert len(list((working / "runs").glob("*.html"))) == 4
    assert runtime == "colab" or [path.name for path in attached.iterdir()] == [wheel.name], "written to a data set"
