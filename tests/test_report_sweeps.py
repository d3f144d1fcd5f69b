"""Sweeps of the language world: the main experiment stands between the values that it was moved to."""

import json

import numpy as np
import pytest
from synthetic_records import LM, recorded

from alignkd_lab.costs import stages_of
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.drawing import note_of
from alignkd_lab.plots.style import interval, shown
from alignkd_lab.report import study
from alignkd_lab.report.answers import answers
from alignkd_lab.report.evidence import across, difference, mean
from alignkd_lab.report.study_figures import SWEPT, sweep_figure
from alignkd_lab.runs import by_seed
from alignkd_lab.study import plan

MAIN = plan.ARMS["main"].cells[0]
SWEEPS = [name for name, arm in plan.ARMS.items() if arm.at_main]
COLD, _, _, HOT = plan.ARMS["kd_temperature"].cells
PLACE = "SmolLM2 (laptop, CPU)"


def lines(evidence, part):
    return dict(next(given.lines for given in answers(evidence) if part in given.question))


@pytest.mark.parametrize("name", SWEEPS)
def test_the_main_settings_stand_among_the_values_in_their_order(name):
    cells = plan.with_main(name)
    assert set(plan.ARMS[name].cells) < set(cells)
    (added,) = set(cells) - set(plan.ARMS[name].cells)
    assert (plan.settings_of(added), added.seeds, added.value) == (
        plan.settings_of(MAIN),
        MAIN.seeds,
        plan.ARMS[name].at_main,
    )
    (setting,) = plan.ARMS[name].cells[0].changes
    values = [getattr(plan.settings_of(cell), setting) for cell in cells]
    if name == "student_layers":
        recipe = json.loads((data_folder() / "student" / "recipe.json").read_text())
        assert [cell.value for cell in cells] == ["16", str(recipe["layers"]), "24"]
        assert values[1] == "healed"  # the shipped one
    else:
        assert values == sorted(values)
    if isinstance(values[0], float):
        assert [float(cell.value) for cell in cells] == values


def test_an_arm_that_moves_no_one_setting_has_its_own_cells_alone():
    assert plan.with_main("controls") == plan.ARMS["controls"].cells


def test_where_nothing_of_a_sweep_was_run_the_main_experiment_answers_nothing(evidence):
    held = evidence(recorded(MAIN, MAIN.seeds))
    assert lines(held, "wins by temperature")[f"{PLACE}, KD temperature τ"] == "not run"
    assert lines(held, "recall rise with") == {PLACE: "not run"}
    assert sweep_figure(held.places[0], "kd_temperature") is None
    assert study.study_part(held, lambda name, figure, text: {"name": name})["language"][0]["sweeps"] == []


def test_who_leads_by_temperature_and_what_recall_does_are_told_beside_the_main_experiment(evidence):
    higher = {**LM, A_K: (*LM[A_K][:4], -4.0)}
    held = evidence(recorded(MAIN, MAIN.seeds), recorded(HOT, HOT.seeds, effects=higher))
    main, hot = held.places[0].main(), held.places[0].run(HOT)
    told = lines(held, "wins by temperature")[f"{PLACE}, KD temperature τ"]
    assert told.startswith("A-K earns more at 0.7, 1.25; the lead of A-K goes from ")
    assert f"{interval(*difference(hot, A_K, K_A))}" not in told  # verdicts have Holm's level, not 95 %
    assert told.count("not run") == 3
    gap = across(hot, main, (A_K, A_K), "overall_recall")
    means = [interval(*mean(run, A_K, "overall_recall")) for run in (main, hot)]
    assert lines(held, "recall rise with")[PLACE] == (
        f"overall recall of A-K by temperature: {means[0]} at 0.7, {means[1]} at 1.25; A-K at temperature 1.25 has "
        f"{interval(*gap)} more than at 0.7, over the seeds that both have"
    )


def test_a_sweep_s_picture_holds_the_means_of_both_orders_at_every_value(evidence):
    held = evidence(recorded(MAIN, MAIN.seeds), recorded(COLD, COLD.seeds[:2]), recorded(HOT, HOT.seeds))
    place = held.places[0]
    figure = sweep_figure(place, "kd_temperature")
    runs = [place.run(COLD), place.main(), place.run(HOT)]
    for axis, metric in zip(figure.axes, SWEPT, strict=True):
        assert [label.get_text() for label in axis.get_xticklabels()] == ["0.5", "0.7", "1.25"]
        drawn = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 3 and line.get_linestyle() == "-"]
        expected = [[np.mean([shown(metric, v) for v in by_seed(run, name, metric).values()]) for run in runs]
                    for name in (K_A, A_K)]  # fmt: skip
        assert np.allclose(drawn, expected)


def test_seeds_that_were_registered_later_stand_beside_their_value_in_the_picture(evidence):
    plain, (later,) = plan.ARMS["kd_temperature"].cells[2], plan.ARMS["plain_kd"].cells
    assert plan.new_seeds(plain) == (later,)
    assert plan.new_seeds(MAIN) == ()
    better = {**LM, K_A: (LM[K_A][0] + 0.2, *LM[K_A][1:])}
    held = evidence(
        recorded(MAIN, MAIN.seeds), recorded(plain, plain.seeds), recorded(later, later.seeds, effects=better)
    )
    place = held.places[0]
    figure = sweep_figure(place, "kd_temperature")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.7", "1", "1,\nnew seeds"]
    drawn = next(line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 3)
    runs = [place.main(), place.run(plain), place.run(later)]
    assert np.allclose(drawn, [np.mean([*by_seed(run, K_A).values()]) for run in runs])


def test_the_picture_names_what_else_differs_and_draws_no_bar_for_few_seeds(evidence):
    def faster(record):
        stages_of(record, K_A)[-1]["info"]["learning_rate"] = 0.0006
        return record

    held = evidence(recorded(MAIN, MAIN.seeds), recorded(HOT, HOT.seeds, faster))
    figure = sweep_figure(held.places[0], "kd_temperature")
    note = note_of(figure)
    assert "K-A's learning rate, by the rule: 0.0003 at 0.7, 0.0006 at 1.25." in note
    assert "A-K's learning rate" not in note
    assert "Fewer than 4 seeds have no bar." in note
    for axis in figure.axes:
        bars = [line.get_ydata() for line in axis.lines if line.get_linewidth() == 2.6]
        assert [bool(np.isfinite(bar).all()) for bar in bars] == [True, False] * 2


def test_the_page_shows_a_picture_of_every_sweep_that_was_run(evidence):
    held = evidence(recorded(MAIN, MAIN.seeds), recorded(HOT, (0,)), recorded(plan.ARMS["beta"].cells[0], range(3)))
    sweeps = study.study_part(held, lambda name, figure, text: name)["language"][0]["sweeps"]
    assert sweeps == ["study-arm-kd_temperature-laptop-cpu", "study-arm-beta-laptop-cpu"]
