"""A real browser: Chromium by Playwright. Without one, the tests that need it are skipped with the reason."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ALONE = [  # root in a container has no sandbox; the rest keeps the browser from looking for its maker's hosts
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, one per process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[browser]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium, or install Chrome")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ALONE)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def executed(request) -> Callable[[str], Path]:
    """`executed(name)` is the file of a notebook that this suite has executed; or the one below M2F_RUNS."""
    if "M2F_RUNS" in os.environ:
        return lambda name: Path(os.environ["M2F_RUNS"]) / f"{name}.ipynb"
    return lambda name: request.getfixturevalue("tutorial")[name].path


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which looks for what shuts people out."""
    if not AXE.is_file():
        pytest.skip("axe-core is missing: npm install --prefix tests/browser --no-package-lock")
    return AXE.read_text(encoding="utf-8")


SERIOUS = """axe.run({resultTypes: ['violations']}).then(found => found.violations
    .filter(rule => ['serious', 'critical'].includes(rule.impact))
    .map(rule => [rule.id, rule.nodes[0].html.slice(0, 120)]))"""


class Silent(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture(scope="session")
def serve() -> Iterator:
    """`serve(folder)` gives the address under which the folder's files are, on this machine only."""
    servers = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
