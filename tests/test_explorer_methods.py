"""The methods: points are the record's means, rings stand around what no other beats, every axis can be chosen."""

import itertools

import numpy as np
import pytest
from synthetic_records import LM, lm_record

from alignkd_lab.costs import with_costs
from alignkd_lab.course.explorers import methods
from alignkd_lab.course.explorers.methods import ACROSS, START, UP, WAYS, caption, compute, in_words, ranked
from alignkd_lab.pipelines import METHODS
from alignkd_lab.runs import group_runs, seed_values

EFFECTS = LM | {name: (0.2 + 0.05 * place, 0.3, -4.0, -3.0, -3.5 - place) for place, name in enumerate(METHODS)}
RECORD = methods.recorded()


def made_up(seeds=3):
    return with_costs(group_runs([lm_record(seed, effects=EFFECTS) for seed in range(seeds)])[0])


@pytest.fixture(scope="module")
def run():
    return made_up()


def state(**changes):
    return {**START, **changes}


# compute


def test_a_point_is_the_mean_over_the_seeds_on_both_axes(run):
    points = compute(state(across="overall_recall", up="target_rate"), run).points
    for name in WAYS:
        metrics = seed_values(run)[name]
        (x, _, _), (y, _, _) = (interval for interval, _ in points[name])
        assert x == pytest.approx(np.mean(list(metrics["overall_recall"].values())))
        assert y == pytest.approx(100 * np.mean(list(metrics["target_rate"].values())))


def test_the_clock_is_read_as_a_median_without_an_interval(run):
    (minutes, low, high), values = compute(state(across="minutes"), run).points["adpa"][0]
    assert minutes == np.median(values)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("data", [made_up(), RECORD], ids=["made up", "recorded"])
def test_a_ring_means_that_no_other_way_is_at_least_as_good_on_both_axes(data):
    for across, up in itertools.product(ACROSS, UP):
        view = compute({"across": across, "up": up}, data)
        places = {n: [found.estimate for found, _ in pair] for n, pair in view.points.items() if n in WAYS}
        sign = 1 if ACROSS[across].more_is_better else -1
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
    means = {name: np.mean(list(metrics[gain].values())) for name, metrics in seed_values(data).items() if name in WAYS}
    best = max(means, key=means.get)
    assert list(ranked(data, gain).values()) == sorted(means.values(), reverse=True)
    words = in_words(data, gain)
    assert f"most for {methods.short(best)} (" in words
    by_seed, seeds = seed_values(data), [record["seed"] for record in data["records"]]
    led = sum(best == max(means, key=lambda name: by_seed[name][gain][seed]) for seed in seeds)
    assert (f"in {led} of {len(seeds)} seeds" if len(seeds) > 1 else "One seed decides nothing.") in words


def test_a_lead_is_called_unsure_where_its_paired_interval_holds_zero():
    near = made_up()
    for record in near["records"]:
        pipelines = record["pipelines"]
        for name in set(WAYS) - {"dckd", "adpa"}:
            pipelines[name]["metrics"]["gain_per_hour"] = -9.0
        pipelines["dckd"]["metrics"]["gain_per_hour"] = 1.0 if record["seed"] else 3.0
        pipelines["adpa"]["metrics"]["gain_per_hour"] = 1.1
    assert in_words(near, "gain_per_hour").endswith("so the lead is not sure.")
    for record in near["records"]:
        record["pipelines"]["dckd"]["metrics"]["gain_per_hour"] = 2.0 + 0.1 * record["seed"]
    assert "leads in 3 of 3 seeds, ahead of the second by 1.00 (0.7" in in_words(near, "gain_per_hour")


# Pictures


def test_every_axis_that_was_measured_can_be_chosen(run):
    explorer = methods.show(run=run)
    for name, axes in (("across", ACROSS), ("up", UP)):
        offered = [axis for _, axis in explorer.controls[name].list.options]
        assert set(offered) == {axis for axis in axes if any(axis in seed_values(run)[way] for way in WAYS)}


def test_a_page_shows_three_settings_of_a_record_that_compares_most_ways():
    assert methods.show().still().alt.count("Across ") == 3
    for record in RECORD["records"]:
        assert "kd_only" in record["pipelines"]
        assert len(set(WAYS) & set(record["pipelines"])) > len(WAYS) / 2


@pytest.mark.parametrize("seeds", [1, 3])
def test_gains_have_a_row_for_every_way(seeds):
    figure = methods.gains(made_up(seeds), "gain_per_hour")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"DCKD", "ADPA", "ADPA+", "Student aligned, no KD"} <= set(labels)
    assert figure.axes[1].get_xlabel() == "reward above KD only, for an hour"
