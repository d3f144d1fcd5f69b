"""The methods: points are the record's means, rings stand around what no other beats, every axis can be chosen."""

import itertools

import numpy as np
import pytest
from scene import Scene, evaluated, moved
from synthetic_records import LM, lm_record, tabulated

from alignkd_lab.costs import with_costs
from alignkd_lab.course.exercises.ask import task
from alignkd_lab.course.explorers import methods
from alignkd_lab.course.explorers.methods import ACROSS, UP, WAYS
from alignkd_lab.pipelines import A_K, METHODS
from alignkd_lab.plots.tables import difference

EFFECTS = LM | {name: (0.2 + 0.05 * place, 0.3, -4.0, -3.0, -3.5 - place) for place, name in enumerate(METHODS)}
RECORD = methods.recorded()


def test_a_point_is_the_mean_over_the_seeds_and_the_clock_a_median_without_an_interval():
    run, one = (with_costs(tabulated(*(lm_record(seed, effects=EFFECTS) for seed in range(count)))) for count in (3, 1))
    assert "One seed decides nothing." in Scene(methods.show(run=one)).words
    for point in methods.points(run):
        assert point["overall_recall"][0] == pytest.approx(run.table("overall_recall")[point["name"]].mean())
        assert point["target_rate"][0] == pytest.approx(100 * run.table("target_rate")[point["name"]].mean())
        assert point["minutes"] == [pytest.approx(run.table("minutes")[point["name"]].median()), None, None]


def test_a_ring_means_that_no_other_way_is_at_least_as_good_on_both_axes():
    chart, points = methods.show(run=RECORD), methods.points(RECORD)
    assert {point["name"] for point in points} >= {"kd_only", *WAYS}
    offered = [control.options for control in methods.controls(RECORD).values()]
    for axes, options in zip((ACROSS, UP), offered, strict=True):
        assert set(options) == {axis for axis in axes if {*RECORD.table(axis)} & {*WAYS}}
    for across, up in itertools.product(*offered):
        unbeaten = "[" + ", ".join(f"unbeaten[{k}] ? 1 : 0" for k in range(len(points))) + "]"
        (found,) = evaluated(moved(chart, across=across, up=up), unbeaten)
        sign = -1 if across in methods.LESS_IS_BETTER else 1
        held = {k: (sign * p[across][0], p[up][0]) for k, p in enumerate(points) if across in p and up in p}
        held = {k: at for k, at in held.items() if points[k]["name"] in WAYS}
        for k in range(len(points)):
            better = [at for at in held.values() if k in held and at[0] >= held[k][0] and at[1] >= held[k][1]]
            assert found[k] == (k in held and set(better) == {held[k]}), (across, up, points[k])


def test_the_points_stand_in_the_record_s_order_on_both_axes_and_the_words_count_the_rings():
    scene = Scene(methods.show(across="overall_recall", up="reward"))
    (drawn,) = [items for items in scene.places("symbol") if len(items) == len(WAYS) + 1]
    points = methods.points(RECORD)
    for axis, sign, place in (("overall_recall", 1, "x"), ("reward", -1, "y")):
        seen = np.array([sign * item[place] for item in drawn])
        assert (np.argsort(seen) == np.argsort([point[axis][0] for point in points])).all()
    ringed = len(scene.places("symbol")[-1])
    assert (f"There is no best way: {ringed} of 7" in scene.words) is (ringed > 1)


# The choices of notebook 08


def mean(name, metric):
    rows = RECORD.metrics[(RECORD.metrics["pipeline"] == name) & (RECORD.metrics["metric"] == metric)]
    return rows["value"].mean()


def test_the_best_of_the_record_is_right():
    for id, metric in {"best_per_token": "gain_per_10000_tokens", "need_for_diversity": "overall_recall"}.items():
        ways = [name for name in WAYS if mean(name, "target_rate") > mean("kd_only", "target_rate")]
        assert task(id).outcome() == max(ways, key=lambda name: mean(name, metric))
    assert task("text_only_teacher").outcome() == "kd_then_align"


def test_dckd_beside_a_k_is_as_the_text_reads_the_table():
    for metric in ("target_rate", "kl_to_truth"):  # "as often on target and as near the truth, as far as can be told"
        gap = difference(RECORD, None, metric, ("dckd", A_K))
        assert gap.low < 0 < gap.high
    assert difference(RECORD, None, "entropy", ("dckd", A_K)).low > 0  # "it spreads more"
    assert mean("dckd", "reward") == pytest.approx(mean(A_K, "reward") / 3, rel=0.05)
