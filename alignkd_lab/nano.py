"""Should a small model be aligned before or after it is distilled? Two papers in one file, to read top to bottom.

Order   Cha and Cho 2025, "Why Alignment Must Precede Distillation", arXiv 2509.23667. Distillation drops what is
        rare. If the rare thing is what we want, alignment can no longer find it: so align first. It distils as KD-MWE
        does: Cha and Cho 2025, "Why Knowledge Distillation Works in Generative Models", arXiv 2505.13111.
ADPA    Gao et al. 2025, "Advantage-Guided Distillation for Preference Alignment in Small Language Models", ICLR,
        arXiv 2502.17927. Both at once: an aligned teacher tells the student what each next token is worth.

Part 1 has the losses, part 2 both orders on four Gaussians (`python -m alignkd_lab.nano` runs them in seconds), part 3
DPO and ADPA on any causal language model. The settings are ours, not the papers'. It needs nothing but torch. Left out,
and found in the rest of the package: many seeds at once, vocabularies in chunks, stored teachers, checks of the input.
`tests/test_nano.py` holds the package equal to this file.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Part 1: losses ------------------------------------------------------------------------------------------------------
# The policy π_θ is what is trained; a KL of weight β holds it to the reference π_ref; a student learns from a teacher.
# Of two responses to a prompt y_w is the chosen one and y_l the rejected. N tokens, V in the vocabulary.


def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log π(y_t) of the tokens that were written: logits [N, V], tokens [N] -> [N]."""
    return logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ_a p(a) [log p(a) - log q(a)], in nats, at each position: [N, V], [N, V] -> [N]."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def nll_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """-mean_t log π_θ(y_t): logits [N, V], tokens [N]. Maximum likelihood; on a teacher's tokens, KD-MWE's method."""
    return -token_log_probs(logits, tokens).mean()


def kd_loss(logits: Tensor, teacher_logits: Tensor, direction: str) -> Tensor:
    """mean_t of a KL between the teacher's next-token distribution p and the student's q: logits [N, V] of both.

    "forward" is KL(p ‖ q), and q must cover all that p does. Source: Hinton et al. 2015, section 2, at temperature 1.
    "reverse" is KL(q ‖ p), and q may settle on a part of it. Source: Gu et al. 2024, "MiniLLM".
    """
    log_p, log_q = teacher_logits.log_softmax(-1), logits.log_softmax(-1)
    return {"forward": kl(log_p, log_q), "reverse": kl(log_q, log_p)}[direction].mean()


def rlhf_loss(log_probs: Tensor, reference_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """A loss whose gradient estimates that of -J, J = E_π[R] - β KL(π_θ ‖ π_ref), from B samples of π_θ.

    All are [B]. The gradient of J is E_π[(r′ - b) ∇ log π_θ] with the shaped reward r′ = R - β log(π_θ / π_ref) and any
    baseline b, here the mean of r′. Source: Order, the KL-regularised objective; Williams 1992 (REINFORCE).
    """
    shaped = rewards - beta * (log_probs - reference_log_probs)
    advantage = (shaped - shaped.mean()).detach()
    return -(advantage * log_probs).sum() / (len(advantage) - 1)  # -1, since each sample is in its own baseline


def dpo_loss(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float):
    """-mean log σ(β [(log π_θ(y_w) - log π_θ(y_l)) - (log π_ref(y_w) - log π_ref(y_l))]).

    Log-probabilities [pairs] of whole responses, summed over tokens. Source: Rafailov et al. 2023, equation 7.
    """
    return -F.logsigmoid(beta * ((chosen - rejected) - (reference_chosen - reference_rejected))).mean()


def dckd_loss(chosen_logits, chosen_tokens, rejected_logits, teacher_chosen_logits, teacher_rejected_logits, alpha):
    """NLL(y_w) + α [mean_t KL(π_dpo ‖ π_θ; y_w) + mean_t KL(π_dpo ‖ π_θ; y_l)].

    π_dpo is a teacher trained by DPO. On the chosen responses: logits [N_w, V] of student and teacher, tokens [N_w];
    on the rejected: logits [N_l, V] of both. Source: ADPA, dual-constrained knowledge distillation (DCKD).
    """
    on_chosen = kd_loss(chosen_logits, teacher_chosen_logits, "forward")
    on_rejected = kd_loss(rejected_logits, teacher_rejected_logits, "forward")
    return nll_loss(chosen_logits, chosen_tokens) + alpha * (on_chosen + on_rejected)


def adpa_loss(chosen_logits, chosen_tokens, sampled_logits, teacher_logits, reference_logits, gamma):
    """NLL(y_w) - γ mean_t Σ_a π_θ(a) A(a), with the advantage A(a) = log π_dpo(a) - log π_ref(a) at each position.

    The teacher π_dpo was trained by DPO from π_ref, so A is above 0 where alignment made token a likelier. The sum over
    a is exact, no token is drawn. On the chosen responses: student's logits [N_w, V], tokens [N_w]. On responses that
    the student wrote before training: logits [N, V] of student, teacher and reference. Source: ADPA; its β is in γ.
    """
    advantage = teacher_logits.log_softmax(-1) - reference_logits.log_softmax(-1)
    expected_advantage = (sampled_logits.softmax(-1) * advantage).sum(-1)
    return nll_loss(chosen_logits, chosen_tokens) - gamma * expected_advantage.mean()


# Part 2: both orders on four Gaussians -------------------------------------------------------------------------------
# A policy is a mixture of K Gaussians in the plane, and what it writes is a point.


class Mixture(NamedTuple):
    logits: Tensor  # [K], whose softmax are the weights
    means: Tensor  # [K, 2]
    log_sds: Tensor  # [K, 2], logarithms of the standard deviations along each axis

    def log_joint(self, x: Tensor) -> Tensor:
        """log(weight_k N(x; mean_k, sd_k)): points [B, 2] -> [B, K]."""
        z = (x[:, None] - self.means) / self.log_sds.exp()
        log_densities = (-0.5 * z**2 - self.log_sds - 0.5 * math.log(2 * math.pi)).sum(-1)
        return self.logits.log_softmax(-1) + log_densities

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_joint(x).logsumexp(-1)  # [B]

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """[count, 2]: each time a component by its weight, then a point of it."""
        k = torch.multinomial(self.logits.softmax(-1), count, replacement=True, generator=generator)
        return self.means[k] + self.log_sds[k].exp() * torch.randn(count, 2, generator=generator, dtype=torch.float64)


# The truth p*: three common modes, and a rare one at the lower right. It is the target, on which the reward is a bump.
MEANS = torch.tensor([[-1.5, 1.5], [1.5, 1.5], [-1.5, -1.5], [1.5, -1.5]], dtype=torch.float64)
TRUTH = Mixture(MEANS.new_tensor([0.33, 0.33, 0.30, 0.04]).log(), MEANS, torch.full_like(MEANS, 0.3).log())
TARGET, HEIGHT, WIDTH = MEANS[3], 4.0, 0.5
BETA, SHARPENING, BASE_COMPONENTS, STUDENT_COMPONENTS = 0.5, 2.0, 4, 3  # the student is one component short


def reward(x: Tensor) -> Tensor:
    """R(x) = HEIGHT exp(-|x - TARGET|² / (2 WIDTH²)): points [B, 2] -> [B]."""
    return HEIGHT * torch.exp(-((x - TARGET) ** 2).sum(-1) / (2 * WIDTH**2))


def sharpen(mixture: Mixture, s: float) -> Mixture:
    """Weights to the power s, normalised; with s > 1 what is rare gets rarer. Source: KD-MWE."""
    return mixture._replace(logits=(s * mixture.logits).log_softmax(-1))


def maximise(data: Tensor, shares: Tensor) -> Mixture:
    """The M step: the likeliest mixture where component k owns the share [B, K] of each point of data [B, 2]."""
    mass = shares.sum(0).clamp(min=1e-10)  # [K]
    means = shares.T @ data / mass[:, None]
    variances = (shares.T @ data**2 / mass[:, None] - means**2).clamp(min=1e-3)  # or one could shrink onto a point
    return Mixture((mass / mass.sum()).log(), means, 0.5 * variances.log())


def fit(data: Tensor, components: int, generator: torch.Generator) -> Mixture:
    """Maximum likelihood on data [B, 2] by expectation maximisation (EM); the likeliest of 8 starts."""
    fits = []
    for _ in range(8):
        centres = data[torch.randint(len(data), (1,), generator=generator)]
        while len(centres) < components:  # k-means++: far points are likelier to be the next centre
            squared_distances = torch.cdist(data, centres).amin(-1) ** 2
            centres = torch.cat([centres, data[torch.multinomial(squared_distances, 1, generator=generator)]])
        mixture = maximise(data, F.one_hot(torch.cdist(data, centres).argmin(-1), components).double())
        for _ in range(100):
            mixture = maximise(data, mixture.log_joint(data).softmax(-1))  # the E step: p(component | point)
        fits.append(mixture)
    return max(fits, key=lambda mixture: mixture.log_prob(data).mean())


def distil(teacher: Mixture, generator: torch.Generator) -> Mixture:
    """A student fitted to 1,000 samples of the sharpened teacher, which is forward KL. Source: KD-MWE."""
    return fit(sharpen(teacher, SHARPENING).sample(1000, generator), STUDENT_COMPONENTS, generator)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def rlhf_step(policy: Mixture, reference: Mixture, optimiser, generator: torch.Generator) -> None:
    """One policy-gradient step on 256 points of the policy itself: what it never draws, it cannot learn."""
    x = policy.sample(256, generator)
    descend(rlhf_loss(policy.log_prob(x), reference.log_prob(x), reward(x), BETA), optimiser)


def dpo_step(policy: Mixture, reference: Mixture, optimiser, generator: torch.Generator) -> None:
    """One step on 256 pairs of points of the reference; x is preferred to y with probability σ(R(x) - R(y))."""
    x, y = reference.sample(256, generator), reference.sample(256, generator)
    prefer_x = torch.rand(256, 1, generator=generator) < torch.sigmoid(reward(x) - reward(y))[:, None]
    chosen, rejected = torch.where(prefer_x, x, y), torch.where(prefer_x, y, x)
    log_probs = [mixture.log_prob(points) for mixture in (policy, reference) for points in (chosen, rejected)]
    descend(dpo_loss(*log_probs, BETA), optimiser)


def align(reference: Mixture, step, generator: torch.Generator) -> Mixture:
    """200 times `rlhf_step` or `dpo_step` from the reference: Adam, its learning rate falling from 0.1 to 0."""
    policy = Mixture(*(tensor.clone().requires_grad_() for tensor in reference))
    optimiser = torch.optim.Adam(policy, lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1.0, end_factor=0.0, total_iters=200)
    for _ in range(200):
        step(policy, reference, optimiser, generator)
        schedule.step()
    return Mixture(*(tensor.detach() for tensor in policy))


def distil_then_align(base: Mixture, step, generator: torch.Generator) -> Mixture:
    """The usual order: the reference is the student, which has lost the target."""
    return align(distil(base, generator), step, generator)


def align_then_distil(base: Mixture, step, generator: torch.Generator) -> Mixture:
    """Order's proposal: the reference is the base, which knows the target, and the student copies what was found."""
    return distil(align(base, step, generator), generator)


