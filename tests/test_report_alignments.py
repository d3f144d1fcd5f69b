"""What each alignment learnt from is told by the records; what was expected in vain is told as a failure."""

import numpy as np
import pytest
from scipy import stats
from synthetic_records import LM, recorded

from alignkd_lab.costs import stages_of
from alignkd_lab.pipelines import A_K, CONTROLS, K_A
from alignkd_lab.plots.drawing import note_of
from alignkd_lab.plots.style import number, pipeline_style
from alignkd_lab.report import failures
from alignkd_lab.report.alignments import HEADS, alignments_table
from alignkd_lab.report.evidence import across, difference, leads
from alignkd_lab.report.study_figures import alignment_figure, leads_figure
from alignkd_lab.study import plan

MAIN = plan.ARMS["main"].cells[0]
HOT = "kd_then_align_high_temperature"


def rows(held):
    """By label and place in the plan."""
    return {(row["label"], row["where"]): row for row in alignments_table(held.places[0])}


def label(name):
    return pipeline_style(name).label


def test_the_base_k_a_and_its_controls_have_a_row_and_what_was_not_run_has_none(evidence):
    found = rows(evidence(recorded(MAIN, range(3))))
    assert [key for key, _ in found] == [label(name) for name in ("base_aligned", K_A, *CONTROLS)]
    assert {row["seeds"] for row in found.values()} == {3}
    rate = plan.ARMS["learning_rate"].cells[0]
    only = {name: LM[name] for name in ("base", "base_aligned", "kd_only", *rate.pipelines)}
    found = rows(evidence(recorded(MAIN, range(3)), recorded(rate, range(2), effects=only)))
    assert found[label(K_A), "K-A's learning rate (exploratory): 0.0006"]["seeds"] == 2


def test_every_number_is_the_mean_over_seeds_of_what_the_last_alignment_left(evidence):
    held = evidence(recorded(MAIN, range(4)))
    records = held.places[0].main()["records"]
    infos = [stages_of(record, K_A)[-1]["info"] for record in records]
    columns = [
        [100 * info["target_responses"] / info["responses"] for info in infos],
        [info["informative_pairs"] for info in infos],
        [info["curve"][0]["kl"] for info in infos],
        [info["curve"][-1]["kl"] for info in infos],
        [100 * info["curve"][-1]["target_rate"] for info in infos],
        [record["pipelines"][K_A]["metrics"]["reward"] for record in records],
    ]
    row = rows(held)[label(K_A), ""]
    assert len(row["numbers"]) == len(columns) == len(HEADS) - 1
    for (mean, span), values in zip(row["numbers"], columns, strict=True):
        half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
        assert mean == number(np.mean(values))
        assert span == f"{number(np.mean(values) - half)} to {number(np.mean(values) + half)}"


def test_a_policy_without_a_pair_stayed_at_its_anchor(evidence):
    def without(record):
        for stage in stages_of(record, HOT):
            if "informative_pairs" in stage["info"]:
                stage["info"] |= {"informative_pairs": 0, "curve": [], "target_responses": 64}
        return record

    row = rows(evidence(recorded(MAIN, range(3), without)))[label(HOT), ""]
    assert [mean for mean, _ in row["numbers"][:5]] == [number(value) for value in (12.5, 0, 0, 0, 12.5)]


