"""Tasks of notebook 07: the study is chosen by its size, and verdicts and hints follow whatever it says."""

from pathlib import Path

import nbformat
import pytest
from synthetic_records import lm_record, swap_orders

from alignkd_lab.claims import CLAIMS
from alignkd_lab.course import recorded
from alignkd_lab.course.exercises import ch07 as tasks
from alignkd_lab.course.exercises.ask import check, given
from alignkd_lab.course.exercises.bank import TASKS
from alignkd_lab.course.recorded import recorded_smollm2
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots import figures
from alignkd_lab.plots.style import interval
from alignkd_lab.report.evidence import difference
from alignkd_lab.runs import group_runs, summarise_run

SIGNS = [id for id in tasks.TASKS if id.startswith("sign_")]
MEANS = {  # means and small spreads of LM_METRICS that decide every claim
    "base": (0.03, 0.04, -4.6, -2.7, -2.5),
    "base_aligned": (0.31, 0.42, -3.6, -2.5, -3.2),
    "kd_only": (0.02, 0.02, -4.6, -2.6, -3.9),
    K_A: (0.05, 0.05, -4.9, -2.9, -3.2),
    A_K: (0.60, 0.70, -3.2, -2.0, -5.2),
}


@pytest.fixture
def records(monkeypatch):
    """Put records in the place of the project's; the study is then read anew."""

    def use(records):
        monkeypatch.setattr(recorded, "recorded_runs", lambda: group_runs(records))
        recorded.recorded_claims.cache_clear()

    yield use
    recorded.recorded_claims.cache_clear()


def decided(seeds=8):
    return [lm_record(seed, effects=MEANS) for seed in range(seeds)]


def verdicts():
    return {id: TASKS[id].outcome() for id in SIGNS}


# The study


def test_the_study_is_the_run_with_the_most_seeds_of_both_orders(records):
    lonely = [lm_record(seed, effects={"base": MEANS["base"]}, beta=0.7) for seed in range(9)]
    records([*lonely, *(lm_record(seed, beta=0.5) for seed in range(2)), *(lm_record(seed) for seed in range(4))])
    assert (recorded_smollm2()["settings"]["beta"], len(recorded_smollm2()["records"])) == (0.1, 4)


def test_of_runs_with_as_many_seeds_the_one_with_more_pipelines_is_the_study_then_that_under_dpo(records):
    records([lm_record(0, effects=MEANS, beta=0.5), lm_record(0)])
    assert recorded_smollm2()["settings"]["beta"] == 0.1
    records([lm_record(0, "rlhf"), lm_record(0, "dpo")])
    assert recorded_smollm2()["algorithm"] == "dpo"


def test_without_a_run_of_both_orders_the_way_out_is_named(records):
    records([{**lm_record(0), "preset": "tiny"}])
    with pytest.raises(BadInput, match="alignkd run --world lm"):
        recorded_smollm2()
    records(decided())
    with pytest.raises(BadInput, match=r"the target colour holds both orders: .*--set target=colour"):
        recorded_smollm2("colour")


# The five signs


def test_the_outcomes_are_the_verdicts_of_the_recorded_study():
    assert len(SIGNS) == len(CLAIMS) == 5
    said = [claim["verdict"] for claim in summarise_run(recorded_smollm2())["claims"]]
    assert list(verdicts().values()) == [verdict if verdict in recorded.VERDICTS else "undecided" for verdict in said]


def test_outcomes_turn_with_the_record(records):
    records(decided())
    expected = {"sign_reward": "holds", "sign_target_precision": "holds", "sign_overall_precision": "holds"}
    expected |= {"sign_overall_recall": "holds", "sign_variance": "undecided"}
    assert verdicts() == expected
    records([swap_orders(record) for record in decided()])
    turned = {id: "fails" if verdict == "holds" else verdict for id, verdict in expected.items()}
    assert verdicts() == turned


def test_one_seed_and_a_failed_check_leave_every_claim_undecided(records):
    for made in (decided(1), [lm_record(seed, effects=MEANS, gap=5.0) for seed in range(8)]):
        records(made)
        assert set(verdicts().values()) == {"undecided"}


@pytest.mark.parametrize("id", SIGNS)
def test_whatever_comes_out_each_other_verdict_has_a_hint_that_says_why_not(id, records):
    studies = {
        "A-K ahead": decided(),
        "K-A ahead": [swap_orders(record) for record in decided()],
        "one seed": decided(1),
        "unhealed": [lm_record(seed, effects=MEANS, gap=5.0) for seed in range(8)],
    }
    for name, made in studies.items():
        records(made)
        distractors, found = TASKS[id].distractors, TASKS[id].outcome()
        assert {distractor.answer for distractor in distractors} == set(recorded.VERDICTS) - {found}, name
        assert len({distractor.hint for distractor in distractors}) == len(distractors) == 2
        for distractor in distractors:
            assert check(id, distractor.answer).text == f"Not yet. {distractor.hint}"


