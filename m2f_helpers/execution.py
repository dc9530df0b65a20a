"""Runs the numbered notebooks headlessly: papermill underneath, strict about names, with a record of what came out."""

from __future__ import annotations

import ast
import base64
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from m2f_helpers import export, files
from m2f_helpers.palette import ade20k_palette, load_palette
from m2f_helpers.profiles import get_profile
from m2f_helpers.quiet import one_line, shortened
from m2f_helpers.records import read_records, shown
from m2f_helpers.resources import resource

OPTIONAL_FROM = "06"
_OWN_DATA = "06_own_data"  # takes data in any form that `m2f convert` reads
_ADE20K_ONLY = "02_resize_ade20k"


@dataclass(frozen=True)
class NotebookRun:
    """What one executed notebook left behind. `seconds` is wall time; `error` is "" or one sentence."""

    name: str
    path: Path
    seconds: float
    records: dict[str, Any]
    error: str = ""


def list_notebooks() -> dict[str, Path]:
    """The numbered notebooks that travel with the package, `{name: path}`, in order."""
    return {path.stem: path for path in sorted(resource("notebooks").glob("[0-9][0-9]_*.ipynb"))}


def find_notebooks(wanted: Iterable[str]) -> dict[str, Path]:
    """Look notebooks up by number ("4", "04"), by name ("04_finetune", "finetune") or by file name.

    None named means the five of the tutorial; the optional ones run when they are named. ValueError for an unknown one.
    """
    known = list_notebooks()
    found = {}
    for word in wanted:
        key = Path(word).stem if word.endswith(".ipynb") else word
        matches = [name for name in known if key in (name, name[:2], name[:2].lstrip("0"), name[3:])]
        if len(matches) != 1:
            raise ValueError(f"there is no notebook {word!r}; there are {', '.join(known)}")
        found[matches[0]] = known[matches[0]]
    return found or {name: path for name, path in known.items() if name < OPTIONAL_FROM}


def read_parameters(path: Path) -> dict[str, Any]:
    """Names and default values of a notebook's `parameters` cell; ValueError if there is not exactly one such cell.

    papermill's own `inspect_notebook` reads line by line and gives up where a comment holds an equals sign.
    """
    cells = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path}: expected one cell tagged `parameters`, got {len(cells)}")
    assignments = [node for node in ast.parse(cells[0].source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def parse_parameters(words: Iterable[str]) -> dict[str, Any]:
    """Turn `NAME=VALUE` words into values: JSON where it is JSON, else text. ValueError for a word without a name."""
    parameters = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"expected NAME=VALUE, got {word!r}")
        try:
            parameters[name] = json.loads(text)
        except json.JSONDecodeError:
            parameters[name] = text
    return parameters


def check_parameters(notebooks: Mapping[str, Path], parameters: Mapping[str, Any]) -> None:
    """ValueError for what papermill would only warn about: a name no notebook has, or a value of another type."""
    defaults = {name: read_parameters(path) for name, path in notebooks.items()}
    for name, value in parameters.items():
        owners = [notebook for notebook, known in defaults.items() if name in known]
        if not owners:
            all_names = sorted({known for names in defaults.values() for known in names})
            raise ValueError(f"no chosen notebook has a parameter {name}; there are {', '.join(all_names)}")
        default = defaults[owners[0]][name]
        kinds = (int, float) if isinstance(default, float) else type(default)
        alike = isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)
        if default is not None and not alike:
            raise ValueError(f"{name}: expected a value like {default!r}, got {value!r}")


def run_notebook(name: str, path: Path, out: Path, parameters: Mapping[str, Any]) -> NotebookRun:
    """Execute one notebook into the folder `out`, as `<name>.ipynb`; parameters that it lacks are left out.

    While it runs, and if a cell fails, the notebook lies beside it as `<name>.partial.ipynb`.
    """
    known = read_parameters(path)
    chosen = {key: value for key, value in parameters.items() if key in known}
    partial, final = out / f"{name}.partial.ipynb", out / f"{name}.ipynb"
    options = {"parameters": chosen, "kernel_name": "python3", "cwd": str(out)}
    options["progress_bar"] = {"desc": f"{name:16}", "unit": "cell", "leave": False}
    options["extra_arguments"] = ["--IPKernelApp.log_level=40"]  # no warning about the kernel's own sockets
    started, error = time.monotonic(), ""
    try:
        papermill.execute_notebook(str(path), str(partial), **options)
    except (PapermillExecutionError, CellTimeoutError, DeadKernelError) as failure:
        error = f"{name} failed in {_where(failure)}; the partly executed notebook is {partial}"
    seconds = time.monotonic() - started
    notebook = nbformat.read(partial, as_version=4)
    if not error:
        os.replace(partial, final)
    return NotebookRun(name, partial if error else final, seconds, read_records(notebook), error)


