"""Faults of output folders that several commands share, and of values at the edge of `m2f scenes`."""

from __future__ import annotations

from pathlib import Path

from tests.faults.rows_train import RANDOM
from tests.faults.table import Fault, data, flat, write


def out_leads_to_itself(folder: Path) -> None:
    (folder / "out").symlink_to(folder / "out")


ROWS = [
    Fault("run into its data", data, "run 4 --data data --out data/runs", "must not contain each other"),
    Fault("run over its data", data, "run 4 --data data --out data", "must not contain each other"),
    Fault("scenes of a size that nobody has", lambda f: None, "scenes out --size 9999999 64", "64 to 8192 pixels each"),
    Fault("scenes from a seed below 0", lambda f: None, "scenes out --seed -1", "seed must be 0 or larger, got -1$"),
    Fault("no scene at all", lambda f: None, "scenes out --train 0 --val 0", "expected at least one pair to draw"),
    Fault("ADE20K from junk", lambda f: write(f / "a.zip", ""), "ade20k new --archive a.zip", "no complete zip file"),
    Fault("train into a link to itself", lambda f: (data(f), out_leads_to_itself(f)), RANDOM, "leads back to itself"),
    Fault("scenes into a link to itself", out_leads_to_itself, "scenes out --train 1 --val 1", "leads back to itself"),
    Fault(
        "convert into a link to itself",
        lambda f: (flat(f), out_leads_to_itself(f)),
        "convert data out",
        "leads back to itself",
    ),
]