def test_the_picture_ends_where_each_alignment_ended_on_average(evidence):
    anchored = "kd_then_align_base_reference"

    def away(record):
        for stage in stages_of(record, anchored):
            for point in stage["info"].get("curve", []):
                point["kl"] += 20
        return record

    rate = plan.ARMS["learning_rate"].cells[0]
    only = {name: LM[name] for name in ("base", "base_aligned", "kd_only", *rate.pipelines)}
    held = evidence(recorded(MAIN, range(3), away), recorded(rate, range(2), effects=only)).places[0]
    (axis,) = alignment_figure(held).axes
    drawn = {(line.get_color(), line.get_linestyle(), *np.ravel(line.get_xydata()[-1]).round(9)) for line in axis.lines}
    cells = [(MAIN, "-", ("base_aligned", K_A, "kd_then_align_base_preferences", HOT)), (rate, "--", rate.pipelines)]
    for cell, dashes, names in cells:
        for name in names:
            ends = [stages_of(record, name)[-1]["info"]["curve"][-1] for record in held.run(cell)["records"]]
            end = [np.mean([point[key] for point in ends]).round(9) for key in ("kl", "reward")]
            assert (pipeline_style(name).colour, dashes, *end) in drawn
    assert pipeline_style(anchored).colour not in {colour for colour, *_ in drawn}


def test_a_mean_over_some_of_the_seeds_is_not_drawn_and_the_picture_says_so(evidence):
    def no_pair(record):
        info = stages_of(record, HOT)[-1]["info"]
        if record["seed"]:
            info |= {"informative_pairs": 0, "curve": []}
        stages_of(record, K_A)[-1]["info"]["curve"][6 + record["seed"] :] = []
        return record

    held = evidence(recorded(MAIN, range(3), no_pair)).places[0]
    figure = alignment_figure(held)
    colours = {line.get_color(): line.get_xdata() for line in figure.axes[0].lines}
    assert pipeline_style(HOT).colour not in colours
    assert f"“{label(HOT)}”, which had pairs in 1 of 3 seeds" in note_of(figure)
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() > 2]
    (k_a,) = [line for line in thick if line.get_color() == pipeline_style(K_A).colour]
    assert len(k_a.get_xdata()) == 6


def test_of_the_methods_only_the_one_that_learns_from_pairs_has_a_row(evidence):
    (cell,) = plan.ARMS["methods"].cells
    effects = {name: LM.get(name, LM[K_A]) for name in ("base", "base_aligned", "kd_only", *cell.pipelines)}
    found = rows(evidence(recorded(cell, range(3), effects=effects)))
    assert [name for name, _ in found] == [label("align_student_only")]


def test_without_a_curve_there_is_no_picture(evidence):
    def without(record):
        for stage in record["stages"].values():
            stage["info"].pop("curve", None)
        return record

    assert alignment_figure(evidence(recorded(MAIN, range(2), without)).places[0]) is None


def at_rate(rate, pipeline, stage=-1):
    """A change of a record: the learning rate of one of the pipeline's alignments."""

    def change(record):
        stages_of(record, pipeline)[stage]["info"]["learning_rate"] = rate
        return record

    return change


def test_the_picture_of_leads_has_a_row_for_every_complete_setting_that_names_both_learning_rates(evidence):
    colour, simile = plan.ARMS["targets"].cells
    alone = plan.ARMS["learning_rate"].cells[0]
    turned = {**LM, K_A: LM[A_K], A_K: LM[K_A]}
    only = {name: LM[name] for name in ("base", "base_aligned", "kd_only", *alone.pipelines)}
    place = evidence(
        recorded(colour, range(10), effects=turned),
        recorded(MAIN, range(10), at_rate(0.0003, K_A)),
        recorded(simile, range(9)),
        recorded(alone, range(10), at_rate(0.0006, K_A), effects=only),
    ).places[0]
    axis, rates, _ = leads_figure(place).axes
    shares = []
    for cell in (MAIN, colour):
        infos = [stages_of(record, "base_aligned")[-1]["info"] for record in place.run(cell)["records"]]
        shares.append(100 * np.mean([info["target_responses"] / info["responses"] for info in infos]))
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [  # by target, the main one first; no unfinished one
        f"exclamation, {number(shares[0], 2)} % of the base's samples\nlearning rate 0.0003 for both",
        "exclamation, another rate (exploratory)\nA-K at 0.0003, K-A at 0.0006",
        f"colour, {number(shares[1], 2)} % of the base's samples\nlearning rate 0.0003 for both",
    ]
    bars = [line for line in axis.lines if line.get_linewidth() == 3]
    held = ((MAIN, MAIN, A_K), (MAIN, alone, A_K), (colour, colour, K_A))
    for bar, (beside, cell, order) in zip(bars, held, strict=True):
        found = across(place.run(beside), place.run(cell), (A_K, K_A))
        assert tuple(bar.get_xdata()) == pytest.approx((found.low, found.high))
        assert bar.get_color() == pipeline_style(order).colour
    points = [line.get_xdata() for line in axis.lines if line.get_marker() == "."]
    assert points[2] == pytest.approx([*leads(place.run(colour)).values()])
    bar = [line for line in rates.lines if line.get_linewidth() == 3][2]
    found = difference(place.run(colour), A_K, K_A, "target_rate")
    assert tuple(bar.get_xdata()) == pytest.approx((100 * found.low, 100 * found.high))
    assert [axis.get_title(loc="left") for axis in leads_figure(place).axes] == [
        "reward",
        "target rate\n(points)",
        "overall precision\n(nats per token)",
    ]


