"""The report's tables: every figure in them is computed here a second way."""

import statistics

import pytest
from synthetic_records import LM, lm_record, mog_record

from alignkd_lab.claims import CLAIMS, NOT_DECIDED
from alignkd_lab.plots.style import number
from alignkd_lab.report import tables
from alignkd_lab.runs import group_runs, summarise_run


@pytest.fixture(scope="module")
def run():
    return group_runs([lm_record(seed) for seed in range(3)])[0]


@pytest.fixture(scope="module")
def summary(run):
    return summarise_run(run)


def row_of(rows, label):
    return next(row for row in rows if row["label"].startswith(label))


def test_every_claim_has_words_of_its_own(summary):
    rows = tables.claims_table(summary)
    assert len({row["words"] for row in rows}) == len(CLAIMS) == len(rows)
    assert [row["expected"] for row in rows] == ["above 0", "above 0", "above 0", "below 0", "below 1"]


def test_the_claims_table_marks_what_this_world_does_not_decide(summary):
    assert [row["decided"] for row in tables.claims_table(summary)] == [True, True, True, True, False]


def test_a_claim_without_an_interval_shows_no_level():
    rows = tables.claims_table(summarise_run(group_runs([lm_record(0)])[0]))
    assert {(row["interval"], row["level"]) for row in rows} == {("", "")}


def test_rates_stand_in_percent_with_their_interval():
    summary = summarise_run(group_runs([lm_record(seed) for seed in range(4)])[0])
    table = tables.metrics_table(summary)
    column = table["heads"].index("target rate (%)")
    entry = summary["pipelines"]["base_aligned"]["target_rate"]
    mean, span = row_of(table["rows"], "Base, aligned")["cells"][column]
    assert mean == f"{100 * entry['mean']:.1f}"
    assert span == f"{100 * entry['low']:.1f} to {100 * entry['high']:.1f}"


def test_a_metric_of_one_pipeline_only_is_a_dash_elsewhere():
    record = mog_record(0)
    record["pipelines"]["base"]["metrics"]["surprise"] = 1.5
    table = tables.metrics_table(summarise_run(group_runs([record])[0]))
    assert table["heads"][-1] == "surprise"
    assert [row["cells"][-1][0] for row in table["rows"]] == ["1.50", *["–"] * 7]


def test_a_pipeline_costs_the_sum_of_its_stages(run):
    held = [record["stages"] for record in run["records"]]
    seconds = statistics.median(s["base_aligned"]["seconds"] + s["aligned_kd"]["seconds"] for s in held)
    row = row_of(tables.costs_table(run)["rows"], "A-K")
    assert float(row["seconds"].replace(",", "")) == pytest.approx(seconds, rel=0.01)
    assert row["tokens"] == ["28,000", "87,000", "28,000"]
    assert row["memory"] == f"{1_900_000_000 / 2**30:.2f} GiB"


METHOD_VALUES = {"adpa": (0.20, 0.25, -3.9, -2.6, -4.1), "align_student_only": (0.05, 0.07, -4.4, -2.7, -4.0)}


def test_methods_stand_beside_the_orders_with_what_they_cost():
    records = [lm_record(seed, effects={**LM, **METHOD_VALUES}) for seed in range(3)]
    for record in records:
        record["pipelines"]["adpa"]["metrics"]["reward_accuracy"] = 0.75
    run = group_runs(records)[0]
    summary = summarise_run(run)
    table = tables.methods_table(run, summary)
    assert [row["label"] for row in table["rows"]] == [
        "K-A: distil, then align",
        "A-K: align, then distil",
        "ADPA",
        "Student aligned, no KD",
    ]
    adpa = row_of(table["rows"], "ADPA")
    means = dict(zip(table["heads"], (mean for mean, _ in adpa["cells"]), strict=True))
    assert means["reward accuracy (%)"] == "75.0"
    assert float(means["reward"]) == pytest.approx(summary["pipelines"]["adpa"]["reward"]["mean"], abs=5e-4)
    assert row_of(table["rows"], "A-K")["cells"][table["heads"].index("reward accuracy (%)")] == ("–", "")
    trained = sum(stage["tokens"]["trained"] for stage in stages_of(records[0], "adpa"))
    assert adpa["costs"][table["costs"].index("tokens trained")] == f"{trained:,}"
    assert adpa["seeds"] == 3


def stages_of(record, name):
    return [record["stages"][key] for key in record["pipelines"][name]["stages"]]


def test_without_other_methods_there_is_no_table_of_them(run):
    assert tables.methods_table(run, summarise_run(run)) is None


def test_seeds_that_ran_together_share_their_seconds():
    records = [mog_record(seed) for seed in range(2)]
    alone = tables.costs_table(group_runs(records)[0])
    for record in records:
        for stage in record["stages"].values():
            stage["info"]["seeds_in_batch"], stage["tokens"] = 2, {}
    together = tables.costs_table(group_runs(records)[0])
    assert not alone["batched"]
    assert together["batched"]
    assert row_of(together["rows"], "KD only")["tokens"] == ["–"] * 3
    halves = [float(row_of(table["rows"], "KD only")["seconds"]) for table in (alone, together)]
    assert halves[0] == pytest.approx(2 * halves[1], rel=0.01)


