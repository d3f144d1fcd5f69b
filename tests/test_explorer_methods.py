"""The methods: points are the record's means, rings stand around what no other beats, every axis can be chosen."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from synthetic_records import LM, lm_record, tabulated

from alignkd_lab.costs import with_costs
from alignkd_lab.course.explorers import methods
from alignkd_lab.course.explorers.methods import ACROSS, START, UP, WAYS, caption, compute, in_words, ranked
from alignkd_lab.pipelines import METHODS

EFFECTS = LM | {name: (0.2 + 0.05 * place, 0.3, -4.0, -3.0, -3.5 - place) for place, name in enumerate(METHODS)}
RECORD = methods.recorded()


def made_up(seeds=3):
    return with_costs(tabulated(*(lm_record(seed, effects=EFFECTS) for seed in range(seeds))))


@pytest.fixture(scope="module")
def run():
    return made_up()


def state(**changes):
    return {**START, **changes}


# compute


def test_a_point_is_the_mean_over_the_seeds_on_both_axes(run):
    points = compute(state(across="overall_recall", up="target_rate"), run).points
    for name in WAYS:
        (x, _, _), (y, _, _) = (interval for interval, _ in points[name])
        assert x == pytest.approx(run.table("overall_recall")[name].mean())
        assert y == pytest.approx(100 * run.table("target_rate")[name].mean())


def test_the_clock_is_read_as_a_median_without_an_interval(run):
    (minutes, low, high), values = compute(state(across="minutes"), run).points["adpa"][0]
    assert minutes == np.median(values)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("data", [made_up(), RECORD], ids=["made up", "recorded"])
def test_a_ring_means_that_no_other_way_is_at_least_as_good_on_both_axes(data):
    for across, up in itertools.product(ACROSS, UP):
        view = compute({"across": across, "up": up}, data)
        places = {n: [found.estimate for found, _ in pair] for n, pair in view.points.items() if n in WAYS}
        sign = -1 if across in methods.LESS_IS_BETTER else 1
        for name, (x, y) in places.items():
            better = [n for n, (x2, y2) in places.items() if sign * x2 >= sign * x and y2 >= y and (x2, y2) != (x, y)]
            assert (name in view.unbeaten) == (not better)
        assert view.unbeaten or not places


# Words


def test_the_caption_counts_the_rings_and_says_how_many_seeds(run):
    for across, up in itertools.product(ACROSS, UP):
        view = compute({"across": across, "up": up}, run)
        words = caption(view)
        if not view.points:
            assert words.endswith("the record does not hold both.")
        elif len(view.unbeaten) == 1:
            assert "is best on both; other axes may tell otherwise" in words
        else:
            assert f"there is no best way, {len(view.unbeaten)} of 7 are beaten by no other on both" in words
    assert caption(compute(START, run)).endswith("Means over 3 seeds.")
    assert caption(compute(START, made_up(1))).endswith("One seed decides nothing.")


@pytest.mark.parametrize("gain", ["gain_per_10000_tokens", "gain_per_hour"])
@pytest.mark.parametrize("data", [made_up(), RECORD], ids=["made up", "recorded"])
def test_the_words_name_the_two_highest_means_and_count_the_seeds_led(gain, data):
    table = data.table(gain)[[name for name in data.pipelines if name in WAYS]]
    means, best = table.mean(), table.mean().idxmax()
    assert list(ranked(data, gain).values()) == sorted(means, reverse=True)
    words = in_words(data, gain)
    assert f"most for {methods.short(best)} (" in words
    led = sum(row.idxmax() == best for _, row in table.iterrows())
    assert f"in {led} of {len(table)} seeds" in words


def test_a_lead_is_called_unsure_where_its_paired_interval_holds_zero():
    def gaining(dckd):
        metrics = made_up().metrics
        metrics = metrics[metrics["metric"] != "gain_per_hour"]
        rows = metrics.drop_duplicates(["pipeline", "seed"]).assign(metric="gain_per_hour", value=-9.0)
        rows.loc[rows["pipeline"] == "adpa", "value"] = 1.1
        rows.loc[rows["pipeline"] == "dckd", "value"] = rows["seed"].map(dckd)
        return dataclasses.replace(made_up(), metrics=pd.concat([metrics, rows]))

    assert in_words(gaining({0: 3.0, 1: 1.0, 2: 1.0}), "gain_per_hour").endswith("so the lead is not sure.")
    near = gaining({0: 2.0, 1: 2.1, 2: 2.2})
    assert "leads in 3 of 3 seeds, ahead of the second by 1.00 (0.7" in in_words(near, "gain_per_hour")


# Pictures


def test_every_axis_that_was_measured_can_be_chosen(run):
    explorer = methods.show(run=run)
    for name, axes in (("across", ACROSS), ("up", UP)):
        offered = [axis for _, axis in explorer.controls[name].list.options]
        assert set(offered) == {axis for axis in axes if {*run.table(axis)} & {*WAYS}}


def test_a_page_shows_three_settings_of_a_record_that_compares_most_ways():
    assert methods.show().still().alt.count("Across ") == 3
    rewards = RECORD.table()
    assert rewards.notna().all(axis=None)
    assert {"kd_only", *WAYS} == {*rewards}


@pytest.mark.parametrize("seeds", [1, 3])
def test_gains_have_a_row_for_every_way(seeds):
    figure = methods.gains(made_up(seeds), "gain_per_hour")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"DCKD", "ADPA", "ADPA+", "Student aligned, no KD"} <= set(labels)
    assert figure.axes[1].get_xlabel() == "reward above KD only, for an hour"
