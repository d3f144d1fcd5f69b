"""The study's page in JupyterLab, run as a learner runs it: every cell, its reveals, and the run panel.

`make test` says so where there is no Chromium; on a machine that sets CI, its absence is a failure.
"""

import os
from pathlib import Path

import nbformat
import psutil
import pytest
from browser import WAIT, Lab, assert_charts_move, button_of, jupyterlab, pictures

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
STUDY, BARE = "07_both_orders_on_smollm2.ipynb", 3  # its predictions without a picture, which come first
MANY, FEW = (f'prompts(\\"test\\", {count})' for count in (16, 3))  # that models are sampled at, half a minute of work
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """The study's page, on which all cells have run, and every figure that waits for an answer is shown."""
    work = tmp_path_factory.mktemp("jupyter")
    (work / "notebooks").mkdir()
    notebook = nbformat.read(NOTEBOOKS / STUDY, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # whatever the page shows is to be made on it
            cell.outputs, cell.execution_count = [], None
    whole = nbformat.writes(notebook)
    (work / "notebooks" / STUDY).write_text(fewer := whole.replace(MANY, FEW))  # nbval draws them all
    assert fewer != whole
    with jupyterlab(work / "notebooks", work) as address:
        lab = Lab(
            browser.new_page(viewport={"width": 1300, "height": 1100}), address, STUDY, pictures(tmp_path_factory)
        )
        lab.run_all()
        try:
            lab.page.wait_for_function("lab.done()", timeout=4 * WAIT)
        finally:
            lab.screenshot("run")
        lab.shown = lab.show_me(bare=BARE)
        yield lab
        lab.page.evaluate("lab.shutdown()")
        lab.page.close()


def test_every_cell_runs_without_error_or_warning(lab):
    outputs, text = (lab.page.evaluate(f"lab.{what}()") for what in ("outputs", "text"))
    assert len(outputs) > 5
    kinds = {id: [(output["output_type"], output.get("name")) for output in held] for id, held in outputs.items()}
    assert not [id for id, held in kinds.items() if ("error", None) in held or ("stream", "stderr") in held]
    assert "Javascript Error" not in text
    assert "Error displaying widget" not in text


def test_show_me_reveals_what_a_prediction_kept_back(lab):
    assert [more > 0 for more in lab.shown] == [False] * BARE + [True, True]


def test_every_chart_is_moved_by_its_own_sliders_in_time(lab):
    assert_charts_move(lab)


def test_the_run_panel_starts_a_run_and_stops_it(lab):
    panel = lab.page.locator(".widget-vbox").filter(has=button_of(lab.page, "Start")).last  # the innermost
    panel.scroll_into_view_if_needed()
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


def running_under(process: int) -> list[psutil.Process]:
    """Runs that this process has, through others, started: children of a kernel's fork server."""
    alive = [p for p in psutil.Process(process).children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    servers = {each.pid for each in alive if "multiprocessing.forkserver" in " ".join(each.cmdline())}
    return [each for each in alive if each.ppid() in servers]
