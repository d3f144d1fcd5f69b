"""What RESULTS.md and the README say of the larger run on a GPU is what its records say."""

import re

import pytest
from results_text import INTERVAL, LM_METRICS, NUMBERS, README, alignments, recorded, runs, section, table, written

from alignkd_lab.lm import plan
from alignkd_lab.metrics import A_K, K_A, t_interval
from alignkd_lab.pipelines import ORDERS, YARDSTICKS
from alignkd_lab.report.evidence import difference, leads, mean, paired, pairs, sampled_rates
from alignkd_lab.runs import summarise_run
from alignkd_lab.style import interval, pipeline_style, shown

TEXT = section("A larger budget, on a GPU")
MAIN = plan.ARMS["main"].cells[0]


@pytest.fixture(scope="module")
def gpu():
    return plan.run_of(runs(), MAIN, "gpu", "cuda")


def test_the_table_of_the_gpu_is_that_of_its_records(gpu):
    summary = summarise_run(gpu)["pipelines"]
    rows = table("These figures are what is there.", TEXT)
    assert list(rows) == [pipeline_style(name).label for name in (*YARDSTICKS, *ORDERS)]
    assert rows == {
        pipeline_style(name).label: [written(summary[name][metric], metric) for metric in LM_METRICS]
        for name in (*YARDSTICKS, *ORDERS)
    }


def test_seeds_sizes_and_machine_are_those_of_the_gpus_records(gpu):
    seeds = [record["seed"] for record in gpu["records"]]
    assert f"{len(seeds)} of {len(MAIN.seeds)} seeds" in TEXT
    assert f"{min(seeds)} to {max(seeds)}" in TEXT
    assert seeds == list(range(min(seeds), max(seeds) + 1))
    assert {record["provenance"]["device_name"] for record in gpu["records"]} == {"NVIDIA H100 80GB HBM3"}
    larger, usual = gpu["settings"], recorded("main")["settings"]

    def times(*names):
        ratio = 1
        for name in names:
            ratio *= larger[name] / usual[name]
        return round(ratio)

    told = [times("preference_prompts", "preference_responses"),
            times("distil_prompts", "distil_responses"), times("test_prompts", "test_responses")]  # fmt: skip
    assert told == [4, 19, 16]
    assert "four times the preference samples, nineteen times the teacher's and sixteen times the test" in TEXT
    steps = [f"{held['align_steps']} steps of {held['align_batch']} pairs" for held in (larger, usual)]
    assert f"{steps[0]} and not {steps[1]}" in TEXT


def test_every_trial_of_the_gpu_left_the_budget_and_the_reward_had_passed_its_best(gpu):
    kl = {}
    for name in ("base_aligned", K_A):
        trials = alignments(gpu, name)[0]["trials"]
        assert min(trial["kl"] for trial in trials) > gpu["settings"]["kl_budget"] == 10
        taken = {info["learning_rate"] for info in alignments(gpu, name)}
        (kl[name],) = [trial["kl"] for trial in trials if {trial["learning_rate"]} == taken]
        assert taken == {min(trial["learning_rate"] for trial in trials)} == {0.0001}
    assert f"the base went {kl['base_aligned']:.1f} nats and the student {kl[K_A]:.1f}, where 10 are allowed" in TEXT
    before, after = (
        t_interval([next(point["reward"] for point in info["curve"] if point["step"] == step) for info in
                    alignments(gpu, "base_aligned")])
        for step in (60, 120)
    )  # fmt: skip
    assert f"{before.estimate:.3f} after 60 steps and {after.estimate:.3f} after 120" in TEXT


def test_what_is_said_of_the_gpu_is_what_its_records_say(gpu):
    lead = difference(gpu, A_K, K_A)
    assert lead.low < 0 < lead.high  # "not told apart"
    recall = difference(gpu, A_K, K_A, "overall_recall")
    assert recall.low > 0
    drawn = [sampled_rates(gpu, name) for name in ("base_aligned", K_A)]
    left = sum(drawn[1].values()) / sum(drawn[0].values())
    assert 1 / 3 < left < 0.4  # "pruned to little more than a third", "nearly two thirds"
    assert INTERVAL.findall(TEXT.partition("\n- ")[2]) == [
        interval(*lead),
        *(interval(*difference(gpu, A_K, K_A, metric)) for metric in ("entropy", "kl_to_truth")),
        interval(*recall),
        interval(*difference(gpu, K_A, A_K, "kl_to_base")),
        interval(*(100 * value for value in paired(*drawn))),
    ]
    ahead = sum(value > 0 for value in leads(gpu).values())
    assert f"A-K earns more in {NUMBERS[ahead]} of {NUMBERS[len(gpu['records'])]} seeds" in TEXT
    counts = [pairs(gpu, name).values() for name in ("base_aligned", K_A)]
    assert "{} to {} informative pairs where the base has {} to {}".format(
        *(bound(held) for held in reversed(counts) for bound in (min, max))
    ) in TEXT  # fmt: skip
    shown_rates = [shown("target_rate", mean(gpu, name, "target_rate").estimate) for name in ORDERS]
    assert all(float(value) > 99 for value in shown_rates)  # "in nearly every response"


def test_the_readme_says_that_nothing_is_concluded_from_the_gpus_seeds(gpu):
    (told,) = re.findall(r"- \*With a much larger budget[^\n]*", README)
    assert f"{NUMBERS[len(gpu['records'])]} of ten seeds" in told
    assert "nothing is concluded" in told
    assert INTERVAL.findall(told.partition("H100")[2])[:1] == [interval(*difference(gpu, A_K, K_A))]
