"""Costs and gains: every stage that a pipeline needs is charged to it, and gains are counted from KD only."""

import pytest
from synthetic_records import LM, lm_record

from alignkd_lab import records
from alignkd_lab.costs import COSTS, GAINS, costs, typical_costs, with_costs
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import METHODS

WAYS = ("kd_only", "kd_then_align", "align_then_kd", *METHODS)
EFFECTS = LM | dict.fromkeys(METHODS, (0.2, 0.3, -4.0, -3.0, -3.5))


def made(seed, names=WAYS, **changes):
    return lm_record(seed, effects={name: EFFECTS[name] for name in ("base", *names)}, **changes)


def run_of(seeds, names=WAYS):
    return records.tabulate(made(seed, names) for seed in seeds)


def test_a_shared_stage_is_charged_to_both_that_need_it_and_a_batch_shares_its_time():
    record = made(1)
    spent, stages = costs(records.tabulate([record])), record["stages"]
    assert spent.loc["kd_only", 1]["minutes"] == stages["kd"]["seconds"] / 60
    both = stages["kd"]["seconds"] + stages["kd_aligned-kd_then_align"]["seconds"]
    assert spent.loc["kd_then_align", 1].to_dict() == pytest.approx(
        {"tokens_sampled": 28_000, "tokens_trained": 58_000, "tokens_scored": 28_000, "minutes": both / 60,
         "memory_gib": 1_900_000_000 / 2**30}
    )  # fmt: skip
    assert "base" not in spent.index.get_level_values("pipeline")
    stages["kd"]["info"]["seeds_in_batch"] = 4
    assert costs(records.tabulate([record])).loc["kd_only", 1]["minutes"] == stages["kd"]["seconds"] / 60 / 4
    stages["kd"]["tokens"] = None
    assert costs(records.tabulate([record])).loc["kd_only", 1].isna().sum() == 3  # of which nothing is known, and not 0


def test_the_typical_time_is_a_median_so_that_one_slow_seed_does_not_count():
    three = [made(seed) for seed in range(3)]
    for key in three[0]["pipelines"]["adpa"]["stages"]:
        three[0]["stages"][key]["seconds"] *= 1000
    run = records.tabulate(three)
    typical = typical_costs(run)
    assert typical.loc["adpa", "minutes"] in [costs(run).loc["adpa", seed]["minutes"] for seed in (1, 2)]
    assert typical.loc["adpa", "memory_gib"] == 1_900_000_000 / 2**30
    assert list(typical.index) == [name for name in run.pipelines if name != "base"]


def test_costs_and_gains_stand_among_the_metrics_of_what_costs_and_gains():
    run = run_of(range(3))
    found, spent, typical = with_costs(run), costs(run), typical_costs(run)
    for seed in range(3):
        metrics = found.metrics.query("pipeline == 'adpa' and seed == @seed").set_index("metric")["value"]
        assert set(COSTS) | set(GAINS) <= set(metrics.index)
        above = run.table().at[seed, "adpa"] - run.table().at[seed, "kd_only"]
        trained = spent.loc["adpa", seed]["tokens_trained"]
        assert metrics["tokens_trained"] == trained
        assert metrics["gain_per_10000_tokens"] == pytest.approx(1e4 * above / trained)
        assert metrics["gain_per_hour"] == pytest.approx(60 * above / typical.loc["adpa", "minutes"])
    by_name = found.metrics.groupby("pipeline")["metric"].agg(set)
    assert not set(GAINS) & by_name["kd_only"]
    assert not set(COSTS) & by_name["base"]
    assert "minutes" not in set(run.metrics["metric"])
    assert found.table("reward").equals(run.table("reward"))
    with pytest.raises(BadInput, match="counted from 'kd_only', and the run has base, align_then_kd"):
        with_costs(run_of([0], ("align_then_kd",)))
