"""Tasks of notebook 07: outcomes and hints follow the recorded study, whatever it says."""

import pytest
from synthetic_records import lm_record, swap_orders, tabulated

from alignkd_lab.claims import CLAIMS, decide
from alignkd_lab.course import shipped
from alignkd_lab.course.exercises.ask import check, given
from alignkd_lab.course.exercises.bank import TASKS
from alignkd_lab.course.shipped import MAIN_TARGET
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.style import CLAIM_WORDS, METRIC_STYLE

SIGNS = [id for id in TASKS if id.startswith("sign_")]
MEANS = {  # means, with small spreads, that decide every claim
    "base": (0.03, 0.04, -4.6, -2.7, -2.5),
    "base_aligned": (0.31, 0.42, -3.6, -2.5, -3.2),
    "kd_only": (0.02, 0.02, -4.6, -2.6, -3.9),
    K_A: (0.05, 0.05, -4.9, -2.9, -3.2),
    A_K: (0.60, 0.70, -3.2, -2.0, -5.2),
}


def decided(seeds=8, means=MEANS, **changes):
    return [lm_record(seed, effects=means, **changes) for seed in range(seeds)]


AHEAD, BEHIND, UNHEALED = decided(), [swap_orders(record) for record in decided()], decided(gap=5.0)


@pytest.fixture
def records(monkeypatch):
    """Put records in the place of the study, and others in that of its part with colours."""

    def use(made, colour=AHEAD):
        held = {MAIN_TARGET: tabulated(*made), "colour": tabulated(*colour)}
        monkeypatch.setattr(shipped, "recorded_smollm2", lambda target=MAIN_TARGET: held[target])
        shipped.recorded_claims.cache_clear()
        return held

    yield use
    shipped.recorded_claims.cache_clear()


def outcomes():
    return [TASKS[id].outcome() for id in SIGNS]


def test_outcomes_are_the_verdicts_of_the_recorded_study_and_turn_with_it(records):
    decided_here = [claim for claim in CLAIMS if "lm" in claim.decided_in]
    for id, claim in zip(SIGNS, decided_here, strict=True):
        assert f"“{CLAIM_WORDS[claim.metric, claim.statistic]}.”" in TASKS[id].question
        assert METRIC_STYLE[claim.metric].meaning in TASKS[id].question
    said = decide(shipped.recorded_smollm2())["verdict"][: len(SIGNS)]
    assert outcomes() == [verdict if verdict in TASKS[SIGNS[0]].options else "undecided" for verdict in said]
    for made, expected in ((AHEAD, ["holds"] * 4), (BEHIND, ["fails"] * 4), (UNHEALED, ["undecided"] * 4)):
        records(made)
        assert outcomes() == expected
    records(decided(1))
    assert set(outcomes()) == {"undecided"}


@pytest.mark.parametrize(
    ("colour", "found"), [(AHEAD, "a_k"), (BEHIND, "k_a"), (decided(means={**MEANS, A_K: MEANS[K_A]}), "level")]
)
def test_who_leads_with_the_commoner_target_turns_with_its_record_alone(colour, found, records):
    records(decided(9), colour)
    assert TASKS["common_target"].outcome() == found


def test_bold_leads_at_equal_steps_and_trails_at_equal_kl():
    curves = given("reward_at_equal_kl")
    leads = [b - c for b, c in zip(curves["bold"]["reward"], curves["careful"]["reward"], strict=True)]
    assert leads[0] == 0
    assert min(leads[1:]) > 0
    # By hand: `bold` lies half way between its checkpoints at 4 and 8 nats; `careful` has one at 6.
    assert TASKS["reward_at_equal_kl"].outcome() == pytest.approx((0.15 + 0.22) / 2 - 0.26)
    assert check("reward_at_equal_kl", -0.075).right is True
