"""Readings: what they say of each token is what the models' own distributions say, by hand and in float64."""

import pytest
import torch

from alignkd_lab.course.lens.readings import MODELS, in_words, read, with_space
from alignkd_lab.lm import weights
from alignkd_lab.lm.trainer import with_lora

PROMPT, RESPONSE = [1, 20, 21], [30, 31, 32, 33, 2]


@pytest.fixture(scope="module")
def models():
    teacher = with_lora(weights.load("tiny-base")[0], rank=2)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in teacher.named_parameters():
        if "lora_B" in name:
            tensor.data = 0.3 * torch.randn(tensor.shape, generator=generator)
    return teacher, weights.load("tiny-student")[0]


@pytest.fixture(scope="module")
def reading(models):
    return read(PROMPT, RESPONSE, *models)


@pytest.fixture(scope="module")
def expected(models):
    """Log-probabilities from whole forward passes of the models."""
    teacher, student = models
    ids = torch.tensor([PROMPT + RESPONSE])

    def log_probs(model):
        logits = model(input_ids=ids).logits[0, len(PROMPT) - 1 : -1]
        return logits.double().log_softmax(-1)

    with torch.no_grad():
        dpo, student_says = log_probs(teacher), log_probs(student)
        with teacher.disable_adapter():
            return {"reference": log_probs(teacher), "dpo": dpo, "student": student_says}


def close(found, wanted):
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_each_model_s_distribution_is_that_of_its_forward_pass(reading, expected):
    assert reading.labels.tolist() == RESPONSE
    for name in MODELS:
        close(reading.log_probs[name], expected[name])


def test_the_log_ratio_is_the_advantage_of_the_token_that_stands_there(reading, expected):
    a = expected["dpo"] - expected["reference"]
    close(reading.advantages, a)
    close(reading.log_ratio, torch.stack([a[row, token] for row, token in enumerate(RESPONSE)]))


def test_the_expected_advantage_is_how_much_nearer_the_dpo_teacher_is(reading, expected):
    pi = expected["student"].exp()
    to_reference, to_dpo = ((pi * (expected["student"] - expected[name])).sum(-1) for name in ("reference", "dpo"))
    close(reading.adpa.expected_advantage, to_reference - to_dpo)
    close(reading.adpa.largest_advantage, reading.advantages.double().max(-1).values)


def test_the_kl_is_from_the_dpo_teacher_to_the_student(reading, expected):
    p = expected["dpo"]
    close(reading.dckd.kl, (p.exp() * (p - expected["student"])).sum(-1))


def test_a_token_is_written_so_that_a_font_has_it():
    tokenizer = type("Decoding", (), {"decode": staticmethod(lambda ids: ["\n", " red", "\ufffd", "字", "\t"][ids[0]])})
    assert [in_words(tokenizer, token) for token in range(5)] == ["↵", " red", "\\ufffd", "\\u5b57", "⇥"]
    assert with_space(" red") == "␣red"
