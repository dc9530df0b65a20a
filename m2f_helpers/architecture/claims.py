"""Checks the statements on the installed source and a real run. Used by notebook 03."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from m2f_helpers.architecture.reference import Evidence, reference_run
from m2f_helpers.architecture.statements import CLAIMS, GROUPS, Claim


@dataclass(frozen=True)
class Checked:
    """A claim after measuring. A measurement that raised counts as false, with the error as its value."""

    claim: Claim
    measured: Any
    holds: bool


def check(evidence: Evidence | None = None, claims: Iterable[Claim] | None = None) -> list[Checked]:
    """Measure the claims.

    Args:
        evidence: of a traced run; default: the reference run of the R50 model, made now if need be.
        claims: default: all.
    """
    evidence = reference_run() if evidence is None else evidence
    return [check_one(claim, evidence) for claim in (CLAIMS if claims is None else claims)]


def claims_of(group: str | None = None) -> tuple[Claim, ...]:
    """All claims, or those of one group.

    Raises: ValueError for a group that `GROUPS` does not have.
    """
    if group is not None and group not in GROUPS:
        raise ValueError(f"there is no group {group!r} of claims; there are {', '.join(GROUPS)}")
    return tuple(claim for claim in CLAIMS if group in (None, claim.group))


def check_one(claim: Claim, evidence: Evidence) -> Checked:
    """Measure one claim."""
    try:
        measured = claim.measure(evidence)
    except Exception as error:  # a measurement that cannot be made refutes its claim, and says why
        return Checked(claim, f"{type(error).__name__}: {error}", False)
    if claim.tolerance:
        return Checked(claim, measured, abs(measured - claim.expected) <= claim.tolerance)
    return Checked(claim, measured, bool(measured == claim.expected))


def claims_table(checked: Iterable[Checked], group: str | None = None) -> pd.DataFrame:
    """One row per claim: group, statement, what was believed, what was measured, whether it holds.

    Args:
        checked: from `check`.
        group: only this group, a key of `GROUPS`.
    """
    chosen = [entry for entry in checked if group in (None, entry.claim.group)]
    rows = [
        {
            "group": entry.claim.group,
            "statement": entry.claim.statement,
            "easy to believe": entry.claim.believed,
            "measured": short(entry.measured),
            "holds": entry.holds,
            "source": entry.claim.source,
        }
        for entry in chosen
    ]
    return pd.DataFrame(rows, index=pd.Index([entry.claim.name for entry in chosen], name="claim"))


def claims_text(checked: Iterable[Checked], width: int = 110) -> str:
    """The table for a terminal: `ok` or `FALSE`, the statement, and below it what was measured."""
    checked = list(checked)
    lines = []
    for group, title in GROUPS.items():
        if any(entry.claim.group == group for entry in checked):
            lines.append(f"\n{title}")
        for entry in (entry for entry in checked if entry.claim.group == group):
            mark = "ok   " if entry.holds else "FALSE"
            lines += textwrap.wrap(f"{mark} {entry.claim.statement}", width, subsequent_indent=" " * 6)
            if entry.claim.believed:
                lines.append(f"      easy to believe: {entry.claim.believed}")
            wanted = "" if entry.holds else f" (expected {short(entry.claim.expected)})"
            lines += textwrap.wrap(
                f"measured: {short(entry.measured)}{wanted}", width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    false = [entry for entry in checked if not entry.holds]
    return "\n".join([*lines, f"\n{len(checked)} claims, {len(false)} false"]).strip()


def short(value: Any, limit: int = 160) -> str:
    """A value as text of at most `limit` characters."""
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
