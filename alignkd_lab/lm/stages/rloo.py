"""RLHF: the policy writes, is rewarded, and is kept near the reference (RLOO, Ahmadian et al. 2024, through TRL).

The objective is E[R] - β KL(π ‖ reference) with the KL of a whole response in nats (Order, KL-regularised objective);
its optimum is reference × exp(R / β) up to a constant. Each response is compared with the mean of the others to its
prompt, so a group whose rewards are all equal teaches nothing about the reward: the sampling trap, counted in `info`.
"""

from __future__ import annotations

from functools import partial

from alignkd_lab.lm.context import Context, Earned, Policy, Reward
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.settings import RlooSettings
from alignkd_lab.lm.stages.curve import Curve
from alignkd_lab.lm.stages.trl_run import in_parts, prompt_rows, run_trl
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.results import Cost, Result

# Raise it where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = 1


def rloo(
    context: Context,
    reward: Reward,
    init: Policy,
    reference: Policy,
    settings: RlooSettings,
    learning_rate: float,
    name: str,
    micro_batch: int | None = None,
) -> Result:
    """RLOO from `init` with the KL weight `rlhf_beta` to `reference`, for `rlhf_steps` steps.

    A step draws `rlhf_generations` responses to each of `rlhf_prompts` training prompts. `info` holds the learning
    rate, counts of responses and groups, the mean reward and the KL from the reference (nats a response) of what was
    drawn at each step, and the same curve as DPO's.
    """

    if micro_batch is None:
        parted = partial(rloo, context, reward, init, reference, settings, learning_rate, name)
        return in_parts(parted, name, settings.rlhf_prompts * settings.rlhf_generations)
    reference_model = context.models.of(reference)
    model = with_lora(context.models.of(init), settings.lora_rank, context.seed_for("adapter"))
    prompt_ids = context.prompts("training", settings.preference_prompts)
    counts = dict.fromkeys(("responses", "target_responses", "groups", "informative_groups", "target_groups"), 0)
    costs: list[Cost] = []

    def earn(prompts, completions, completion_ids, index, **kwargs) -> list[float]:
        samples = Samples(prompt_ids, index, completion_ids)
        earned = reward.earn(samples, None)
        _count(counts, earned, settings.rlhf_generations)
        tokens = samples.token_count
        # Scored by the reference, and once more by the policy.
        costs.append(Cost(sampled=tokens, trained=tokens, scored=2 * tokens + earned.tokens))
        return earned.rewards

    def build(arguments: dict):
        from trl import RLOOConfig, RLOOTrainer
        from trl.trainer.utils import add_fused_lm_head

        config = RLOOConfig(num_generations=settings.rlhf_generations, beta=settings.rlhf_beta, **arguments)
        trainer = RLOOTrainer(
            model,
            earn,
            config,
            train_dataset=prompt_rows(context.prompt_texts("training", settings.preference_prompts)),
            processing_class=context.tokenizer,
        )
        # TRL's own reference is the policy as it was handed over, which is ours only where `reference` is `init`.
        add_fused_lm_head(reference_model, temperature=trainer.temperature)
        trainer.ref_model = trainer.accelerator.prepare_model(reference_model, evaluation_mode=True)
        return trainer

    curve = Curve(context, reward, model, reference_model, settings, settings.rlhf_steps, name)
    curve.on_step(0)
    logs = run_trl(
        context,
        build,
        model,
        name,
        "rlhf",
        max_tokens=settings.max_tokens,
        learning_rate=learning_rate,
        steps=settings.rlhf_steps,
        batch=settings.rlhf_prompts * settings.rlhf_generations,
        micro_batch=micro_batch,
        on_step=curve.on_step,
    )
    info = {
        "learning_rate": learning_rate,
        **counts,
        "rewards": [log["reward"] for log in logs],
        # TRL logs a mean over the step's tokens.
        "kl": [log["kl"] * log["completions/mean_length"] for log in logs],
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
