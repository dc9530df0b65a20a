"""Notebooks of two cells in this very process, for the fault injector: `m2f run` without a kernel to start.

Importing this module puts those in `notebooks` in place of the tutorial's. papermill, and what
`m2f run` writes, stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from papermill.engines import Engine, papermill_engines

from m2f_helpers import execution


class InProcess(Engine):
    """Runs each cell in IPython's shell here; papermill saves the notebook around each."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        """Called by papermill."""
        shell = InteractiveShell.instance()
        for index, cell in enumerate(nb_man.nb.cells):
            nb_man.cell_start(cell, index)
            with capture_output() as captured:
                shell.run_cell(cell.source).raise_error()
            cell.outputs = [nbformat.v4.new_output("display_data", output.data) for output in captured.outputs]
            nb_man.cell_complete(cell, index)


papermill_engines.register(None, InProcess)
execution.list_notebooks = lambda: {path.stem: path.resolve() for path in sorted(Path("notebooks").glob("*.ipynb"))}
