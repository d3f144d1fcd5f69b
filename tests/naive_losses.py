"""Every loss once more, naively: float64, full logits, gradients by autograd. For tests."""

from __future__ import annotations

import torch

from alignkd_lab import nano
from alignkd_lab.lm import losses
from alignkd_lab.lm.teachers import Full

TOKENS, VOCABULARY, WIDTH, TEACHER_WIDTH = 23, 61, 7, 5
LENGTHS = (3, 1, 6, 4, 2, 7)  # responses: chosen, rejected, chosen, ...
CHOSEN = 11  # tokens of the chosen responses; the other twelve are rejected, or sampled
END = 3
BY_TOKEN = ("hidden", "labels", "teacher_hidden", "reference_hidden", "response", "chosen")


def made_on(device: str) -> dict:
    """Random inputs in float64, by the names of the losses' arguments."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(device)

    response = torch.repeat_interleave(torch.arange(6), torch.tensor(LENGTHS))
    labels = torch.randint(VOCABULARY, (TOKENS,), generator=draw)
    return {
        "hidden": normal(TOKENS, WIDTH),
        "head": normal(VOCABULARY, WIDTH),
        "labels": labels.index_fill(0, torch.tensor([2, 13, 22]), END).to(device),
        "teacher_hidden": normal(TOKENS, TEACHER_WIDTH),
        "reference_hidden": normal(TOKENS, TEACHER_WIDTH),
        "teacher_head": normal(VOCABULARY, TEACHER_WIDTH),
        "reference_head": normal(VOCABULARY, TEACHER_WIDTH),
        "response": response.to(device),
        "chosen": (response % 2 == 0).to(device),
        "reference_log_probs": 3 * normal(6) - 15,
    }  # fmt: skip


def part_of(made: dict, rows) -> dict:
    """The inputs of some tokens only, in any order."""
    return {**made, **{name: made[name][rows] for name in BY_TOKEN}}


# Ours, from the same dictionary


def nll(made, **options):
    return losses.nll(made["hidden"], made["head"], made["labels"], **options)


def weighted(made, **options):
    """The advantage of each response on each of its tokens, as RLOO has it."""
    return nll(made, weights=made["reference_log_probs"][made["response"]], **options)


def kd(made, **options):
    teacher = made.get("teacher") or Full(made["teacher_hidden"], made["teacher_head"])
    return losses.kd(made["hidden"], made["head"], teacher, **options)


def dpo(made, **options):
    options = {"beta": 0.3, **options}
    names = ("hidden", "head", "labels", "response", "reference_log_probs")
    return losses.dpo(*(made[name] for name in names), **options)


def dckd(made, **options):
    teacher = made.get("teacher") or Full(made["teacher_hidden"], made["teacher_head"])
    return losses.dckd(made["hidden"], made["head"], made["labels"], teacher, made["chosen"], **options)


def teachers(made) -> tuple[Full, Full]:
    """The DPO and the reference teacher's rows of the sampled tokens."""
    sampled = ~made["chosen"]
    return (
        Full(made["teacher_hidden"][sampled], made["teacher_head"]),
        Full(made["reference_hidden"][sampled], made["reference_head"]),
    )


def adpa(made, **options):
    teacher, reference = made.get("teachers") or teachers(made)
    arguments = made["hidden"], made["head"], made["labels"], teacher, reference, made["chosen"]
    return losses.adpa(*arguments, **options)


# The same, naively: by `nano` where it has the loss, else one token at a time


def logits(made, side=""):
    return made[f"{side}hidden"] @ made[f"{side}head"].T


def distributions(made):
    """q, p_dpo and p_ref of every token, [N, V] each."""
    return [logits(made, side).softmax(-1) for side in ("", "teacher_", "reference_")]


def per_item(mean, count, items):
    """A mean over `count` rows as the sum over `items`; no rows are 0."""
    return mean * count / (items or count) if count else 0.0


def sides(made) -> tuple[dict, dict]:
    """The inputs on chosen tokens and on the others."""
    return part_of(made, made["chosen"]), part_of(made, ~made["chosen"])


def naive_nll(made, items=None):
    return per_item(nano.nll_loss(logits(made), made["labels"]), len(made["labels"]), items)


def naive_weighted(made, items):
    """-(1/R) Σ A log pi(y), the log-probability of each response times its advantage."""
    tokens = logits(made).log_softmax(-1).gather(1, made["labels"][:, None])[:, 0]
    sums = [tokens[made["response"] == at].sum() for at in range(6)]
    return -sum(made["reference_log_probs"][at] * one for at, one in enumerate(sums)) / items


def kl(p, q):
    return nano.kl(p.log(), q.log())


NAIVE_DIVERGENCES = {
    "forward": lambda p, q, mix: kl(p, q),
    "reverse": lambda p, q, mix: kl(q, p),
    "jsd": lambda p, q, mix: mix * kl(p, mix * p + (1 - mix) * q) + (1 - mix) * kl(q, mix * p + (1 - mix) * q),
    "skew": lambda p, q, mix: kl(p, mix * p + (1 - mix) * q),
}


def naive_kd(made, divergence="forward", mix=0.5, temperature=1.0, teacher_temperature=1.0, items=None):
    student, teacher = logits(made) / temperature, logits(made, "teacher_") / (temperature * teacher_temperature)
    if divergence in ("forward", "reverse"):
        mean = nano.kd_loss(student, teacher, divergence)
    else:
        mean = NAIVE_DIVERGENCES[divergence](teacher.softmax(-1), student.softmax(-1), mix).mean()
    return temperature**2 * per_item(mean, len(student), items)