def test_a_hint_names_the_interval_or_the_reason_for_none(records):
    records(decided())
    row = recorded.recorded_claims()["overall_recall", "mean_difference"]
    assert row["interval"]
    for distractor in TASKS["sign_overall_recall"].distractors:
        assert all(part in distractor.hint for part in (row["interval"], row["difference"], "all of it is below 0"))
    assert "by rule, never decided" in TASKS["sign_variance"].distractors[0].hint
    records([lm_record(seed, effects=MEANS, gap=5.0) for seed in range(8)])
    assert "a check before the verdicts failed" in TASKS["sign_reward"].distractors[0].hint


# The commoner target


def coloured(records):
    return [
        {**record, "target": "colour", "settings": {**record["settings"], "target": "colour"}} for record in records
    ]


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (decided(), "a_k"),
        ([swap_orders(record) for record in decided()], "k_a"),
        ([lm_record(seed, effects={**MEANS, A_K: MEANS[K_A]}) for seed in range(8)], "level"),
    ],
)
def test_who_leads_with_the_commoner_target_turns_with_its_record_alone(made, found, records):
    records([*decided(9), *coloured(made)])
    assert recorded_smollm2("colour")["target"] == "colour"
    task = TASKS["common_target"]
    assert task.outcome() == found
    assert {distractor.answer for distractor in task.distractors} == set(tasks.LEADERS) - {found}
    rare, common = (difference(recorded_smollm2(target), A_K, K_A) for target in (None, "colour"))
    for distractor in task.distractors:
        assert (
            f"{interval(*rare)} with the study's main target, and {interval(*common)} with colours" in distractor.hint
        )


# Their pictures


def bars(figure):
    """The interval, the estimate and the seeds of a picture, as it has drawn them."""
    (axis,) = figure.axes
    drawn = {line.get_marker(): line.get_xdata() for line in axis.lines if line.get_marker() != "None"}
    return axis, axis.lines[-3].get_xdata(), drawn


@pytest.mark.parametrize("id", SIGNS)
def test_a_claim_s_picture_is_its_verdict(id):
    (run,) = group_runs(decided())
    claim = tasks.SIGNS[id]
    row = summarise_run(run)["claims"][CLAIMS.index(claim)]
    figure = figures.claim_by_seed(run, claim)
    axis, interval, drawn = bars(figure)
    assert figure.get_suptitle().endswith(f": {row['verdict']}")
    assert list(interval) == [row["low"], row["high"]]
    assert drawn["D"] == [row["difference"]]
    left, right = (axis.patches[0].get_x(), axis.patches[0].get_x() + axis.patches[0].get_width())
    assert claim.null == (left if claim.expected == "up" else right)
    assert f"{100 * row['level']:.4g} % interval" in figure.get_supxlabel()
    assert figure.get_supxlabel().startswith("Recorded run.")
    assert ("by rule not decided here" in figure.get_supxlabel()) == (id == "sign_variance")


def test_the_points_are_the_seeds_differences_in_their_order():
    (run,) = group_runs(decided())
    _, _, drawn = bars(figures.claim_by_seed(run, CLAIMS[0]))
    pipelines = [record["pipelines"] for record in run["records"]]
    assert list(drawn["o"]) == [p[A_K]["metrics"]["reward"] - p[K_A]["metrics"]["reward"] for p in pipelines]
    assert "o" not in bars(figures.claim_by_seed(run, CLAIMS[-1]))[2]


def test_one_seed_has_a_point_and_no_interval():
    (run,) = group_runs(decided(1))
    figure = figures.claim_by_seed(run, CLAIMS[0])
    assert "no interval" in figure.get_supxlabel()
    assert len(bars(figure)[2]["o"]) == 1


# The exercises


def test_bold_leads_at_equal_steps_and_trails_at_equal_kl():
    curves = given("reward_at_equal_kl")
    leads = [b - c for b, c in zip(curves["bold"]["reward"], curves["careful"]["reward"], strict=True)]
    assert leads[0] == 0
    assert min(leads[1:]) > 0
    # By hand: `bold` lies half way between its checkpoints at 4 and 8 nats; `careful` has one at 6.
    assert TASKS["reward_at_equal_kl"].outcome() == pytest.approx((0.15 + 0.22) / 2 - 0.26)


@pytest.mark.parametrize(
    ("answer", "said"), [(0.01, "at equal steps"), (0.075, "turn the sign"), (-0.04, "straight line"), (-0.075, None)]
)
def test_slips_at_equal_kl_as_learners_write_them(answer, said):
    feedback = check("reward_at_equal_kl", answer)
    assert feedback.right is (said is None)
    assert said is None or said in feedback.text


# The page


def test_no_progress_bar_is_left_on_the_page():
    path = Path(__file__).parent.parent / "notebooks" / "07_both_orders_on_smollm2.ipynb"
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    assert len(shown) > 10
    assert not [data for data in shown if set(data) == {"text/plain"}]
