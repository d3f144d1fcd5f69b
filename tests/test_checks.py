"""Checks that come before any verdict: each passes and fails where it should, on records made for it."""

import math

import pytest
from synthetic_records import LM, MOG, lm_record, mog_record

from alignkd_lab.checks import failed_check, run_checks, target_rate
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.runs import group_runs
from alignkd_lab.stats import t_interval, wilson_interval


def checks_of(records):
    return run_checks(group_runs(records)[0])


def with_rate(record, pipeline, hits, responses=512):
    entry = record["pipelines"][pipeline]
    entry["counts"] = {"responses": responses, "target": hits}
    entry["metrics"]["target_rate"] = hits / responses
    return record


def test_a_good_language_run_passes_all_three():
    checks = checks_of([lm_record(seed) for seed in range(3)])
    assert list(checks) == ["target_learned", "informative_pairs", "healing"]
    assert failed_check(checks) is None


def test_rlhf_on_gaussians_needs_no_pairs_and_no_healing():
    assert list(checks_of([mog_record(seed) for seed in range(3)])) == ["target_learned"]


def test_language_rates_are_pooled_counts_and_gaussian_rates_are_means_over_seeds():
    lm = [with_rate(lm_record(seed), "base", hits) for seed, hits in enumerate((3, 9, 30))]
    assert target_rate(lm, "base") == wilson_interval(42, 3 * 512)
    mog = [mog_record(seed) for seed in range(3)]
    rates = [record["pipelines"]["base"]["metrics"]["target_rate"] for record in mog]
    assert target_rate(mog, "base") == t_interval(rates)


@pytest.mark.parametrize(("hits", "passed"), [(30, True), (29, False), (10, False)])
def test_the_target_must_show_three_times_as_often(hits, passed):
    record = with_rate(with_rate(lm_record(0), "base", 10), "base_aligned", hits)
    check = checks_of([record])["target_learned"]
    assert check["passed"] is passed
    assert check["value"] == pytest.approx(hits / 10)
    assert check["bar"] == 3


def test_three_times_as_often_is_not_enough_where_intervals_overlap():
    record = with_rate(with_rate(lm_record(0), "base", 1, 64), "base_aligned", 4, 64)
    check = checks_of([record])["target_learned"]
    assert check["value"] == pytest.approx(4)
    assert not check["passed"]


def test_wide_spread_over_gaussian_seeds_fails_the_check():
    effects = {"base": {"target_rate": (0.04, 0.01)}, "base_aligned": {"target_rate": (0.2, 0.6)}}
    assert not checks_of([mog_record(seed, effects=effects) for seed in range(4)])["target_learned"]["passed"]


def test_one_gaussian_seed_rests_on_the_ratio_alone_and_says_so():
    check = checks_of([mog_record(0)])["target_learned"]
    assert check["passed"]
    assert "one seed" in check["text"]


def test_a_base_that_never_shows_the_target_is_surpassed_by_any_rate():
    record = with_rate(with_rate(lm_record(0), "base", 0), "base_aligned", 200)
    check = checks_of([record])["target_learned"]
    assert check["passed"]
    assert math.isinf(check["value"])


@pytest.mark.parametrize("missing", ["base", "base_aligned"])
def test_what_was_not_measured_cannot_pass(missing):
    record = lm_record(0)
    del record["pipelines"][missing]
    check = checks_of([record])["target_learned"]
    assert not check["passed"]
    assert f"pipeline {missing}" in check["text"]


def test_nothing_is_asked_about_an_alignment_of_the_base_where_no_pipeline_has_one():
    records = [lm_record(seed) for seed in range(2)]
    for record in records:
        record["pipelines"] = {name: record["pipelines"][name] for name in ("base", "kd_only", K_A)}
    assert list(checks_of(records)) == ["healing"]
    records[1]["pipelines"][A_K] = lm_record(1)["pipelines"][A_K]
    assert failed_check(checks_of(records)) == "target_learned"


@pytest.mark.parametrize(("pairs", "passed"), [(30, True), (29, False)])
def test_the_poorest_seed_decides_on_informative_pairs(pairs, passed):
    records = [lm_record(seed) for seed in range(3)]
    records[1]["stages"]["base_aligned"]["info"]["informative_pairs"] = pairs
    check = checks_of(records)["informative_pairs"]
    assert check["passed"] is passed
    assert check["value"] == pairs


def test_pairs_of_the_distilled_student_do_not_count():
    record = lm_record(0)
    record["stages"]["kd_aligned-kd_then_align"]["info"]["informative_pairs"] = 0
    assert checks_of([record])["informative_pairs"]["passed"]


def test_missing_counts_of_pairs_fail_the_check():
    record = lm_record(0)
    del record["stages"]["base_aligned"]["info"]["informative_pairs"]
    check = checks_of([record])["informative_pairs"]
    assert not check["passed"]
    assert "not measured" in check["text"]


@pytest.mark.parametrize(("gap", "passed"), [(0.99, True), (1.0, True), (1.01, False)])
def test_the_worst_seed_decides_on_healing(gap, passed):
    check = checks_of([lm_record(0, gap=0.3), lm_record(1, gap=gap)])["healing"]
    assert check["passed"] is passed
    assert check["value"] == gap


def test_a_record_without_a_healing_gap_fails_the_check():
    record = {**lm_record(0), "checks": {}}
    assert not checks_of([record])["healing"]["passed"]


def test_the_first_failure_is_the_one_that_is_named():
    effects = {**LM, "base_aligned": LM["base"]}
    assert failed_check(checks_of([lm_record(0, effects=effects, gap=5.0)])) == "target_learned"
    assert failed_check(checks_of([lm_record(0, gap=5.0)])) == "healing"


def test_gaussian_dpo_has_its_pairs_checked_too():
    assert list(checks_of([mog_record(0, "dpo", effects=MOG)])) == ["target_learned", "informative_pairs"]
