"""Numbers that a notebook hands to its test and to `records.json`."""

from __future__ import annotations

from typing import Any

from IPython.display import display

MIME = "application/vnd.m2f.record+json"


def record(name: str, value: Any) -> None:
    """Store a number with the cell's output, and show it in one line.

    Args:
        name: identifier, unique within the notebook.
        value: anything JSON knows (numbers, strings, lists, dicts). numpy scalars are converted.
    """
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    display({MIME: {"name": name, "value": value}, "text/plain": f"{name} = {shown(value)}"}, raw=True)


def shown(value: Any) -> str:
    """A recorded value as text: numbers with a fraction to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_records(notebook: Any) -> dict[str, Any]:
    """All numbers recorded in an executed notebook, `{name: value}` in order; ValueError for a name recorded twice."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            entry = output.get("data", {}).get(MIME)
            if entry is None:
                continue
            if entry["name"] in found:
                raise ValueError(f"the record {entry['name']!r} is written twice; give each record its own name")
            found[entry["name"]] = entry["value"]
    return found
