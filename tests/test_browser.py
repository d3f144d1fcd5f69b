"""The course in a real browser: every cell runs, every slider moves its chart, and soon enough.

`make test` says so where there is no Chromium; on a machine that sets CI, its absence is a failure.
"""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from browser import Lab, button_of, copy_notebooks, jupyterlab

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
STUDY, BARE = "07_both_orders_on_smollm2.ipynb", 4  # is run; its predictions without a picture, which come first
LENS = "06_advantage_guided_distillation.ipynb"
# Opened as saved: how many charts have sliders of their own, and how many predictions wait.
SAVED = {"01_recall_and_the_reference.ipynb": (3, 2), "03_both_orders_on_gaussians.ipynb": (3, 2), LENS: (1, 1)}
NO_KERNELS = ("--KernelSpecManager.ensure_native_kernel=False", "--KernelSpecManager.allowed_kernelspecs=none")
PROMISED = 300  # milliseconds from event to pixels, at the 95th percentile on two cores that do nothing else
SLOWER = 3.0  # how much slower than that machine a machine may be
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Where screenshots go; `ALIGNKD_SCREENSHOTS` names a folder that outlives the test."""
    named = os.environ.get("ALIGNKD_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory, pictures):
    """The study's page, on which all cells have run, and every figure that waits for an answer is shown."""
    work = tmp_path_factory.mktemp("jupyter")
    copy_notebooks(NOTEBOOKS, work / "notebooks")
    with jupyterlab(work / "notebooks", work) as address:
        lab = Lab(browser.new_page(viewport={"width": 1300, "height": 1100}), address, STUDY, pictures)
        lab.run_all()
        try:
            lab.await_cells()
        finally:
            lab.screenshot("run")
        lab.shown = lab.show_me(bare=BARE)
        yield lab
        lab.close()


@pytest.fixture(scope="session")
def response_times(request):
    """Rows of page, explorer, milliseconds and load, told when all tests are done."""
    rows = []
    yield rows
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\nmilliseconds from event to pixels   median  95 %  events  load")
        for page, explorer, waits, load in rows:
            middle, late = np.percentile(waits, [50, 95])
            print(f"{page} {explorer.partition('(')[0]:<32} {middle:6.0f} {late:5.0f} {len(waits):7} {load:5.1f}")


@pytest.fixture(scope="session")
def starved():
    """How many times longer than its own time a loop takes now, because other programs run, too."""

    def measure() -> float:
        wall, own = time.perf_counter(), time.process_time()
        while time.process_time() - own < 0.1:
            sum(range(1000))
        return (time.perf_counter() - wall) / (time.process_time() - own)

    return measure


def test_every_cell_runs_without_error_or_warning(lab):
    outputs = lab.outputs()
    assert len(outputs) > 5
    kinds = {id: [(output["output_type"], output.get("name")) for output in held] for id, held in outputs.items()}
    assert not [id for id, held in kinds.items() if ("error", None) in held or ("stream", "stderr") in held]
    assert "Javascript Error" not in lab.text()
    assert "Error displaying widget" not in lab.text()


def test_show_me_reveals_what_a_prediction_kept_back(lab):
    assert [more > 0 for more in lab.shown] == [False] * BARE + [True, True]


def test_every_chart_is_moved_by_its_own_sliders_in_time(lab, starved, response_times):
    moved, late, allowed = move_charts(lab, starved, response_times)
    assert moved
    assert all(moved)
    assert late < allowed


def test_no_field_shows_a_tooltip_of_null(lab):
    assert lab.page.evaluate("lab.nullTooltips()") == []


def test_the_run_panel_starts_a_run_and_stops_it(lab):
    panel = lab.box_with("Start")
    start, stop = (button_of(panel, name) for name in ("Start", "Stop"))
    panel.get_by_label("Settings", exact=True).fill("")  # every cell, so that there is something to stop
    panel.get_by_label("Settings", exact=True).press("Enter")
    lab.screenshot("panel-ready", panel)
    start.click()
    panel.get_by_text("running", exact=True).wait_for()
    lab.page.wait_for_function("lab.progress() > 0")
    lab.screenshot("panel-running", panel)
    assert start.is_disabled()
    stop.click()
    panel.get_by_text("stopped", exact=True).wait_for()
    lab.screenshot("panel-stopped", panel)
    assert start.is_enabled()
    assert stop.is_disabled()
    assert not running_under(os.getpid())


