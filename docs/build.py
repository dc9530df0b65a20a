"""The site: all notebooks as they ran, claims, notes, the write-up and the reference. Usage: build.py RUNS OUT"""

from __future__ import annotations

import pkgutil
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import m2f_helpers  # isort: skip  first of all
import nbformat
from sphinx.cmd.build import build_main

from m2f_helpers import execution, export
from m2f_helpers.architecture import claims, pages, reference
from m2f_helpers.quiet import quiet

ROOT = Path(__file__).resolve().parent.parent
TOCTREE = """
```{{toctree}}
:hidden:
:caption: {caption}

{entries}
```
"""
FOLDED = """<details><summary>the cell that installs on a fresh runtime</summary>

```python
{}
```

</details>"""
REFERENCE = """{title}
{line}

.. automodule:: {module}
   :members:
   :exclude-members: set

"""


def main(runs: Path, out: Path) -> int:
    """Build the site from the executed notebooks in `runs` into the folder `out`, which is replaced as a whole.

    Returns: 0, or Sphinx's exit status.
    Raises: ValueError if a notebook has not been executed.
    """
    notebooks = read_notebooks(runs)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder, "source"), Path(folder, "built")
        shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("build.py", "__pycache__", "_build"))
        write_notebooks(notebooks, source / "notebooks")
        write_claims(source)
        modules = write_reference(source / "reference")
        write_front(source, list(notebooks), modules)
        status = build_main(["-q", "-b", "html", "-d", str(Path(folder, "trees")), str(source), str(built)])
        if status == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(built, out)
    return status


def read_notebooks(runs: Path) -> dict[str, Any]:
    """The executed notebooks, by name. The optional ones (06 and later) may be missing."""
    found = {}
    for name in execution.list_notebooks():
        path = runs / f"{name}.ipynb"
        if path.is_file():
            found[name] = nbformat.read(path, as_version=4)
        elif name < execution.OPTIONAL_FROM:
            raise ValueError(f"{path} is missing: call `m2f run --out {runs}` first")
    return found


def write_notebooks(notebooks: dict[str, Any], folder: Path) -> None:
    """Write them as pages need them: static, and with the cell for a fresh runtime folded."""
    shutil.copytree(ROOT / "notebooks" / "figures", folder / "figures")
    for name, notebook in notebooks.items():
        static = export.static_outputs(notebook)
        first = next(k for k, cell in enumerate(static.cells) if cell.cell_type == "code")
        static.cells[first] = nbformat.v4.new_markdown_cell(FOLDED.format(static.cells[first].source))
        nbformat.write(static, folder / f"{name}.ipynb")


def write_claims(source: Path) -> None:
    """Three pages from one run of the published model: all claims by group, the write-up, all source notes."""
    evidence = reference.reference_run()
    checked = claims.check(evidence)
    groups = claims.by_group(checked).items()
    sections = [f"## {title}\n\n{raw(pages.claims_page(entries), unfold=True)}" for title, entries in groups]
    told = "What we say about Mask2Former, checked on the installed source and a run while this site was built."
    (source / "claims.md").write_text("\n\n".join([f"# Statements, checked\n\n{told}", *sections]), encoding="utf-8")
    for name, title, page in (
        ("write_up", "What the write-up said, what runs", pages.write_up(checked, "source.html")),
        ("source", "The source, with notes", pages.source_index(evidence.record)),
    ):
        (source / f"{name}.md").write_text(f"# {title}\n\n{raw(page)}\n", encoding="utf-8")


def raw(page: Any, unfold: bool = False) -> str:
    """HTML as a part of a Markdown page."""
    text = page.data.replace("<details>", "<details open>") if unfold else page.data
    return f"````{{raw}} html\n{text}\n````"


def write_reference(folder: Path) -> list[str]:
    """One page for each folder of the package, from the docstrings; the package's own modules come first."""
    folder.mkdir()
    groups: dict[str, list[str]] = {"m2f_helpers": []}
    for module in pkgutil.walk_packages(m2f_helpers.__path__, "m2f_helpers."):
        parts = module.name.split(".")
        if module.ispkg and len(parts) == 2:
            groups[parts[1]] = [module.name]
        elif parts[-1] != "__main__":
            groups.get(parts[1], groups["m2f_helpers"]).append(module.name)
    for group, modules in groups.items():
        text = f"{group}\n{'=' * len(group)}\n\n"
        text += "".join(REFERENCE.format(title=module, line="-" * len(module), module=module) for module in modules)
        (folder / f"{group}.rst").write_text(text, encoding="utf-8")
    return list(groups)


def write_front(source: Path, notebooks: list[str], modules: list[str]) -> None:
    """The README is the front page; behind it stands the table of contents."""
    shutil.copyfile(ROOT / "CONTRIBUTING.md", source / "CONTRIBUTING.md")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in execution.list_notebooks() if name not in notebooks]
    for name in missing:
        text = re.sub(rf"\[([^]]*)\]\(notebooks/{name}\.ipynb\)", r"\1", text)
    for caption, entries in (
        ("Notebooks", [f"notebooks/{name}" for name in notebooks]),
        ("Checked", ["claims", "write_up", "source"]),
        ("Reference", [f"reference/{module}" for module in modules]),
        ("Project", ["CONTRIBUTING"]),
    ):
        text += TOCTREE.format(caption=caption, entries="\n".join(entries))
    (source / "index.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except (ValueError, OSError) as error:
        sys.exit(f"docs/build.py: {error}")
