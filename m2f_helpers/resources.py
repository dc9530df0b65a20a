"""Where files lie: those that travel with the package, and those that the notebooks write."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """Path of a file or folder that travels with the package; `name` counts from the package or from the checkout.

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


def out_folder(name: str | Path) -> Path:
    """The folder that a notebook's `OUT_DIR` means, absolute, wherever the notebook runs; it may not exist yet.

    A relative one counts from the checkout around the working folder, so that the copies in `work/`, the notebooks
    themselves and `m2f run` all find what one of them made. Without a checkout it counts from the working folder.
    """
    here = Path.cwd()
    around = [folder for folder in (here, *here.parents) if _is_checkout(folder)]
    return (around[0] if around else here) / name


def _is_checkout(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "m2f_helpers" / "__init__.py").is_file()
