"""The course's predictions and exercises in words: questions, options, and a hint for each typical wrong answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alignkd_lab import exercise_solutions as by


@dataclass(frozen=True)
class Slip:
    """A typical wrong answer, or the function that computes it, and the hint that it gets."""

    answer: Any
    hint: str


@dataclass(frozen=True)
class Task:
    """A prediction or an exercise.

    notebook: its number, `00` to `09`.
    question: in words, complete without the cells around it.
    solve: the solution, a function without arguments; it gets its data by `exercises.given`.
    because: why the right answer is right.
    hint: for a wrong answer that is none of the slips.
    options: of a choice, value to label; empty for a number.
    tolerance: how far a number may be off, as a share of the largest number of the answer.
    given: makes the data of the exercise, by name.
    prediction: to be answered before its picture is seen.
    """

    notebook: str
    question: str
    solve: Callable[[], Any]
    because: str
    hint: str
    slips: tuple[Slip, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.01
    given: Callable[[], dict] | None = None
    prediction: bool = False


TASKS: dict[str, Task] = {
    "order_guess": Task(
        notebook="00",
        prediction=True,
        question="Same parts, same final size: which order ends with more reward?",
        options={
            "A-K": "A-K: align the teacher, then distil",
            "K-A": "K-A: distil, then align the student",
            "no difference": "no difference",
        },
        solve=by.order_guess,
        because="Alignment multiplies what a model still does now and then, and a distilled student no longer does it.",
        hint="Answer one of the three choices.",
        slips=(
            Slip("K-A", "Ask what the student still shows of the target once it has been distilled."),
            Slip(
                "no difference", "The parts are the same, but the second one starts from what the first one has left."
            ),
        ),
    ),
    "first_draw": Task(
        notebook="01",
        prediction=True,
        question="Only the target pays, and the policy learns from its own draws. Does a larger reward bring the "
        "first draw of the target sooner?",
        options={
            "sooner": "yes, sooner",
            "same": "no, the wait stays the same",
            "later": "no, it even comes later",
        },
        solve=by.first_draw,
        because="Until the target has been drawn once, every draw earns nothing, so there is nothing to learn from. "
        "The wait depends on the target's share alone.",
        hint="Answer one of the three choices.",
        slips=(
            Slip(
                "sooner",
                "A reward is paid after a draw. Which draw, before the first sight of the target, would pay anything?",
            ),
            Slip("later", "Nothing is earned before the first sight, so nothing holds the policy back either."),
        ),
    ),
    "handed_target": Task(
        notebook="01",
        prediction=True,
        question="A friend hands the policy the target: training starts where it shows the target half of the time. "
        "But the anchor shows it once in a billion draws, the reward is 4, and β = 0.25. Where does RLHF end?",
        options={
            "keeps": "it keeps the target: it sees it, and is paid for it",
            "halfway": "it stays at about one half",
            "loses": "it gives the target up again",
        },
        solve=by.handed_target,
        because="For a target that the anchor all but rules out, the penalty β log(π/π₀) is larger than the reward. "
        "No draw is missing here: it does not pay.",
        hint="Answer one of the three choices.",
        slips=(
            Slip("keeps", "It is paid, but it also pays the penalty. How large is β log(0.5 / 10⁻⁹)?"),
            Slip("halfway", "The start is forgotten: training moves to the optimum, wherever it began."),
        ),
    ),
    "smallest_reward": Task(
        notebook="01",
        question="The target's share in the anchor is m₀ = 0.01, and the KL weight is β = 0.5. From which reward R on "
        "does the target win, m* > ½?",
        solve=by.smallest_reward,
        because="R = β log((1 − m₀) / m₀): here the tilt e^(R/β) has just made up for the odds of 99 to 1.",
        hint="Set m* = ½ in the tilted optimum: m₀ e^(R/β) = 1 − m₀. Solve it for R.",
        slips=(
            Slip(math.log(99), "That is R/β. Multiply by the KL weight β."),
            Slip(0.5 * math.log10(99), "That is a logarithm to base 10. The tilt is e^(R/β), so take the natural one."),
            Slip(
                -0.5 * math.log(99), "The sign is turned: the target is the rare one, so its odds are 1 to 99, not 99."
            ),
        ),
        tolerance=0.005,
    ),
    "draws_for_sight": Task(
        notebook="01",
        question="With the same m₀ = 0.01: how many draws show the target at least once with a chance of 95 %?",
        solve=by.draws_for_sight,
        because="1 − (1 − m₀)ⁿ reaches 0.95 there. A good chance of one sight takes three times the mean wait.",
        hint="All n draws miss with the chance (1 − m₀)ⁿ. From which whole n on is that at most 5 %?",
        slips=(
            Slip(100, "1/m₀ is the mean wait. After that many draws more than a third have still seen no target."),
            Slip(298, "Nearly: 298 draws stay just below 95 %. Round up."),
        ),
        tolerance=0.001,
    ),
    "rare_weight": Task(
        notebook="02",
        prediction=True,
        question="A teacher has four modes with weights 0.33, 0.33, 0.30 and 0.04. Sharpened with s = 2, what does the "
        "rare one weigh?",
        solve=by.rare_weight,
        because="Every weight is squared, and the squares are divided by their sum. A rare mode loses most.",
        hint="Raise every weight to the power s, then divide by the sum.",
        slips=(
            Slip(0.04**2, "That is the square alone. The four squares do not sum to 1: divide by their sum."),
            Slip(
                lambda: 0.04**0.5 / sum(w**0.5 for w in (0.33, 0.33, 0.30, 0.04)),
                "That is the power 1/s, which flattens. Sharpening takes the power s.",
            ),
        ),
        tolerance=0.1,
    ),
    "rescored_precision": Task(
        notebook="02",
        question="The published notebook scores precision with the wrong judge. Find it, and rescore: give the "
        "precision (direct, distilled) under the truth.",
        given=by.ring_to_rescore,
        solve=by.rescored_precision,
        because="Precision is E[log p*] over the student's own draws. The published one re-used a variable and asked "
        "the sharpened teacher, who of course likes what it taught.",
        hint="Give two numbers: the mean of truth.log_prob over each student's own draws.",
        slips=(
            Slip(
                by.mean_scores("sharpened_teacher", "direct_draws", "distilled_draws"),
                "That is the published slip: the sharpened teacher is the judge. Ask the truth.",
            ),
            Slip(
                by.mean_scores("truth", "truth_draws", "truth_draws"),
                "Draws from the truth score the same for every student. Precision takes the student's own draws.",
            ),
        ),
    ),
    "rescue": Task(
        notebook="03",
        prediction=True,
        question="Each control changes one thing in K-A. Which one gives it back most of the reward "
        "(β = 0.5, sharpening 2)?",
        options={
            "kd_then_align_base_reference": "anchor the alignment to the base, from before distillation",
            "kd_then_align_base_preferences": "draw the preference pairs from the base (DPO only)",
            "kd_then_align_high_temperature": "distil at a high temperature",
        },
        solve=by.rescue,
        because="A flat teacher still shows the target, so the student keeps some, and the reward can multiply it.",
        hint="Answer one of the three choices.",
        slips=(
            Slip(
                "kd_then_align_base_reference",
                "The base as anchor allows the target, but the student still does not draw it.",
            ),
            Slip(
                "kd_then_align_base_preferences",
                "The pairs then show the target, but a student that has forgotten it learns little from them.",
            ),
        ),
    ),
    "border": Task(
        notebook="03",
        prediction=True,
        question="RLHF, sharpening s, KL weight β. In which of these settings does K-A find the target after all?",
        options={
            "s=1, beta=0.5": "s = 1, β = 0.5: no sharpening, a weak penalty",
            "s=1, beta=1": "s = 1, β = 1: no sharpening, a strong penalty",
            "s=4, beta=0.5": "s = 4, β = 0.5: sharp, a weak penalty",
            "nowhere": "in none of them",
        },
        solve=by.border,
        because="Without sharpening the student keeps a trace of the target, and a weak penalty lets the reward "
        "multiply it. Recall decides, not the order as such.",
        hint="Answer one of the four choices.",
        slips=(
            Slip("s=1, beta=1", "The trace is there, but R/β is only half as large: below the recall threshold."),
            Slip("s=4, beta=0.5", "The reward could win, but sharpening has left nothing to multiply."),
            Slip("nowhere", "Look where the student is taught gently and the reward weighs most."),
        ),
    ),
    "base_reference_pipeline": Task(
        notebook="03",
        question="Write the control `kd_then_align_base_reference` as data: a tuple of a Distil and an Align stage "
        "that differs from K-A in the anchor alone.",
        solve=by.base_reference_pipeline,
        because="The policy starts from the distilled student and draws from it; only its KL looks back at the base.",
        hint="Two stages: Distil(name, teacher='base'), then Align(name, init, anchor, sampler); init and sampler "
        "name the first stage.",
        slips=(
            Slip(
                by.pipeline_with(sampler="base"),
                "The sampler has changed too. A control changes one thing: the pairs still come from the student.",
            ),
            Slip(
                by.pipeline_with(init="base"),
                "This aligns the base itself, so the final model is not the small one. init is the distilled student.",
            ),
            Slip(by.pipeline_with(anchor="kd"), "That is K-A itself. The anchor is the base."),
        ),
    ),
    "paired_interval": Task(
        notebook="03",
        question="Does A-K earn more than the aligned teacher that it was distilled from? Give the 95 % t-interval "
        "(low, high) of the difference over seeds, A-K minus teacher.",
        given=by.rewards_to_compare,
        solve=by.paired_interval,
        because="Seeds are shared, so the difference is taken seed by seed, and only its own scatter counts.",
        hint="Subtract seed by seed; then mean ± t · sd / √n, with t at 0.975 and n − 1 degrees of freedom.",
        slips=(
            Slip(
                by.unpaired_interval,
                "That is the interval of two separate groups. Both ran on the same seeds: subtract first.",
            ),
            Slip(
                by.sd_interval,
                "That is the scatter of single seeds. The mean is surer by √n: use the standard error.",
            ),
        ),
        tolerance=0.02,
    ),
    "first_step_weight": Task(
        notebook="04",
        prediction=True,
        question="DPO's gradient weighs a pair by σ(−β (Δ_θ − Δ_ref)). The policy starts as the reference. For one "
        "pair Δ_ref = 0, for another −20 (the loser is far likelier). What are their weights in the first step?",
        options={
            "half and half": "½ and ½",
            "more behind": "½, and nearly 1 for the pair at −20",
            "less behind": "½, and nearly 0 for the pair at −20",
        },
        solve=by.first_step_weight,
        because="At the start Δ_θ = Δ_ref, so the bracket is 0 whatever the reference is.",
        hint="Answer one of the three choices.",
        slips=(
            Slip("more behind", "Not how far the winner is behind counts, but how far it has moved since the start."),
            Slip("less behind", "The weight fades with progress against the reference, and there is none yet."),
        ),
    ),
    "satisfied_margin": Task(
        notebook="04",
        question="β = 0.5 and Δ_ref = −20. At which Δ_θ has DPO's weight fallen to 0.05?",
        solve=by.satisfied_margin,
        because="The weight is nearly gone while Δ_θ is far below 0: DPO is satisfied, and the loser still ahead.",
        hint="Solve σ(−β (Δ_θ − Δ_ref)) = 0.05 for Δ_θ.",
        slips=(
            Slip(
                2 * math.log(19),
                "That is Δ_θ − Δ_ref, what the policy gained. Add the reference's own margin of −20.",
            ),
        ),
        tolerance=0.005,
    ),
    "dpo_loss": Task(
        notebook="04",
        question="Compute DPO's loss of one pair by hand, from logits, tokens and the mask of response tokens.",
        given=by.one_pair,
        solve=by.dpo_loss,
        because="Sums of log-probabilities over response tokens, chosen minus rejected, policy minus reference.",
        hint="-log σ(β [Δ_θ − Δ_ref]); Δ is a difference of two summed log-probabilities. Look at the shift by one: "
        "logits at a position speak of the next token.",
        slips=(
            Slip(by.dpo_slip(reference=False), "The reference is missing: subtract its margin Δ_ref."),
            Slip(by.dpo_slip(end=False), "The end token is missing. To stop is part of the response."),
            Slip(by.dpo_slip(mean=True), "Those are means over tokens. DPO sums them: a response's log-probability."),
            Slip(by.dpo_slip(shifted=False), "The mask is not shifted with the labels: take is_response[:, 1:]."),
        ),
        tolerance=0.001,
    ),
    "layers_to_drop": Task(
        notebook="05",
        prediction=True,
        question="14 of SmolLM2's 30 layers have to go. Which 14 together change the passing state least?",
        options={
            "first": "the first 14",
            "middle": "14 in the middle",
            "last": "the last 14",
            "every second": "every second one",
        },
        solve=by.layers_to_drop,
        because="Measured block influence is large at both ends and small between them.",
        hint="Answer one of the four choices.",
        slips=(
            Slip("first", "The first layers turn token embeddings into something that can be worked with."),
            Slip("last", "The last layers turn the state towards the next token."),
            Slip("every second", "That spares the first two, but it takes some of the influential last ones."),
        ),
    ),
    "sequences_or_tokens": Task(
        notebook="05",
        question="A teacher says A first with 0.6, then one of four leaves, 0.25 each; or B with 0.4, then always the "
        "same leaf. Give (share of B when whole sequences are sharpened with s = 2, share of A when every token is "
        "drawn at temperature ½).",
        solve=by.sequences_or_tokens,
        because="The same exponent, two winners: B's one sequence beats each of A's four, while A's first token wins. "
        "Token temperature is no sequence sharpening.",
        hint="Sequences: four of 0.15 and one of 0.4, each squared. Tokens: 0.6 and 0.4 squared; leaves come after.",
        slips=(
            Slip(
                (0.4**2 / (0.6**2 + 0.4**2), 0.6**2 / (0.6**2 + 0.4**2)),
                "You took both to be the same. Sequences are sharpened whole: A's mass lies on four of them.",
            ),
            Slip(
                (by.sequences_or_tokens()[0], 1 - by.sequences_or_tokens()[0]),
                "You took both to be the same. A token is drawn before its leaves are known: square 0.6 and 0.4.",
            ),
        ),
        tolerance=0.005,
    ),
}
