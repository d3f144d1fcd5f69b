"""What the plan expects beside its signs: measured as it says, and told without a verdict."""

import json

import numpy as np
import pytest
from scipy import stats
from synthetic_records import LM, gathered, recorded

from alignkd_lab.pipelines import A_K, K_A, METHODS
from alignkd_lab.report.evidence import difference, pairs, sampled_rates
from alignkd_lab.report.expectations import EXPECTED, expectations
from alignkd_lab.report.numbers import study_json
from alignkd_lab.runs import seed_values
from alignkd_lab.study import plan

MAIN = plan.ARMS["main"].cells[0]
SEEDS = range(10)


def row(held, part):
    """The cells of the one expectation that holds `part`."""
    (found,) = [row for row in expectations(held)["rows"] if part in row["words"]]
    return found["cells"]


def cell(arm, place=0):
    return plan.ARMS[arm].cells[place]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All registered cells; every run has rewards and recalls of its own."""
    made = []
    for number, each in enumerate(plan.cells()):
        shift = 0.02 * number
        effects = {name: (reward + shift, *rest, recall + shift) for name, (reward, *rest, recall) in LM.items()}
        # Methods and controls are further lines of the main run.
        if each.arm in ("main", "controls", "methods"):
            effects = LM | {name: (0.1 + 0.05 * place, *LM[A_K][1:]) for place, name in enumerate(METHODS)}
        made.append(recorded(each, each.seeds, effects=effects))
    return gathered(tmp_path_factory.mktemp("whole"), *made)


def values(held, which, pipeline, metric="reward"):
    """`[seed]` of the registered cell `which`."""
    found = seed_values(held.places[0].run(which))[pipeline][metric]
    return np.array([found[seed] for seed in which.seeds])


def gap(held, first, second, metric="reward"):
    """Mean of `first` minus `second`, each a cell and a pipeline, over the seeds that they share."""
    one, other = (values(held, *side, metric) for side in (first, second))
    shared = min(len(one), len(other))
    return np.mean(one[:shared] - other[:shared])


CONTROLS, METHOD, EQUAL = cell("controls"), cell("methods"), cell("equal_compute")
SIMILE = cell("targets", 1)
HALVED, DOUBLED = plan.ARMS["preference_responses"].cells
COLD, *_, HOT = plan.ARMS["kd_temperature"].cells
GAPS = {
    "(test responses)": ((MAIN, "kd_only"), (MAIN, "base"), "target_rate", 100),
    "anchored to the base": ((CONTROLS, CONTROLS.pipelines[0]), (CONTROLS, K_A)),
    "pairs from the base": ((CONTROLS, CONTROLS.pipelines[1]), (CONTROLS, K_A)),
    "KD at high temperature": ((CONTROLS, CONTROLS.pipelines[2]), (CONTROLS, K_A)),
    "ADPA minus DCKD": ((METHOD, "adpa"), (METHOD, "dckd")),
    "ADPA+ minus ADPA": ((METHOD, "adpa_plus"), (METHOD, "adpa")),
    "target as rare": ((SIMILE, A_K), (SIMILE, K_A)),
    "1.25 against 0.5": ((HOT, A_K), (COLD, A_K), "overall_recall"),
    "doubled against halved": ((DOUBLED, K_A), (HALVED, K_A)),
    "as much compute": ((MAIN, A_K), (EQUAL, K_A)),
    "A-K's second rule": ((MAIN, A_K), (MAIN, "base"), "second_rule_rate", 100),
    "K-A's second rule": ((MAIN, K_A), (MAIN, "base"), "second_rule_rate", 100),
}


def test_every_difference_is_the_one_that_its_words_name(whole):
    for part, (first, second, *rest) in GAPS.items():
        metric, scale = (*rest, *("reward", 1)[len(rest) :])
        (told,) = row(whole, part)
        close = 0.05 if scale == 100 else 6e-4  # as many decimals are shown
        assert estimate(told) == pytest.approx(scale * gap(whole, first, second, metric), abs=close), part
        assert abs(estimate(told)) > close, part


def estimate(told):
    return float(told["text"].split()[0].replace("−", "-"))


def test_pairs_rates_and_leads_are_taken_seed_by_seed(whole):
    run, colour = whole.places[0].run(MAIN), whole.places[0].run(cell("targets"))
    for part, found, scale in (("fewer informative pairs", pairs, 1), ("samples that pairs", sampled_rates, 100)):
        (told,) = row(whole, part)
        gaps = [scale * (found(run, K_A)[seed] - found(run, "base_aligned")[seed]) for seed in SEEDS]
        half = stats.sem(gaps) * stats.t.ppf(0.975, 9)
        assert estimate(told) == pytest.approx(np.mean(gaps), abs=0.05)
        assert float(told["text"].split("to ")[1].split(")")[0].replace("−", "-")) == pytest.approx(
            np.mean(gaps) + half, abs=0.05
        )
    leads = [np.array([seed_values(held)[A_K]["reward"][s] - seed_values(held)[K_A]["reward"][s] for s in SEEDS])
             for held in (colour, run)]  # fmt: skip
    assert estimate(row(whole, "common target")[0]) == pytest.approx(np.mean(leads[0] - leads[1]), abs=5e-4)


def test_pairs_and_rewards_go_together_within_targets_alone(whole):
    rhos = []
    for which in (MAIN, *plan.ARMS["targets"].cells):
        run = whole.places[0].run(which)
        counts = pairs(run, K_A)
        rhos.append(stats.spearmanr([counts[s] for s in SEEDS], values(whole, which, K_A)).statistic)
    assert estimate(row(whole, "more pairs")[0]) == pytest.approx(np.tanh(np.mean(np.arctanh(rhos))), abs=1e-3)


def test_every_expectation_is_measured_somewhere_and_none_gets_a_verdict(whole):
    cells = [found for line in expectations(whole)["rows"] for found in line["cells"]]
    assert len(cells) == len(EXPECTED)
    assert all("verdict" not in found and " to " in found["text"] for found in cells)
    assert {"as expected", "not told apart from 0", ""} <= {found["came"] for found in cells}
    assert row(whole, "fewer informative pairs")[0]["came"] == "as expected"
    assert row(whole, "ADPA minus DCKD")[0]["came"] == ""  # no sign was registered


def test_nothing_is_told_to_have_come_from_fewer_seeds_or_from_a_run_that_is_not_there(evidence):
    held = evidence(recorded(MAIN, range(9)))
    (found,) = row(held, "fewer informative pairs")
    assert found["came"] == ""
    assert found["text"].startswith("9 of 10 seeds so far, nothing is concluded. As figures: −")
    assert row(held, "common target")[0] == {"came": "", "text": "not run"}


def test_a_rare_target_with_too_few_pairs_is_left_out_and_the_others_count(evidence):
    def scarce(record):
        for stage in record["stages"].values():
            if "informative_pairs" in stage["info"]:
                stage["info"]["informative_pairs"] //= 3
        return record

    simile = plan.ARMS["targets"].cells[1]
    alone = row(evidence(recorded(MAIN, SEEDS)), "more pairs")
    assert alone[0]["text"] != "not recorded"
    assert row(evidence(recorded(MAIN, SEEDS), recorded(simile, SEEDS, scarce)), "more pairs") == alone


def test_a_failed_check_leaves_figures_alone(evidence):
    def sick(record):
        return {**record, "checks": {"healing_gap": 1.4, "healing_bar": 1.0}}

    (found,) = row(evidence(recorded(MAIN, SEEDS, sick)), "fewer informative pairs")
    assert found["came"] == ""
    assert found["text"].startswith("invalid, the check healing failed. As figures: −")


def test_gaussian_pairs_and_rewards_go_together_as_scipy_says(evidence):
    held = evidence(recorded(MAIN, range(2)), gaussians=True)
    run = held.gaussian("dpo").run
    rewards = seed_values(run)[K_A]["reward"]
    rho = stats.spearmanr(list(pairs(run, K_A).values()), list(rewards.values())).statistic
    cells = row(held, "more pairs")
    assert cells[-1]["text"].startswith(f"{rho:.3f} (")
    assert cells[1] == {"came": "", "text": "–"}  # RLHF learns from no pairs


def test_the_numbers_for_programs_are_strict_json_and_hold_every_part(evidence):
    held = evidence(recorded(MAIN, SEEDS), gaussians=True)
    found = study_json(held)
    assert set(found) == {
        "signs", "expectations", "against", "fails", "answers", "gaussians", "map", "not_run",
    }  # fmt: skip
    main = next(e for e in found["gaussians"] if (e["arm"], e["value"], e["algorithm"]) == ("beta", 0.5, "rlhf"))
    assert main["claims"][0]["difference"] == pytest.approx(difference(held.gaussian("rlhf").run, A_K, K_A).estimate)
    assert main["claims"][0]["effect_size"] > 1
    assert json.loads(json.dumps(found))
