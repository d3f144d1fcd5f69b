"""The toy language: one pass over positions against a walk through every response."""

import itertools

import pytest
import torch

from alignkd_lab import theory
from alignkd_lab.course.toy import language

VOCABULARY, LENGTH = 3, 4
RESPONSES = list(itertools.product(range(VOCABULARY), repeat=LENGTH))


def tables(seed=0, seeds=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (seeds, LENGTH, VOCABULARY + 1, VOCABULARY)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def models(seed=0, seeds=2):
    return torch.log_softmax(1.5 * tables(seed, seeds), -1)


def walk(table, response):
    """The sum of one seed's table along one response."""
    before = [VOCABULARY, *response[:-1]]
    return sum(float(table[time, prev, token]) for time, (prev, token) in enumerate(zip(before, response, strict=True)))


def listed(table):
    """`walk` over every response of every seed, [seed, response]."""
    return torch.tensor([[walk(each, response) for response in RESPONSES] for each in table], dtype=torch.float64)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_every_response_is_listed_once_and_its_log_prob_is_a_walk():
    responses = language.every_response(VOCABULARY, LENGTH)
    assert [tuple(each) for each in responses.tolist()] == RESPONSES
    policy = models()
    found = language.every_log_prob(policy)
    assert_close(found, listed(policy))
    assert_close(found.logsumexp(-1), torch.zeros(2, dtype=torch.float64))


def test_an_expected_sum_is_over_every_response_and_with_another_model_s_visits_the_next_token_alone_is_the_policy_s():
    policy, value = models(1), tables(2)
    found = language.expected_sum(policy, value, language.occupancy(policy))
    assert_close(found, (listed(policy).exp() * listed(value)).sum(-1))
    policy, other, value = models(6), models(7), tables(8)
    one_step = (policy.exp() * value).sum(-1, keepdim=True).expand_as(value)
    found = language.expected_sum(policy, value, language.occupancy(other))
    assert_close(found, (listed(other).exp() * listed(one_step)).sum(-1))


def test_occupancy_is_the_share_of_responses_with_that_token_before():
    policy = models(5)
    probs, visits = listed(policy).exp(), language.occupancy(policy)
    for time, token in itertools.product(range(1, LENGTH), range(VOCABULARY)):
        here = torch.tensor([response[time - 1] == token for response in RESPONSES])
        assert_close(visits[:, time, token], (probs * here).sum(-1))
    start = torch.zeros(LENGTH, dtype=torch.float64)
    start[0] = 1
    assert_close(visits[..., language.START], start.expand(2, -1))


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_tilted_model_is_the_tilted_optimum_over_responses(beta):
    reference, reward = models(11), tables(12)
    policy = language.tilted(reference, reward, beta)
    assert_close(listed(policy), theory.tilted_optimum(listed(reference), listed(reward), beta))
    assert_close(policy.logsumexp(-1), torch.zeros(policy.shape[:-1], dtype=torch.float64))


def test_samples_come_as_often_as_their_probabilities_say():
    policy = models(15)
    uniforms = torch.rand(2, 40_000, LENGTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    number = language.sample(policy, uniforms) @ torch.tensor([27, 9, 3, 1])
    for seed in range(2):
        shares = torch.bincount(number[seed], minlength=len(RESPONSES)) / number.shape[1]
        expected = language.every_log_prob(policy)[seed].exp()
        errors = (shares - expected) / torch.sqrt(expected * (1 - expected) / number.shape[1])
        assert errors.abs().max() < 4.5


def test_rows_are_the_table_s_at_each_token_and_carry_gradients_and_counts_times_a_table_are_the_walks():
    table = tables(16).requires_grad_()
    tokens = torch.tensor([[[0, 2, 1, 1], [2, 2, 0, 1]], [[1, 0, 0, 2], [0, 1, 2, 0]]])
    found = language.rows(table, tokens).view(2, 2, LENGTH, VOCABULARY)
    for seed, response, time in itertools.product(range(2), range(2), range(LENGTH)):
        before = VOCABULARY if time == 0 else int(tokens[seed, response, time - 1])
        assert_close(found[seed, response, time], table[seed, time, before])
    (slope,) = torch.autograd.grad(found.sum(), table)
    counts = language.transition_counts(tokens, VOCABULARY).sum((1, -1))
    assert_close(slope, counts.unsqueeze(-1).expand_as(table))
    table = tables(17, seeds=1)
    counts = language.transition_counts(torch.tensor(RESPONSES)[None], VOCABULARY)
    assert_close((counts * table[:, None]).sum((-3, -2, -1)), listed(table))
