"""What the README says of the records is what the records say, and what it points to is there."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from alignkd_lab.drawing import run_title
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import METHODS, ORDERS
from alignkd_lab.records import group_runs, load_records, seed_values, summarise_run
from alignkd_lab.report.page import main_cell
from alignkd_lab.report.tables import CLAIM_WORDS
from alignkd_lab.style import interval, pipeline_style, shown

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = TEXT.partition("## What the records say")[2].partition("\n## ")[0]
INTERVAL = re.compile(r"[−\d.,]+ \([−\d.,]+ to [−\d.,]+\)")
METRICS = ("reward", "target_rate", "overall_precision", "overall_recall")


@pytest.fixture(scope="module")
def gaussian():
    return [run for run in group_runs(load_records(data_folder() / "records")) if run["world"] == "mog"]


@pytest.fixture(scope="module")
def summaries(gaussian):
    return [summarise_run(run) for run in gaussian]


def table(heading):
    """The rows of the first table after `heading`, by their first cell."""
    lines = RECORDS.partition(heading)[2].partition("\n|")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def written(entry, metric):
    return interval(*(shown(metric, entry[name]) for name in ("mean", "low", "high")))


def test_the_table_of_the_picture_s_setting_is_that_of_the_records(gaussian):
    summary = summarise_run(main_cell(gaussian))
    assert run_title(main_cell(gaussian)).endswith("RLHF")
    assert (summary["settings"]["beta"], summary["settings"]["sharpening"]) == (0.5, 2.0)
    measured = {
        pipeline_style(name).label: [written(metrics[metric], metric) for metric in METRICS]
        for name, metrics in summary["pipelines"].items()
    }
    rows = table("in the setting of the picture")
    assert len(rows) == 6
    assert rows == {label: measured[label] for label in rows}


def test_the_table_of_verdicts_counts_those_of_the_records(summaries):
    assert len(summaries) == 20
    counted = {words: Counter() for words in CLAIM_WORDS.values()}
    for claim in (claim for summary in summaries for claim in summary["claims"]):
        counted[CLAIM_WORDS[claim["metric"], claim["statistic"]]][claim["verdict"]] += 1
    rows = table("The five claims in all")
    assert {
        words: [str(counts[v]) for v in ("holds", "undecided", "fails")] for words, counts in counted.items()
    } == rows


def test_every_interval_in_the_text_is_one_of_the_records(summaries):
    measured = {
        written(entry, metric)
        for summary in summaries
        for metrics in summary["pipelines"].values()
        for metric, entry in metrics.items()
    }
    stated = INTERVAL.findall(RECORDS.partition("Where the claim stops")[2])
    assert len(stated) >= 5
    assert set(stated) <= measured


def test_the_border_lies_where_the_readme_says(gaussian, summaries):
    (border,) = [
        run
        for run in gaussian
        if run["algorithm"] == "rlhf" and (run["settings"]["beta"], run["settings"]["sharpening"]) == (0.5, 1.0)
    ]
    found = sum(reward > 2 for reward in seed_values(border)["kd_then_align"]["reward"].values())
    assert f"in {found} of {len(border['records'])} seeds" in RECORDS
    failing = [s for s in summaries for c in s["claims"] if c["metric"] == "overall_recall" and c["verdict"] == "fails"]
    assert [(s["algorithm"], s["settings"]["beta"], s["settings"]["sharpening"]) for s in failing] == [
        ("rlhf", 0.5, 1.0)
    ]
    variance = {
        c["verdict"]
        for s in summaries
        for c in s["claims"]
        if c["statistic"] == "variance_ratio" and s["settings"]["sharpening"] >= 2
    }
    assert variance == {"fails"}


def test_every_file_that_the_readme_names_is_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / link).is_file(), link
    for path in re.findall(r"`((?:alignkd_lab|notebooks|data|tests)/[\w./-]*)`", TEXT):
        assert (ROOT / path).exists(), path


def test_the_smollm2_table_is_that_of_the_records():
    run = next(
        run
        for run in group_runs(load_records(data_folder() / "records"))
        if run["world"] == "lm" and run["algorithm"] == "dpo"
    )
    values = seed_values(run)
    columns = (("reward", ".3f", 1), ("target_rate", ".1f", 100), ("target_precision", ".2f", 1),
               ("overall_precision", ".2f", 1), ("overall_recall", ".2f", 1))  # fmt: skip

    def cell(name, metric, form, scale):
        seeds = [value * scale for _, value in sorted(values[name][metric].items())]
        mean = sum(seeds) / len(seeds)
        return f"{mean:{form}} [{', '.join(f'{value:{form}}' for value in seeds)}]".replace("-", "−")

    measured = {pipeline_style(name).label: [cell(name, *column) for column in columns] for name in values}
    rows = table("SmolLM2, one target")
    assert len(rows) == 8
    assert rows == {label: measured[label] for label in rows}


def test_the_table_of_methods_is_that_of_the_recorded_seed():
    run = next(run for run in group_runs(load_records(data_folder() / "records"))
               if (run["world"], run["algorithm"]) == ("lm", "dpo"))  # fmt: skip
    record, columns = run["records"][0], (("reward", ".3f", 1), ("target_rate", ".1f", 100),
               ("overall_precision", ".2f", 1), ("overall_recall", ".2f", 1), ("kl_to_base", ".1f", 1))  # fmt: skip
    measured = {}
    for name in (*ORDERS, *METHODS):
        entry = record["pipelines"][name]
        stages = [record["stages"][key] for key in entry["stages"]]
        measured[pipeline_style(name).label] = [
            *(f"{entry['metrics'][metric] * scale:{form}}".replace("-", "−") for metric, form, scale in columns),
            *(f"{sum(stage['tokens'][kind] for stage in stages):,}" for kind in ("trained", "sampled")),
            f"{sum(stage['seconds'] for stage in stages) / 60:.1f}",
        ]
    assert table("The other methods, one seed") == measured


def test_the_table_of_steps_is_that_of_the_bench():
    record = json.loads((data_folder() / "records" / "bench-cpu.json").read_text())
    steps = {(row["method"], row["variant"]): row for row in record["rows"] if row["length"] == 512}

    def cell(method, variant):
        row = steps.get((method, variant))
        return f"{row['seconds']:.1f} s, {row['memory_bytes'] / 1e6:,.0f} MB" if row else "–"

    methods = {"dpo": "DPO", "dckd": "DCKD", "adpa": "ADPA", "kd": "KD"}
    measured = {words: [cell(name, by) for by in ("ours", "full_logits", "trl")] for name, words in methods.items()}
    assert table("What a training step costs.") == measured
    assert f"takes {steps['nll', 'nll']['seconds']:.1f} s" in RECORDS
    ours = [row for (_, by), row in steps.items() if by == "ours"]
    assert all(row["ceiling_share"] > 0.5 for row in ours)
    assert all(bar["passed"] for bar in record["bars"])
