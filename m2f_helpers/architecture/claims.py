"""Checks the statements on installed source and a real run, and says in words what was measured. For notebook 03."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from m2f_helpers.architecture.reference import Evidence, reference_run
from m2f_helpers.architecture.statements import CLAIMS, GROUPS, Claim

MANY = 12  # a longer list is told by its length and its ends


@dataclass(frozen=True)
class Checked:
    """A claim after measuring. A measurement that raised counts as false, with the error as its value."""

    claim: Claim
    measured: Any
    holds: bool

    @property
    def evidence(self) -> str:
        """What was measured, in words; of a false claim, also what should have come out."""
        found = in_words(self.measured)
        if self.claim.words and (self.holds or isinstance(self.measured, type(self.claim.expected))):
            found = fill(self.claim.words, self.measured)  # not if it is an error's text
        return found if self.holds else f"{found} (expected {in_words(self.claim.expected)})"


def fill(words: str, measured: Any) -> str:
    """Put a measured value into a claim's words: whole for `{}`, in parts for `{0}`, by key for `{name}`."""
    if isinstance(measured, dict) and "{}" not in words:
        return words.format(**{key: in_words(value) for key, value in measured.items()})
    return words.format(*map(in_words, [measured] if "{}" in words else measured))


def check(evidence: Evidence | None = None, claims: Iterable[Claim] | None = None) -> list[Checked]:
    """Measure the claims; default: all of them, on the reference run of the R50 model, made now if need be."""
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


def by_group(checked: Iterable[Checked]) -> dict[str, list[Checked]]:
    """The checked claims under the titles of their groups; groups without any are left out."""
    checked = list(checked)
    found = {title: [entry for entry in checked if entry.claim.group == group] for group, title in GROUPS.items()}
    return {title: entries for title, entries in found.items() if entries}


def claims_text(checked: Iterable[Checked]) -> str:
    """The claims for a terminal: `ok` or `FALSE`, the statement, and below it what was measured."""
    checked = list(checked)
    lines = []
    for title, entries in by_group(checked).items():
        lines.append(f"\n{title}")
        for entry in entries:
            lines += item(f"{'ok   ' if entry.holds else 'FALSE'} {entry.claim.statement}", 6)
            if entry.claim.believed:
                lines += item(f"      easy to believe: {entry.claim.believed}", 6)
            lines += item(f"      measured: {entry.evidence}", 6)
    false = [entry for entry in checked if not entry.holds]
    return "\n".join([*lines, f"\n{len(checked)} claims, {len(false)} false"]).strip()


def in_words(value: Any) -> str:
    """A measured value as people write it: shapes with x, truth as yes and no, long lists by length and ends."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "nothing"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        texts = [in_words(part) for part in value.values()]
        if len(texts) > 2 and len(set(texts)) == 1:
            return f"{texts[0]} for each of {', '.join(map(in_words, value))}"
        return "; ".join(f"{in_words(key)}: {text}" for key, text in zip(value, texts, strict=True))
    if isinstance(value, (list, tuple, set, frozenset)):
        return _sequence_in_words(value)
    return str(value)


def _sequence_in_words(value: Any) -> str:
    items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
    if not items:
        return "none"
    plain = all(isinstance(part, int) and not isinstance(part, bool) for part in items)
    if isinstance(value, tuple) and plain and len(items) > 1:
        return " x ".join(map(str, items))  # a shape
    texts = [in_words(part) for part in items]
    if len(texts) > MANY:
        return f"{len(texts)} entries, from {texts[0]} to {texts[-1]}"
    if len(texts) > 3 and len(set(texts)) == 1:
        return f"{len(texts)} times {texts[0]}"
    return ("; " if any("," in text for text in texts) else ", ").join(texts)


def item(text: str, indent: int) -> list[str]:
    """The lines of a text in a terminal, all but the first one indented."""
    return textwrap.wrap(text, 110, subsequent_indent=" " * indent)
