"""What notebook 09 says: the forecast against the record, and that a rule and pairs of one's own are taken."""

import json

import pytest

from alignkd_lab import records
from alignkd_lab.clock import Rates
from alignkd_lab.course.exercises.bank import TASKS
from alignkd_lab.course.exercises.ch09 import preference_rows
from alignkd_lab.course.explorers.run_picture import curves
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.experiment import run_experiment
from alignkd_lab.lm.feasibility import expected_pairs
from alignkd_lab.lm.preference_data import load_preferences
from alignkd_lab.lm.rewards import SECOND_RULES, TARGETS
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.plan import plan_run
from alignkd_lab.progress import VARIABLE, read_events


def test_the_forecast_of_the_base_s_pairs_is_that_of_the_record():
    study = recorded_smollm2()
    held = study.stages[(study.stages["pipeline"] == "base_aligned") & (study.stages["kind"] == "align")]
    size = study.settings["preference_prompts"], study.settings["preference_responses"]
    forecast = sum(float(expected_pairs(rate, *size)) for rate in held["target_responses"] / held["responses"])
    assert len(held) == len(study.seeds)
    assert held["informative_pairs"].sum() == pytest.approx(forecast, rel=0.2)


def test_each_row_of_the_messy_file_has_the_fault_that_the_hints_speak_of(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, preference_rows()["rows"])))
    read = load_preferences(path)
    assert [pair.row for pair in read.rows] == [1, 4, 6]
    assert TASKS["usable_rows"].outcome() == 3
    reasons = dict(read.skipped)
    assert reasons[2] == reasons[7] == "chosen equals rejected"
    assert reasons[3] == "empty rejected"
    assert reasons[5] == "missing rejected"
    assert "not by the user" in reasons[8]
    assert read.rows[1].prompt[0]["content"].startswith("Name a colour.")


def test_an_approximate_count_of_responses_is_right():
    assert [answer for answer in (14, 15, 16, 17, 20) if TASKS["responses_needed"].right(answer)] == [15, 16, 17]


def test_a_registered_rule_runs_from_a_script_and_the_run_tells_its_seed_its_units_its_steps_and_its_curve(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(TARGETS, "even", lambda text: len(text) % 2 == 0)
    monkeypatch.setitem(SECOND_RULES, "even", lambda text: "e" in text)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "told"))
    few = {"preference_prompts": 4, "distil_prompts": 4, "test_prompts": 4, "align_steps": 2, "reward": "rule"}
    run_experiment(
        world="lm",
        preset="tiny",
        pipelines=("kd_only",),
        target="even",
        out=tmp_path,
        overrides={**few, "align_learning_rates": [1e-3]},
    )
    run, told = records.load(tmp_path), read_events(tmp_path / "told")
    assert run.the_run()["target"] == "even"
    assert 0.1 < run.table("target_rate")["base"].item() < 0.9
    (part,) = [event for event in told if event["what"] == "part"]
    units = [event for event in told if event["what"] == "unit"]
    assert (part["name"], part["parts"], part["units"]) == (f"seed {run.seeds[0]}", 1, len(units))
    assert {("kd_only", "kd"), ("kd_only", "evaluation")} <= {(unit["pipeline"], unit["stage"]) for unit in units}
    assert {event["stage"] for event in told if event["what"] == "step"} == {"base_aligned", "kd"}
    ((_, curve),) = curves(told)
    kept = run.curves[(run.curves["pipeline"] == "base_aligned") & (run.curves["curve"] == "reward")]
    assert curve["reward"].tolist() == pytest.approx(kept.sort_values("step")["value"].tolist())


def test_a_larger_base_costs_more():
    rates, base = Rates(1e9, 1e9, 1e9, "cpu", "made up"), "HuggingFaceTB/SmolLM2-360M-Instruct"
    seconds = [plan_run({"world": "lm", "pipelines": ORDERS, "overrides": of}, rates)["seconds"]
               for of in ({}, {"base": base})]  # fmt: skip
    assert seconds[1] > 2 * seconds[0]
