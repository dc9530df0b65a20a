"""The page that `m2f run` writes of notebook 03, the one with most in it, in Chromium."""

from __future__ import annotations

import shutil

import pytest

from m2f_helpers import execution
from tests.browser.conftest import SERIOUS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NAME = "03_architecture"


@pytest.fixture(scope="module")
def opened(browser, executed, tmp_path_factory, serve):
    """The page on a phone, with what it asked for elsewhere."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copyfile(executed(NAME), folder / f"{NAME}.ipynb")
    execution.write_pages(folder, [NAME])
    address = serve(folder)
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="light")
    page.foreign = []
    page.on("request", lambda it: None if it.url.startswith((address, "data:")) else page.foreign.append(it.url))
    page.goto(f"{address}/{NAME}.html", wait_until="networkidle")
    yield page
    page.close()


def test_it_stands_alone_and_fits_a_phone(opened):
    assert opened.foreign == []
    assert opened.title() == "03 Architecture · Mask2Former tutorial"
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_images_are_loaded_and_described(opened):
    images = opened.evaluate("[...document.images].map(image => [image.naturalWidth, image.alt])")
    assert len(images) >= 5 and all(width > 0 and len(alt) > 10 for width, alt in images)
    assert not any("No description" in alt for _, alt in images)


def test_no_hint_is_cut_off(opened):
    said = opened.evaluate(
        "[...document.querySelectorAll('.output_text:not(.output_stream) pre')]"
        ".map(it => [it.textContent, it.scrollWidth <= it.clientWidth])"
    )
    assert sum("Hint: " in text for text, _ in said) >= 4
    assert all(whole for _, whole in said), [text for text, whole in said if not whole]


def test_annotated_source_is_indented_as_it_is_written(opened):
    lines = opened.evaluate("[...document.querySelectorAll('.m2f-src .row pre')].map(line => line.textContent)")
    deep = [line for line in lines if line.startswith("        ") and line.strip()]
    assert len(lines) >= 500 and len(deep) >= len(lines) / 2


def test_nobody_is_shut_out_in_light_and_in_the_dark(opened, axe):
    opened.evaluate(axe)
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        assert opened.evaluate(SERIOUS) == []
