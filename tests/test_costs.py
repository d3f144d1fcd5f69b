"""Costs and gains: every stage that a pipeline needs is charged to it, and gains are counted from KD only."""

import pytest
from synthetic_records import LM, lm_record

from alignkd_lab.costs import COSTS, GAINS, compared, cost, stages_of, typical_cost, with_costs
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import METHODS
from alignkd_lab.runs import group_runs

WAYS = ("kd_only", "kd_then_align", "align_then_kd", *METHODS)
EFFECTS = LM | dict.fromkeys(METHODS, (0.2, 0.3, -4.0, -3.0, -3.5))


def run_of(seeds, names=WAYS):
    effects = {name: EFFECTS[name] for name in ("base", *names)}
    return group_runs([lm_record(seed, effects=effects) for seed in seeds])[0]


@pytest.fixture(scope="module")
def run():
    return run_of(range(3))


def test_a_shared_stage_is_charged_to_both_that_need_it(run):
    record = run["records"][0]
    kd = record["stages"]["kd"]["seconds"]
    assert cost(record, "kd_only").seconds == kd
    assert cost(record, "kd_then_align").seconds == pytest.approx(
        kd + record["stages"]["kd_aligned-kd_then_align"]["seconds"]
    )
    assert cost(record, "kd_then_align").tokens == {"sampled": 28_000, "trained": 87_000, "scored": 28_000}
    assert cost(record, "base") == (0, {"sampled": 0, "trained": 0, "scored": 0}, 0)


def test_the_typical_time_is_a_median_so_that_one_slow_seed_does_not_count(run):
    slow = run_of(range(3))
    for stage in stages_of(slow["records"][0], "adpa"):
        stage["seconds"] *= 1000
    others = [cost(record, "adpa").seconds for record in slow["records"][1:]]
    assert typical_cost(slow, "adpa").seconds in others
    assert typical_cost(run, "adpa").memory == 1_900_000_000


def test_costs_and_gains_stand_among_the_metrics(run):
    found = with_costs(run)
    for before, record in zip(run["records"], found["records"], strict=True):
        metrics = record["pipelines"]["adpa"]["metrics"]
        spent = cost(before, "adpa")
        assert set(COSTS) | set(GAINS) <= set(metrics)
        assert metrics["tokens_trained"] == spent.tokens["trained"]
        assert metrics["minutes"] == pytest.approx(spent.seconds / 60)
        above = metrics["reward"] - record["pipelines"]["kd_only"]["metrics"]["reward"]
        assert metrics["gain_per_10000_tokens"] == pytest.approx(1e4 * above / spent.tokens["trained"])
        assert metrics["gain_per_hour"] == pytest.approx(3600 * above / typical_cost(run, "adpa").seconds)


def test_the_baseline_gains_nothing_and_the_base_costs_nothing(run):
    pipelines = with_costs(run)["records"][0]["pipelines"]
    assert not set(GAINS) & set(pipelines["kd_only"]["metrics"])
    assert not set(COSTS) & set(pipelines["base"]["metrics"])
    assert "minutes" not in run["records"][0]["pipelines"]["adpa"]["metrics"]


def test_without_the_baseline_there_is_nothing_to_gain_over():
    with pytest.raises(BadInput, match="seed 0 lacks the pipeline 'kd_only'"):
        with_costs(run_of([0], ("adpa", "dckd")))


def test_many_ways_go_before_many_seeds():
    both = [run_of(range(9), WAYS[:3]), run_of([0])]
    chosen = compared(both, WAYS)
    assert len(chosen["records"]) == 1
    assert set(chosen["records"][0]["pipelines"]) == set(WAYS)


def test_a_way_run_with_one_seed_does_not_cost_the_others_theirs():
    effects = [{name: EFFECTS[name] for name in (WAYS if seed == 0 else WAYS[:-1])} for seed in range(4)]
    run = group_runs([lm_record(seed, effects=held) for seed, held in enumerate(effects)])[0]
    chosen = compared([run], WAYS)
    assert [record["seed"] for record in chosen["records"]] == [0, 1, 2, 3]
    assert all(set(record["pipelines"]) == set(WAYS[:-1]) for record in chosen["records"])


@pytest.mark.parametrize("runs", [[], [run_of([0], ("kd_only",))]])
def test_where_nothing_can_be_compared_the_way_out_is_named(runs):
    with pytest.raises(BadInput, match="alignkd run --world lm --pipelines orders,methods"):
        compared(runs, WAYS)
