"""The first cell of every notebook, and the project's public address wherever it stands.

The address is one constant, `home` under `[tool.m2f]` in pyproject.toml: empty until the project is published.
`release` writes it there, into the notebooks and into the README. While it is empty there is no link to Colab or
Kaggle, and no notebook installs anything by a bare name, which somebody else might own.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from m2f_helpers import files

FIRST_CELL = """\
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = ""  # public address of the project, empty until it is published
if any(importlib.util.find_spec(name) is None for name in ("m2f_helpers", "mmseg")):  # on a fresh Colab or Kaggle
    here, places = Path.cwd(), (".", "../input/*", "../input/datasets/*/*")
    wheels = [str(found) for place in places for found in here.glob(f"{place}/m2f_helpers-*.whl")]
    around = [str(folder) for folder in (here, *here.parents) if (folder / "m2f_helpers/__init__.py").is_file()]
    found = [os.environ.get("M2F_SOURCE"), max(wheels, key=os.path.getmtime, default=""), *around[:1]]
    source = next(filter(None, found), HOME and f"git+{HOME}")
    if not source:
        sys.exit("m2f-helpers is missing: put its wheel beside this notebook, or name it in the variable M2F_SOURCE")
    if importlib.util.find_spec("torch") is None:
        sys.exit("torch is missing: install the build that pytorch.org names for your machine, then run this again")
    pip = [sys.executable, "-m", "pip"]
    installed = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "kept.txt")  # pip adds what is missing, and refuses to replace what this kernel uses
        kept.write_text(installed)
        subprocess.run([*pip, "install", "--quiet", "--constraint", str(kept), source], check=True)
    importlib.invalidate_caches()
"""
HOME_LINE = re.compile(r'^HOME = ".*?"', flags=re.M)
BADGES = re.compile(r"\n\n\[Open in Colab\]\(.*?\) · \[Open in Kaggle\]\(.*?\)$")
PYPROJECT_LINE = re.compile(r'^home = "(.*?)"', flags=re.M)
README_LINKS = r"(?: · \[(?:page|Colab|Kaggle)\]\([^)]*\))*"  # in the README's table, behind a notebook's own link


def first_cell(home: str) -> str:
    """The first code cell of every notebook: on a fresh runtime it installs the package, elsewhere it does nothing."""
    return HOME_LINE.sub(f'HOME = "{home}"', FIRST_CELL).rstrip()


def open_links(home: str, name: str) -> dict[str, str]:
    """Addresses that open the notebook `name` in Colab and in Kaggle; none without an address."""
    path = f"{home.removeprefix('https://github.com/')}/blob/main/notebooks/{name}.ipynb"
    links = {
        "Colab": f"https://colab.research.google.com/github/{path}",
        "Kaggle": f"https://kaggle.com/kernels/welcome?src=https://github.com/{path}",
    }
    return links if home else {}


def badges(home: str, name: str) -> str:
    """The line below a notebook's title; "" without an address. Words, not images: those would come from elsewhere."""
    return " · ".join(f"[Open in {place}]({link})" for place, link in open_links(home, name).items())


def release(address: str, root: Path) -> list[Path]:
    """Write the public address into pyproject.toml, README and every notebook of a checkout; "" takes it out again.

    Returns: the files that changed.
    Raises: ValueError for anything but `https://github.com/OWNER/NAME`, or no checkout, before anything is written.
    """
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        expected = "expected an address like https://github.com/OWNER/NAME"
        raise ValueError(f"{expected}, got {address!r}: Colab opens no other")
    if not (root / "pyproject.toml").is_file() or not (root / "notebooks").is_dir():
        text = "holds no pyproject.toml beside notebooks/"
        raise ValueError(f"{root} {text}: call `m2f release` in a checkout of the project")
    names = [path.stem for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    edits = {root / "pyproject.toml": lambda text: PYPROJECT_LINE.sub(f'home = "{address}"', text)}
    edits[root / "README.md"] = lambda text: _with_links(text, address, names)
    edits |= {root / "notebooks" / f"{name}.ipynb": partial(_with_home, home=address, name=name) for name in names}
    before = {path: path.read_text(encoding="utf-8") for path in edits}
    after = {path: edit(before[path]) for path, edit in edits.items()}
    changed = [path for path in edits if after[path] != before[path]]
    for path in changed:
        files.write(path, after[path])
    return changed


def pages(home: str) -> str:
    """Address of the published site (GitHub Pages); "" without an address."""
    if not home:
        return ""
    owner, project = home.removeprefix("https://github.com/").split("/")
    return f"https://{owner.lower()}.github.io/{project}"


def _with_links(readme: str, home: str, names: list[str]) -> str:
    for name in names:
        links = f" · [page]({pages(home)}/notebooks/{name}.html)" if home else ""
        links += "".join(f" · [{place}]({link})" for place, link in open_links(home, name).items())
        readme = re.sub(rf"(\(notebooks/{name}\.ipynb\)){README_LINKS}", rf"\g<1>{links}", readme)
    return readme


def _with_home(text: str, home: str, name: str) -> str:
    """A notebook's JSON with the first cell and the links below the title as they have to be."""
    import nbformat  # heavy, and not needed by whoever only wants the template

    notebook = nbformat.reads(text, as_version=4)
    title, first = notebook.cells[0], next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = first_cell(home)
    title.source = BADGES.sub("", title.source) + (f"\n\n{badges(home, name)}" if home else "")
    return nbformat.writes(notebook) + "\n"