def write_pages(out: Path, names: Iterable[str]) -> None:
    """Write `<name>.html` for executed notebooks in `out`; a page that is new makes the others link to it."""
    there = [name for name in list_notebooks() if (out / f"{name}.ipynb").is_file()]
    notebooks = {name: nbformat.read(out / f"{name}.ipynb", as_version=4) for name in there}
    titles = {name: export.title_of(notebook) or name for name, notebook in notebooks.items()}
    chosen = set(names)
    if any(not (out / f"{name}.html").exists() for name in chosen):
        chosen = set(there)
    for name in [name for name in there if name in chosen]:
        files.write(out / f"{name}.html", export.page(notebooks[name], name, titles))


def run_notebooks(
    wanted: Iterable[str] = (),
    profile: str = "demo",
    data: Path | None = None,
    out: Path = Path("runs"),
    parameters: Mapping[str, Any] | None = None,
) -> bool:
    """Run notebooks one after the other and print a line for each; stops at the first that fails.

    Args:
        wanted, profile, data: as for `m2f run`.
        out: folder for notebooks, HTML, `records.json` and everything the notebooks write.
        parameters: further parameters, by name.

    Returns: True if every cell of every notebook ran.
    Raises: ValueError or OSError, before anything runs, for bad input.
    """
    notebooks = find_notebooks(wanted)
    extra = dict(parameters or {})
    check_parameters(notebooks, extra)
    get_profile(profile)
    load_palette()
    if data is not None:
        files.check_apart(data, out)
        _check_data(data, notebooks)
    out = Path(out).resolve()
    common = {"PROFILE": profile, "DATA_DIR": str(data.resolve()) if data else "", "OUT_DIR": str(out)}
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # a debugger's start-up warning in every kernel
    with files.locked(out):
        files.remove_orphans(out)
        done = _run_each(notebooks, out, common | extra)
        write_pages(out, done)
    if len(done) < len(notebooks):
        return False
    print(f"notebooks, HTML and records.json are in {out}", flush=True)
    return True


def _run_each(notebooks: Mapping[str, Path], out: Path, parameters: Mapping[str, Any]) -> list[str]:
    """Run notebooks until one fails, with a line and the records of each; the names of those that ran."""
    done, path = [], out / "records.json"
    for name, source in notebooks.items():
        run = run_notebook(name, source, out, parameters)
        numbers = "  ".join(f"{key}={shortened(shown(value), 40)}" for key, value in run.records.items())
        print(f"{name:18} {run.seconds:6.1f} s  {numbers}", flush=True)
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}  # other notebooks' stay
        files.write(path, json.dumps(before | {name: run.records}, indent=2) + "\n")
        if run.error:
            print(run.error, flush=True)
            break
        done.append(name)
    return done


def copy_notebooks(folder: Path) -> list[str]:
    """Copy the notebooks and their figures to where a learner may change them, if they are not there; their names."""
    sources = [*list_notebooks().values(), *(resource("notebooks") / "figures").glob("*.png")]
    targets = [folder / path.relative_to(resource("notebooks")) for path in sources]
    new = [(source, target) for source, target in zip(sources, targets, strict=True) if not target.exists()]
    for source, target in new:
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, source.read_bytes())
    return [target.stem for _, target in new if target.suffix == ".ipynb"]


def _check_data(data: Path, notebooks: Iterable[str]) -> None:
    """Say what the folder holds; refuse one that a chosen notebook cannot work with."""
    from m2f_helpers.data.formats.detection import detect
    from m2f_helpers.data.layout import is_root, read_data

    if list(notebooks) == [_OWN_DATA] and not is_root(data):
        print(f"data: {data}, {': '.join(detect(data))}")
        return
    found = read_data(data).need()
    if _ADE20K_ONLY in notebooks and found.classes.names != ade20k_palette().names:
        raise ValueError(
            f"{data} has classes of its own ({', '.join(found.classes.names[:3])}, ...) and notebook 02 is about "
            f"ADE20K's numbers: m2f run 04 05 06 --data {data}"
        )
    print(f"data: {found}")


def _where(failure: Exception) -> str:
    if isinstance(failure, PapermillExecutionError):
        head = next((line for line in failure.source.splitlines() if line.strip()), "")
        return f"cell {failure.cell_index} ({head.strip()[:60]!r}): {failure.ename}: {failure.evalue}"
    return one_line(failure, 300)


def export_figures(notebook: Any, folder: Path) -> list[Path]:
    """Write the figures of an executed notebook that the README shows: cells tagged `figure-NAME` become `NAME.png`.

    Returns: the files written. Raises: ValueError if a tagged cell has no figure.
    """
    written = []
    for cell in notebook.cells:
        names = [tag.removeprefix("figure-") for tag in cell.metadata.get("tags", []) if tag.startswith("figure-")]
        for name in names:
            drawn = [o["data"]["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
            if not drawn:
                raise ValueError(f"the cell tagged figure-{name} has no figure: was the notebook executed?")
            path = Path(folder) / f"{name}.png"
            files.write(path, base64.b64decode(drawn[0]))
            written.append(path)
    return written