# Part 3: DPO and ADPA on any causal language model of transformers ---------------------------------------------------
# Prompts and responses are lists of one-dimensional tensors of token ids; a response ends with its end token. Training
# is `descend(dpo_on_text(...), optimiser)`, batch after batch; `optimiser = AdamW(model.parameters(), lr=5e-7)`, once.


def response_logits(model, prompts: list[Tensor], responses: list[Tensor]) -> list[Tensor]:
    """Of each response [N, V]: logits that predict its N tokens, which stand at the position before each of them."""
    return [model(torch.cat([x, y])[None]).logits[0, len(x) - 1 : -1] for x, y in zip(prompts, responses, strict=True)]


def dpo_on_text(model, reference, prompts, chosen, rejected, beta: float) -> Tensor:
    """DPO's loss of a model on prompts with their chosen and rejected responses."""

    def log_probs(model, responses: list[Tensor]) -> Tensor:
        by_token = map(token_log_probs, response_logits(model, prompts, responses), responses)
        return torch.stack([log_probs.sum() for log_probs in by_token])

    with torch.no_grad():
        reference_log_probs = log_probs(reference, chosen), log_probs(reference, rejected)
    return dpo_loss(log_probs(model, chosen), log_probs(model, rejected), *reference_log_probs, beta)


