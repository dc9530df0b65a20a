"""Where the files that travel with the package lie: in the wheel beside the modules, in a checkout one folder up."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """Path of a file or folder that travels with the package.

    Args:
        name: path relative to the package (in a wheel) or to the checkout, for example `"ade20k_palette.json"`.

    Returns: an existing path.
    Raises: FileNotFoundError naming both places that were tried.
    """
    places = [PACKAGE / name, PACKAGE.parent / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(
        f"{name} is missing: looked for {places[0]} and {places[1]}. Reinstall the package: "
        "pip install --force-reinstall --no-deps m2f-helpers"
    )
