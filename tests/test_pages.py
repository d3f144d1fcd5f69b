"""The site's pages in a browser, from the disk and with the network off: charts, narrow windows, keyboards, readers."""

import os

import axe
import pytest
from browser import HELPERS
from synthetic_records import lm_record, mog_record

from alignkd_lab import recording
from alignkd_lab.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("site")]

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
SMALL = {"viewport": {"width": 1024, "height": 700}}
PAGES = (
    "index",
    "00_start_here",
    "03_both_orders_on_gaussians",
    "06_advantage_guided_distillation",
    "playground",
    "report",
)
_CHARTS = "[...document.querySelectorAll('figure.chart')]"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for record in [
        lm_record(0),
        lm_record(1),
        *(mog_record(seed, name) for seed in (0, 1) for name in ("rlhf", "dpo")),
    ]:
        recording.write(folder, record)
    return write_report(folder)


@pytest.fixture
def open_page(browser, site, report):
    """A page from the disk, once its charts are drawn and its folds open; an error of its script fails the test."""
    contexts, errors = [], []

    def open_page(name: str, **options):
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(f"{name}: {error}"))
        page.goto((report if name == "report" else site / f"{name}.html").as_uri())
        page.wait_for_function(f"{_CHARTS}.every(chart => chart.querySelector('canvas'))")
        page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        page.evaluate("Promise.all(document.getAnimations().map(each => each.finished))")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture(scope="module")
def charted(site):
    """The names of the pages that have charts."""
    return [path.stem for path in sorted(site.glob("*.html")) if '<figure class="chart">' in path.read_text("utf-8")]


@pytest.fixture(scope="session")
def axe_core():
    try:
        return axe.script()
    except RuntimeError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("window", [PHONE, SMALL], ids=["phone", "small"])
def test_a_page_fits_its_window_and_breaks_no_rule_of_wcag(open_page, axe_core, name, window):
    page = open_page(name, **window)
    assert page.evaluate("document.documentElement.scrollWidth") <= window["viewport"]["width"]
    if folder := os.environ.get("ALIGNKD_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}-{window['viewport']['width']}.png")
    assert axe.violations(page, axe_core) == []
    if window is SMALL:
        charts_move(page, name)


@pytest.mark.parametrize(
    "name", ["playground", "03_both_orders_on_gaussians", "06_advantage_guided_distillation", "report"]
)
def test_a_dark_page_breaks_no_rule_of_wcag(open_page, axe_core, name):
    page = open_page(name, color_scheme="dark", **SMALL)
    assert axe.violations(page, axe_core) == []


def test_every_chart_moves_and_is_seen_with_its_controls_in_a_small_window(open_page, charted):
    assert len(charted) > 5
    for name in set(charted) - set(PAGES):  # of those a test above asks it, and more
        charts_move(open_page(name, **SMALL), name)


def charts_move(page, name):
    page.evaluate(HELPERS)
    assert all(page.evaluate("lab.moveCharts()")), name
    for beyond, height in page.evaluate(
        f"{_CHARTS}.map(chart => [chart.scrollWidth - chart.clientWidth, chart.offsetHeight])"
    ):
        assert beyond <= 0, name
        assert height <= SMALL["viewport"]["height"], name


def test_a_click_finds_the_same_token_on_a_shrunk_picture_as_on_a_whole_one(open_page):
    found = {}
    for width in (1024, 1600):
        page = open_page("06_advantage_guided_distillation", viewport={"width": width, "height": 900})
        chart = page.locator("figure.chart", has_text="token (1 to").first
        canvas, field = chart.locator("canvas"), chart.locator("input[type=number]")
        canvas.scroll_into_view_if_needed()
        box, before = canvas.bounding_box(), field.input_value()
        canvas.click(position={"x": 0.4 * box["width"], "y": 0.135 * box["height"]})
        page.wait_for_function(
            "([field, before]) => field.value !== before", arg=[field.element_handle(), before], timeout=5000
        )
        found[round(box["width"])] = field.input_value()
    assert len(found) == 2
    assert len(set(found.values())) == 1
