"""Tasks of notebook 07: outcomes and hints follow the recorded study, whatever it says."""

from pathlib import Path

import nbformat
import pytest
from synthetic_records import lm_record, swap_orders, tabulated

from alignkd_lab.claims import CLAIMS, decide
from alignkd_lab.course import shipped
from alignkd_lab.course.exercises import ch07 as tasks
from alignkd_lab.course.exercises.ask import check, given
from alignkd_lab.course.exercises.bank import TASKS
from alignkd_lab.course.shipped import MAIN_TARGET
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots import figures
from alignkd_lab.plots.style import interval, number
from alignkd_lab.plots.tables import difference

SIGNS = list(tasks.SIGNS)
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
    assert len(SIGNS) == len(CLAIMS) == 5
    said = decide(shipped.recorded_smollm2())["verdict"]
    assert outcomes() == [verdict if verdict in shipped.VERDICTS else "undecided" for verdict in said]
    for made, expected in ((AHEAD, ["holds"] * 4), (BEHIND, ["fails"] * 4), (UNHEALED, ["undecided"] * 4)):
        records(made)
        assert outcomes() == [*expected, "undecided"]
    records(decided(1))
    assert set(outcomes()) == {"undecided"}


@pytest.mark.parametrize("made", [AHEAD, BEHIND, UNHEALED, decided(1)], ids=["ahead", "behind", "unhealed", "one seed"])
def test_whatever_comes_out_each_other_verdict_has_a_hint_that_says_why_not(made, records):
    records(made)
    for id, found in zip(SIGNS, outcomes(), strict=True):
        hints = dict(TASKS[id].wrong())
        assert set(hints) == set(shipped.VERDICTS) - {found}
        assert len(set(hints.values())) == len(hints) == 2
        for answer, hint in hints.items():
            assert check(id, answer).text == f"Not yet. {hint}"


def test_a_hint_names_the_interval_or_the_reason_for_none(records):
    records(AHEAD)
    row = shipped.recorded_claims().loc[("overall_recall", "mean_difference")]
    for _, hint in TASKS["sign_overall_recall"].wrong():
        numbers = [number(row[name]) for name in ("estimate", "low", "high")]
        assert all(part in hint for part in (*numbers, "below 0"))
    assert all("by rule, never decided" in hint for _, hint in TASKS["sign_variance"].wrong())
    records(UNHEALED)
    assert all("a check before the verdicts failed" in hint for _, hint in TASKS["sign_reward"].wrong())


@pytest.mark.parametrize(
    ("colour", "found"), [(AHEAD, "a_k"), (BEHIND, "k_a"), (decided(means={**MEANS, A_K: MEANS[K_A]}), "level")]
)
def test_who_leads_with_the_commoner_target_turns_with_its_record_alone(colour, found, records):
    held, task = records(decided(9), colour), TASKS["common_target"]
    assert task.outcome() == found
    hints = dict(task.wrong())
    assert set(hints) == set(tasks.LEADERS) - {found}
    rare, common = (interval(*difference(held[target])) for target in (MAIN_TARGET, "colour"))
    for hint in hints.values():
        assert f"{rare} with the study's main target, and {common} with colours" in hint


@pytest.mark.parametrize("id", SIGNS)
def test_a_claim_s_picture_is_its_verdict_with_the_seeds_differences(id):
    run, claim = tabulated(*AHEAD), tasks.SIGNS[id]
    row = decide(run).iloc[CLAIMS.index(claim)]
    figure = figures.claim_by_seed(run, claim)
    (axis,) = figure.axes
    drawn = {line.get_marker(): list(line.get_xdata()) for line in axis.lines if line.get_marker() != "None"}
    assert figure.get_suptitle().endswith(f": {row['verdict']}")
    assert list(axis.lines[-3].get_xdata()) == [row["low"], row["high"]]
    assert drawn["D"] == [row["estimate"]]
    left, right = (axis.patches[0].get_x(), axis.patches[0].get_x() + axis.patches[0].get_width())
    assert claim.null == (left if claim.expected == "up" else right)
    note = figure.get_supxlabel()
    assert note.startswith("Recorded run.")
    assert f"{100 * row['level']:.4g} % interval" in note
    assert ("by rule not decided here" in note) == ("o" not in drawn) == (id == "sign_variance")
    if id != "sign_variance":
        held = [[record["pipelines"][order]["metrics"][claim.metric] for order in (A_K, K_A)] for record in AHEAD]
        assert drawn["o"] == pytest.approx([a_k - k_a for a_k, k_a in held])
    alone = figures.claim_by_seed(tabulated(*decided(1)), claim)
    assert "no interval" in alone.get_supxlabel()


def test_bold_leads_at_equal_steps_and_trails_at_equal_kl():
    curves = given("reward_at_equal_kl")
    leads = [b - c for b, c in zip(curves["bold"]["reward"], curves["careful"]["reward"], strict=True)]
    assert leads[0] == 0
    assert min(leads[1:]) > 0
    # By hand: `bold` lies half way between its checkpoints at 4 and 8 nats; `careful` has one at 6.
    assert TASKS["reward_at_equal_kl"].outcome() == pytest.approx((0.15 + 0.22) / 2 - 0.26)
    assert check("reward_at_equal_kl", -0.075).right is True
    for answer, said in ((0.01, "at equal steps"), (0.075, "the sign"), (-0.04, "straight line")):
        assert said in check("reward_at_equal_kl", answer).text


def test_no_progress_bar_is_left_on_the_page():
    path = Path(__file__).parent.parent / "notebooks" / "07_both_orders_on_smollm2.ipynb"
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    assert len(shown) > 10
    assert not [data for data in shown if set(data) == {"text/plain"}]