@pytest.mark.parametrize(("version", "told"), [("0.1.0", True), ("0.2.0", False)])
def test_seconds_that_lack_those_of_samples_drawn_before_are_told(version, told):
    record = lm_record(0)
    record["provenance"]["version"] = version
    assert tables.costs_table(group_runs([record])[0])["reused"] is told
    assert tables.costs_table(group_runs([mog_record(0)])[0])["reused"] is False


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_seeds_too_few_for_an_interval_are_shown_themselves(seeds):
    records = [lm_record(seed) for seed in range(seeds)]
    table = tables.metrics_table(summarise_run(group_runs(records)[0]))
    mean, below = row_of(table["rows"], "A-K")["cells"][table["heads"].index("target rate (%)")]
    values = [100 * record["pipelines"]["align_then_kd"]["metrics"]["target_rate"] for record in records]
    assert float(mean) == pytest.approx(statistics.mean(values), abs=0.06)
    if seeds < tables.FEW_SEEDS:
        assert below == ("" if seeds == 1 else ", ".join(number(value) for value in values))
    else:
        assert " to " in below


def test_of_what_this_world_decides_alone_verdicts_are_counted():
    summary = summarise_run(group_runs([lm_record(seed) for seed in range(6)])[0])
    assert "Of 4 claims: " in tables.in_short(summary)
    assert tables.claims_table(summary)[-1]["verdict"] == NOT_DECIDED


def test_the_base_costs_nothing_and_is_not_listed(run):
    assert "Base" not in [row["label"] for row in tables.costs_table(run)["rows"]]


def test_responses_are_the_first_prompts_of_the_first_seed(run):
    table = tables.responses_table(run)
    samples = run["records"][0]["pipelines"]["align_then_kd"]["samples"]
    assert [row["prompt"] for row in table["rows"]] == [sample["prompt"] for sample in samples]
    assert [row["cells"][2]["text"] for row in table["rows"]] == [sample["response"] for sample in samples]
    assert [head["label"] for head in table["heads"]] == [
        "Base",
        "K-A: distil, then align",
        "A-K: align, then distil",
    ]


def test_of_several_responses_to_a_prompt_the_first_is_shown():
    record = lm_record(0)
    samples = record["pipelines"]["kd_then_align"]["samples"]
    samples.append({**samples[0], "response": "a later and better one", "reward": 1.0, "target": True})
    table = tables.responses_table(group_runs([record])[0])
    assert table["rows"][0]["cells"][1]["text"] == samples[0]["response"]
    assert len(table["rows"]) == 5


def test_no_more_prompts_are_shown_than_the_rule_says():
    record = lm_record(0)
    for entry in record["pipelines"].values():
        entry["samples"] = [{**entry["samples"][0], "prompt": f"prompt {i}"} for i in range(50)]
    rows = tables.responses_table(group_runs([record])[0])["rows"]
    assert [row["prompt"] for row in rows] == [f"prompt {i}" for i in range(tables.RESPONSES)]


def test_gaussians_have_no_responses():
    assert tables.responses_table(group_runs([mog_record(0)])[0]) is None


def test_the_sweep_has_a_row_per_cell_with_what_varies():
    made = [mog_record(seed, a, sharpening=s) for seed in range(3) for a in ("rlhf", "dpo") for s in (1.0, 3.0)]
    table = tables.cells_table([summarise_run(run) for run in group_runs(made)])
    assert table["settings"] == ["sharpening"]
    assert [(row["algorithm"], *row["settings"]) for row in table["rows"]] == [
        ("RLHF", "1"), ("RLHF", "3"), ("DPO", "1"), ("DPO", "3"),
    ]  # fmt: skip
    assert all(len(row["verdicts"]) == len(CLAIMS) == len(table["claims"]) for row in table["rows"])


def test_the_short_line_counts_the_verdicts():
    line = tables.in_short(summarise_run(group_runs([mog_record(seed) for seed in range(20)])[0]))
    assert line.endswith("Of 5 claims: holds 3, fails 2.")


def test_the_short_line_names_the_check_that_failed():
    line = tables.in_short(summarise_run(group_runs([lm_record(seed, gap=2.0) for seed in range(3)])[0]))
    assert "No verdict is valid" in line
    assert "The student was healthy" in line


def test_the_short_line_of_one_seed_decides_nothing():
    assert tables.in_short(summarise_run(group_runs([lm_record(0)])[0])).endswith("One seed: no verdict.")


def test_provenance_shows_every_distinct_value_once(run):
    changed = {**run, "records": [dict(record) for record in run["records"]]}
    changed["records"][1] = {
        **changed["records"][1],
        "provenance": {**changed["records"][1]["provenance"], "commit": "fedcba", "weights": {"base": "abc"}},
    }
    rows = dict(tables.provenance_rows(changed))
    assert rows["commit"] == "0123456789abcdef; fedcba"
    assert rows["seeds"] == "0, 1, 2"
    assert rows["weights"] == '{"base": "abc"}'
