"""Tasks of notebook 07, with their solutions and typical wrong answers.

What became of the five claims is read from the recorded study, whatever it says.
"""

from __future__ import annotations

from alignkd_lab.claims import CLAIMS, Claim
from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.shipped import VERDICTS, recorded_lead, recorded_verdict
from alignkd_lab.plots.style import CLAIM_WORDS, METRIC_STYLE

LEADERS = {
    "a_k": "A-K, as with the rare target",
    "level": "neither: over the seeds, the interval of their difference holds 0",
    "k_a": "K-A: the order turns round",
}


def common_target() -> str:
    lead = recorded_lead("colour")
    return "a_k" if lead.low > 0 else "k_a" if lead.high < 0 else "level"


def checkpoints() -> dict:
    """Made-up checkpoints of two alignments of one model, ten steps apart: KL to the base in nats, reward."""
    return {
        "steps": [0, 10, 20, 30, 40],
        "bold": {"kl": [0.0, 4.0, 8.0, 12.0, 16.0], "reward": [0.05, 0.15, 0.22, 0.27, 0.30]},
        "careful": {"kl": [0.0, 2.0, 4.0, 6.0, 8.0], "reward": [0.05, 0.14, 0.21, 0.26, 0.29]},
    }


def reward_at_equal_kl(data: dict) -> float:
    import numpy as np

    bold, careful = (np.interp(6.0, data[name]["kl"], data[name]["reward"]) for name in ("bold", "careful"))
    return float(bold - careful)


def _sign(claim: Claim, because: str) -> Task:
    words, metric = CLAIM_WORDS[claim.metric, claim.statistic], METRIC_STYLE[claim.metric]
    return Task(
        prediction=True,
        question=f"Written down before any run: “{words}.” What does the recorded study on SmolLM2 say? "
        f"({metric.label.capitalize()}: {metric.meaning}.)",
        options=VERDICTS,
        solve=lambda: recorded_verdict(claim.metric, claim.statistic),
        because=because,
    )


_SIGNS = {  # in the order of `CLAIMS`
    "sign_reward": "Each seed gives one difference; the verdict follows from their interval, which is in the table "
    "below.",
    "sign_target_precision": "More hits raise it and implausible text lowers it; only a measurement tells which of the "
    "two weighs more.",
    "sign_overall_precision": "Here the target does not count, only how plausible the truth finds the model's text.",
    "sign_overall_recall": "This one is a cost that the paper admits: where it “holds”, A-K has forgotten more.",
    "sign_variance": "A ratio of variances over a few seeds says next to nothing. By a rule set beforehand it is shown "
    "for SmolLM2, and decided on the Gaussians only.",
}

TASKS: dict[str, Task] = {
    **{id: _sign(claim, because) for (id, because), claim in zip(_SIGNS.items(), CLAIMS, strict=True)},
    "common_target": Task(
        prediction=True,
        question="All settings stay, but the target is now a colour's name, which the base shows three times as often "
        "as an exclamation mark. Who earns more?",
        options=LEADERS,
        solve=common_target,
        because="The interval of the paired differences says so, in the picture below: how much distilling leaves of a "
        "target differs from one target to the next.",
    ),
    "reward_at_equal_kl": Task(
        question="Two alignments of one model, with made-up checkpoints ten steps apart: the KL to the base (nats) and "
        "the reward. By how much does `bold` earn more than `careful` where both have moved 6 nats from the base? "
        "(Straight lines between checkpoints; negative if it earns less.)",
        given=checkpoints,
        solve=reward_at_equal_kl,
        because="At equal KL `bold` earns less. At equal numbers of steps it led only because it had gone twice "
        "as far from the base.",
        hint="Read each curve of reward against KL at 6 nats, between its checkpoints; then `bold` minus `careful`.",
        distractors={
            checkpoints()["bold"]["reward"][3] - checkpoints()["careful"]["reward"][3]: "That compares at equal steps, "
            "where `bold` has moved twice as far. Who goes further tends to earn more: compare where both have paid "
            "the same KL.",
            "bold - careful → careful - bold": "That is `careful` minus `bold`: change the sign.",
            checkpoints()["bold"]["reward"][2] - checkpoints()["careful"]["reward"][3]: "`bold` has no checkpoint at 6 "
            "nats: take the straight line between those at 4 and at 8.",
        },
        tolerance=0.02,
    ),
}
