"""Files that travel with the package are found, or their absence is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2f_helpers.resources import out_folder, resource


def test_finds_what_travels():
    assert resource("ade20k_palette.json").is_file()
    assert (resource("notebooks") / "01_install.ipynb").is_file()


def test_missing_file_names_both_places():
    with pytest.raises(FileNotFoundError, match=r"nothing.json is missing: looked for .* and .*Reinstall"):
        resource("nothing.json")


def test_out_folder_counts_from_the_checkout_around_the_notebook(tmp_path, monkeypatch):
    for name in ("project/pyproject.toml", "project/m2f_helpers/__init__.py", "project/work/deep/a.ipynb", "other/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    runs = set()
    for place in ("project", "project/work", "project/work/deep"):
        monkeypatch.chdir(tmp_path / place)
        runs.add(out_folder("runs"))
    assert runs == {tmp_path / "project" / "runs"}
    assert out_folder(Path(tmp_path / "elsewhere")) == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path / "other")
    assert out_folder("runs") == tmp_path / "other" / "runs"
