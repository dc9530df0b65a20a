"""A real JupyterLab on 127.0.0.1 for the tests that need one; a test file imports the fixture `lab`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SETTINGS = {  # every cell stays in the page; no news, no question
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


class Lab:
    """A running JupyterLab: `folder` holds its notebooks, `address` opens them."""

    def __init__(self, folder: Path, address: str):
        self.folder, self.address = folder, address

    def open(self, page: Any, name: str) -> None:
        """Show a notebook of the folder and wait until it stands there."""
        page.goto(f"{self.address}/lab/workspaces/{time.monotonic_ns()}/tree/{name}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")

    def run_all(self, page: Any, timeout: float = 300) -> None:
        """Run All Cells, and wait until the last one has run."""
        page.get_by_text("| Idle").wait_for()  # the kernel is there
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator("[data-command='runmenu:run-all']").click()
        last = ".jp-CodeCell:last-of-type .jp-InputPrompt"
        page.wait_for_function(
            "last => /\\d/.test([...document.querySelectorAll(last)].pop().textContent)",
            arg=last,
            timeout=timeout * 1000,
        )


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory) -> Iterator[Lab]:
    """JupyterLab in an empty folder."""
    root = tmp_path_factory.mktemp("lab")
    for name in ("work", "data"):
        (root / name).mkdir()
    for name, values in SETTINGS.items():
        path = root / "config" / "lab" / "user-settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with _server(root) as address:
        yield Lab(root / "work", address)


@contextmanager
def _server(root: Path) -> Iterator[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(root / "ipython")}
    env |= {f"JUPYTER_{kind.upper()}_DIR": str(root / kind) for kind in ("config", "data", "runtime")}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(root / "config" / "lab" / "user-settings")}
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces")}
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    options += ["--IdentityProvider.token=", "--ServerApp.password="]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(root / "log.txt", "w") as log:
        server = subprocess.Popen(command, cwd=root / "work", env=env, stdout=log, stderr=log)
        try:
            yield _address(root, server)
        finally:
            server.terminate()
            server.wait(30)


def _address(root: Path, server: subprocess.Popen) -> str:
    """Where the server listens, once it does."""
    for _ in range(600):
        for path in (root / "runtime").glob("jpserver-*.json"):
            return json.loads(path.read_text())["url"].rstrip("/")
        assert server.poll() is None, (root / "log.txt").read_text()[-2000:]
        time.sleep(0.2)
    raise AssertionError((root / "log.txt").read_text()[-2000:])
