"""Library noise, quieted in one place. Errors and our own output stay."""

from __future__ import annotations

import logging
import os
import warnings

# (category, start of the message as a regular expression, who says it)
KNOWN_WARNINGS = [
    (UserWarning, r"torch\\.meshgrid", "torch, from mmdet's point generator"),
]


def quiet() -> None:
    """Silence what the libraries are known to say on every run: MMEngine's init lines and a list of known warnings.

    Call it once, before the libraries are imported. A warning that is not on the list still shows.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for category, message, _ in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    for name in ("mmengine", "mmseg", "mmdet", "current"):
        logging.getLogger(name).setLevel(logging.ERROR)
