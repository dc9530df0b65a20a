"""Each fault is made, and found with the command that mends it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from m2f_helpers.install import environment
from m2f_helpers.install.environment import Machine, as_text, check_environment, gather
from tests.conftest import ROOT

GOOD = {
    **environment.EXACT,
    **dict.fromkeys(environment.OTHERS, "1.0"),
    **dict.fromkeys(environment.UNDECLARED, "1.0"),
    "torch": "2.13.0+cpu",
    "numpy": "2.4.6",
    "mmcv-lite": "2.1.0",
    "opencv-python": "5.0.0.93",
}


@pytest.fixture
def machine() -> Machine:
    loads = dict.fromkeys(environment.IMPORTS, "")
    return Machine((3, 11, 7), dict(GOOD), {"numpy": "2.4.6"}, {}, "device: CPU, 2 threads", "absent", "", loads)


def without(machine: Machine, *names: str, **extra: str) -> Machine:
    left = {name: version for name, version in machine.distributions.items() if name not in names}
    return dataclasses.replace(machine, distributions=left | {k.replace("_", "-"): v for k, v in extra.items()})


def broken(machine: Machine, module: str, error: str) -> Machine:
    return dataclasses.replace(machine, imports={module: error}, torch="")


def wrong(machine: Machine) -> dict[str, environment.Finding]:
    return {finding.component: finding for finding in check_environment(machine) if finding.verdict == "wrong"}


def is_green(findings: list[environment.Finding]) -> bool:
    return all(finding.verdict != "wrong" for finding in findings)


def test_good_machine_is_green(machine):
    assert wrong(machine) == {} and is_green(check_environment(machine))


FAULTS = {
    "mmcv 2.2.0": (lambda m: without(m, "mmcv-lite", mmcv="2.2.0"), "mmcv", "pip uninstall -y mmcv && pip install"),
    "mmcv-lite 2.2.0": (lambda m: without(m, mmcv_lite="2.2.0"), "mmcv", "mmcv-lite==2.1.0"),
    "mmcv 1.7": (lambda m: without(m, "mmcv-lite", mmcv="1.7.2"), "mmcv", "mmcv-lite==2.1.0"),
    "mmcv twice": (lambda m: without(m, mmcv="2.1.0"), "mmcv", "pip uninstall -y mmcv mmcv-lite"),
    "no mmcv": (lambda m: without(m, "mmcv-lite"), "mmcv", "mmcv-lite==2.1.0"),
    "ftfy missing": (lambda m: without(m, "ftfy"), "ftfy", "pip install ftfy"),
    "regex missing": (lambda m: without(m, "regex"), "regex", "pip install regex"),
    "pycocotools missing": (lambda m: without(m, "pycocotools"), "pycocotools", "pip install pycocotools"),
    "mmdet missing": (lambda m: without(m, "mmdet"), "mmdet", "pip install mmdet==3.3.0"),
    "mmdet old": (lambda m: without(m, mmdet="3.2.0"), "mmdet", "pip install mmdet==3.3.0"),
    "mmseg missing": (lambda m: without(m, "mmsegmentation"), "mmsegmentation", "mmsegmentation==1.2.2"),
    "mmengine new": (lambda m: without(m, mmengine="0.11.0"), "mmengine", "mmengine==0.10.7"),
    "onedl": (lambda m: without(m, onedl_mmcv="2.3.0"), "onedl fork", "pip uninstall -y onedl-mmcv && pip install"),
    "broken opencv": (
        lambda m: broken(m, "cv2", "ImportError: libGL.so.1: cannot open shared object file"),
        "opencv",
        "pip install opencv-python-headless",
    ),
    "opencv overwritten": (
        lambda m: broken(without(m, opencv_python_headless="4.10"), "cv2", "AttributeError: no attribute 'imread'"),
        "opencv",
        "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python",
    ),
    "mmcv refused": (
        lambda m: broken(m, "mmdet.models", "AssertionError: MMCV==2.2.0 is used but incompatible"),
        "imports",
        "pip install --force-reinstall --no-deps mmdet==3.3.0",
    ),
    "no opencv": (lambda m: without(m, "opencv-python"), "opencv", "pip install opencv-python"),
    "torch missing": (lambda m: without(m, "torch"), "torch", 'pip install "torch>=2.5"'),
    "torch old": (lambda m: without(m, torch="1.13.1"), "torch", 'pip install -U "torch>=2.5"'),
    "torch broken": (
        lambda m: broken(m, "torch", "OSError: libcudart.so.12: cannot open shared object file"),
        "torch",
        "pip install --force-reinstall torch==2.13.0",
    ),
    "python 3.15": (lambda m: dataclasses.replace(m, python=(3, 15, 0)), "Python", "python3.11 -m venv .venv"),
    "python 3.9": (lambda m: dataclasses.replace(m, python=(3, 9, 1)), "Python", "python3.11 -m venv .venv"),
    "numpy swapped": (lambda m: dataclasses.replace(m, loaded={"numpy": "1.26.4"}), "numpy", "restart"),
    "numpy old": (
        lambda m: dataclasses.replace(without(m, numpy="1.26.4"), loaded={}),
        "numpy",
        'pip install -U "numpy>=2.0"',
    ),
    "numpy missing": (lambda m: without(m, "numpy"), "numpy", "pip install numpy"),
    "ext of another torch": (
        lambda m: dataclasses.replace(
            without(m, "mmcv-lite", mmcv="2.1.0"), extension="_ext.so: undefined symbol: _ZN3c10"
        ),
        "mmcv ops",
        "pip uninstall -y mmcv && pip install",
    ),
    "papermill missing": (lambda m: without(m, "papermill", "pooch"), "other packages", "pip install pooch papermill"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_with_its_fix(machine, fault):
    make, component, fix = FAULTS[fault]
    found = wrong(make(machine))
    assert component in found, found
    assert fix in found[component].fix
    others = set(found) - {component, "other packages"}
    assert not others, "one fault must not make other rows wrong"


def test_every_fix_of_a_wrong_row_is_given(machine):
    for make, _, _ in FAULTS.values():
        assert all(finding.fix for finding in wrong(make(machine)).values())


def test_broken_fast_op_is_a_note_not_a_fault(machine):
    broken = dataclasses.replace(machine, fast_op="numba does not work here (Numba needs NumPy 2.4 or less)")
    notes = [finding for finding in check_environment(broken) if finding.verdict == "note"]
    assert [note.component for note in notes] == ["mmcv ops"] and "needs NumPy" in notes[0].found
    assert is_green(check_environment(broken))


def test_several_flavours_of_opencv_that_work_are_a_note(machine):
    colab = without(machine, opencv_python_headless="5.0", opencv_contrib_python="4.14")
    notes = [finding for finding in check_environment(colab) if finding.verdict == "note"]
    assert [note.component for note in notes] == ["opencv"] and not notes[0].fix
    assert is_green(check_environment(colab))


MODULES = {
    "healthy": ("", ""),
    "refuses": ("raise AssertionError('MMCV==2.2.0 is used\\nbut')", "AssertionError: MMCV==2.2.0 is used"),
    "leaves": ("raise SystemExit(3)", "SystemExit: 3"),
    "crashes": (
        "import os, sys; print('out of luck', file=sys.stderr, flush=True); os._exit(7)",
        "ended with status 7",
    ),
    "talks": ("print('hello')", ""),
}


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_tried_in_a_child_up_to_the_first_that_fails(tmp_path, monkeypatch, module):
    code, error = MODULES[module]
    (tmp_path / f"m2f_{module}.py").write_text(code)
    (tmp_path / "m2f_last.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    tried, _ = environment.try_imports([f"m2f_{module}", "m2f_last"])
    assert tried[f"m2f_{module}"].startswith(error) and bool(error) == bool(tried[f"m2f_{module}"])
    assert ("m2f_last" in tried) == (not error)
    assert module != "crashes" or "out of luck" in tried["m2f_crashes"]
    assert f"m2f_{module}" not in sys.modules


def test_what_is_not_installed_is_not_tried():
    installed = {"opencv-python": "5", "torch": "2.13", "mmsegmentation": "1.2.2"}
    assert environment._importable(installed) == ["cv2", "torch"]


def test_compiled_mmcv_is_fine(machine):
    compiled = dataclasses.replace(without(machine, "mmcv-lite", mmcv="2.1.0"), extension="compiled")
    assert is_green(check_environment(compiled))


def test_colab_is_named(machine):
    colab = dataclasses.replace(machine, environ={"COLAB_RELEASE_TAG": "release-colab_20260825"})
    assert "Colab release-colab_20260825" in as_text(check_environment(colab))


def test_text_shows_verdict_and_fix_below_its_row(machine):
    lines = as_text(check_environment(without(machine, "ftfy"))).splitlines()
    row = next(k for k, line in enumerate(lines) if line.startswith("WRONG"))
    assert "ftfy" in lines[row] and lines[row + 1].strip() == "fix: pip install ftfy"
    assert lines[-1] == "1 of 20 wrong: mend them from the top"


def fake_distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")


def test_gather_reads_distributions_from_disk(tmp_path):
    fake_distribution(tmp_path, "onedl-mmcv", "2.3.0")
    fake_distribution(tmp_path, "Opencv_Python", "4.10")
    assert gather([str(tmp_path)]).distributions == {"onedl-mmcv": "2.3.0", "opencv-python": "4.10"}


def test_this_machine_is_green_from_the_command_line():
    command = [sys.executable, "-m", "m2f_helpers", "check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all that is needed is here" in done.stdout


@pytest.mark.parametrize("module", ["m2f_helpers", "m2f_helpers.install.environment"])
def test_starts_on_the_standard_library_alone(module):
    """-S leaves out site-packages: no torch, no numpy, no click."""
    command = [sys.executable, "-S", "-m", module, "check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, env={"PATH": ""})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and re.search(r"WRONG  torch +missing", done.stdout)


def test_other_commands_say_what_is_missing():
    command = [sys.executable, "-S", "-m", "m2f_helpers", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, env={"PATH": ""})
    assert done.returncode == 1
    assert done.stderr.strip().startswith("m2f: the package click is missing; `m2f check` says what else is")
