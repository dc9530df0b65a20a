"""Known noise is silent; anything else is heard."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

SAY = """
import warnings
from m2f_helpers.quiet import quiet
quiet()
import torch
from mmengine.logging import print_log
torch.meshgrid(torch.arange(2), torch.arange(2))            # known: silent
warnings.warn("something new happened")                     # unknown: shown
print_log("a line of the library", logger="current")        # log line: silent
import logging
print_log("a fault of the library", logger="current", level=logging.ERROR)
"""


def test_known_noise_is_silent_and_the_rest_is_heard():
    done = subprocess.run([sys.executable, "-c", SAY], cwd=ROOT, capture_output=True, text=True, timeout=120)
    heard = done.stdout + done.stderr
    assert done.returncode == 0, heard
    assert "meshgrid" not in heard and "a line of the library" not in heard
    assert "something new happened" in heard and "a fault of the library" in heard
