"""The page: self-contained, well-formed, escaped, and telling this run from the recorded one."""

import base64
import re
from html.parser import HTMLParser

import pytest
from synthetic_records import LM, lm_record, mog_record, write

from alignkd_lab.lm.weights import BUILT_IN
from alignkd_lab.plots import figures
from alignkd_lab.records import RecordError
from alignkd_lab.report import page as report
from alignkd_lab.runs import group_runs

VOID = {"meta", "img", "br", "input", "hr", "link"}


class Page(HTMLParser):
    """Collects what the tests ask about, and fails on a tag that closes out of turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def having(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, shipped = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("recorded")
    write([mog_record(s, sharpening=x) for s in range(3) for x in (1.0, 2.0)], folder / "mog" / "records.jsonl")
    record = lm_record(0, base=BUILT_IN)
    record["pipelines"]["align_then_kd"]["samples"][0]["response"] = "<script>alert('x')</script> & <b>bold</b>"
    write([record], folder / "lm" / "records.jsonl")
    write([lm_record(seed, base=BUILT_IN) for seed in (7, 8, 9)], shipped / "lm.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 40)
        path = report.write_report(folder, shipped=shipped)
    return path


@pytest.fixture(scope="module")
def page(made):
    return Page(made.read_text(encoding="utf-8"))


def test_the_page_is_one_well_formed_file(made, page):
    assert made.name == "report.html"
    assert made.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert page.having("html") == [{"lang": "en"}]
    assert len(page.having("title")) == 1


def test_the_page_asks_nothing_of_the_world_outside(made, page):
    text = made.read_text(encoding="utf-8")
    assert page.having("script") == []
    assert page.having("link") == []
    assert not re.search(r"https?://|url\(|@import|src=\"(?!data:)", text)
    assert all(link["href"].startswith("#") for link in page.having("a"))


def test_every_link_leads_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link["href"][1:] for link in page.having("a")} <= set(ids)


def test_every_picture_is_embedded_and_lies_beside_the_page(made, page):
    embedded = {base64.b64decode(image["src"].partition(",")[2]) for image in page.having("img")}
    beside = {path.read_bytes() for path in (made.parent / "figures").glob("*.png")}
    assert embedded == beside
    assert (made.parent / "figures" / "title.png").exists()
    assert all(content.startswith(b"\x89PNG") for content in embedded)


def test_every_picture_says_in_words_what_it_shows(page):
    for image in page.having("img"):
        assert len(image["alt"]) > 30
    assert re.search(r"K-A 0\.\d+ \(.*A-K [23]\.\d+", page.having("img")[0]["alt"])


def test_every_head_of_a_table_has_a_scope(page):
    assert page.having("th")
    assert all(head.get("scope") in ("col", "row") for head in page.having("th"))


def test_what_a_model_wrote_is_shown_and_never_run(page):
    assert "<script>alert('x')</script> & <b>bold</b>" in page.text


def test_a_stranger_is_told_what_was_done(page):
    for words in ("K-A: distil, then align", "A-K: align, then distil", "Both orders of the two were run"):
        assert words in page.text


def test_the_recorded_run_stands_apart_and_is_never_pooled(page):
    live, recorded = page.text.split("The recorded run", 1)
    assert "one seed: no verdict" in live
    assert "one seed: no verdict" not in recorded
    assert "7, 8, 9" in recorded
    assert "0, 7, 8, 9" not in page.text


def test_verdicts_stand_in_words_and_not_only_in_colour(page):
    assert "✓ holds" in page.text
    assert "○ undecided" in page.text


def test_the_page_says_where_the_figures_stop(page):
    assert "quantised to Q4_1" in page.text
    assert "replication of the claim on our own settings" in page.text
    assert "It decides nothing" in page.text


def test_settings_and_provenance_are_folded_away(page):
    assert len(page.having("details")) == 2 * 3
    assert page.text.count("0123456789abcdef") == 3


def test_the_sweep_stands_in_one_table(page):
    assert "The whole sweep" in page.text
    assert page.text.count("Checks before verdicts") == 3


def run_of(**changes):
    return group_runs([mog_record(0, **changes)])[0]


def test_the_cell_in_full_is_nearest_to_the_defaults_whatever_came_out():
    cells = [
        run_of(sharpening=s, beta=b, algorithm=a) for s in (1.0, 2.0, 4.0) for b in (1.0, 0.5) for a in ("dpo", "rlhf")
    ]
    for order in (cells, cells[::-1]):
        main = report.main_cell(order)
        assert (main["algorithm"], main["settings"]["sharpening"], main["settings"]["beta"]) == (
            "rlhf",
            2.0,
            0.5,
        )


def test_cells_of_another_target_or_world_are_no_part_of_the_sweep():
    other = {**run_of(), "target": "modes_1_3"}
    lm = group_runs([lm_record(0, target_setting=x) for x in (1, 2)])
    groups = report.cell_groups([run_of(), run_of(sharpening=3.0), other, *lm])
    assert [len(group) for group in groups] == [2, 1, 1, 1]


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(RecordError, match="no records"):
        report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tiny_run_of_one_order_still_makes_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 30)
    record = {**lm_record(0, gap=9.0), "preset": "tiny"}
    for name in [name for name in record["pipelines"] if name not in ("base", "kd_only")]:
        del record["pipelines"][name]
    write([record], tmp_path / "in" / "a.jsonl")
    path = report.write_report(tmp_path / "in", out=tmp_path / "page.html")
    text = Page(path.read_text(encoding="utf-8")).text
    assert path == tmp_path / "page.html"
    assert "not both orders: no verdict" in text
    assert "✗ failed" in text  # the check: the student is not healthy
    assert "⊘ invalid" not in text  # there is nothing to give a verdict on
    assert "tests the plumbing, not the claim" in text


def test_other_methods_have_a_table_and_a_picture_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 40)
    write([lm_record(seed, effects={**LM, "adpa": LM["align_then_kd"]}) for seed in range(3)], tmp_path / "lm.jsonl")
    page = Page(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "Every method under one budget" in page.text
    assert (tmp_path / "figures" / "lm-methods.png").is_file()


def test_a_run_of_the_orders_alone_has_no_table_of_methods(made):
    assert "Every method under one budget" not in made.read_text(encoding="utf-8")
    assert not (made.parent / "figures" / "lm-methods.png").exists()


def headline(*records):
    return report.headline_runs(group_runs(list(records)))


def test_the_title_picture_leaves_out_methods_that_are_no_order():
    (run,) = headline(*(lm_record(seed, effects={**LM, "adpa": LM["align_then_kd"]}) for seed in range(3)))
    assert all(set(record["pipelines"]) == set(LM) for record in run["records"])


def test_of_one_target_the_title_picture_shows_the_run_of_most_seeds_then_of_most_pipelines():
    orders = {name: LM[name] for name in ("kd_then_align", "align_then_kd")}
    least = [lm_record(0, "rlhf")]
    fewer = [lm_record(seed, effects=orders, layers=16) for seed in range(3)]
    most = [lm_record(seed) for seed in range(3)]
    (run,) = headline(*least, *fewer, *most)
    assert (run["algorithm"], run["settings"]["layers"], len(run["records"])) == ("dpo", 20, 3)


def test_the_title_picture_shows_every_target_of_the_language_world_and_one_of_the_gaussians():
    colours = [{**lm_record(seed), "target": "colour"} for seed in range(3)]
    gaussians = [mog_record(0), {**mog_record(0), "target": "modes_1_3"}]
    shown = headline(*colours, lm_record(0), *gaussians)
    assert [(run["world"], run["target"]) for run in shown] == [
        ("mog", "modes_1_3"),
        ("lm", "colour"),
        ("lm", "simile"),
    ]
