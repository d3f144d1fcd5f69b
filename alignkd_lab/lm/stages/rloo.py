"""RLHF: the policy writes, is rewarded, and is kept near the reference (RLOO, Ahmadian et al. 2024, through TRL).

The objective is E[R] - β KL(π ‖ reference) with the KL of a whole response in nats (Order, KL-regularised objective);
its optimum is reference × exp(R / β) up to a constant. Each response is compared with the mean of the others to its
prompt, so a group whose rewards are all equal teaches nothing about the reward: the sampling trap, counted in `info`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignkd_lab.lm.policy import Policy
from alignkd_lab.lm.prompts import encode, prompts
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.stages.dpo import curve_point
from alignkd_lab.lm.stages.trl_run import prompt_rows, run_trl
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.progress import tell

if TYPE_CHECKING:
    from alignkd_lab.lm.world import LmWorld


def rloo(world: LmWorld, init: Policy, reference: Policy, rate: float, name: str) -> tuple[Policy, dict]:
    """RLOO from `init` with the KL weight `rlhf_beta` to `reference`, for `rlhf_steps` steps.

    A step draws `rlhf_generations` responses to each of `rlhf_prompts` training prompts. `info` holds the learning
    rate, counts of responses and groups, the mean reward and the KL from the reference (nats a response) of what was
    drawn at each step, and the same curve as DPO's.
    """
    settings = world.settings
    stick = world.yardstick()
    reference_model = world.models.of(reference)
    model = with_lora(world.models.of(init), settings.lora_rank, world.seed_for("adapter"))
    prompt_ids = encode(world.tokenizer, prompts("training", settings.preference_prompts))
    counts = dict.fromkeys(("responses", "target_responses", "groups", "informative_groups", "target_groups"), 0)
    curve: list[dict] = []

    def reward(prompts, completions, completion_ids, index, **kwargs) -> list[float]:
        samples = Samples(prompt_ids, index, completion_ids)
        judged = world.judge.reward(samples, None, stick)
        _count(counts, judged, settings.rlhf_generations)
        world.spent["sampled"] += samples.token_count
        world.spent["trained"] += samples.token_count
        world.spent["scored"] += 2 * samples.token_count  # by the reference, and once more by the policy
        return judged["reward"]

    def build(arguments: dict):
        from trl import RLOOConfig, RLOOTrainer
        from trl.trainer.utils import add_fused_lm_head

        config = RLOOConfig(num_generations=settings.rlhf_generations, beta=settings.rlhf_beta, **arguments)
        trainer = RLOOTrainer(
            model,
            reward,
            config,
            train_dataset=prompt_rows(settings.preference_prompts),
            processing_class=world.tokenizer,
        )
        # TRL's own reference is the policy as it was handed over, which is ours only where `reference` is
        # `init`.
        add_fused_lm_head(reference_model, temperature=trainer.temperature)
        trainer.ref_model = trainer.accelerator.prepare_model(reference_model, evaluation_mode=True)
        return trainer

    marks = {round(settings.rlhf_steps * (i + 1) / settings.curve_points) for i in range(settings.curve_points)}

    def on_step(step: int) -> None:
        if step in marks or step == 0:
            curve.append(curve_point(world, step, model, reference, reference_model, stick))
            tell("curve", stage=name, **curve[-1])

    on_step(0)
    logs = run_trl(
        world, build, model, name, learning_rate=rate, steps=settings.rlhf_steps,
        batch=settings.rlhf_prompts * settings.rlhf_generations, seed=world.seed_for("train", "rlhf"), on_step=on_step,
    )  # fmt: skip
    info = {
        "learning_rate": rate,
        **counts,
        "rewards": [log["reward"] for log in logs],
        # TRL logs a mean over the step's tokens.
        "kl": [log["kl"] * log["completions/mean_length"] for log in logs],
        "curve": curve,
    }
    return init.with_adapter(adapter_tensors(model)), info


def _count(counts: dict[str, int], judged: dict[str, list], size: int) -> None:
    """Adds what one step drew, in groups of `size` responses to one prompt."""
    counts["responses"] += len(judged["reward"])
    counts["target_responses"] += sum(judged["hits"])
    for start in range(0, len(judged["reward"]), size):
        rewards = judged["reward"][start : start + size]
        counts["groups"] += 1
        counts["informative_groups"] += max(rewards) - min(rewards) > 1e-6
        counts["target_groups"] += any(judged["hits"][start : start + size])
