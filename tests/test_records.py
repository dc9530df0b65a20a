"""Numbers go into a notebook's outputs and come back."""

from __future__ import annotations

import nbformat
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from m2f_helpers.records import MIME, read_records, record


def notebook_with(*entries):
    outputs = [nbformat.v4.new_output("display_data", data={MIME: entry}) for entry in entries]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("record(...)", outputs=outputs)])


def test_recorded_value_is_read_back():
    InteractiveShell.instance()
    with capture_output() as captured:
        record("miou", np.float32(0.5))
        record("ids", [1, 2])
    data = [output.data for output in captured.outputs]
    assert [entry["text/plain"] for entry in data] == ["miou = 0.5", "ids = [1, 2]"]
    assert read_records(notebook_with(*(entry[MIME] for entry in data))) == {"miou": 0.5, "ids": [1, 2]}


def test_a_name_written_twice_is_refused():
    twice = notebook_with({"name": "miou", "value": 1}, {"name": "miou", "value": 2})
    with pytest.raises(ValueError, match="'miou' is written twice"):
        read_records(twice)


def test_other_outputs_are_passed_over():
    stream = nbformat.v4.new_output("stream", text="hello")
    cells = [nbformat.v4.new_markdown_cell("x"), nbformat.v4.new_code_cell("print()", outputs=[stream])]
    assert read_records(nbformat.v4.new_notebook(cells=cells)) == {}
