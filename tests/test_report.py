"""The page of a run: short, in order, escaped, and with the numbers of the tables and of the JSON."""

import html
import itertools
import json
import re

import pytest
from synthetic_records import LM, PROMPTS, lm_record, mog_record, replaced, swap_orders, tabulated

from alignkd_lab import cli, recording, report
from alignkd_lab.claims import decide
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.plots.style import CLAIM_WORDS, interval, shown
from alignkd_lab.report import CELLS, NUMBERS, WORDS, report_json, write_report
from alignkd_lab.stats import share_interval, t_interval

SEEDS = range(5)


def page_of(folder, records):
    for record in records:
        recording.write(folder, record)
    return write_report(folder).read_text(encoding="utf-8")


def text_of(page):
    """What is read of a page, without styles and pictures."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S)).split())


def rows_of(page):
    rows = re.findall(r"<tr>(.*?)</tr>", page, flags=re.S)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def page(folder):
    """A full evening: a sweep of sixteen Gaussian cells, and language records of five seeds with long responses."""
    sweep = [(a, s, b) for a in ("rlhf", "dpo") for s in (0.5, 1.0, 2.0, 3.0) for b in (0.5, 1.0)]
    gaussians = [mog_record(seed, a, sharpening=s, beta=b) for a, s, b in sweep for seed in range(2)]
    language = [lm_record(seed) for seed in SEEDS]
    for entry in language[0]["pipelines"].values():
        entry["samples"] = [{**sample, "response": " ".join(["word"] * 40)} for sample in entry["samples"]]
    return page_of(folder, [*gaussians, *language])


@pytest.fixture
def _blank(monkeypatch):
    """Pictures, which are tested elsewhere, take most of a page's time."""
    monkeypatch.setattr(report, "_picture", lambda figure, caption: ("", caption))


def test_the_page_is_short_asks_nothing_of_the_world_outside_and_shows_cells_and_the_first_responses(page):
    assert len(text_of(page).split()) <= 1500
    assert len(page.encode()) <= 3_000_000
    assert not re.search(r"<script|<link|https?://|<iframe", page)
    assert all(src.startswith("data:image/png;base64,") for src in re.findall(r'src="([^"]+)"', page))
    cells = [row for row in rows_of(page) if row[0] in ("rlhf", "dpo")]
    assert len(cells) == CELLS
    assert f"first {CELLS} of 16" in text_of(page)
    assert "Reward of both orders by sharpening." in page
    shown_prompts = [row for row in rows_of(page) if row[0] in PROMPTS]
    assert [row[0] for row in shown_prompts] == PROMPTS[:3]
    assert all(cell.startswith("word " * WORDS + "… (") for row in shown_prompts for cell in row[1:])


