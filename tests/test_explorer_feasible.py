"""The go-or-no-go explorer: its numbers are those of `lm.feasibility`."""

import functools
import re

import numpy as np
import pytest
from scene import Scene, value

from alignkd_lab.course.explorers import feasible
from alignkd_lab.lm.feasibility import chance_of_pairs, expected_pairs, responses_for

STATES = [(0.023, 24, 96), (0.0062, 90, 60), (0.3, 5, 16), (0.1, 4, 64)]


@functools.cache
def scene(rate, responses, prompts):
    return Scene(feasible.show(rate=rate, responses=responses, prompts=prompts))


@pytest.mark.parametrize("state", STATES)
def test_pairs_and_their_chance_are_those_of_the_closed_forms(state):
    rate, responses, prompts = state
    seen = scene(*state)
    drawn, pairs = map(int, re.search(r"are ([\d,]+) draws with (\d+) inf", seen.words.replace(",", "")).groups())
    assert (drawn, pairs) == (prompts * responses, round(float(expected_pairs(rate, prompts, responses))))
    chance = float(chance_of_pairs(rate, prompts, responses))
    said = re.search(r"The chance of at least 30 is (.*) %: (.*?)\.", seen.words)
    if chance > 0.9995:
        assert said[1] == "more than 99.9"
    else:
        assert float(said[1]) == pytest.approx(100 * chance, rel=6e-3)
    assert said[2] == ("go" if chance >= 0.9 else "no go" if chance <= 0.1 else "a gamble")
    assert f"From {responses_for(rate, prompts)} responses" in seen.words
    curve, ((point,), (here,)) = seen.places("line")[0], seen.places("symbol")
    found = [value(300 - mark["y"], 300, 0.01, 20_000, True) for mark in (*curve, here)]
    expected = expected_pairs(rate, prompts, np.array([*range(2, 97), responses]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert value(point["x"], 360, 1e-3, 0.5, True) == pytest.approx(rate)
    assert value(300 - point["y"], 300, 2, 96, True) == pytest.approx(responses)


@pytest.mark.parametrize("state", STATES)
def test_the_zones_end_where_the_chance_is_a_tenth_and_nine_tenths(state):
    prompts = state[2]
    low, high = map(np.array, feasible.borders(prompts))
    for rates, bar in ((low, 0.1), (high, 0.9)):
        inside = (rates > 1e-3) & (rates < 0.5)
        assert inside.sum() > 8
        for share in (0.99, 1.01):
            chances = chance_of_pairs(rates[inside] * share, prompts, feasible.RESPONSES[inside])
            assert ((chances - bar) * (share - 1) > 0).all()
    no_go, go = scene(*state).places("area")
    assert [value(mark["x"] + mark["width"], 360, 1e-3, 0.5, True) for mark in no_go] == pytest.approx(low)
    assert [value(mark["x"], 360, 1e-3, 0.5, True) for mark in go] == pytest.approx(high)
