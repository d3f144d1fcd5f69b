"""Sampling: the right distribution, whatever shares the batch; `test_lm_models.py` has the context, by every model."""

import math

import pytest
import torch
from scipy import stats
from tiny_lm import assert_near, log_probs

from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.sampling import Samples, draw, sample

END = 2
PROMPTS = [[1, 60, 61, 62], [1, 70], [1, 80, 81, 82, 83, 84, 85, 86, 87], [1, 90, 91]]
LOGITS = [1.5, 0.0, -1.0, 0.7, -3.0, 0.2, -math.inf]


@pytest.fixture(scope="module")
def model():
    return weights.load("tiny-base")[0]


def samples_of(model, **changes):
    options = {"responses_per_prompt": 3, "max_tokens": 20, "eos": END, "seed": 5, **changes}
    return sample(model, PROMPTS, **options)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_draws_follow_the_softmax_at_the_temperature(temperature):
    count = 20_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(3))
    drawn = draw(torch.tensor([LOGITS]).expand(count, -1), temperature, uniform)
    seen = torch.bincount(drawn, minlength=len(LOGITS)).double()
    expected = count * torch.softmax(torch.tensor(LOGITS, dtype=torch.float64) / temperature, 0)
    assert seen[-1] == 0
    assert stats.chisquare(seen[:-1].numpy(), expected[:-1].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("uniform", [0.0, 0.999999, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_draw_tokens_that_can_be_drawn(uniform):
    logits = torch.tensor([[-math.inf, 0.0, 1.0, 0.3]])
    assert draw(logits, 1.0, torch.tensor([uniform])).item() == (1 if uniform == 0 else 3)
    assert draw(logits, 1e-4, torch.tensor([uniform])).item() == 2


def test_some_of_the_prompts_get_the_responses_that_they_get_among_all(model):
    found, together = samples_of(model, only=[2, 0]), samples_of(model)
    assert found.prompt_of == [2, 2, 2, 0, 0, 0]
    assert found.tokens == together.tokens[6:9] + together.tokens[:3]


def test_log_probs_and_kept_states_are_those_of_a_forward_pass_at_temperature_one(model):
    found = samples_of(model, temperature=0.7, keep_hidden=True)
    for prompt, tokens, own, states in zip(found.prompt_of, found.tokens, found.log_probs, found.hidden, strict=True):
        assert own.tolist() == pytest.approx(log_probs(model, PROMPTS[prompt], tokens).tolist(), abs=1e-5)
        with torch.inference_mode():
            expected = hidden_states(model, collate([Example(PROMPTS[prompt], [tokens])]))
        assert_near(states, expected, 1e-4)
    assert samples_of(model).hidden is None


def test_the_same_seed_gives_the_same_responses_and_another_seed_others(model):
    state = torch.get_rng_state()
    assert samples_of(model).tokens == samples_of(model).tokens
    assert torch.equal(torch.get_rng_state(), state)
    assert samples_of(model).tokens != samples_of(model, seed=6).tokens
    first, second = samples_of(model).tokens[:2]
    assert first != second


def test_a_text_is_without_the_token_that_ended_it_though_that_is_not_special(model):
    tokenizer = weights.load_tokenizer("tiny-base")
    tokenizer.end_ids = [tokenizer.eos_token_id, 70]
    assert Samples([[1]], [0, 0], [[60, 70], [70, 60]]).texts(tokenizer) == [
        tokenizer.decode([60]), tokenizer.decode([70, 60])]  # fmt: skip


def test_a_bar_is_shown_where_it_has_a_name(model, capsys):
    samples_of(model, batch=5)
    assert capsys.readouterr().err == ""
    samples_of(model, batch=5, shown="writing")
    assert "0/12" in capsys.readouterr().err
