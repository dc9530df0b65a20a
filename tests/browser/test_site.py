"""The built site in Chromium: whole, alone, readable by everybody, on a phone and on paper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup

from tests.browser.conftest import SERIOUS
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NOTEBOOKS = [f"notebooks/{path.stem}" for path in sorted((ROOT / "notebooks").glob("0[1-5]_*.ipynb"))]
LOOKED_AT = ["index", "claims", "write_up", "source", "search", "reference/inference", *NOTEBOOKS]
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def site(executed, tmp_path_factory) -> Path:
    """The site, built from the notebooks that this suite has executed; or the one that M2F_SITE names."""
    pytest.importorskip("sphinx_book_theme", reason="the site's packages are missing: pip install -e '.[site]'")
    if "M2F_SITE" in os.environ:
        return Path(os.environ["M2F_SITE"])
    out = tmp_path_factory.mktemp("site") / "site"
    runs = [executed(path.stem).parent for path in sorted((ROOT / "notebooks").glob("0*.ipynb"))]
    command = [sys.executable, "docs/build.py", str(runs[0]), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
    assert lines == [], "Sphinx complains"
    return out


@pytest.fixture(scope="session")
def address(site, serve) -> str:
    return serve(site)


def soups(site: Path) -> dict[str, BeautifulSoup]:
    pages = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    return {str(path.relative_to(site)): BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in pages}


def test_everything_is_there_and_small(site):
    assert [name for name in LOOKED_AT if not (site / f"{name}.html").is_file()] == []
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) <= 30e6
    text = {name: (site / f"{name}.html").read_text(encoding="utf-8") for name in LOOKED_AT}
    assert text["claims"].count('class="entry') >= 60 and " FALSE" not in text["claims"]
    assert text["source"].count('class="note"') >= 80
    assert "m2f_helpers.inference.segment.segment" in text["reference/inference"]
    for name in NOTEBOOKS:
        assert "<img" in text[name] and "No description" not in text[name]


def test_no_link_and_no_image_is_broken_and_every_image_has_words(site):
    pages = soups(site)
    ids = {name: {tag["id"] for tag in soup.select("[id]")} for name, soup in pages.items()}
    broken, silent = [], []
    for name, soup in pages.items():
        silent += [(name, str(image)[:80]) for image in soup.select("main img") if not image.get("alt", "").strip()]
        found = [tag["href"] for tag in soup.select("a[href]")] + [tag["src"] for tag in soup.select("img[src]")]
        for link in found:
            parts = urlsplit(urljoin(f"http://site/{name}", link)) if not link.startswith("data:") else None
            if parts is None or parts.netloc != "site":
                continue
            target = parts.path.lstrip("/") or name
            if not (site / target).is_file() or (parts.fragment and parts.fragment not in ids.get(target, set())):
                broken.append((name, link))
    assert broken == []
    assert silent == []


def test_search_finds_a_claim_and_a_function(browser, address):
    page = browser.new_page()
    for words, where in (("masked attention", "claims"), ("deformable_attention", "reference")):
        page.goto(f"{address}/search.html?q={words}")
        page.wait_for_selector("#search-results li a", timeout=20_000)
        assert any(where in link.get_attribute("href") for link in page.query_selector_all("#search-results li a"))
    page.close()


@pytest.fixture(scope="module", params=LOOKED_AT)
def opened(request, browser, address):
    """A page on a phone, the requests it made elsewhere and the errors it reported."""
    page = browser.new_page(viewport=PHONE, color_scheme="light")
    page.foreign, page.errors = [], []
    page.on("request", lambda it: None if it.url.startswith((address, "data:")) else page.foreign.append(it.url))
    page.on("console", lambda it: page.errors.append(it.text) if it.type == "error" else None)
    page.on("pageerror", lambda it: page.errors.append(str(it)))
    page.goto(f"{address}/{request.param}.html", wait_until="networkidle")
    yield page
    page.close()


def test_a_page_stands_alone(opened):
    assert opened.foreign == [] and opened.errors == []


def test_a_page_fits_a_phone(opened):
    assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_nobody_is_shut_out_in_light_and_in_the_dark(opened, axe):
    opened.evaluate(axe)
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        opened.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        assert opened.evaluate(SERIOUS) == []


def test_paper_keeps_the_notes(browser, address):
    page = browser.new_page(viewport={"width": 794, "height": 1123})  # A4 at 96 dots per inch
    page.emulate_media(media="print")
    page.goto(f"{address}/source.html")
    page.evaluate("document.querySelectorAll('details').forEach(entry => entry.open = true)")
    note, sheet = page.query_selector(".m2f-src .note").bounding_box(), page.viewport_size["width"]
    assert note["width"] > 200 and note["x"] >= 0 and note["x"] + note["width"] <= sheet
    page.close()
