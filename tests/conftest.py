"""Options and surroundings that every test shares."""

import gc
import os
import subprocess
import sys
from pathlib import Path

# Set before torch is imported: with one worker a core, more threads each would only get in one another's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where tests put their tensors")


def pytest_collection_modifyitems(items):
    # What takes longest begins first (with --no-loadscope-reorder), or one worker would wait for it at the end.
    longest = [f"test_{name}.py" for name in ("lab", "ranks", "kills", "training", "experiment", "explorer_run_panel")]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))
    for item in items:
        if "device" in item.fixturenames:
            item.add_marker("gpu")


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """The trainer collects garbage at each start and end; what is already imported need not be searched every time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def device(request) -> str:
    return request.config.getoption("--device")


@pytest.fixture
def world(tmp_path):
    """A language world of tiny models."""
    from tiny_lm import world_in

    return world_in(tmp_path)


@pytest.fixture
def trained(monkeypatch):
    """What every training of a stage was given, and what its loss says while its teachers can be asked; none trains."""
    from tiny_lm import look_at_training

    return look_at_training(monkeypatch)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the pages, built from the saved notebooks."""
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "notebooks/site"]
    done = subprocess.run(
        [*command, "-d", str(folder / "trees"), "notebooks", str(folder / "site")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; a machine without one skips its tests, except in CI."""
    from browser import find_chromium, launch
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        executable = find_chromium(playwright)
        if executable is None:
            missing = "no Chromium on this machine: install the package chromium, or run `playwright install chromium`"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
        opened = launch(playwright, executable)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def open_page(browser, tmp_path_factory):
    """A page from the disk, with the network off and, unless asked for, little motion; it keeps its script's errors."""
    from alignkd_lab.course.playground import write

    path = tmp_path_factory.mktemp("playground") / "playground.html"
    write(path)

    def open_page(link: str = "", **options):
        page = browser.new_context(offline=True, **{"reduced_motion": "reduce", **options}).new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(path.as_uri() + link)
        page.wait_for_function("document.querySelector('.pg').result()", timeout=120_000)
        return page

    return open_page
