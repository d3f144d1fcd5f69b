"""Saved notebooks, opened again in JupyterLab without a kernel: every slider moves its chart, and soon enough.

Alone in its process, since milliseconds are those of a machine that does nothing else.
"""

import shutil
from pathlib import Path

import pytest
from browser import Lab, assert_charts_move, jupyterlab, pictures

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LENS = "06_advantage_guided_distillation.ipynb"
# How many charts have sliders of their own, and how many predictions wait.
SAVED = {"01_recall_and_the_reference.ipynb": (3, 2), "03_both_orders_on_gaussians.ipynb": (3, 2), LENS: (1, 1)}
NO_KERNELS = ("--KernelSpecManager.ensure_native_kernel=False", "--KernelSpecManager.allowed_kernelspecs=none")
pytestmark = [pytest.mark.browser, pytest.mark.slow]


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
def reopened(request, browser, saved, tmp_path_factory):
    """A page opened again without a kernel, every reveal of which was closed and is opened."""
    from playwright.sync_api import expect

    page, (charts, reveals) = browser.new_page(viewport={"width": 1024, "height": 700}), SAVED[request.param]
    lab = Lab(page, saved, request.param, pictures(tmp_path_factory), kernel=False)
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


def test_a_page_opened_again_without_a_kernel_moves_its_charts(reopened):
    assert_charts_move(reopened, SAVED[reopened.name][0])
    reopened.screenshot("reopened")


@pytest.mark.parametrize("reopened", [LENS], indirect=True, ids=["06"])
def test_clicks_and_arrow_keys_walk_along_the_tokens(reopened):
    chart = reopened.page.locator(".vega-embed", has_text="token (chosen").first
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
