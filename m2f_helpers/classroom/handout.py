"""Two A4 pages of a notebook, for paper: what is learnt, the figures, the summary, the exercises."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import nbformat

from m2f_helpers import export, files
from m2f_helpers.classroom.slides import without_notes
from m2f_helpers.resources import resource

FIGURES = 4
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
# Alone, headless, and talking to nobody; a browser does not start as root with its sandbox.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--no-pdf-header-footer"]


def write(folder: Path, name: str, executed: Any, title: str) -> Path:
    """Write the handout: `NAME.pdf` where a browser is found, else `NAME.html`, made for print."""
    text = page(executed, title)
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    path = folder / f"{name}.{'pdf' if browser else 'html'}"
    if browser is None:
        files.write(path, text)
        return path
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        source, made = Path(temporary) / "page.html", Path(temporary) / "page.pdf"
        source.write_text(text, encoding="utf-8")
        command = [browser, *FLAGS, f"--user-data-dir={temporary}/profile", f"--print-to-pdf={made}", source.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if not made.is_file():
            raise OSError(f"{browser} could not print {name}: {done.stderr.strip()[-200:]}")
        files.write(path, made.read_bytes())
    return path


def page(executed: Any, title: str) -> str:
    """The handout as one HTML page."""
    shown = without_notes(executed)
    text = "\n\n".join(cell.source for cell in shown.cells if cell.cell_type == "markdown")
    tasks = re.findall(r"^### ((?:Exercise|Project) \d\d.*?)(?=^### |^## |\Z)", text, re.M | re.S)
    blocks = "".join(f"<div>{_html('### ' + task)}</div>" for task in tasks)
    figures = "".join(f"<figure>{image}</figure>" for image in figures_of(shown)[:FIGURES])
    style = resource("classroom/texts/handout.css").read_text(encoding="utf-8")
    learn, summary = (_html(_part(text, heading)) for heading in ("What you will learn", "Summary"))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style></head><body>
<p class="name">Name: ______________________</p><h1>{html.escape(title)}</h1>
{learn}<div class="figures">{figures}</div><h2>In short</h2>{summary}
<div class="exercises"><h2>Exercises</h2>{blocks}</div></body></html>
"""


def figures_of(executed: Any) -> list[str]:
    """The figures as `<img>`, spread over the notebook: the largest of each quarter first comes first."""
    shown = export.static_outputs(executed)
    outputs = [output.get("data", {}) for cell in shown.cells for output in cell.get("outputs", [])]
    texts = ["".join(data.get("text/html", "")) for data in outputs]
    images = [image for text in texts for image in re.findall(r"<img[^>]*base64[^>]*>", text)]
    if len(images) <= FIGURES:
        return images
    step = len(images) / FIGURES
    quarters = [images[round(i * step) : round((i + 1) * step)] for i in range(FIGURES)]
    return [max(quarter, key=len) for quarter in quarters]


def _part(text: str, heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found[1] if found else ""


def _html(markdown: str) -> str:
    return export.body(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown)]))
