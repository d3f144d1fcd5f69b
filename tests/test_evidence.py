"""The tables that README and RESULTS show are those of the records."""

import functools
import re
from pathlib import Path

import pytest

from alignkd_lab import claims, costs
from alignkd_lab.mog.sweep import Grid, score
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.style import CLAIM_WORDS, PIPELINE_STYLE, interval, number
from alignkd_lab.plots.tables import difference, mean, means
from alignkd_lab.study import gaussians, pictures, plan
from alignkd_lab.study.families import gaussian_split

ROOT = Path(__file__).resolve().parents[1]
RESULTS = (ROOT / "data" / "records" / "RESULTS.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
METRICS = {
    "reward": "reward",
    "target rate (%)": "target_rate",
    "overall precision": "overall_precision",
    "overall recall": "overall_recall",
    "entropy": "entropy",
    "KL to the truth": "kl_to_truth",
}


def tables(text, *heads):
    """The rows of each table whose head begins with these cells, as dicts by head."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        cells = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in block.splitlines()]
        names = [cell.strip() for cell in block.splitlines()[0].strip("\n").split("|")[1:-1]]
        if names[: len(heads)] == list(heads):
            found.append([dict(zip(names, row, strict=True)) for row in cells[2:]])
    return found


@functools.cache
def study():
    return pictures.load("smollm2-study")


@functools.cache
def everything():
    arms = ["main", "controls", "methods"]
    return next(study().select(preset="laptop", algorithm="dpo", target="exclamation", arm=arms).each())


@pytest.mark.parametrize("text", [README, RESULTS], ids=["README", "RESULTS"])
def test_the_tables_of_models_are_those_of_the_records(text):
    names = {style.label: name for name, style in PIPELINE_STYLE.items()}
    typical, run = costs.typical_costs(everything()), everything()
    rows = [row for table in tables(text, "", "reward", "target rate (%)") for row in table]
    assert len(rows) >= 6
    for row in rows:
        name = names[row[""]]
        for head, cell in row.items():
            if head == "minutes":
                assert cell == f"{typical.at[name, 'minutes']:.1f}"
            elif head:
                assert cell == means(run, [METRICS[head]], [name]).iloc[0, 0], (name, head)


def test_the_table_of_targets_is_that_of_the_records():
    (rows,) = tables(RESULTS, "target", "share in the base (%)")
    for row in rows:
        target = {"E": "exclamation", "S": "simile", "C": "colour"}[row["target"][0]]
        rates = row["learning rate of A-K, of K-A"].split(", ")
        a_k, k_a = (at_rate(target, order, rate) for order, rate in zip((A_K, K_A), rates, strict=True))
        pairs = a_k.stages[(a_k.stages["pipeline"] == "base_aligned") & a_k.stages["informative_pairs"].notna()]
        assert row["share in the base (%)"] == number(100 * (pairs["target_responses"] / pairs["responses"]).mean())
        assert row["reward of K-A"] == interval(*mean(k_a, K_A))
        assert row["reward of A-K"] == interval(*mean(a_k, A_K))
        assert row["A-K minus K-A"] == interval(*difference(a_k, k_a))


def at_rate(target, order, rate):
    """The run of the study in which the order was aligned at this rate, with KD at 0.7 and the main counts."""
    cells = [
        cell for arm in ("main", "targets", "learning_rate", "learning_rate_both") for cell in plan.ARMS[arm].cells
    ]
    for cell in cells:
        run = plan.seeds_of(study(), cell, "laptop")
        if order in cell.pipelines and run.the_run()["target"] == target:
            stages = run.stages[run.stages["pipeline"] == order]
            align = stages[stages["informative_pairs"].notna()]
            if f"{align['learning_rate'].iloc[0]:g}" == rate:
                return run
    raise AssertionError(f"{target} at {rate} was not run")


def test_the_verdicts_over_the_gaussian_settings_are_those_of_the_records():
    """Of the registered arms, each setting once; the controls of K-A count for nothing here."""
    (rows,) = tables(RESULTS, "A-K against K-A", "RLHF: holds")
    held = pictures.load("gaussians-study").select(arm=["main", *gaussians.REGISTERED])
    found = {algorithm: [claims.decide(run)["verdict"] for run in held.select(algorithm=algorithm).each()]
             for algorithm in ("rlhf", "dpo")}  # fmt: skip
    for place, row in enumerate(rows):
        verdicts = {algorithm: [each[place] for each in of] for algorithm, of in found.items()}
        counted = [verdicts[a].count(v) for a in ("rlhf", "dpo") for v in ("holds", "undecided", "fails")]
        invalid = sum(each.count("invalid") for each in verdicts.values())
        assert [int(cell) for cell in list(row.values())[1:]] == [*counted, invalid]
        assert row["A-K against K-A"] == list(CLAIM_WORDS.values())[place]


def test_what_is_said_of_the_closed_form_and_of_what_k_a_is_short_of_is_that_of_the_records():
    held = pictures.load("gaussians-map")
    scores = [score(Grid.of(held, algorithm, s)) for algorithm in ("rlhf", "dpo") for s in (0.5, 1.0, 2.0)]
    sums = [sum(getattr(each, name) for each in scores) for name in ("right", "cells", "a_k_target", "k_a_target")]
    assert sums == [15, 216, 197, 132]
    found = gaussian_split(pictures.load("gaussians-split"))
    assert set(found[found["components"] == 3]["outcome"]) == {"lost"}
    rooms = found[(found["components"] == 4) & (found["outcome"] == "found")].groupby(["beta", "budget"]).size()
    assert rooms.to_dict() == {(0.5, "as registered"): 72, (0.5, "draws × 10"): 83, (0.5, "steps × 10"): 75}


def test_the_pages_are_as_short_as_is_promised():
    assert len(README.split()) <= 1200
    assert len(RESULTS.split()) <= 2500
