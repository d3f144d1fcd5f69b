"""A real JupyterLab in a real Chromium, driven as a learner drives it: menu, mouse and keyboard.

What no learner does with the mouse (scroll to a cell, ask whether all have run) goes through JupyterLab's own
application object, which does not depend on how a version names its parts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HELPERS = Path(__file__).with_suffix(".js").read_text()
WAIT = 120_000  # milliseconds, for anything that happens once a page; a busy machine takes half of it
TOKEN = "a-test-of-the-course"
# Milliseconds from event to pixels, at the 95th percentile: what is promised on two cores that do nothing else, and
# three times as much for a slower machine.
ALLOWED = 3.0 * 300
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Jupyter's own folders, so that a learner's settings neither change a test nor are changed by it.
_FOLDERS = {
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
    "ALIGNKD_ANSWERS": "answers",
    "ALIGNKD_OUT": "out",
}


def find_chromium(playwright) -> str | None:
    """The machine's Chromium or Chrome, else Playwright's own, else None."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    own = Path(playwright.chromium.executable_path)
    return found or (str(own) if own.exists() else None)


def launch(playwright, executable: str):
    """A headless browser; Chromium's sandbox refuses to run as root."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"] if root else [])


@contextlib.contextmanager
def jupyterlab(notebooks: Path, work: Path, *options: str) -> Iterator[str]:
    """A server on a free port, with its folders under `work` and further options; gives its address.

    Raises:
        RuntimeError: it ended or does not answer, with the last lines that it wrote.
    """
    folders = {name: work / folder for name, folder in _FOLDERS.items()}
    quiet = folders["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    settings = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (quiet / "notification.jupyterlab-settings").write_text(json.dumps(settings))
    port, log = _free_port(), work / "jupyterlab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--ServerApp.root_dir={notebooks}", "--LabApp.expose_app_in_browser=True"]
    command += options
    # Two kernels with two threads each would wait for one another on two cores.
    environment = os.environ | {name: str(folder) for name, folder in folders.items()} | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as told:
        server = subprocess.Popen(command, env=environment, stdout=told, stderr=subprocess.STDOUT, cwd=work)
    try:
        _await_answer(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def _await_answer(address: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + WAIT / 1000
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    if server.poll() is None:
        server.kill()
    raise RuntimeError(f"JupyterLab does not answer. Its last lines:\n{log.read_text()[-2000:]}")


class Lab:
    """A notebook that is open in JupyterLab.

    Args:
        page: of Playwright; it is taken over.
        address: of the server.
        name: of the notebook's file.
        pictures: the folder for screenshots.
        kernel: whether the server has one; without, JupyterLab's question for one is answered with "No Kernel".
    """

    def __init__(self, page, address: str, name: str, pictures: Path, kernel: bool = True) -> None:
        self.page, self.name, self.pictures = page, name, pictures
        page.set_default_timeout(WAIT)
        page.goto(f"{address}/lab/tree/{name}?token={TOKEN}&reset")
        page.wait_for_function("window.jupyterapp?.shell.currentWidget?.content?.widgets?.length > 1")
        page.evaluate(HELPERS)
        if kernel:
            page.wait_for_function("lab.kernel()?.connectionStatus === 'connected'")
        else:
            page.locator(".jp-Dialog", has_text="No Kernel").locator("button.jp-mod-accept").click()

    def run_all(self) -> None:
        """By the menu."""
        self.page.locator('.lm-MenuBar-itemLabel:text-is("Run")').click()
        self.page.locator('.lm-Menu-itemLabel:text-is("Run All Cells")').click()

    def show_me(self, bare: int) -> list[int]:
        """Press every "Show me"; by press, how many more pictures the page then shows. The first `bare` have none."""
        from playwright.sync_api import TimeoutError as Late

        button = button_of(self.page, "Show me")
        shown = []
        while button.count():
            left, before = button.count(), self.page.evaluate("lab.pictures()")
            button.first.scroll_into_view_if_needed()
            button.first.click()
            self.page.wait_for_function(f"lab.buttons('Show me') < {left}")
            if len(shown) >= bare:
                with contextlib.suppress(Late):  # a chart's first drawing waits for JupyterLab to fetch Vega
                    self.page.wait_for_function(f"lab.pictures() > {before}", timeout=WAIT / 4)
            shown.append(self.page.evaluate("lab.pictures()") - before)
        return shown

    def screenshot(self, name: str, of=None) -> Path:
        """The window, or the element `of`, as a file."""
        path = self.pictures / f"{self.name[:2]}-{name}.png"
        (of or self.page).screenshot(path=path)
        return path


def button_of(root, name: str):
    """A widget's button by its text; its name in the accessibility tree may begin with an icon's glyph."""
    return root.locator(f'.widget-button:text-is("{name}")')


def pictures(tmp_path_factory) -> Path:
    """Where screenshots go; `ALIGNKD_SCREENSHOTS` names a folder that outlives the test."""
    named = os.environ.get("ALIGNKD_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def starved() -> float:
    """How many times longer than its own time a loop takes now, because other programs run, too."""
    wall, own = time.perf_counter(), time.process_time()
    while time.process_time() - own < 0.1:
        sum(range(1000))
    return (time.perf_counter() - wall) / (time.process_time() - own)


def assert_charts_move(lab: Lab, charts: int = 1) -> None:
    """At least so many charts have sliders, and each of theirs leads to new pixels in time."""
    load = starved()
    moved = lab.page.evaluate("lab.moveCharts(2)")
    assert len(moved) >= charts, moved
    assert all(moved), moved
    late, load = np.percentile([wait for chart in moved for wait in chart], 95), max(load, starved())
    assert late < ALLOWED * load, f"{late:.0f} ms at a load of {load:.1f}"
