"""The site: built once from the saved notebooks, whole, in need of nothing from elsewhere, and in a browser."""

import os
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import axe
import nbformat
import pytest
from browser import HELPERS
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader
from lessons import lessons
from synthetic_records import lm_record, mog_record

from alignkd_lab import recording
from alignkd_lab.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
LESSONS = lessons(ROOT / "notebooks")
NAMES = [found.name for found in LESSONS]
REPOSITORY = "https://github.com/ada/course"
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


def test_every_chart_moves_and_is_seen_with_its_controls_in_a_small_window(open_page, soups):
    charted = {name for name, soup in soups.items() if soup.select("figure.chart")}
    assert len(charted) > 5
    for name in sorted(charted - {*PAGES}):  # of those a test above asks it, and more
        charts_move(open_page(name, **SMALL), name)


def charts_move(page, name):
    page.evaluate(HELPERS)
    assert all(page.evaluate("lab.moveCharts(1)")), name
    for beyond, height in page.evaluate(
        f"{_CHARTS}.map(chart => [chart.scrollWidth - chart.clientWidth, chart.offsetHeight])"
    ):
        assert beyond <= 0, name
        assert height <= SMALL["viewport"]["height"], name


def test_a_click_finds_the_same_token_on_a_shrunk_picture_as_on_a_whole_one(open_page):
    found = {}
    for width in (1024, 1600):
        page = open_page("06_advantage_guided_distillation", viewport={"width": width, "height": 900})
        chart = page.locator("figure.chart", has_text="token (chosen").first
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


# The files, without a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def soups(site):
    return {path.stem: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.glob("*.html")}


def tag(soup, name):
    return soup.find("meta", property=name)["content"]


def test_the_landing_page_leads_to_the_page_of_every_notebook_with_its_minutes(site, soups):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    cards = soups["index"].select(".map a")
    assert [card["href"] for card in cards] == [f"{name}.html" for name in NAMES]
    for card, found in zip(cards, LESSONS, strict=True):
        assert found.question in soups[found.name].h1.text
        assert f'"{found.name}"' in index
        assert found.asked in card.text
        assert f"{found.minutes} minutes" in card.text


def test_nothing_is_loaded_from_elsewhere(site, soups):
    for soup in soups.values():
        for element in soup.find_all(src=True) + soup.find_all("link", href=True):
            address = element.get("src") or element["href"]
            assert not re.match(r"(https?:)?//", address), address
    for path in [*site.rglob("*.css"), *site.rglob("*.js")]:
        code = path.read_text(encoding="utf-8")
        assert not re.search(r"url\([\"']?(https?:)?//|@import|import\([\"']http|importScripts", code), path.name


def test_links_within_the_pages_lead_somewhere(site, soups):
    references = {name: {element["id"] for element in soup.find_all(id=True)} for name, soup in soups.items()}
    followed = 0
    for name, soup in soups.items():
        for element in soup.select("a[href], img[src], script[src], link[href], use[href]"):
            address = element.get("href") or element.get("src")
            if re.match(r"\w+:", address):
                continue
            file, _, reference = unquote(address).partition("#")
            file = file.partition("?")[0]
            assert not file or (site / file).is_file(), f"{name}: {address}"
            page = Path(file).stem if file else name
            if reference and page in references:
                assert reference in references[page], f"{name}: {address}"
            followed += 1
    assert followed > 100


def test_a_link_to_a_page_has_a_title_words_and_a_picture_of_its_own_to_show(site, soups):
    for soup in (soups[name] for name in (*NAMES, "index", "TEACHING", "TRAIN", "SCALE", "REFERENCE")):
        assert len(tag(soup, "og:title")) > 10
        assert 40 < len(tag(soup, "og:description")) <= 203
        picture = site / tag(soup, "og:image")
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 300_000
    assert len({tag(soups[name], "og:image") for name in NAMES}) == len(NAMES)
    pictures = [image for name in NAMES for image in soups[name].select(".cell_output img")]
    assert len(pictures) > 10
    assert all(image["alt"] and not image["alt"].startswith("_images") for image in pictures)


