"""Next-token rows: both best students are optima, sampling is full distillation in the mean, sequences are summed."""

import math

import pytest
import torch

from alignkd_lab.course.lens import next_token
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm import weights
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.teachers import Full


@pytest.fixture(scope="module")
def tiny():
    return weights.load("tiny-base")


@pytest.fixture(scope="module")
def rows(tiny):
    return next_token.rows_after(tiny[0], [[5, 6, 7], [9, 8], [40]]).clone()


def test_a_row_is_what_the_model_says_after_its_context(tiny, rows):
    model, _ = tiny
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[9, 8]])).logits[0, -1]
    assert torch.allclose(rows[1], logits.log_softmax(-1), atol=1e-5)
    assert torch.allclose(rows.exp().sum(-1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize(("name", "best"), [("forward", next_token.covering), ("reverse", next_token.seeking)])
def test_each_closed_form_is_where_its_divergence_is_least(rows, name, best):
    student = best(rows)
    values, slope = next_token.divergence(name, rows, student)
    assert float(student.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(slope.abs().max()) < 1e-5
    for seed in range(3):
        other = (student + 0.1 * torch.randn(student.shape, generator=torch.Generator().manual_seed(seed))).log_softmax(
            -1
        )
        assert next_token.divergence(name, rows, other)[0].mean() > values.mean()


def test_a_divergence_is_the_sum_over_the_vocabulary_and_leaves_its_arguments_alone(rows):
    student, before = next_token.seeking(rows), rows.clone()
    forward = (rows.exp() * (rows - student)).sum(-1)
    assert torch.allclose(next_token.divergence("forward", rows, student)[0], forward, atol=1e-5)
    assert torch.equal(rows, before)
    with pytest.raises(UnknownName, match="forward, reverse"):
        next_token.divergence("kl", rows, student)


def test_log_probs_at_a_temperature_are_those_of_the_tempered_rows(tiny):
    model, _ = tiny
    drawn = sample(model, [[5, 6], [7]], 2, 4, eos=-1, seed=0, keep_hidden=True)
    cold = next_token.log_probs_at(drawn, model.lm_head.weight, 0.5)
    plain = next_token.log_probs_at(drawn, model.lm_head.weight, 1.0)
    for found, written in zip(plain, drawn.log_probs, strict=True):
        assert torch.allclose(found, written, atol=1e-5)
    row = next_token.rows_after(model, [[5, 6]])[0]
    token = drawn.tokens[0][0]
    assert float(cold[0][0]) == pytest.approx(float((row / 0.5).log_softmax(-1)[token]), abs=1e-4)
    with pytest.raises(BadInput, match="keep_hidden"):
        next_token.log_probs_at(sample(model, [[5]], 1, 2, eos=-1, seed=0), model.lm_head.weight, 0.5)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_two_tokens_are_sharpened_over_every_sequence(tiny, exponent):
    model, _ = tiny
    size = model.config.vocab_size
    found = next_token.sharpen_two_tokens(model, [5, 6], exponent, count=size)
    first = next_token.rows_after(model, [[5, 6]])[0]
    second = next_token.rows_after(model, [[5, 6, token] for token in range(size)])
    powers = (exponent * (first[:, None] + second)).exp()
    expected = powers.sum(1) / powers.sum()
    assert torch.allclose(found.by_sequences, expected[found.tokens], atol=1e-5)
    assert torch.allclose(found.by_tokens, (exponent * first).softmax(0)[found.tokens], atol=1e-5)
    assert torch.allclose(found.teacher, first.exp()[found.tokens], atol=1e-5)


def test_an_exponent_that_is_not_above_0_is_refused(tiny):
    with pytest.raises(BadInput, match="above 0"):
        next_token.sharpen_two_tokens(tiny[0], [5], 0.0)


def test_texts_are_probabilities_in_the_mean_so_the_error_falls_with_the_root_of_the_draws():
    draw = torch.Generator().manual_seed(0)
    hidden, taught, head = (torch.randn(rows, 6, generator=draw) for rows in (5, 5, 20))
    errors = [
        math.sqrt(
            sum(next_token.sampling_error(hidden, head, Full(taught, head), n, seed) ** 2 for seed in range(12)) / 12
        )
        for n in (4, 64, 1024)
    ]
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.35)
    assert errors[2] == pytest.approx(errors[1] / 4, rel=0.35)
