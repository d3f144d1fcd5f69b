"""The go-or-no-go explorer: its numbers are those of `lm.feasibility`, and the belief that it tests fails in words."""

import pytest

from alignkd_lab.course.explorers import feasible
from alignkd_lab.course.explorers.feasible import START, caption, compute
from alignkd_lab.lm.feasibility import chance_of_pairs, expected_pairs, go_or_no_go, responses_for


def state(**changes):
    return {**START, **changes}


def test_the_data_are_those_of_the_closed_forms():
    data = compute(state(rate=0.02, responses=16.4))
    assert (data.prompts, data.responses) == (96, 16)
    assert data.pairs == pytest.approx(float(expected_pairs(0.02, 96, 16)))
    assert data.chance == pytest.approx(float(chance_of_pairs(0.02, 96, 16)))
    assert data.needed == responses_for(0.02, 96) == 16
    row, column = 20, 30
    assert data.chances[row, column] == pytest.approx(
        float(chance_of_pairs(feasible._RATES[column], 96, int(feasible._RESPONSES[row])))
    )


def test_the_caption_lets_the_belief_fail():
    rare = caption(compute(state(rate=0.003)))
    assert "no go" in rare
    assert f"From {responses_for(0.003, 96)} responses a prompt on" in rare
    assert "no reward changes that" in rare
    assert ": go." in caption(compute(state(rate=0.1)))
    assert "a gamble" in caption(compute(state(rate=0.1, prompts=64.0, responses=4.0)))
    assert "Two responses" in caption(compute(state(rate=0.5)))
    assert "another target" in caption(compute(state(rate=0.001, prompts=4.0)))


def test_rates_are_drawn_with_their_verdicts_also_where_nothing_was_seen():
    found = {"seldom": go_or_no_go(0, 48, 96, 24), "often": go_or_no_go(12, 48, 96, 24)}
    figure = feasible.rates(found, 48, 96, 24, "Live: a note.")
    (axis,) = figure.axes
    texts = [text.get_text() for text in axis.texts]
    assert texts[:2] == ["draw more", "go"]
    assert "96 prompts × 24 responses" in figure.get_suptitle()
    assert next(line for line in axis.lines if line.get_marker() == "o").get_xdata()[0] == 0.25
    assert figure._supxlabel.get_text() == "Live: a note."
