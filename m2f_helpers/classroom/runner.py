"""Runs one submission: `python -m m2f_helpers.classroom.runner NOTEBOOK SECONDS`. A bad cell costs only itself."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(path: str, seconds: str) -> None:
    """Execute the notebook in place, and save it after every cell, so that an answer counts whatever follows."""
    notebook = nbformat.read(path, as_version=4)

    def save(**_: object) -> None:
        nbformat.write(notebook, path)

    options = {"timeout": int(seconds), "interrupt_on_timeout": True, "allow_errors": True, "kernel_name": "python3"}
    place = {"metadata": {"path": str(Path.cwd())}}
    NotebookClient(notebook, **options, on_cell_executed=save, resources=place).execute()
    save()


if __name__ == "__main__":
    main(*sys.argv[1:])
