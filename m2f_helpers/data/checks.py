"""Checks a data set: every pair by itself, and all of them together. Used by notebook 02 and `m2f check --data`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from m2f_helpers.data.labels import IGNORE, LabelProblem, check_pair
from m2f_helpers.data.layout import read_data


def check_labels(
    root: str | Path,
    num_classes: int = 150,
    reduce_zero_label: bool = True,
    limit: int | None = None,
    num_queries: int = 100,
) -> list[LabelProblem]:
    """Check the label maps of a data set, ADE20K itself or a learner's own.

    Args:
        root: folder that `layout.read_data` can read.
        num_classes: number of classes, without "other".
        reduce_zero_label: True if ids on disk run 1..num_classes with 0 = other (ADE20K); False if they run
            0..num_classes-1 with 255 = ignore.
        limit: check at most so many pairs per split, spread evenly; None checks all.
        num_queries: masks the model can propose per picture; more classes than that in one picture cannot all be found.

    Returns: the problems, errors first, in the order of the file names; an empty list if all is well.
    Raises: FileNotFoundError if `root` is not such a folder; ValueError for impossible arguments.
    """
    if not 1 <= num_classes <= 254:
        raise ValueError(f"num_classes must lie between 1 and 254, got {num_classes}")
    data = read_data(root)
    problems = list(data.problems)
    seen: set[int] = set()
    for pairs in data.splits.values():
        for pair in _spread(pairs, limit):
            ids, found = check_pair(pair.image, pair.label, num_classes, reduce_zero_label, num_queries)
            seen.update(ids)
            problems += found
    problems += _check_numbering(data.root, seen, num_classes, reduce_zero_label)
    return sorted(problems, key=lambda problem: problem.severity != "error")


def _check_numbering(root: Path, seen: set[int], num_classes: int, reduce_zero_label: bool) -> list[LabelProblem]:
    """Own classes counted from 0 while 0 is taken for "other": no single file shows it, all together do."""
    if reduce_zero_label and 2 <= num_classes < 150 and seen - {IGNORE} == set(range(num_classes)):
        text = (
            f"ids run 0..{num_classes - 1} and {num_classes} never occurs: they seem to count from 0, then "
            "reduce_zero_label=True throws class 0 away; use reduce_zero_label=False"
        )
        return [LabelProblem(root, "counts-from-zero", text, "warning")]
    return []


def _spread(items: list, limit: int | None) -> list:
    if limit is None or limit >= len(items):
        return items
    return [items[int(k)] for k in np.linspace(0, len(items) - 1, limit)] if limit > 0 else []


def describe_problems(problems: list[LabelProblem], shown: int = 20) -> str:
    """The problems as text, one line each, and a closing line with their numbers."""
    lines = [str(problem) for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"... and {len(problems) - shown} more")
    errors = sum(problem.severity == "error" for problem in problems)
    return "\n".join([*lines, f"{errors} errors, {len(problems) - errors} warnings"])
