"""Files that travel with the package are found, or their absence is explained."""

from __future__ import annotations

import pytest

from m2f_helpers.resources import resource


def test_finds_what_travels():
    assert resource("ade20k_palette.json").is_file()
    assert (resource("notebooks") / "01_install.ipynb").is_file()


def test_missing_file_names_both_places():
    with pytest.raises(FileNotFoundError, match=r"nothing.json is missing: looked for .* and .*Reinstall"):
        resource("nothing.json")
