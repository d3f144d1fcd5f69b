"""Checks and verdicts, on records made for them: each passes and fails where it should, and none says too much."""

import math

import numpy as np
import pytest
from synthetic_records import LM, METRICS, MOG, lm_record, mog_record, swap_orders, without

from alignkd_lab import claims, records
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.stats import t_interval, wilson_interval

CLAIMED = ("reward", "target_precision", "overall_precision", "overall_recall")
KD_ALIGNED = f"kd_aligned-{K_A}"


def checks_of(*made):
    return {check.name: check for check in claims.checks(records.tabulate(made))}


def failed(*made):
    return claims.failed_check(records.tabulate(made))


def decided(*made):
    return claims.decide(records.tabulate(made))


def verdicts(*made):
    found = decided(*made)
    return dict(zip(zip(found["metric"], found["statistic"], strict=True), found["verdict"], strict=True))


def with_rate(record, pipeline, hits, responses=512):
    entry = record["pipelines"][pipeline]
    entry["counts"] = {"responses": responses, "target": hits}
    entry["metrics"]["target_rate"] = hits / responses
    return record


# Checks -----------------------------------------------------------------------------------------------


def test_a_world_and_an_algorithm_have_the_checks_that_they_need():
    good = [lm_record(seed) for seed in range(3)]
    assert list(checks_of(*good)) == ["target_learned", "informative_pairs", "healing"]
    assert failed(*good) is None
    assert list(checks_of(*(mog_record(seed) for seed in range(3)))) == ["target_learned"]
    assert list(checks_of(mog_record(0, "dpo", effects=MOG))) == ["target_learned", "informative_pairs"]


def test_language_rates_are_pooled_counts_and_gaussian_rates_are_means_over_seeds():
    lm = records.tabulate(with_rate(lm_record(seed), "base", hits) for seed, hits in enumerate((3, 9, 30)))
    assert claims.target_rate(lm, "base") == wilson_interval(42, 3 * 512)
    mog = [mog_record(seed) for seed in range(3)]
    rates = [record["pipelines"]["base"]["metrics"]["target_rate"] for record in mog]
    assert claims.target_rate(records.tabulate(mog), "base") == t_interval(rates)
    mog[1]["pipelines"]["base"]["metrics"]["target_rate"] = None
    assert claims.target_rate(records.tabulate(mog), "base") is None
    assert claims.target_rate(lm, "adpa") is None


@pytest.mark.parametrize(
    ("base", "aligned", "responses", "passed"),
    [
        (10, 30, 512, True),
        (10, 29, 512, False),
        (10, 10, 512, False),
        (1, 4, 64, False),  # four times as often, but the intervals overlap
        (0, 200, 512, True),
        (0, 0, 512, False),
    ],
)
def test_the_target_must_show_three_times_as_often_with_the_intervals_apart(base, aligned, responses, passed):
    record = with_rate(with_rate(lm_record(0), "base", base, responses), "base_aligned", aligned, responses)
    check = checks_of(record)["target_learned"]
    assert (check.passed, check.bar) == (passed, 3)
    expected = aligned / base if base else math.inf if aligned else math.nan
    assert check.value == pytest.approx(expected, nan_ok=True)


def test_gaussian_seeds_must_agree_and_one_rests_on_the_ratio_alone_and_says_so():
    effects = {"base": {"target_rate": (0.04, 0.01)}, "base_aligned": {"target_rate": (0.2, 0.6)}}
    assert not checks_of(*(mog_record(seed, effects=effects) for seed in range(4)))["target_learned"].passed
    check = checks_of(mog_record(0))["target_learned"]
    assert check.passed
    assert "one seed" in check.text


@pytest.mark.parametrize("missing", ["base", "base_aligned"])
def test_what_was_not_measured_cannot_pass(missing):
    check = checks_of(without(lm_record(0), "pipelines", missing))["target_learned"]
    assert not check.passed
    assert f"pipeline {missing}" in check.text
    assert not checks_of({**lm_record(0), "checks": {}})["healing"].passed
    pairs = checks_of(without(lm_record(0), "stages", "base_aligned", "info", "informative_pairs"))["informative_pairs"]
    assert not pairs.passed
    assert "not measured" in pairs.text