def test_a_lead_that_is_not_told_apart_from_none_is_grey(evidence):
    level = {**LM, A_K: LM[K_A]}
    axis, *_ = leads_figure(evidence(recorded(MAIN, range(10), effects=level)).places[0]).axes
    (bar,) = [line for line in axis.lines if line.get_linewidth() == 3]
    assert bar.get_xdata()[0] < 0 < bar.get_xdata()[1]
    assert bar.get_color() not in {pipeline_style(order).colour for order in (A_K, K_A)}


def test_a_setting_that_is_unfinished_or_whose_check_failed_draws_no_lead(evidence):
    assert leads_figure(evidence(recorded(MAIN, range(9))).places[0]) is None
    sick = {"healing_gap": 1.4, "healing_bar": 1.0}
    held = evidence(recorded(MAIN, range(10), lambda record: {**record, "checks": sick}))
    assert leads_figure(held.places[0]) is None


def test_the_picture_of_alignments_leaves_other_targets_out_and_the_table_has_them(evidence):
    (colour, _) = plan.ARMS["targets"].cells
    alone, both = evidence(recorded(MAIN, range(3))), evidence(recorded(MAIN, range(3)), recorded(colour, range(3)))
    drawn = [len(alignment_figure(held.places[0]).axes[0].lines) for held in (alone, both)]
    assert drawn[0] == drawn[1]
    assert (label(K_A), "target: colour") in rows(both)


@pytest.mark.parametrize(("reward", "came"), [(0.5, ""), (0.01, "the other way")])
def test_a_control_that_does_not_help_is_told_where_it_fails(evidence, reward, came):
    held = evidence(recorded(MAIN, range(10), effects={**LM, K_A: (0.2, *LM[K_A][1:]), HOT: (reward, *LM[HOT][1:])}))
    lines = [line for line in failures.fails(held) if f"not as the plan expected: “{label(HOT)}” earns more" in line]
    assert len(lines) == bool(came)
    assert all(f"Measured: {came}, −" in line for line in lines)


def test_an_alignment_with_more_samples_and_steps_is_dotted_and_told_in_the_note(evidence):
    cell = plan.ARMS["equal_compute"].cells[0]
    alone = {name: LM[name] for name in (*cell.yardsticks, K_A)}
    held = evidence(recorded(MAIN, range(3)), recorded(cell, range(3), effects=alone))
    figure = alignment_figure(held.places[0])
    means = [line.get_linestyle() for line in figure.axes[0].lines
             if line.get_linewidth() > 2 and line.get_color() == pipeline_style(K_A).colour]  # fmt: skip
    assert means == ["-", ":"]
    assert "dotted: K-A with A-K's compute" in note_of(figure)
    assert (label(K_A), f"{plan.ARMS[cell.arm].label}: {cell.value}") in rows(held)
