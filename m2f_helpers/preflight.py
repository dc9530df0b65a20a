"""Checks of a config and its data before anything is built. Taught in notebook 04."""

from __future__ import annotations

from mmengine.config import Config


def check(cfg: Config) -> None:
    """Raise ValueError if the config or its data cannot work."""