def test_nothing_is_asked_about_an_alignment_of_the_base_where_no_pipeline_has_one():
    made = [lm_record(seed) for seed in range(2)]
    for record in made:
        record["pipelines"] = {name: record["pipelines"][name] for name in ("base", "kd_only", K_A)}
    assert list(checks_of(*made)) == ["healing"]
    made[1]["pipelines"][A_K] = lm_record(1)["pipelines"][A_K]
    assert failed(*made) == "target_learned"


@pytest.mark.parametrize(("pairs", "passed"), [(30, True), (29, False)])
def test_the_poorest_seed_decides_on_the_pairs_of_the_base_and_those_of_the_student_do_not_count(pairs, passed):
    made = [lm_record(seed) for seed in range(3)]
    made[1]["stages"]["base_aligned"]["info"]["informative_pairs"] = pairs
    made[2]["stages"][KD_ALIGNED]["info"]["informative_pairs"] = 0
    check = checks_of(*made)["informative_pairs"]
    assert (check.passed, check.value) == (passed, pairs)
    counts = [record["stages"][KD_ALIGNED]["info"]["informative_pairs"] for record in made]
    assert claims.pairs(records.tabulate(made), K_A).to_dict() == dict(enumerate(counts))
    assert claims.pairs(records.tabulate([mog_record(0)]), K_A).empty


@pytest.mark.parametrize(("gap", "passed"), [(0.99, True), (1.0, True), (1.01, False)])
def test_the_worst_seed_decides_on_healing(gap, passed):
    check = checks_of(lm_record(0, gap=0.3), lm_record(1, gap=gap))["healing"]
    assert (check.passed, check.value) == (passed, gap)


def test_the_first_failed_check_is_named_and_makes_every_verdict_invalid_whatever_the_seeds():
    unlearned = {**LM, "base_aligned": LM["base"]}
    assert failed(lm_record(0, effects=unlearned, gap=5.0)) == "target_learned"
    assert failed(lm_record(0, gap=5.0)) == "healing"
    assert {*verdicts(lm_record(0, effects=unlearned)).values()} == {"invalid"}
    assert {*verdicts(*(lm_record(seed, gap=2.0) for seed in range(3))).values()} == {"invalid"}


# Verdicts ---------------------------------------------------------------------------------------------


def test_a_verdict_needs_the_whole_interval_on_one_side():
    for verdict, cases in {
        "holds": [(0.1, 0.4, "up", 0), (-0.4, -0.1, "down", 0), (0.2, 0.8, "down", 1)],
        "fails": [(0.1, 0.4, "down", 0), (-0.4, -0.1, "up", 0), (1.2, 3.0, "down", 1)],
        "undecided": [(-0.1, 0.4, "up", 0), (0.0, 0.4, "up", 0), (math.nan, math.nan, "up", 0)],
    }.items():
        assert {claims.verdict(*case) for case in cases} == {verdict}
    with pytest.raises(ValueError, match="sign 'sideways' is unknown"):
        claims.verdict(0.1, 0.4, "sideways")


def test_known_effects_give_known_verdicts_and_swapping_the_orders_turns_them_around():
    made = [mog_record(seed) for seed in range(20)]
    assert verdicts(*made) == {
        ("reward", "mean_difference"): "holds",
        ("target_precision", "mean_difference"): "holds",
        ("overall_precision", "mean_difference"): "fails",
        ("overall_recall", "mean_difference"): "holds",
        ("reward", "variance_ratio"): "fails",
    }
    turned = {"holds": "fails", "fails": "holds", "undecided": "undecided"}
    swapped = [swap_orders(record) for record in made]
    assert verdicts(*swapped) == {claim: turned[verdict] for claim, verdict in verdicts(*made).items()}
    straight, back = decided(*made).iloc[0], decided(*swapped).iloc[0]
    assert [back["estimate"], back["low"], back["high"]] == pytest.approx(
        [-straight["estimate"], -straight["high"], -straight["low"]]
    )
    assert back["effect_size"] == pytest.approx(-straight["effect_size"])


