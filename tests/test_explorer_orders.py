"""The "two orders" chart: every stage of every seed is the record's, and the repaired student is fitted again."""

import numpy as np
import pytest
from scene import Scene, evaluated, moved, off_the_densest

from alignkd_lab.course.explorers import orders
from alignkd_lab.course.explorers.orders import METRICS, SEEDS
from alignkd_lab.course.shipped import recorded_gaussians
from alignkd_lab.course.widgets.heat import COLUMNS, window
from alignkd_lab.pipelines import A_K, CONTROLS, K_A

HIGH = "kd_then_align_high_temperature"
KEPT = [*METRICS, "target_rate"]


@pytest.mark.parametrize(("algorithm", "sharpening", "seed"), [("rlhf", "4", 0), ("dpo", "1", 19)])
def test_the_stages_of_a_seed_are_those_of_the_record(algorithm, sharpening, seed):
    run = recorded_gaussians(algorithm, sharpening=float(sharpening))
    chart = orders.show("stage", "seed", algorithm=algorithm, sharpening=sharpening, seed=seed)
    for stage, names in enumerate((("base", "base"), ("kd_only", "base_aligned"), (K_A, A_K))):
        numbers = evaluated(moved(chart, stage=stage), "left.m", "middle.m", "left.c[0]", "middle.c[0]")
        for name, metrics, component in zip(names, numbers[:2], numbers[2:], strict=True):
            assert metrics == pytest.approx([run.table(metric).at[seed, name] for metric in KEPT], abs=1e-4)
            held = run.select(seed=seed, pipeline=name).mixtures[COLUMNS]
            assert component == pytest.approx(held.to_numpy()[0], abs=1e-3)


def test_a_density_lies_where_the_recorded_mixture_has_it():
    run = recorded_gaussians()
    settings = orders.MogSettings()
    drawn = [run.select(seed=0, pipeline=name).mixtures[COLUMNS] for name in (K_A, A_K)]
    truth, sds = zip(settings.truth_weights, settings.truth_means, strict=True), [settings.truth_sd] * 2
    drawn.append([(weight, *mean, *sds) for weight, mean in truth])
    for items, components in zip(Scene(orders.show()).places("rect")[::2], drawn, strict=True):
        assert off_the_densest(items, components, window(settings), 5) == pytest.approx((0, 0), abs=1.01)


def test_a_control_stands_beside_the_orders_and_the_student_of_high_temperature_is_fitted_again():
    run, chart = recorded_gaussians("dpo"), orders.show("control", "stage", algorithm="dpo")
    for control in CONTROLS:
        for stage, name in ((1, "kd_only"), (2, control)):
            (metrics,) = evaluated(moved(chart, control=control, stage=stage), "right.m")
            if (control, stage) != (HIGH, 1):
                assert metrics == pytest.approx([run.table(metric).at[0, name] for metric in KEPT], abs=1e-4)
    assert "has no pairs" in Scene(orders.show("seed", control="kd_then_align_base_preferences")).words  # under RLHF
    held = orders.cell("rlhf", "2")
    student, sharp, last = ([policy["m"][-1] for policy in held[name]] for name in (orders._UNKEPT, "kd_only", HIGH))
    assert len(student) == SEEDS
    assert min(student) > 0.01 > np.mean(sharp)
    assert np.mean(last) > 0.9


def test_the_lines_go_as_far_as_the_stage_and_end_at_the_metric():
    chart, (_, low, high) = orders.show("stage", control=HIGH), METRICS["reward"]
    for stage in range(3):
        (values,) = evaluated(moved(chart, stage=stage), "left.m")
        scene = Scene(chart)
        lines, symbols = scene.places("line"), scene.places("symbol")
        assert [len(line) for line in lines] == [stage + 1] * 3 * len(METRICS)
        seeds = [items for items in symbols if len(items) == 3 * (stage + 1) * SEEDS]
        ends = [items for items in symbols if len(items) == 3]
        assert len(seeds) == len(ends) == len(METRICS)
        assert (120 - ends[0][0]["y"]) / 120 * (high - low) == pytest.approx(values[0], abs=1e-3)


def test_the_axes_hold_every_seed_of_every_cell():
    cells = [orders.cell(algorithm, s) for algorithm in orders.ALGORITHMS for s in orders.SHARPENINGS]
    values = np.array([policy["m"] for cell in cells for policies in cell.values() for policy in policies], dtype=float)
    low, high = np.array([ends for _, *ends in METRICS.values()], dtype=float).T
    assert (values[:, : len(METRICS)] >= low).all()
    assert (values[:, : len(METRICS)] <= high).all()
