"""KD and DCKD: divergences, temperatures, whole and top-k teachers, and TRL's loss as an oracle."""

import warnings

import pytest
import torch
from naive_losses import (
    assert_close,
    dckd,
    in_dtype,
    kd,
    made_on,
    value_and_slopes,
)

from alignkd_lab.lm import losses
from alignkd_lab.lm.losses import DIVERGENCES
from alignkd_lab.lm.teachers import Full


@pytest.fixture
def made(device):
    return made_on(device)


@pytest.mark.parametrize(("divergence", "mix", "beta"), [("forward", 0.5, 0), ("reverse", 0.5, 1), ("jsd", 0.3, 0.3)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kd_equals_trls_generalised_divergence(divergence, mix, beta, temperature, made):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gkd = pytest.importorskip("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss

    def theirs(made):
        student, teacher = made["hidden"] @ made["head"].T, made["teacher_hidden"] @ made["teacher_head"].T
        # TRL leaves out the factor T² that keeps the size of the gradient.
        return temperature**2 * gkd(student[None], teacher[None], made["labels"][None], beta, temperature)

    found = value_and_slopes(kd, made, divergence=divergence, mix=mix, temperature=temperature)
    assert_close(found, value_and_slopes(theirs, made), 1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(divergence, made):
    own = in_dtype({**made, "teacher_hidden": made["hidden"], "teacher_head": made["head"]}, torch.float32)
    bound = 0 if divergence in ("forward", "reverse") else 1e-6
    for found in value_and_slopes(kd, own, divergence=divergence, chunk=6):
        assert float(found.detach().abs().max()) <= bound


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_divergence_is_never_negative_and_skewing_or_mixing_bounds_it(divergence, made):
    far = in_dtype(
        {**made, "teacher_hidden": 40 * made["teacher_hidden"], "hidden": 40 * made["hidden"]}, torch.float32
    )
    found = value_and_slopes(kd, far, divergence=divergence, mix=0.5)
    _, info = kd(far, divergence=divergence, mix=0.5)
    assert all(torch.isfinite(tensor).all() for tensor in found)
    assert float(info.divergence.min()) > -1e-6
    # KL(p || (p + q) / 2) is at most log 2, and so is their mean.
    assert divergence in ("forward", "reverse") or float(info.divergence.max()) < 0.693148


def test_kd_reports_divergence_and_entropies_of_every_token(made):
    _, info = kd(made, temperature=2.0, teacher_temperature=0.5, chunk=4)
    p = torch.softmax(made["teacher_hidden"] @ made["teacher_head"].T, -1)
    q = torch.softmax(made["hidden"] @ made["head"].T / 2, -1)
    expected = [(p * (p / q).log()).sum(-1), *(-(x * x.log()).sum(-1) for x in (p, q))]
    assert_close(info, expected)


def test_kd_leaves_the_teacher_without_gradient(made):
    hidden = made["hidden"].requires_grad_()
    teacher = [made[name].requires_grad_() for name in ("teacher_hidden", "teacher_head")]
    loss, _ = losses.kd(hidden, made["head"], Full(*teacher))
    loss.backward()
    assert hidden.grad is not None
    assert all(tensor.grad is None for tensor in teacher)


def test_a_high_temperature_matches_logits_up_to_a_constant(made):
    # Hinton et al. 2015, equation 4: the slope tends to (z - v) / V for centred logits z and v.
    hidden = made["hidden"].clone().requires_grad_()
    losses.kd(hidden, made["head"], Full(made["teacher_hidden"], made["teacher_head"]), temperature=1e4)[0].backward()
    gap = made["hidden"] @ made["head"].T - made["teacher_hidden"] @ made["teacher_head"].T
    gap = gap - gap.mean(-1, keepdim=True)
    assert_close([hidden.grad], [gap @ made["head"] / gap.numel()], 1e-3)


def test_dckd_reports_log_probability_kl_and_entropies_of_every_token(made):
    _, info = dckd(made, chunk=4)
    _, said = kd(made)
    assert_close(info[1:], said)
    assert_close([info.log_probs], [losses.nll(made["hidden"], made["head"], made["labels"])[1].log_probs])
