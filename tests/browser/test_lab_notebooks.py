"""Notebooks 03 and 04 in a real JupyterLab: what is folded opens, and the stop button stops a training for good."""

from __future__ import annotations

import re

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from m2f_helpers.data.scenes.dataset import make_scenes
from tests.browser.lab import lab  # noqa: F401  a fixture
from tests.conftest import NOTEBOOKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 8
STOPPED = re.compile(r"stopped after step (\d+); go on with resume=True")


def with_values(source: str, **values) -> str:
    """A parameters cell with other values."""
    for name, value in values.items():
        source, found = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", source, flags=re.M)
        assert found == 1, name
    return source


def open_notebook(browser, lab, name: str, notebook):  # noqa: F811
    """A page with a notebook whose outputs are trusted."""
    NotebookNotary(data_dir=str(lab.folder.parent / "data")).sign(notebook)
    nbformat.write(notebook, lab.folder / f"{name}.ipynb")
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(150_000)
    lab.open(page, f"{name}.ipynb")
    return page


def code_cells(name: str) -> list[str]:
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def no_errors(page) -> bool:
    return page.locator("[data-mime-type='application/vnd.jupyter.error'], [data-mime-type*='stderr']").count() == 0


@pytest.fixture(scope="module")
def architecture(browser, lab, executed):  # noqa: F811
    """Notebook 03 as it is after Run All Cells: executed, saved and trusted, then opened."""
    notebook = nbformat.read(executed("03_architecture"), as_version=4)
    page = open_notebook(browser, lab, "03", notebook)
    page.wait_for_function("document.querySelectorAll('.m2f-index').length === 3")  # claims, write-up, source
    yield page
    page.context.close()


def test_nothing_went_wrong_and_every_image_has_words(architecture):
    assert no_errors(architecture)
    images = architecture.locator(".jp-OutputArea img")
    words = [images.nth(i).get_attribute("alt") for i in range(images.count())]
    assert len(words) >= 7 and all(words) and not any("No description" in text for text in words)


def test_what_is_folded_opens_and_shuts(architecture):
    boxes = architecture.locator(".m2f-index")
    assert boxes.count() == 3, "claims, write-up, source"
    for box in boxes.all():
        folded = box.locator("> details").first
        summary, inside = folded.locator("> summary"), folded.locator(".entry, .row pre").first
        assert not inside.is_visible()
        before = summary.screenshot()
        summary.click()
        assert inside.is_visible() and inside.inner_text().strip()
        summary.press("Enter")  # by keys too
        assert not inside.is_visible() and summary.screenshot() != before, "the focus is seen"
    empty = "all => all.filter(one => !one.querySelector('.entry, .row')).map(one => one.textContent.slice(0, 80))"
    assert boxes.locator("> details").evaluate_all(empty) == []


def test_the_write_up_leads_to_the_annotated_line(architecture):
    link = architecture.locator("a:text-is('annotated')").first
    line = architecture.locator(f"[id='{link.get_attribute('href').removeprefix('#')}']")
    assert not line.is_visible()
    for outside in link.locator("xpath=ancestor::details").all():
        outside.evaluate("details => { details.open = true }")
    link.click()
    line.wait_for(timeout=20_000)


@pytest.fixture(scope="module")
def training_page(browser, lab):  # noqa: F811
    """The cells of notebook 04 up to the training, on a few small scenes; then the same cell with `resume=True`."""
    make_scenes(lab.folder / "scenes", 8, 2, "dusk", size=[128, 128])
    needed = (
        "import importlib.util",
        "quiet()",
        "PROFILE =",
        "profile = get_profile",
        "edited = config.set_data",
        "training.train(edited",
    )
    cells = [next(text for text in code_cells("04_finetune") if words in text) for words in needed]
    cells[2] = with_values(cells[2], DATA_DIR="scenes", ITERATIONS=STEPS, CROP_SIZE=[96, 96])
    cells.append(cells[-1].replace("overwrite=True", "resume=True"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    page = open_notebook(browser, lab, "04", notebook)
    yield page
    page.context.close()


def test_the_stop_button_stops_the_training_which_goes_on_from_there(training_page, lab):  # noqa: F811
    page = training_page
    cells = page.locator(".jp-CodeCell")
    page.get_by_text("| Idle").wait_for()
    for i in range(cells.count() - 1):
        cells.nth(i).locator(".cm-content").press("Shift+Enter")
    train, again = (cells.nth(cells.count() - i) for i in (2, 1))  # not `last`: running that one adds another
    train.get_by_text(re.compile(rf"\b[2-9]/{STEPS}\s*\[")).wait_for()  # the bar moves
    page.get_by_role("button", name=re.compile("Interrupt the kernel")).click()
    said = STOPPED.search(train.get_by_text(STOPPED).inner_text())
    reached = int(said.group(1))
    assert 2 <= reached < STEPS and no_errors(page)
    [checkpoint] = lab.folder.glob("runs/finetune/iter_*.pth")
    assert checkpoint.name == f"iter_{reached}.pth"
    again.locator(".cm-content").press("Shift+Enter")
    again.get_by_text(f"{STEPS} steps in").wait_for()
    assert no_errors(page) and not STOPPED.search(again.inner_text())
    history = (lab.folder / "runs/finetune/history.csv").read_text().splitlines()
    assert [int(float(row.split(",")[0])) for row in history[1:]] == list(range(1, STEPS + 1))
    assert (lab.folder / f"runs/finetune/iter_{STEPS}.pth").is_file()
