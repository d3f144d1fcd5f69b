"""What the plan expects beside its signs: measured as it says, with a verdict from complete records alone."""

import json

import numpy as np
import pytest
from scipy import stats
from synthetic_records import LM, recorded

from alignkd_lab.lm import plan
from alignkd_lab.metrics import A_K, K_A
from alignkd_lab.pipelines import METHODS
from alignkd_lab.records import seed_values
from alignkd_lab.report.evidence import difference, pairs
from alignkd_lab.report.expectations import expectations
from alignkd_lab.report.numbers import study_json

MAIN = plan.ARMS["main"].cells[0]
COLOUR = plan.ARMS["targets"].cells[0]


def row(held, part):
    """The cells of the one expectation that holds `part`."""
    (found,) = [row for row in expectations(held)["rows"] if part in row["words"]]
    return found["cells"]


def test_fewer_pairs_and_a_lower_rate_hold_where_the_records_show_them(evidence):
    held = evidence(recorded(MAIN, range(10)))
    assert row(held, "fewer informative pairs")[0]["verdict"] == "holds"
    (rate,) = row(held, "lowers the target's rate")
    assert rate["text"].startswith(f"−{100 * (16 - 3) / 512:.2f} (")
    assert rate["verdict"] == "holds"


def test_nothing_is_decided_by_fewer_seeds_or_by_a_run_that_is_not_there(evidence):
    held = evidence(recorded(MAIN, range(9)))
    (pair,) = row(held, "fewer informative pairs")
    assert pair["verdict"] is None
    assert pair["text"].startswith("9 of 10 seeds: no verdict. So far −")
    assert row(held, "common target")[0] == {"verdict": None, "text": "not run"}


def test_a_failed_check_leaves_no_verdict(evidence):
    def sick(record):
        return {**record, "checks": {"healing_gap": 1.4, "healing_bar": 1.0}}

    (pair,) = row(evidence(recorded(MAIN, range(10), sick)), "fewer informative pairs")
    assert pair["verdict"] is None
    assert "the check healing failed" in pair["text"]


def test_the_lead_for_a_common_target_is_held_against_the_main_one_by_seed(evidence):
    closer = {**LM, K_A: LM[A_K]}
    held = evidence(recorded(MAIN, range(10)), recorded(COLOUR, range(10), effects=closer))
    (found,) = row(held, "common target")
    assert found["verdict"] == "holds"
    leads = []
    for cell in (COLOUR, MAIN):
        values = seed_values(held.places[0].run(cell))
        leads.append([values[A_K]["reward"][seed] - values[K_A]["reward"][seed] for seed in range(10)])
    assert float(found["text"].split()[0].replace("−", "-")) == pytest.approx(
        np.mean(leads[0]) - np.mean(leads[1]), abs=5e-4
    )


def test_methods_are_held_in_the_order_that_adpa_reports(evidence):
    cell = plan.ARMS["methods"].cells[0]
    effects = {**LM, **dict.fromkeys(METHODS, LM[A_K]), "dckd": LM["kd_only"]}
    held = evidence(recorded(cell, range(10), effects=effects))
    assert row(held, "ADPA earns more than DCKD")[0]["verdict"] == "holds"
    assert row(held, "ADPA+ earns more than ADPA")[0]["verdict"] == "undecided"


def test_gaussian_pairs_and_rewards_go_together_as_scipy_says(evidence):
    held = evidence(recorded(MAIN, range(2)), gaussians=True)
    run = held.gaussian("dpo").run
    rho = stats.spearmanr(pairs(run, K_A), list(seed_values(run)[K_A]["reward"].values())).statistic
    cells = row(held, "over seeds and targets")
    assert cells[-1]["text"] == "–"
    (found,) = [r for r in expectations(held)["rows"] if r["words"].endswith("over seeds")]
    assert found["cells"][-1]["text"].startswith(f"{rho:.3f} (")
    assert found["cells"][1]["text"] == "–"  # RLHF learns from no pairs


def test_the_numbers_for_programs_are_strict_json_and_hold_every_part(evidence):
    held = evidence(recorded(MAIN, range(10)), gaussians=True)
    found = study_json(held)
    assert set(found) == {
        "signs", "expectations", "against", "fails", "answers", "gaussians", "map", "not_run",
    }  # fmt: skip
    main = next(e for e in found["gaussians"] if (e["arm"], e["value"], e["algorithm"]) == ("beta", 0.5, "rlhf"))
    gap = difference(held.gaussian("rlhf").run, A_K, K_A)
    assert main["claims"][0]["difference"] == pytest.approx(gap.estimate)
    assert main["claims"][0]["effect_size"] > 1
    assert json.loads(json.dumps(found))