def noise(draw, seeds=6):
    """Records in which both orders are noise, and every check passes."""
    made = [lm_record(seed) for seed in range(seeds)]
    for record in made:
        for order in ORDERS:
            record["pipelines"][order]["metrics"] |= dict(zip(CLAIMED, draw.normal(0, 1, 4).tolist(), strict=True))
    return made


def test_holm_keeps_false_verdicts_within_alpha_over_the_family():
    draw = np.random.default_rng(7)
    wrong = [{"holds", "fails"} & {*verdicts(*noise(draw)).values()} for _ in range(60)]
    assert np.mean(list(map(bool, wrong))) < 0.1


def test_variance_is_never_decided_in_the_language_world_and_costs_it_no_power():
    made = [mog_record(seed) for seed in range(20)]
    language = [{**lm_record(seed), "pipelines": record["pipelines"], "stages": record["stages"]}
                for seed, record in enumerate(made)]  # fmt: skip
    for record in language:
        record["stages"]["base_aligned"]["info"]["informative_pairs"] = 40
    found = decided(*language).iloc[-1]
    assert found["statistic"] == "variance_ratio"
    assert found["low"] > 1
    assert found["verdict"] == claims.NOT_DECIDED
    assert decided(*made)["level"].max() == pytest.approx(1 - 0.05 / 5)
    assert decided(*language)["level"].max() == pytest.approx(1 - 0.05 / 4)


def test_one_seed_or_order_decides_nothing_and_of_more_those_of_both_orders_are_compared_undefined_ones_too():
    one = records.tabulate([mog_record(0)])
    assert {*claims.decide(one)["verdict"]} == {"undecided"}
    assert claims.decide(one)["estimate"][0] > 2
    assert claims.decide(one)["low"].isna().all()
    assert claims.why_no_verdict(one) == "one seed: no verdict"
    half = records.tabulate(without(mog_record(seed), "pipelines", A_K) for seed in range(3))
    assert {*claims.decide(half)["verdict"]} == {"undecided"}
    assert claims.why_no_verdict(half) == "not both orders: no verdict"
    apart = [without(mog_record(seed), "pipelines", order) for seed, order in enumerate(ORDERS)]
    assert claims.why_no_verdict(records.tabulate(apart)) == "not both orders: no verdict"
    assert claims.why_no_verdict(records.tabulate(mog_record(seed) for seed in range(2))) == ""
    made = [mog_record(seed) for seed in range(4)]
    assert decided(*made[:3], without(made[3], "pipelines", A_K)).equals(decided(*made[:3]))
    made[1]["pipelines"][K_A]["metrics"]["target_precision"] = None
    assert verdicts(*made)["target_precision", "mean_difference"] == "undecided"
    assert decided(*made).loc[1, ["estimate", "low", "high"]].isna().all()


def test_the_main_experiment_on_smollm2_comes_to_its_verdicts():
    study = records.load(data_folder() / "records" / "smollm2-study.zip")
    main = study.select(preset="laptop", algorithm="dpo", target="exclamation", arm=["main", "controls", "methods"])
    assert claims.failed_check(main) is None
    assert set(METRICS) <= set(main.metrics["metric"])
    found = claims.decide(main).set_index(["metric", "statistic"])
    assert found["verdict"].tolist() == ["holds", "undecided", "undecided", "undecided", "not decided"]
    reward = found.loc["reward", "mean_difference"]
    assert reward[["estimate", "low", "high"]].tolist() == pytest.approx([0.159285, 0.099984, 0.218586], abs=1e-6)
    assert len(main.paired_seeds()) == 10