def adpa_on_text(student, teacher, reference, prompts, chosen, sampled, gamma: float) -> Tensor:
    """ADPA's loss; `sampled` are responses of the student before training. All models share one vocabulary."""
    with torch.no_grad():
        teachers = [torch.cat(response_logits(model, prompts, sampled)) for model in (teacher, reference)]
    on_chosen, on_sampled = (torch.cat(response_logits(student, prompts, y)) for y in (chosen, sampled))
    return adpa_loss(on_chosen, torch.cat(chosen), on_sampled, *teachers, gamma)


def main() -> None:
    noise = torch.Generator().manual_seed  # noise(0) is the same noise from its start, so that all policies meet it
    base = fit(TRUTH.sample(400, noise(0)), BASE_COMPONENTS, noise(0))
    policies = {"base": base, "base, distilled": distil(base, noise(0))}
    for name, step in (("RLHF", rlhf_step), ("DPO", dpo_step)):
        policies[f"distil, then align ({name})"] = distil_then_align(base, step, noise(0))
        policies[f"align, then distil ({name})"] = align_then_distil(base, step, noise(0))
    print("policy                      target share  mean reward")
    for name, policy in policies.items():
        rewards = reward(policy.sample(100_000, noise(0)))
        print(f"{name:28}{(rewards >= HEIGHT / 2).double().mean():12.3%}{rewards.mean():13.2f}")


if __name__ == "__main__":
    main()
