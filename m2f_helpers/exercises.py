"""`check("04.2", answer)`: one form for the exercises of all notebooks.

A cell asks, this module answers: right, or not yet with a hint. The answers lie in `answers/NN.json` as salted hashes,
one per number or word of the answer, so that neither a cell nor a file gives them away. What an exercise needs beyond
that (arrays, a model, a config) the learner's cell hands in.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from IPython.display import display

from m2f_helpers import files

MIME = "application/vnd.m2f.exercise+json"
ANSWERS = Path(__file__).resolve().parent / "answers"
MOST_PARTS = 10_000  # that an answer hands in; no exercise has so many

_solved: set[str] = set()  # in this kernel


def check(number: str, answer: Any, *cases: Any) -> None:
    """Say whether an answer is right, and how many exercises of the notebook are solved so far. Never raises.

    Args:
        number: of the exercise, for example `"04.2"`.
        answer: a number, a word, or lists, tuples, dicts and arrays of them; or a function.
        cases: what a function is called with, once for each: a tuple holds all its arguments, anything else is the
            only one. The answer is then the list of what it returns.
    """
    known = _load(number[:2])
    if number not in known:
        there = ", ".join(known) or "none"
        return _say(number, False, f"there is no exercise {number}; notebook {number[:2]} has {there}")
    entry = known[number]
    try:
        right, parts = compare(call(answer, cases), entry)
    except Exception as error:  # whatever the learner's code does, the notebook goes on
        return _say(number, False, f"not yet: your code stopped with {type(error).__name__}: {error}")
    if right:
        _solved.add(number)
        done = sum(name in _solved for name in known)
        return _say(number, True, f"right. Notebook {number[:2]}: {done} of {len(known)} solved.")
    _solved.discard(number)
    return _say(number, False, f"not yet{parts}. Hint: {entry['hint']}")


def hand_in(number: str, answer: Any, *cases: Any) -> None:
    """For whoever grades: the parts of an answer as data, to be compared outside the kernel in which they were made."""
    found = islice(leaves(call(answer, cases)), MOST_PARTS)
    # what JSON gives back as it is stays; the rest as words
    parts = [p if p is None or isinstance(p, (bool, str)) or _is_number(p) else str(p) for p in found]
    display({MIME: {"exercise": number, "parts": parts}}, raw=True)


def is_right(number: str, parts: list[Any]) -> bool:
    """Whether what `hand_in` gave is the answer to an exercise."""
    return compare(parts, _load(number[:2])[number])[0]


def is_solved(number: str) -> bool:
    """Whether `check` has found the latest answer to an exercise right, in this kernel."""
    return number in _solved


def call(answer: Any, cases: tuple[Any, ...]) -> Any:
    """What the answer comes to: for a function the list of its results, one for each case."""
    if not callable(answer) or not cases:
        return answer
    return [answer(*case) if isinstance(case, tuple) else answer(case) for case in cases]


def compare(answer: Any, entry: dict[str, Any]) -> tuple[bool, str]:
    """Compare an answer with a sealed one, part by part.

    Returns: whether all of it is right, and `""` or words that say how many parts are.
    """
    parts, wanted = list(leaves(answer)), entry["hashes"]
    if len(parts) != len(wanted):
        return False, f": expected {len(wanted)} values, got {len(parts)}" if len(wanted) > 1 else ""
    right = [
        any(_hash(entry["salt"], i, text) == sealed for text in _texts(part, entry["digits"]))
        for i, (part, sealed) in enumerate(zip(parts, wanted, strict=True))
    ]
    return all(right), f": {sum(right)} of {len(right)} values are right" if len(right) > 1 else ""


def leaves(value: Any) -> Iterator[Any]:
    """The numbers and words in a value, from left to right. A set is sorted; a dict gives key, value, key, value."""
    if hasattr(value, "tolist"):  # numpy array or scalar, torch tensor
        value = value.tolist()
    if isinstance(value, dict):
        value = [part for key in sorted(value, key=str) for part in (key, value[key])]
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def seal(number: str, answer: Any, *cases: Any, hint: str, digits: int = 6, folder: Path = ANSWERS) -> None:
    """For authors: write down the right answer of an exercise as hashes.

    Args:
        number, answer, cases: as for `check`.
        hint: one sentence that helps and does not tell.
        digits: decimals that count. A number that is less than one unit of the last of them away is right too.
        folder: where `NN.json` lies.
    """
    salt = secrets.token_hex(8)
    texts = [_text(_on_grid(part, digits, round) if _is_number(part) else part) for part in leaves(call(answer, cases))]
    entry = {"hint": hint, "digits": digits, "salt": salt, "hashes": [_hash(salt, i, t) for i, t in enumerate(texts)]}
    path = folder / f"{number[:2]}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[number] = entry
    files.write(path, json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n")
    _load.cache_clear()


@cache
def _load(notebook: str) -> dict[str, Any]:
    path = ANSWERS / f"{notebook}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _say(number: str, right: bool, text: str) -> None:
    """Show the verdict as a line of text, and as data for whoever grades the notebook."""
    display({MIME: {"exercise": number, "right": right}, "text/plain": f"{number}: {text}"}, raw=True)


def _texts(part: Any, digits: int) -> set[str]:
    """The ways in which a part may have been sealed: `seal` rounds, so a number next to it lies just above or below."""
    if not _is_number(part):
        return {_text(part)}
    return {_text(_on_grid(part, digits, way)) for way in (math.floor, math.ceil)}


def _on_grid(number: float, digits: int, way: Callable[[float], int]) -> int:
    """The number in units of its last decimal; the noise of floating point (1e-6 of a unit) is taken off first."""
    return way(round(number * 10**digits, 6))


def _is_number(part: Any) -> bool:
    return isinstance(part, (int, float)) and not isinstance(part, bool) and math.isfinite(part)


def _text(part: Any) -> str:
    return part.strip().casefold() if isinstance(part, str) else str(part)


def _hash(salt: str, position: int, text: str) -> str:
    return hashlib.sha256(f"{salt}:{position}:{text}".encode()).hexdigest()[:16]
