"""The two temperatures: both ways agree with sums over the listed sequences, and the belief fails where it should."""

import functools

import numpy as np
import pytest
from scene import Scene, value

from alignkd_lab.course.explorers import two_temperatures

STATES = [(0.5, 0.6, 5), (2.0, 0.7, 6), (7.0, 0.4, 3), (1.0, 0.25, 1)]


@functools.cache
def scene(exponent, first, leaves):
    return Scene(two_temperatures.show(exponent=exponent, first=first, leaves=leaves))


def listed(exponent, first, leaves):
    """Every sequence's share by the teacher, by whole sequences and by tokens, from a tree that is listed by hand."""
    tree = {("A", leaf): first / leaves for leaf in range(leaves)} | {("B", 0): 1 - first}
    whole = {sequence: share**exponent for sequence, share in tree.items()}
    steps = {token: share**exponent for token, share in (("A", first), ("B", 1 - first))}
    tokens = {s: steps[s[0]] / sum(steps.values()) / (leaves if s[0] == "A" else 1) for s in tree}
    return [list(tree.values()), [share / sum(whole.values()) for share in whole.values()], list(tokens.values())]


@pytest.mark.parametrize("state", STATES)
def test_every_sequence_has_its_share_of_the_bars(state):
    bars, _ = scene(*state).places("rect")
    shares = [[bar["width"] / 320 for bar in bars if bar["y"] == y] for y in sorted({bar["y"] for bar in bars})]
    np.testing.assert_allclose(shares, listed(*state), atol=1e-6)


@pytest.mark.parametrize("state", STATES)
def test_the_curves_are_a_s_share_at_every_exponent_and_the_points_that_at_the_state(state):
    exponent, *tree = state
    seen = scene(*state)
    curves, (points,) = seen.places("line"), seen.places("symbol")
    for way, (curve, point) in enumerate(zip(curves, points, strict=True), start=1):
        assert value(point["x"], 320, 0.25, 8, True) == pytest.approx(exponent)
        for mark in (*curve[::12], point):
            at = value(mark["x"], 320, 0.25, 8, True)
            share = sum(listed(at, *tree)[way][:-1])
            assert value(270 - mark["y"], 270, 0, 1.05) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(("first", "leaves"), [(0.7, 6), (0.6, 4), (0.3, 12)])
def test_b_has_one_half_exactly_at_the_crossing(first, leaves):
    tick = scene(1.0, first, leaves).places("rect")[-1]
    crossing = value(tick[0]["x"] + tick[0]["width"] / 2, 320, 0.25, 8, True)
    assert listed(crossing, first, leaves)[1][-1] == pytest.approx(0.5, abs=1e-4)


def test_where_each_leaf_outweighs_b_there_is_no_crossing():
    assert scene(1.0, 0.95, 3).places("rect")[-1] == []


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ((1.0, 0.7, 6), "At s = 1 neither changes anything."),
        ((2.0, 0.7, 6), "Sequences favour B, tokens A: the temperature never sees that A has 6 leaves"),
        ((0.5, 0.3, 6), "Sequences favour A, tokens B"),
        ((3.0, 0.7, 1), "here temperature is sharpening"),
        ((2.0, 0.95, 3), "The same exponent, "),
        ((8.0, 0.1, 6), "Here the two hardly differ."),
        ((2.0, 0.6, 4), "With s = 2 on whole sequences it is 36 %; on every token, τ = 0.5, 69.2 %"),
    ],
)
def test_the_words_say_what_becomes_of_the_belief(state, said):
    assert said in scene(*state).words
