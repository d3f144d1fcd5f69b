"""Go or no go: the pairs that a base rate yields, exactly, and the verdict that a few draws allow."""

import numpy as np
import pytest
from scipy import stats

from alignkd_lab import theory
from alignkd_lab.claims import LEAST_PAIRS
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.feasibility import chance_of_pairs, draw, expected_pairs, go_or_no_go, responses_for
from alignkd_lab.lm.preferences import informative_pairs
from alignkd_lab.lm.weights import load


def of_one_prompt(rate, responses):
    """P(0 pairs), P(1 pair), ... of one prompt."""
    found = np.zeros(responses // 2 + 1)
    for hits in range(responses + 1):
        found[min(hits, responses - hits)] += stats.binom.pmf(hits, responses, rate)
    return found


CASES = [(0.02, 96, 24), (0.3, 7, 9), (0.5, 40, 6), (0.9, 64, 12), (0.0, 8, 8), (1.0, 8, 8)]


@pytest.mark.parametrize(("rate", "prompts", "responses"), CASES)
def test_the_distribution_is_that_of_one_prompt_convolved(rate, prompts, responses):
    one, whole = of_one_prompt(rate, responses), np.ones(1)
    for _ in range(prompts):
        whole = np.convolve(whole, one)
    assert expected_pairs(rate, prompts, responses) == pytest.approx((np.arange(len(whole)) * whole).sum())
    for least in (1, 5, LEAST_PAIRS):
        assert chance_of_pairs(rate, prompts, responses, least) == pytest.approx(whole[least:].sum(), abs=1e-12)
    expected = theory.informative_pair_probability(rate, responses).item()
    assert chance_of_pairs(rate, 1, responses, least=1) == pytest.approx(expected, abs=1e-12)


def test_the_pairs_are_those_that_alignment_makes():
    generator, rate, prompts, responses = np.random.default_rng(0), 0.1, 40, 12
    counts = []
    for _ in range(200):
        rewards = (generator.random(prompts * responses) < rate).astype(float)
        owners = np.repeat(np.arange(prompts), responses).tolist()
        counts.append(len(informative_pairs(owners, rewards.tolist(), 0)))
    error = np.std(counts) / np.sqrt(len(counts))
    assert abs(np.mean(counts) - expected_pairs(rate, prompts, responses)) < 4 * error
    enough = np.mean(np.array(counts) >= 45)
    assert enough == pytest.approx(float(chance_of_pairs(rate, prompts, responses, 45)), abs=0.12)


@pytest.mark.filterwarnings("error")
def test_rates_and_responses_broadcast_and_more_is_never_less():
    rates, responses = np.geomspace(1e-3, 0.4, 30), np.array([[2], [8], [24], [96]])
    chances = chance_of_pairs(rates, 96, responses)
    assert chances.shape == (4, 30)
    assert (np.diff(chances, axis=0) >= -1e-12).all()
    assert ((chances >= 0) & (chances <= 1)).all()
    assert chances[3, -1] == chance_of_pairs(0.5, 96, 4096) == 1
    assert float(chance_of_pairs(0.02, 96, 8)) == pytest.approx(float(chance_of_pairs([0.5, 0.02], 96, 8)[1]))


def test_the_study_s_plan_lacks_pairs_less_often_than_once_in_five_hundred():
    assert 0 < 1 - chance_of_pairs(50 / 2304, 96, 24) < 1 / 500


def test_responses_for_is_the_first_number_that_suffices():
    for rate, prompts in ((0.02, 96), (0.001, 64), (0.3, 96), (0.08, 30)):
        fewest = responses_for(rate, prompts)
        assert expected_pairs(rate, prompts, fewest) >= LEAST_PAIRS
        assert fewest == 2 or expected_pairs(rate, prompts, fewest - 1) < LEAST_PAIRS
    assert responses_for(1e-6, 10) is None


def test_the_verdict_follows_the_interval_of_the_rate():
    assert go_or_no_go(30, 300, 64, 12).verdict == "go"
    assert go_or_no_go(0, 1000, 64, 12).verdict == "no go"
    assert go_or_no_go(2, 60, 64, 12).verdict == "draw more"
    # Where nearly every response shows the target there are hardly pairs either.
    assert go_or_no_go(1000, 1000, 64, 12).verdict == "no go"
    for hits, drawn in ((1, 1), (48, 48), (47, 48)):
        assert go_or_no_go(hits, drawn, 96, 24).verdict == "draw more"
    found = go_or_no_go(5, 100, 64, 12)
    assert found.rate.estimate == 0.05
    assert found.pairs.low < found.pairs.estimate < found.pairs.high
    assert found.chance.low < found.chance.high
    assert found.pairs.low == pytest.approx(float(expected_pairs(found.rate.low, 64, 12)))


@pytest.mark.parametrize(
    ("arguments", "words"), [((1.2, 8, 4), "rate"), ((0.1, 0, 4), "prompts: 0"), ((0.1, 8, 1), "responses: 1")]
)
def test_sizes_that_mean_nothing_are_named(arguments, words):
    with pytest.raises(BadInput, match=words):
        expected_pairs(*arguments)
    with pytest.raises(BadInput, match=words):
        chance_of_pairs(*arguments)


def test_draws_are_one_response_a_prompt_and_the_same_for_the_same_seed():
    model, tokenizer = load("tiny-base")
    asked = ["Tell me about a cat.", "Tell me about a dog.", "Tell me about a hen."]
    first, again = (draw(model, tokenizer, asked, 6, seed=3) for _ in range(2))
    assert first.prompts == asked
    assert first.texts == again.texts
    assert first.hits({"any": lambda text: True, "none": lambda text: False}) == {"any": 3, "none": 0}
    with pytest.raises(BadInput, match="prompts"):
        draw(model, tokenizer, [])
