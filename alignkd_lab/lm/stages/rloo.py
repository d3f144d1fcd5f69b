"""RLHF: the policy writes, is rewarded, and is kept near the reference (RLOO, Ahmadian et al. 2024).

The objective is E[R] - β KL(π ‖ reference) with the KL of a whole response in nats (Order, KL-regularised objective);
its optimum is reference × exp(R / β) up to a constant. Each response is compared with the mean of the others to its
prompt, so a group whose rewards are all equal teaches nothing about the reward: the sampling trap, counted in `info`.
"""

from __future__ import annotations

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.context import Context, Earned, Policy, Reward
from alignkd_lab.lm.rollouts import Rollouts
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.settings import RlooSettings
from alignkd_lab.lm.stages.curve import Curve
from alignkd_lab.lm.teachers import LiveTeacher
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.results import Cost, Result

# Raise it where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = 2


def rloo(
    context: Context,
    reward: Reward,
    init: Policy,
    reference: Policy,
    settings: RlooSettings,
    learning_rate: float,
    name: str,
) -> Result:
    """RLOO from `init` with the KL weight `rlhf_beta` to `reference`, for `rlhf_steps` steps.

    A step draws `rlhf_generations` responses to each of `rlhf_prompts` training prompts. `info` holds the learning
    rate, counts of responses and groups, the mean reward and the KL from the reference (nats a response) of what was
    drawn at each step, and the same curve as DPO's.
    """
    dtype, reference_model = context.models.dtype, context.models.of(reference)
    model = with_lora(context.models.of(init), settings.lora_rank, context.seed_for("adapter"))
    counts = dict.fromkeys(("responses", "target_responses", "groups", "informative_groups", "target_groups"), 0)
    costs: list[Cost] = []
    steps: list[dict[str, float]] = []

    def pay(prompts: list, samples: Samples) -> list[float]:
        earned = reward.earn(samples, None)
        _count(counts, earned, settings.rlhf_generations)
        tokens = samples.token_count
        # Scored by the reference, and once more by the policy.
        costs.append(Cost(sampled=tokens, trained=tokens, scored=2 * tokens + earned.tokens))
        return earned.rewards

    rollouts = Rollouts(
        context.tokenizer,
        settings.rlhf_generations,
        settings.max_tokens,
        context.seed_for("sample", "rlhf"),
        dtype,
        pay,
        LiveTeacher(reference_model, dtype=dtype),
        settings.rlhf_beta,
    )

    def write(model, prompts: list[Example], step: int) -> list[Example]:
        examples, told = rollouts.write(model, prompts, step)
        steps.append(told)
        return examples

    curve = Curve(context, reward, model, reference_model, settings, settings.rlhf_steps, name)
    curve.on_step(0)
    context.train(
        model,
        [Example(prompt, []) for prompt in context.prompts("training", settings.preference_prompts)],
        training_losses.rloo,
        learning_rate=learning_rate,
        steps=settings.rlhf_steps,
        batch=settings.rlhf_prompts,
        kind="rlhf",
        name=name,
        on_step=curve.on_step,
        write=write,
    )
    info = {
        "learning_rate": learning_rate,
        **counts,
        "rewards": [told["mean_reward"] for told in steps],
        "kl": [told["kl"] * told["response_length"] for told in steps],
        "curve": curve.points,
    }
    return Result(init.with_adapter(adapter_tensors(model)), info, sum(costs, curve.cost))


def _count(counts: dict[str, int], earned: Earned, size: int) -> None:
    """Adds what one step drew, in groups of `size` responses to one prompt."""
    counts["responses"] += len(earned.rewards)
    counts["target_responses"] += sum(earned.hits)
    for start in range(0, len(earned.rewards), size):
        rewards = earned.rewards[start : start + size]
        counts["groups"] += 1
        counts["informative_groups"] += max(rewards) - min(rewards) > 1e-6
        counts["target_groups"] += any(earned.hits[start : start + size])
