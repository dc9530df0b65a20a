"""Puts `pkgutil.find_loader` back where it is missing: mmengine and mmcv call it, Python 3.14 has it no more."""

from __future__ import annotations

import importlib.util
import pkgutil
from typing import Any


def find_loader(name: str) -> Any:
    """The loader of a module, or None if there is no such module: what the function in Python 3.13 gives."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ImportError(f"error while finding the loader of {name!r} ({type(error).__name__}: {error})") from error
    return spec.loader if spec is not None else None


def restore_find_loader() -> None:
    """Give `pkgutil` its function back, only where it is missing. Called by `import m2f_helpers`."""
    if not hasattr(pkgutil, "find_loader"):
        pkgutil.find_loader = find_loader