@pytest.fixture(scope="module")
def saved(browser, tmp_path_factory):
    """The address of a server without kernels, with the notebooks as they were saved."""
    work = tmp_path_factory.mktemp("saved")
    (work / "notebooks").mkdir()
    for name in SAVED:
        shutil.copy(NOTEBOOKS / name, work / "notebooks")
    with jupyterlab(work / "notebooks", work, *NO_KERNELS) as address:
        yield address


@pytest.fixture(scope="module", params=SAVED, ids=lambda name: name[:2])
def reopened(request, browser, saved, pictures):
    """A page opened again without a kernel, every reveal of which was closed and is opened."""
    from playwright.sync_api import expect

    page, (charts, reveals) = browser.new_page(viewport={"width": 1024, "height": 700}), SAVED[request.param]
    lab = Lab(page, saved, request.param, pictures, kernel=False)
    for cell in range(page.evaluate("lab.scroll(0)")):  # JupyterLab draws what has been on the screen
        page.evaluate(f"lab.scroll({cell})")
        page.wait_for_timeout(50)
    closed = page.locator(".jp-Cell-outputWrapper .jp-Placeholder")
    asked = page.locator(".jp-OutputArea strong", has_text="Predict.").locator("visible=true")
    expect(closed).to_have_count(reveals)
    for place in range(reveals):
        expect(asked).to_have_count(place)
        closed.first.click()
    assert page.evaluate("!lab.kernel()")
    page.wait_for_function(f"document.querySelectorAll('.vega-embed').length >= {charts}")
    yield lab
    page.close()


def test_a_page_opened_again_without_a_kernel_moves_its_charts(reopened, response_times, starved):
    moved, late, allowed = move_charts(reopened, starved, response_times)
    assert len(moved) >= SAVED[reopened.name][0]
    assert all(moved)
    assert late < allowed
    reopened.screenshot("reopened")


@pytest.mark.parametrize("reopened", [LENS], indirect=True, ids=["06"])
def test_clicks_and_arrow_keys_walk_along_the_tokens(reopened):
    chart = reopened.page.locator(".vega-embed", has_text="token (1 to").first
    field, canvas = chart.locator("input[type=number]"), chart.locator("canvas")
    chart.scroll_into_view_if_needed()
    seen = [(field.input_value(), canvas.evaluate("canvas => canvas.toDataURL()"))]
    for act in (
        lambda: canvas.click(position={"x": 210, "y": 83}),
        lambda: field.press("ArrowUp"),
        lambda: field.press("ArrowUp"),
    ):
        act()
        reopened.page.wait_for_timeout(300)
        seen.append((field.input_value(), canvas.evaluate("canvas => canvas.toDataURL()")))
    assert len({place for place, _ in seen}) == len({picture for _, picture in seen}) == 4
    assert int(seen[3][0]) == int(seen[1][0]) + 2
    canvas.click(position={"x": 600, "y": 500})  # beside
    assert field.input_value() == seen[3][0]
    reopened.screenshot("lens", chart)


def move_charts(lab, starved, response_times):
    """By chart, the milliseconds from each slider to new pixels; their 95th percentile, and how late it may be."""
    load = starved()
    moved = lab.page.evaluate("lab.moveCharts(2)")
    load = max(load, starved())
    for place, waits in enumerate(moved):
        response_times.append((lab.name[:2], f"chart {place}", waits, load))
    return moved, np.percentile([wait for chart in moved for wait in chart], 95), PROMISED * SLOWER * load


def running_under(process: int) -> list[psutil.Process]:
    """Runs that this process has, through others, started: children of a kernel's fork server."""
    alive = [p for p in psutil.Process(process).children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    servers = {each.pid for each in alive if "multiprocessing.forkserver" in " ".join(each.cmdline())}
    return [each for each in alive if each.ppid() in servers]
