"""The two temperatures: both ways agree with sums over the listed sequences, and the belief fails where it should."""

import itertools

import numpy as np
import pytest

from alignkd_lab.course.explorers.two_temperatures import START, caption, compute


def state(**changes):
    return {**START, **changes}


# compute


@pytest.mark.parametrize("exponent", [0.4, 1.0, 2.0, 7.0])
def test_both_ways_are_those_of_a_tree_that_is_listed_by_hand(exponent):
    first, leaves = 0.62, 5
    tree = {("A", leaf): first / leaves for leaf in range(leaves)} | {("B", 0): 1 - first}
    whole = {sequence: share**exponent for sequence, share in tree.items()}
    steps = {token: share**exponent for token, share in (("A", first), ("B", 1 - first))}
    data = compute(state(exponent=exponent, first=first, leaves=leaves))
    for place, sequence in enumerate(tree):
        assert data.shares["teacher"][place] == pytest.approx(tree[sequence])
        assert data.shares["sequences"][place] == pytest.approx(whole[sequence] / sum(whole.values()))
        by_tokens = steps[sequence[0]] / sum(steps.values()) / (leaves if sequence[0] == "A" else 1)
        assert data.shares["tokens"][place] == pytest.approx(by_tokens)


@pytest.mark.parametrize(("first", "exponent"), list(itertools.product((0.2, 0.7), (0.5, 3.0))))
def test_the_gap_is_the_renyi_entropy_of_what_follows(first, exponent):
    leaves = 6
    share = compute(state(exponent=exponent, first=first, leaves=leaves)).share_of_a
    odds = {way: share[way] / (1 - share[way]) for way in ("sequences", "tokens")}
    entropy = np.log(leaves)  # of equally likely leaves, of every order; B's is 0
    assert odds["sequences"] == pytest.approx(odds["tokens"] * np.exp((1 - exponent) * entropy))


def test_with_one_leaf_or_no_exponent_temperature_is_sharpening():
    for changes in ({"leaves": 1.0, "exponent": 5.0}, {"exponent": 1.0}):
        data = compute(state(**changes))
        assert data.shares["tokens"] == pytest.approx(data.shares["sequences"])


@pytest.mark.parametrize(("first", "leaves"), [(0.7, 6), (0.6, 4), (0.3, 12)])
def test_b_has_one_half_exactly_at_the_crossing(first, leaves):
    crossing = compute(state(first=first, leaves=leaves)).crossing
    assert compute(state(first=first, leaves=leaves, exponent=crossing)).share_of_a["sequences"] == pytest.approx(0.5)


def test_where_each_leaf_outweighs_b_there_is_no_crossing():
    data = compute(state(first=0.95, leaves=3))
    assert data.crossing is None
    assert data.curves["sequences"].min() > 0.5


# caption


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "At s = 1 neither changes anything."),
        ({"exponent": 2.0}, "Sequences favour B, tokens A: the temperature never sees that A's share is split over 6"),
        ({"exponent": 0.5, "first": 0.3}, "Sequences favour A, tokens B"),
        ({"exponent": 3.0, "leaves": 1.0}, "here temperature is sharpening"),
        ({"exponent": 2.0, "first": 0.95, "leaves": 3.0}, "The same exponent, "),
        ({"exponent": 16.0, "first": 0.1}, "Here the two hardly differ."),
    ],
)
def test_the_caption_says_what_becomes_of_the_belief(changes, said):
    assert said in caption(compute(state(**changes)))


def test_the_caption_holds_the_numbers_of_the_exercise():
    words = caption(compute(state(exponent=2.0, first=0.6, leaves=4.0)))
    assert words.startswith("The teacher says A first with 60 %. With s = 2 on whole sequences it is 36 %;")
    assert "τ = 0.5, 69.2 %" in words
    share = compute(state(exponent=2.0, first=0.6, leaves=4.0)).share_of_a
    assert 1 - share["sequences"] == pytest.approx(0.64)
    assert share["tokens"] == pytest.approx(0.36 / 0.52)


# controls and views
