"""Running notebooks: strict about names and values, clear about failures, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from m2f_helpers import execution, files
from m2f_helpers.cli import main
from m2f_helpers.data.convert import convert
from tests.data import exports

FIVE = ["01_install", "02_resize_ade20k", "03_architecture", "04_finetune", "05_inference"]


def write_notebook(folder: Path, name: str, *code: str) -> None:
    cells = [nbformat.v4.new_code_cell("SIZE = [4, 4]  # pixels\nRATE = 1.5\nOUT_DIR = 'runs'")]
    cells[0].metadata["tags"] = ["parameters"]
    cells += [nbformat.v4.new_code_cell(text) for text in code]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """Two notebooks of three lines in place of the five; checks of data and profile stay real."""
    folder = tmp_path / "notebooks"
    write_notebook(
        folder,
        "01_first",
        "from m2f_helpers.records import record\nrecord('area', SIZE[0] * SIZE[1])",
        "print(OUT_DIR)",
    )
    write_notebook(folder, "02_second", "from m2f_helpers.records import record\nrecord('before', 1)", "1 / 0", "2")
    monkeypatch.setattr(execution, "resource", lambda name: folder if name == "notebooks" else Path(name))
    return tmp_path


def invoke(*arguments: str):
    return CliRunner().invoke(main, ["run", *arguments])


def test_the_five_notebooks_are_found():
    assert list(execution.list_notebooks())[:5] == list(execution.find_notebooks([])) == FIVE


@pytest.mark.parametrize(
    "word", ["4", "04", "04_finetune", "finetune", "04_finetune.ipynb", "notebooks/04_finetune.ipynb"]
)
def test_a_notebook_has_many_names(word):
    assert list(execution.find_notebooks([word])) == ["04_finetune"]


def test_unknown_notebook_is_an_error():
    result = invoke("16")
    assert result.exit_code == 1
    assert result.output.startswith("Error: there is no notebook '16'; there are 01_install, 02_resize_ade20k")


def test_every_notebook_takes_the_common_parameters():
    for path in execution.list_notebooks().values():
        assert execution.read_parameters(path).items() >= {"PROFILE": "demo", "DATA_DIR": "", "OUT_DIR": "runs"}.items()


def test_a_notebook_without_parameters_cell_is_refused(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "01_bare.ipynb")
    with pytest.raises(ValueError, match="01_bare.ipynb: expected one cell tagged `parameters`, got 0"):
        execution.read_parameters(tmp_path / "01_bare.ipynb")


def test_parameters_are_json_or_text():
    words = ["SIZE=[64, 64]", "RATE=0.5", "NAME=dusk", "FLAG=true"]
    parsed = execution.parse_parameters(words)
    assert parsed == {"SIZE": [64, 64], "RATE": 0.5, "NAME": "dusk", "FLAG": True}


def test_run_writes_notebook_html_and_records(small):
    out = small / "out"
    result = invoke("1", "--out", str(out), "-p", "SIZE=[3, 5]")
    assert result.exit_code == 0, result.output
    assert json.loads((out / "records.json").read_text()) == {"01_first": {"area": 15}}
    assert "area=15" in result.output
    executed = nbformat.read(out / "01_first.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == str(out)
    assert "<html" in (out / "01_first.html").read_text()
    assert sorted(p.name for p in out.glob("[!.]*")) == ["01_first.html", "01_first.ipynb", "records.json"]


def test_two_runs_at_once_in_one_folder_are_refused(small):
    with files.locked(small / "out"):
        result = invoke("1", "--out", str(small / "out"))
    assert result.exit_code == 1 and "out is in use by process" in result.output


def test_failing_cell_is_named_with_its_notebook_and_what_lies_where(small):
    out = small / "out"
    result = invoke("--out", str(out))
    assert result.exit_code == 1
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("02_second failed in cell ") and "'1 / 0'" in last and "ZeroDivisionError" in last
    assert last.endswith(str(out / "02_second.partial.ipynb")) and (out / "02_second.partial.ipynb").is_file()
    assert not (out / "02_second.ipynb").exists() and not (out / "02_second.html").exists()
    assert "02_second" not in (out / "01_first.html").read_text()
    records = json.loads((out / "records.json").read_text())
    assert records == {"01_first": {"area": 16}, "02_second": {"before": 1}}


def test_a_later_success_takes_the_partial_away(small):
    out = small / "out"
    invoke("2", "--out", str(out))
    write_notebook(small / "notebooks", "02_second", "1 + 1")
    assert invoke("2", "--out", str(out)).exit_code == 0
    assert (out / "02_second.ipynb").is_file() and not (out / "02_second.partial.ipynb").exists()


BAD = {
    "unknown parameter": (["-p", "SPEED=2"], "no chosen notebook has a parameter SPEED; there are OUT_DIR, RATE, SIZE"),
    "value of another type": (["-p", "SIZE=64"], "SIZE: expected a value like [4, 4], got 64"),
    "text for a number": (["-p", "RATE=fast"], "RATE: expected a value like 1.5, got 'fast'"),
    "no equals sign": (["-p", "SIZE"], "expected NAME=VALUE, got 'SIZE'"),
    "unknown profile": (["--profile", "laptop"], "laptop"),
    "missing data": (["--data", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(small, case):
    arguments, message = BAD[case]
    result = invoke("1", "--out", str(small / "out"), *arguments)
    assert result.exit_code == 1 and result.output.startswith("Error: ")
    assert message in result.output and len(result.output.strip().splitlines()) == 1
    assert not (small / "out").exists()


def test_empty_data_folder(small):
    (small / "data").mkdir()
    result = invoke("1", "--out", str(small / "out"), "--data", str(small / "data"))
    assert result.exit_code == 1 and str(small / "data") in result.output
    assert not (small / "out").exists()


def test_picture_without_label_map(small, ade20k_sample):
    import shutil

    copy = shutil.copytree(ade20k_sample, small / "data", copy_function=shutil.copyfile)
    (copy / "annotations" / "validation" / "ADE_val_00000002.png").unlink()
    result = invoke("1", "--out", str(small / "out"), "--data", str(copy))
    assert result.exit_code == 1 and "ADE_val_00000002" in result.output
    assert not (small / "out").exists()


def test_own_classes_and_other_forms_go_where_they_can(tmp_path, capsys):
    exports.camvid(tmp_path / "raw", 6)
    execution._check_data(tmp_path / "raw", ["06_own_data"])
    assert "raw, colors: 6 of 6 masks looked at hold colours" in capsys.readouterr().out
    own = convert(tmp_path / "raw", tmp_path / "own", progress=False).root
    execution._check_data(own, ["04_finetune", "05_inference"])
    with pytest.raises(ValueError, match=r"classes of its own \(Straße, nass, .* m2f run 04 05 06 --data"):
        execution._check_data(own, ["01_install", "02_resize_ade20k"])


def test_broken_palette_file_stops_the_run(small, monkeypatch):
    from m2f_helpers import palette

    entries = json.loads(execution.Path(palette.__file__).parent.parent.joinpath("ade20k_palette.json").read_text())
    short = small / "palette.json"
    short.write_text(json.dumps({"classes": entries["classes"][:149]}))
    monkeypatch.setattr(palette, "resource", lambda name: short)
    result = invoke("1", "--out", str(small / "out"))
    assert result.exit_code == 1 and "expected 150 classes, got 149" in result.output


def test_unwritable_out(small):
    (small / "file").touch()
    result = invoke("1", "--out", str(small / "file" / "out"))
    assert result.exit_code == 1
    assert f"{small / 'file' / 'out'}: a file is in the place of a folder: choose another name" in result.output


def test_pages_link_to_each_other_also_those_of_an_earlier_run(small):
    out = small / "out"
    write_notebook(small / "notebooks", "02_second", "1 + 1")
    for number in ("2", "1"):
        assert invoke(number, "--out", str(out)).exit_code == 0
    first, second = ((out / f"{name}.html").read_text() for name in ("01_first", "02_second"))
    assert 'href="02_second.html" rel=next' in first and 'href="01_first.html" rel=prev' in second
    assert "rel=prev" not in first and "rel=next" not in second


def test_copies_for_learners_keep_their_changes(tmp_path):
    assert execution.copy_notebooks(tmp_path / "work") == list(execution.list_notebooks())
    assert (tmp_path / "work" / "figures" / "result.png").is_file()
    mine = tmp_path / "work" / "01_install.ipynb"
    mine.write_text("changed")
    (tmp_path / "work" / "05_inference.ipynb").unlink()
    assert execution.copy_notebooks(tmp_path / "work") == ["05_inference"]
    assert mine.read_text() == "changed"


def test_lab_starts_where_the_copies_are_and_as_root_too(tmp_path, monkeypatch):
    import os
    import subprocess

    calls = []
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(subprocess, "call", lambda command, cwd: calls.append((command[1:], cwd)) or 0)
    done = CliRunner().invoke(main, ["lab", str(tmp_path / "work"), "--port", "9000"])
    assert done.exit_code == 0 and f"{len(execution.list_notebooks())} notebooks copied to" in done.output
    assert calls == [(["-m", "jupyterlab", "--allow-root", "--port", "9000"], tmp_path / "work")]