def test_numbers_of_page_and_json_are_the_means_of_the_tables_and_the_verdicts_those_of_the_claims(
    folder, page, capsys
):
    language = tabulated(*(lm_record(seed) for seed in SEEDS))
    assert cli.main(["report", str(folder), "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held == report_json(folder)
    run = next(run for run in held["runs"] if run["world"] == "lm")
    numbers = page[page.rindex("<h3>The numbers</h3>") : page.rindex("<h3>Checks and verdicts</h3>")]
    rows = {row[0]: row[1:] for row in rows_of(numbers)}
    for order, name in ((K_A, "Distil, then align (K-A)"), (A_K, "Align, then distil (A-K)")):
        for metric, cell in zip(NUMBERS, rows[name], strict=True):
            of_seeds = share_interval if metric == "target_rate" else t_interval
            span = of_seeds(language.table(metric)[order].tolist())
            assert run["metrics"][order][metric] == pytest.approx(span._asdict())
            assert cell == interval(*(shown(metric, part) for part in span))
    for _, claim in decide(language).iterrows():
        span = interval(claim["estimate"], claim["low"], claim["high"])
        assert f"{CLAIM_WORDS[claim['metric'], claim['statistic']]}: {claim['verdict']}, {span}." in text_of(page)


@pytest.mark.usefixtures("_blank")
def test_the_command_ends_with_the_path_of_the_page_and_of_packed_studies_says_a_line_each(tmp_path, capsys):
    recording.write(tmp_path, lm_record(0))
    elsewhere, studies = tmp_path / "elsewhere" / "page.html", data_folder() / "records"
    for options, written in (((), tmp_path / "report.html"), (("--out", str(elsewhere)), elsewhere)):
        assert cli.main(["report", str(tmp_path), *options]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"Report: {written}"
        assert written.is_file()
    assert cli.main(["report", str(studies)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(studies.glob("*.zip")))
    assert all("notebooks/" in line for line in lines)
    assert not (studies / "report.html").exists()


def test_an_experiment_of_the_plan_is_a_line_also_beside_a_run_of_ones_own(tmp_path, capsys):
    for settings in ({"method": "dckd", "rate": 1e-3}, {"method": "sft"}):
        recording.write(tmp_path, {**lm_record(0), "settings": {"experiment": "fair", **settings}})
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("fair: Language world, 2 settings, 1 seeds, see notebooks/")
    recording.write(tmp_path, lm_record(0))
    assert len(report_json(tmp_path)["runs"]) == len(report_json(tmp_path)["studies"]) == 1


@pytest.mark.usefixtures("_blank")
def test_cells_of_two_presets_are_told_apart_by_name_and_by_what_differs_within_one(tmp_path):
    settings = {**lm_record(0)["settings"], "align_steps": 3, "max_tokens": 5}
    small = [{**lm_record(0), "preset": "tiny", "settings": {**settings, "beta": beta}} for beta in (0.1, 0.2)]
    page = page_of(tmp_path, [lm_record(0), *small])
    cells = rows_of(page[page.index("<h3>All cells</h3>") : page.index("<h3>What they write</h3>")])
    assert cells[0][:2] == ["preset", "beta"]
    assert len(cells[0]) == 4
    assert sorted(row[0] for row in cells[1:]) == sorted([lm_record(0)["preset"], "tiny", "tiny"])


@pytest.mark.usefixtures("_blank")
def test_a_metric_that_does_not_exist_is_a_dash(tmp_path):
    records, absent = [lm_record(seed) for seed in SEEDS], ("reward", "target_rate", "overall_recall")
    for order, metric in itertools.product(ORDERS, absent):
        records[0] = replaced(records[0], None, "pipelines", order, "metrics", metric)
    page = page_of(tmp_path, records)
    row = next(row for row in rows_of(page) if row[0].startswith("Align, then distil") and len(row) == 6)
    assert [cell == "–" for cell in row[1:]] == [metric in absent for metric in NUMBERS]
    assert "nan" not in text_of(page).split()


@pytest.mark.usefixtures("_blank")
def test_seeds_that_one_order_lacks_are_counted_for_neither_comparison_nor_row(tmp_path):
    made = [lm_record(0), lm_record(1), lm_record(2, effects={name: LM[name] for name in ("base", "kd_only", K_A)})]
    page = page_of(tmp_path, made)
    assert re.search(r"difference .*, 2 seeds", text_of(page))
    assert any(row[0] == "Align, then distil (A-K), 2 of 3 seeds" for row in rows_of(page))
    assert "--pipelines" not in text_of(page)
    assert "--pipelines base,kd_only,kd_then_align --seeds 1-5" in text_of(page_of(tmp_path / "alone", [K_A_ALONE]))


UNHEALED = [lm_record(seed, gap=1.7, beta=0.3) for seed in SEEDS]
K_A_ALONE = lm_record(0, effects={name: LM[name] for name in ("base", "kd_only", K_A)})


@pytest.mark.usefixtures("_blank")
@pytest.mark.parametrize(
    ("made", "said", "unsaid"),
    [
        ([swap_orders(lm_record(seed)) for seed in SEEDS], ["Distil, then align (K-A) earned more"], []),
        ([lm_record(0)], ["One seed: no verdict."], ["earns more reward"]),
        ([K_A_ALONE], ["nothing to compare"], []),
        (UNHEALED, ["a check failed", "healthy: failed", "--set beta=0.3 --seeds 5-9"], ["holds"]),
    ],
    ids=["the orders swapped", "one seed", "one order", "a failed check"],
)
def test_the_page_names_the_leader_or_why_there_is_none(made, said, unsaid, tmp_path):
    text = text_of(page_of(tmp_path, made))
    assert all(words in text for words in said)
    assert not [words for words in unsaid if words in text]