def naive_dpo(made, beta=0.3, items=None):
    log_probs, reference = nano.token_log_probs(logits(made), made["labels"]), made["reference_log_probs"]
    sums = torch.stack([log_probs[made["response"] == number].sum() for number in range(len(reference))])
    chosen, rejected, reference_chosen, reference_rejected = sums[0::2], sums[1::2], reference[0::2], reference[1::2]
    mean = nano.dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta)
    return per_item(mean, len(sums) // 2, items)


def naive_dckd(made, alpha=0.2, items=None):
    won, lost = sides(made)
    if items is None:
        taught = logits(won, "teacher_"), logits(lost, "teacher_")
        return nano.dckd_loss(logits(won), won["labels"], logits(lost), *taught, alpha)
    kl_terms = naive_kd(won, items=items[0]) + naive_kd(lost, items=items[1])
    return naive_nll(won, items[0]) + alpha * kl_terms


def naive_released_advantage(p, r, label, end_token):
    top, known = p.topk(min(50, len(p))).indices.tolist(), set(r.topk(min(50, len(r))).indices.tolist())
    a = torch.zeros_like(p)
    for token in [] if label == end_token else top:
        under_reference = r[token] if token in known else p[top[-1]]
        a[token] = (p[token].clamp(min=1e-7).log() - under_reference.clamp(min=1e-7).log()).clamp(1e-8, 1 - 1e-8)
    return a


def naive_adpa(
    made, gamma=1.5, regulariser=None, regulariser_weight=0.0, as_released=False, end_token=None, items=None,
):  # fmt: skip
    won, written = sides(made)
    if items is None and not (regulariser or as_released):
        taught = logits(written, "teacher_"), logits(written, "reference_")
        return nano.adpa_loss(logits(won), won["labels"], logits(written), *taught, gamma)
    counts = items or (len(won["labels"]), len(written["labels"]))
    q, p, r = distributions(written)
    a = p.log() - r.log()
    if as_released:
        a = torch.stack(
            [naive_released_advantage(*row, end_token) for row in zip(p, r, written["labels"], strict=True)]
        )
    held = {"entropy": (q * q.log()).sum(-1), "kl": kl(q, r), None: torch.zeros_like(q[:, 0])}[regulariser]
    return naive_nll(won, counts[0]) - (gamma * (q * a).sum(-1) - regulariser_weight * held).sum() / counts[1]


CASES = {
    "nll": (nll, naive_nll, {}),
    "nll over given items": (nll, naive_nll, {"items": 40}),
    "nll, weighted": (weighted, naive_weighted, {"items": 6}),
    "kd": (kd, naive_kd, {}),
    "kd of a sharpened teacher": (kd, naive_kd, {"teacher_temperature": 0.6}),
    "kd of a flattened teacher over given items": (kd, naive_kd, {"teacher_temperature": 1.5, "items": 7}),
    "kd at temperature 2": (kd, naive_kd, {"temperature": 2.0}),
    "kd, reverse": (kd, naive_kd, {"divergence": "reverse"}),
    "kd, reverse, at temperature 2 of a sharpened teacher": (
        kd, naive_kd, {"divergence": "reverse", "temperature": 2.0, "teacher_temperature": 0.6},
    ),
    "kd, jsd": (kd, naive_kd, {"divergence": "jsd"}),
    "kd, jsd with another mix and temperature": (kd, naive_kd, {"divergence": "jsd", "mix": 0.2, "temperature": 0.7}),
    "kd, skew": (kd, naive_kd, {"divergence": "skew", "mix": 0.1}),
    "kd, skew at temperature 3": (kd, naive_kd, {"divergence": "skew", "mix": 0.8, "temperature": 3.0}),
    "dpo": (dpo, naive_dpo, {}),
    "dpo with another beta over given items": (dpo, naive_dpo, {"beta": 1.3, "items": 9}),
    "dckd": (dckd, naive_dckd, {}),
    "dckd with another alpha over given items": (dckd, naive_dckd, {"alpha": 0.7, "items": (30, 4)}),
    "adpa": (adpa, naive_adpa, {}),
    "adpa with another gamma over given items": (adpa, naive_adpa, {"gamma": 0.6, "items": (30, 4)}),
    "adpa with an entropy regulariser": (adpa, naive_adpa, {"regulariser": "entropy", "regulariser_weight": 0.4}),
    "adpa with a KL regulariser": (adpa, naive_adpa, {"regulariser": "kl", "regulariser_weight": 0.4}),
    "adpa as released": (adpa, naive_adpa, {"as_released": True, "end_token": END}),
}  # fmt: skip
PLAIN = ("nll", "kd", "dpo", "dckd", "adpa")


def value_and_slopes(loss, made, upstream=1.0, **options):
    """The loss and the gradients of `upstream` times it on the hidden states and on the head."""
    leaves = {name: made[name].clone().requires_grad_() for name in ("hidden", "head")}
    found = loss({**made, **leaves}, **options)
    value = found[0] if isinstance(found, tuple) else found
    return [value, *torch.autograd.grad(upstream * value, list(leaves.values()))]


def assert_close(found, expected, tolerance=1e-9):
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double().cpu(), other.double().cpu(), rtol=tolerance, atol=tolerance)


def in_dtype(made: dict, dtype: torch.dtype) -> dict:
    """Hidden states and heads in another dtype; reference log-probabilities stay as they are kept, in float32."""
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in made.items()}
    return {**cast, "reference_log_probs": made["reference_log_probs"].float()}
