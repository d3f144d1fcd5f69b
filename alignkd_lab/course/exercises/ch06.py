"""Tasks of notebook 06, with their solutions and typical wrong answers."""

from __future__ import annotations

import torch

from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written
from alignkd_lab.nano import adpa_loss


def adpa_corner() -> str:
    from alignkd_lab.course.toy import one_state

    probs = one_state.optimum(gamma=1.5)
    return f"token {1 + int(probs.argmax())}" if probs.max() > 0.999 else "the DPO teacher"


def two_positions() -> dict:
    """Two positions of a response that the student wrote, and a vocabulary of five tokens.

    `student` and `advantages` `[2, 5]`: probabilities and nats; `gamma`; `tokens`, the N of the mean.
    """
    generator = torch.Generator().manual_seed(6)
    student = torch.randn(2, 5, generator=generator, dtype=torch.float64).softmax(-1)
    # The two teachers are near each other, as a DPO teacher is near its reference.
    reference = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    dpo = reference + 0.6 * torch.randn(2, 5, generator=generator, dtype=torch.float64)
    advantages = dpo.log_softmax(-1) - reference.log_softmax(-1)
    return {"student": student, "advantages": advantages, "gamma": 1.5, "tokens": 2}


def adpa_logit_gradient(data: dict) -> tuple[float, ...]:
    probs, advantages = data["student"][0], data["advantages"][0]
    mean = (probs * advantages).sum()
    return tuple((-data["gamma"] / data["tokens"] * probs * (advantages - mean)).tolist())


def adpa_calls() -> list[tuple]:
    """Logits [N_w, V] and tokens of chosen responses, logits [N, V] of three models on sampled ones, gamma."""
    noise = torch.Generator().manual_seed(6)

    def call(chosen: int, sampled: int, gamma: float) -> tuple:
        logits = [torch.randn(count, 5, generator=noise, dtype=torch.float64) for count in (chosen, *[sampled] * 3)]
        tokens = torch.randint(5, (chosen,), generator=noise)
        return logits[0].requires_grad_(), tokens, logits[1].requires_grad_(), logits[2], logits[3], gamma

    return [call(4, 3, 1.5), call(3, 6, 0.5)]


TASKS: dict[str, Task | Written] = {
    "adpa_corner": Task(
        prediction=True,
        question="Four tokens may come next. The reference teacher gives them (.6, .3, .099, .001), the DPO teacher "
        "(.5, .4, .09, .01). A student starts as the reference and is trained by ADPA's advantage alone, without the "
        "likelihood term, for as long as it takes. Where does its probability end?",
        options={
            "token 1": "on token 1",
            "token 2": "on token 2",
            "token 4": "on token 4",
            "the DPO teacher": "spread as the DPO teacher spreads it",
        },
        solve=adpa_corner,
        because="The term is linear in the student's probabilities, so its best is a corner: all on the token of the "
        "largest ratio, here 10, although both teachers find it rare.",
    ),
    "adpa_logit_gradient": Task(
        question="ADPA's term is −(γ/N) Σ_t Σ_a π(a|s_t) A(s_t, a), with π the softmax of the student's logits. What "
        "is its gradient with respect to the five logits of the first position? Give five numbers. The data hold π "
        "(`student`), A (`advantages`), γ (`gamma`) and N (`tokens`).",
        given=two_positions,
        solve=adpa_logit_gradient,
        because="−(γ/N) π_i (A_i − E_π[A]): only what is better than the student's own mean is pushed up, and a rare "
        "token is pushed little, whatever its advantage.",
        hint="A softmax has ∂π_a/∂z_i = π_a (1[a = i] − π_i). Put it into the sum over a.",
        distractors={
            "(advantages - mean) → advantages": "E_π[A] is missing. Adding a constant to all logits changes no "
            "probability, so the numbers of a row must sum to zero: subtract the mean advantage under π.",
            "-data → data": "The sign is wrong. This is a loss, to be made small: where the advantage is "
            "above its mean, the gradient is below 0 and descent pushes the logit up.",
            ' / data["tokens"] → ': "The term is a mean over N tokens: divide by N.",
            "* probs * ( → * (": "π_i is missing: a token that the student hardly ever says is hardly "
            "pushed. Another sign of the mistake: the row does not sum to zero.",
        },
        tolerance=0.005,
    ),
    "write_adpa_loss": Written(
        question="Write adpa_loss(chosen_logits, chosen_tokens, sampled_logits, teacher_logits, reference_logits, "
        "gamma). Return nll_loss(chosen_logits, chosen_tokens), which is given, minus γ times the mean over N tokens "
        "of Σ_a π(a) A(a). On what the student wrote, [N, V]: π is the softmax of sampled_logits, A = log π_dpo − log "
        "π_ref, from the logits of the DPO teacher and of the reference teacher.",
        solve=adpa_loss,
        inputs=adpa_calls,
        because="The term is exact over the vocabulary: no token is drawn; each is weighted by the student's π.",
        hint="A is a difference of two log_softmax(-1). Weight it by the student's softmax, sum over the last axis, "
        "take the mean over tokens, and subtract γ times that from the NLL.",
        mistakes={
            "- gamma → + gamma": "The sign is wrong, of the γ term or of A. Where alignment made a token likelier, A "
            "is above 0, and saying that token must lower the loss.",
            " - reference_logits.log_softmax(-1) → ": "The reference is missing: A is what alignment has changed.",
            "nll_loss(chosen_logits, chosen_tokens) → 0 * chosen_logits.sum()": "The NLL is missing.",
            "nll_loss(chosen_logits, chosen_tokens) → nll_loss(chosen_logits[:-1], chosen_tokens[1:])": "The labels "
            "are shifted once too often: row t of these logits predicts token t already.",
            ".sum(-1) → .mean(-1)": "The mean is over the vocabulary, too, so the term is V times too small. Sum over "
            "V, mean over N.",
            "advantage.mean() → advantage.sum()": "The term is the sum over tokens. Take their mean, or γ grows with "
            "the text.",
            "sampled_logits.softmax(-1) *  → ": "The student's probabilities are missing: without them the term does "
            "not train it at all.",
            "sampled_logits.softmax(-1) → sampled_logits": "π is the softmax of the student's logits.",
            "sampled_logits.softmax(-1) → sampled_logits.log_softmax(-1)": "A is weighted by log π. A mean under the "
            "student takes its probabilities.",
            "sampled_logits.softmax(-1) → sampled_logits.softmax(-1).softmax(-1)": "This applies softmax twice: the "
            "second time, its input was already probabilities.",
            "sampled_logits.softmax(-1) → sampled_logits.softmax(-1).detach()": "The number is right, but not the "
            "gradient: π must not be detached: it is what the term trains.",
            ".log_softmax(-1) → ": "A holds raw logits. They are log-probabilities only after log_softmax.",
        },
    ),
}
