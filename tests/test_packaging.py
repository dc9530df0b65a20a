"""One place for dependencies, and a wheel that works far from any checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from m2f_helpers.install import environment
from tests.conftest import NOTEBOOKS, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras: str) -> dict[str, Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    parsed = [Requirement(line) for line in lines]
    return {canonical(entry.name): entry for entry in parsed}


def constraints(python: str) -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    chosen = [e for e in parsed if e.marker is None or e.marker.evaluate({"python_version": python})]
    assert len({canonical(e.name) for e in chosen}) == len(chosen), "a package is constrained twice"
    return {canonical(entry.name): str(entry.specifier).removeprefix("==") for entry in chosen}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_a_tested_version_within_its_range(python):
    tested = constraints(python)
    for name, requirement in requirements("test", "fast").items():
        assert name in tested, name
        assert requirement.specifier.contains(Version(tested[name])), f"{name}: {tested[name]} not in {requirement}"


def test_the_versions_the_tutorial_is_written_for():
    tested = constraints("3.11")
    expected = {"torch": "2.13.0", "mmcv-lite": "2.1.0", **environment.EXACT}
    assert {name: tested[name] for name in expected} == expected


def test_environment_check_and_pyproject_agree():
    wanted = requirements()
    for name, version in {**environment.EXACT, "mmcv-lite": environment.MMCV_LITE}.items():
        assert str(wanted[name].specifier) == f"=={version}"
    assert str(wanted["torch"].specifier) == f">={environment.TORCH_FROM}"
    low, high = environment.PYTHON_RANGE
    assert PROJECT["requires-python"] == f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"
    named = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert named == PYTHONS == [f"3.{minor}" for minor in range(low[1], high[1])]
    covered = {*environment.EXACT, *environment.OTHERS, *environment.UNDECLARED, "mmcv-lite", "torch", "opencv-python"}
    assert set(wanted) <= covered, set(wanted) - covered
    borrowed = {canonical(Requirement(line).name) for name in environment.EXACT for line in metadata.requires(name)}
    assert covered <= set(wanted) | borrowed, "checked, but asked for by nobody"


def test_conda_environment_is_thin_and_points_here():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *names, pip = conda["dependencies"]
    assert [name.split("=")[0] for name in names] == ["python", "pytorch-cpu", "pip"]
    python = names[0].split("=")[1]
    assert python in PYTHONS
    assert pip["pip"][:2] == ["--constraint constraints.txt", "--editable .[test,lab]"]
    known = constraints(python) | requirements("dev")
    for line in pip["pip"][2:]:
        assert canonical(Requirement(line).name) in known, f"{line} stands neither in pyproject nor in constraints"


def make_targets() -> list[str]:
    return re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)


def test_every_command_of_the_makefile_runs_whatever_files_there_are():
    """`make site` writes a folder `site`, which must not count as the command done."""
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M).group(1)
    assert phony.split() == make_targets()


def test_workflows_call_what_is_there():
    workflows = {p.stem: yaml.safe_load(p.read_text("utf-8")) for p in (ROOT / ".github" / "workflows").glob("*.yml")}
    jobs = {name: job for workflow in workflows.values() for name, job in workflow["jobs"].items()}
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert len(commands) >= len(jobs)
    for command in commands:
        program, *words = command.split()
        known = set(words) <= set(make_targets()) if program == "make" else os.access(ROOT / program, os.X_OK)
        assert known, command


def test_a_python_out_of_range_gets_one_sentence(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo Python 3.9.18; exit; }\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "-C", str(ROOT), f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "tutorial"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "This tutorial needs Python 3.10 to 3.14; found: Python 3.9.18." in done.stdout + done.stderr
    assert not (tmp_path / "venv").exists()


def test_wheel_carries_palette_notebooks_and_weights(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"m2f_helpers/notebooks/{path.name}" for path in NOTEBOOKS.glob("*.ipynb")}
    expected |= {"m2f_helpers/ade20k_palette.json", "m2f_helpers/weights/demo_day.pth"}
    inside = [path for path in (ROOT / "m2f_helpers").rglob("*.*") if path.suffix not in (".pyc", ".pyo")]
    expected |= {path.relative_to(ROOT).as_posix() for path in inside if path.is_file()}
    assert expected <= names, expected - names
    assert not [name for name in names if "tests/" in name or "__pycache__" in name]


@pytest.mark.slow
def test_wheel_runs_a_notebook_far_from_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "m2f_helpers", "run", "2", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pairs_written=64" in done.stdout
    where = [sys.executable, "-c", "import m2f_helpers; print(m2f_helpers.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, env=environ).stdout
    assert found.startswith(str(tmp_path)), "the test ran another copy"
