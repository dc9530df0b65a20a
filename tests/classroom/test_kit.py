"""The kit: the right wheels for another machine, each with its hash, and a folder that installs without network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from m2f_helpers.classroom import kit, quiz
from m2f_helpers.classroom.cells import read_exercises
from m2f_helpers.execution import list_notebooks
from m2f_helpers.resources import resource

WINDOWS, LINUX = kit.target_environment("3.12", "windows"), kit.target_environment("3.12", "linux")


def entry(name, *requires):
    return {"metadata": {"name": name, "requires_dist": list(requires)}}


FOUND = {
    "m2f-helpers": entry("m2f-helpers", "torch>=2", "click", 'numba; extra == "fast"'),
    "click": entry("click", 'colorama; sys_platform == "win32"', "six[old]"),
    "six": entry("six", 'ancient; extra == "old"', 'never; extra == "new"'),
    "torch": entry("torch", 'cuda; platform_system == "Linux"', "sympy"),
    "sympy": entry("sympy"),
    "jupyterlab": entry("jupyterlab", 'pexpect; os_name != "nt"', 'tomli; python_version < "3.11"'),
    "numba": entry("numba"),
}


def missing(found, environment):
    return sorted(kit.needed_on_target(found, environment) - set(found))


def test_markers_are_those_of_the_target_not_of_this_machine():
    assert missing(FOUND, WINDOWS) == ["ancient", "colorama"]
    assert missing(FOUND, LINUX) == ["ancient", "cuda", "pexpect"]
    old = kit.target_environment("3.10", "macos")
    assert missing(FOUND, old) == ["ancient", "pexpect", "tomli"]


def test_what_only_this_machine_asked_for_is_left_out():
    found = FOUND | {"pexpect": entry("pexpect", "ptyprocess"), "ptyprocess": entry("ptyprocess")}
    assert {"pexpect", "ptyprocess"}.isdisjoint(kit.needed_on_target(found, WINDOWS))
    assert {"pexpect", "ptyprocess"} <= kit.needed_on_target(found, LINUX)


def test_pins_read_as_on_the_target():
    old, new = (kit.target_pins(kit.target_environment(python, "linux")) for python in ("3.10", "3.12"))
    assert old["numpy"] != new["numpy"] and old["mmdet"] == new["mmdet"] == "3.3.0"


@pytest.mark.parametrize(
    ("pythons", "platforms", "words"),
    [
        (["3.9"], ["linux"], "expected a Python out of 3.10, .*, got 3.9"),
        (["3.12"], ["amiga"], "expected a platform out of linux, macos, windows, got amiga"),
        (["3.12"], [], "expected a platform .* got none"),
    ],
)
def test_unknown_targets_are_refused_before_anything_is_made(tmp_path, pythons, platforms, words):
    with pytest.raises(ValueError, match=words):
        kit.build_kit(tmp_path / "kit", pythons, platforms)
    assert not (tmp_path / "kit").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other things than a kit"):
        kit.build_kit(tmp_path, ["3.12"], ["linux"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_wheel_of_another_project_is_refused(tmp_path):
    other = tmp_path / "other-1.0-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ValueError, match="other-1.0.* is not a wheel of this project"):
        kit.build_kit(tmp_path / "kit", ["3.12"], ["linux"], other)
    assert not (tmp_path / "kit").exists()


def test_the_wheel_for_students_holds_no_answer(tmp_path):
    package, info = Path(kit.__file__).parents[1], "m2f_helpers-0.1.0.dist-info"
    wheel = tmp_path / "m2f_helpers-0.1.0-py3-none-any.whl"
    sources = [*(package / "classroom").rglob("*.json"), *(package / "answers").glob("*.json"), Path(kit.__file__)]
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sources:
            archive.write(path, path.relative_to(package.parent).as_posix())
        for path in list_notebooks().values():
            archive.write(path, f"m2f_helpers/notebooks/{path.name}")
        archive.writestr(f"{info}/RECORD", "")
    kit.without_answers(wheel)
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]
    assert "m2f_helpers/classroom/kit.py" in members and not [name for name in members if "/texts/" in name]
    text = "\n".join(members.values())
    assert "### Exercise 02.1" in text and "### Solution" not in text
    solutions = [e.solution for path in list_notebooks().values() for e in read_exercises(nbformat.read(path, 4))]
    assert len(solutions) > 20 and not [code for code in solutions if json.dumps(code)[1:-3] in text]
    assert not [q for q in quiz.read_questions() if q.reason in text]
    for row in members[f"{info}/RECORD"].splitlines()[:-1]:
        name, digest, size = row.split(",")
        found = base64.urlsafe_b64encode(hashlib.sha256(members[name].encode()).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={found}", len(members[name].encode()))


def test_students_find_their_edition_on_the_stick(tmp_path):
    kit.add_lessons(tmp_path, ["3.12", "3.13"], None)
    text = (tmp_path / "notebooks" / "02_resize_ade20k.ipynb").read_text(encoding="utf-8")
    assert "Solution" not in text and '"edition": "student"' in text
    script = (tmp_path / "install.bat").read_bytes()
    assert script.count(b"\r\n") == script.count(b"\n") and b"for %%v in (3.12 3.13)" in script


def script(folder, *pythons):
    """The installer for these versions, in a folder with a space, and what it says where only Python 3.11 is found."""
    folder.mkdir()
    words = {"pythons": " or ".join(pythons), "versions": " ".join(pythons)}
    words["candidates"] = " ".join(f"python{version}" for version in pythons)
    (folder / "install.sh").write_text(resource("classroom/texts/install.sh").read_text().format(**words))
    return subprocess.run(["sh", folder / "install.sh"], capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="a script for sh")
def test_another_python_is_one_sentence(tmp_path):
    done = script(tmp_path / "a stick", "2.6", "9.9")
    expected = "Python 2.6 or 9.9 is needed and was not found: install it and call install.sh again.\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert not (tmp_path / "a stick" / "venv").exists()


def offered(folder, name, content=b"wheel", sha256=None):
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    info = {"url": (folder / name).as_uri(), "archive_info": {"hashes": {"sha256": digest}}}
    return kit.as_wheel({"download_info": info})


def test_files_are_fetched_once_and_a_broken_one_again(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    wheels = [offered(source, "a.whl"), offered(source, "b%20c.whl", b"12345678")]
    assert [(wheel.name, wheel.size) for wheel in wheels] == [("a.whl", 5), ("b%20c.whl", 8)]
    (target / "a.whl").write_bytes(b"whe")  # cut by a full stick
    assert kit.sizes(wheels, target).startswith("2 wheels, 0 MB; to fetch: 1")
    kit.fetch(wheels, target)
    assert (target / "a.whl").read_bytes() == b"wheel"
    before = (target / "a.whl").stat().st_mtime_ns
    (source / "a.whl").unlink()  # not asked for again
    kit.fetch(wheels, target)
    assert (target / "a.whl").stat().st_mtime_ns == before


def test_other_bytes_than_promised_are_refused(tmp_path):
    (tmp_path / "target").mkdir()
    wheel = offered(tmp_path, "a.whl", sha256="0" * 64)
    with pytest.raises(ValueError, match="a.whl"):
        kit.fetch([wheel], tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())


def test_the_list_is_what_sha256sum_checks(tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_bytes(b"wheel")
    assert kit.write_list(tmp_path) == {"wheels/a.whl": 5}
    assert (tmp_path / kit.LIST).read_text() == f"{hashlib.sha256(b'wheel').hexdigest()}  wheels/a.whl\n"


def test_pip_s_reason_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "pip", "download", "--no-index", "--no-deps", "-d", str(tmp_path), "no-such-thing"]
    with pytest.raises(OSError, match="pip could not do its part .*no-such-thing.*; is there a network"):
        kit.run(command)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.skipif("M2F_TEST_KIT" not in os.environ, reason="fetches half a gigabyte: `make test-kit` runs it")
def test_a_kit_for_this_machine_installs_offline_and_runs_notebook_05(tmp_path):
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    platform = {"linux": "linux", "darwin": "macos", "win32": "windows"}[sys.platform]
    kit.build_kit(tmp_path / "kit", [python], [platform])
    offline = {"HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    offline["PATH"] = os.pathsep.join([os.path.dirname(os.path.realpath(sys.executable)), "/usr/bin", "/bin"])
    script = {"win32": ["cmd", "/c", "install.bat"]}.get(sys.platform, ["sh", "install.sh"])
    done = subprocess.run(script, cwd=tmp_path / "kit", env=offline, capture_output=True, text=True)
    assert done.returncode == 0 and "Ready." in done.stdout, done.stderr
    m2f = next((tmp_path / "kit" / "venv").glob("*/m2f*"))
    done = subprocess.run([m2f, "run", "05", "--out", "runs"], cwd=tmp_path / "kit", env=offline, capture_output=True)
    assert done.returncode == 0, done.stdout
