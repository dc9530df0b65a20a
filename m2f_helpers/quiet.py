"""Library noise, quieted in one place: log lines, known warnings, errors of many lines. Our own output stays."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# (category, start of the message as a regular expression, who says it)
KNOWN_WARNINGS = [
    (UserWarning, r"torch\.meshgrid: in an upcoming release", "torch, from mmdet's point generator"),
    (RuntimeWarning, r"Image size \(\d+ pixels\) exceeds limit", "Pillow; `images.read_image` has a limit of its own"),
]


def one_line(error: BaseException, longest: int | None = 160) -> str:
    """An error's text on one line, or its type if it has none; cut off after so many characters, with None never."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if longest is None else shortened(text, longest)


def shortened(text: str, longest: int) -> str:
    """The text, or its start and ` ...` where it is longer than so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


@contextmanager
def quiet_initialisation() -> Iterator[None]:
    """Within the block MMEngine does not print its line per parameter that it initialises."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def quiet() -> None:
    """Silence what the libraries are known to say on every run: MMEngine's log lines and a list of known warnings.

    Call it first thing. A warning that is not on the list still shows, and so does every error. A `Runner` writes its
    log to a file as before; `m2f_helpers.finetune.training` keeps it off the screen.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.raiseExceptions = False  # a log file on a full disk would print a traceback for every line
    for category, message, _ in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    from mmengine.logging import MMLogger

    MMLogger.get_instance("mmengine", logger_name="mmengine", log_level="ERROR")  # the one used outside a Runner
    for name in ("mmengine", "mmseg", "mmdet"):
        logging.getLogger(name).setLevel(logging.ERROR)