def test_no_page_waits_for_a_widget_or_shows_an_error_the_set_up_is_folded_away_and_formulas_are_the_browser_s(soups):
    for name in NAMES:
        assert not soups[name].find("script", type=re.compile("widget"))
        assert "model not found" not in soups[name].text
        assert not soups[name].select(".traceback, .stderr, .system-message")
    folded = [cell.get_text() for name in NAMES for cell in soups[name].select("details.hide")]
    assert all("import" in text for text in folded)
    assert "import" in soups[NAMES[0]].select_one("details.hide").text
    found = soups["01_recall_and_the_reference"]
    assert len(found.find_all("math")) > 10
    assert not re.search(r"\\frac|\\beta|\$\w", found.article.get_text())
    scripts = [str(script).lower() for soup in soups.values() for script in soup.find_all("script")]
    assert scripts
    assert not [script for script in scripts if "mathjax" in script or "katex" in script]


def test_the_footer_says_records_versions_and_weights_and_without_an_address_no_badge_and_no_source(soups):
    saved = nbformat.read(LESSONS[0].path, as_version=4).metadata["alignkd_lab"]["records"]
    made = soups[NAMES[0]].select_one(".made").text
    assert saved
    assert all(f"{name} ({hash[:8]})" in made for name, hash in saved.items())
    assert re.search(r"torch \d+\.\d+", made)
    assert re.search(r"sha256:[0-9a-f]{64}", made)
    assert f"{LESSONS[0].number} · {LESSONS[0].title}" in made
    assert "arXiv 2509.23667" in made
    own = re.compile(r"colab|github\.com/(?!pradyunsg)")
    assert not [link for name in NAMES for link in soups[name].select(".saved a, .made a") if own.search(link["href"])]
    assert not soups[NAMES[0]].find("meta", property="og:url")


def test_what_comes_out_stays_closed_below_the_question_of_a_prediction(soups):
    questions = [tag for name in NAMES for tag in soups[name].find_all("strong", string="Predict.")]
    assert len(questions) > 10
    for question in questions:
        below = question.find_parent(class_="output").find_next_siblings(class_="output")
        shown = [output for output in below if not output.find("strong", string="Predict.")]
        assert all(output.find("details") and not output.select_one("details[open]") for output in shown)
        assert not [tag for output in shown for tag in output.select("img, figure") if not tag.find_parent("details")]
    assert sum(bool(soups[name].select("details figure.chart")) for name in NAMES) > 2


def test_with_an_address_there_are_a_badge_absolute_pictures_and_a_link_to_the_source(monkeypatch):
    monkeypatch.setattr("lessons.public_address", lambda pyproject: REPOSITORY)
    settings = runpy.run_path(str(ROOT / "notebooks" / "site" / "conf.py"))
    import pages

    config = SimpleNamespace(**{name: settings[name] for name in ("project", "html_baseurl", "html_theme_options")})
    app = SimpleNamespace(config=config, lessons={NAMES[0]: LESSONS[0]}, evidence={}, charted=set())
    context = {"pathto": lambda path, kind: path, "sourcename": LESSONS[0].path.name}
    pages.add_context(app, NAMES[0], "page.html", context, None)
    templates = Environment(loader=FileSystemLoader(ROOT / "notebooks" / "site" / "templates"), autoescape=True)
    banner = templates.get_template("banner.html").render(**context)
    page, options = BeautifulSoup(context["metatags"] + banner, "html.parser"), settings["html_theme_options"]
    assert page.select_one(".colab")["href"].endswith(f"/github/ada/course/blob/main/notebooks/{NAMES[0]}.ipynb")
    assert f"git+{REPOSITORY}" in page.select_one(".saved").text
    assert tag(page, "og:image") == f"https://ada.github.io/course/previews/{NAMES[0]}.png"
    assert tag(page, "og:url") == f"https://ada.github.io/course/{NAMES[0]}.html"
    assert options["source_repository"] == REPOSITORY
    assert "view" in options["top_of_page_buttons"]
