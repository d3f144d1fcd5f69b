"""Tasks of notebook 07, with their solutions and typical wrong answers.

What became of the five claims is read from the recorded study, whatever it says; so are the hints.
"""

from __future__ import annotations

import functools

from alignkd_lab.claims import CLAIMS, Claim
from alignkd_lab.course.exercises.tasks import Task, other_options
from alignkd_lab.course.shipped import MAIN_TARGET, VERDICTS, recorded_claims, recorded_lead
from alignkd_lab.plots.style import CLAIM_WORDS, METRIC_STYLE, interval, number
from alignkd_lab.plots.tables import span
from alignkd_lab.plots.verdicts import statistic

LEADERS = {
    "a_k": "A-K, as with the rare target",
    "level": "neither: over the seeds, the interval of their difference holds 0",
    "k_a": "K-A: the order turns round",
}


def verdict_on_record(data: dict) -> str:
    from alignkd_lab.course.shipped import recorded_verdict

    return recorded_verdict(data["metric"], data["statistic"])


def common_target() -> str:
    from alignkd_lab.course.shipped import recorded_lead

    lead = recorded_lead("colour")
    return "a_k" if lead.low > 0 else "k_a" if lead.high < 0 else "level"


def verdict_of_interval() -> str:
    from alignkd_lab.claims import verdict

    return verdict(low=-0.02, high=0.31, expected="up")


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


def _why_not(claim: Claim, answer: str, _: str) -> str:
    """The hint of a verdict that did not come out, whatever did."""
    if "lm" not in claim.decided_in:
        return f"Not “{answer}”: over a few seeds this is shown and, by rule, never decided."
    claims = recorded_claims().reset_index()
    row = claims[(claims["metric"] == claim.metric) & (claims["statistic"] == claim.statistic)].iloc[0]
    if row["verdict"] == "invalid":
        return f"Not “{answer}”: a check before the verdicts failed."
    side = f"{'above' if claim.expected == 'up' else 'below'} {claim.null:g}"
    bounds = span(row["low"], row["high"]) or "–"
    measured = f"{statistic(row, 'lm')} is {number(row['estimate'])}, with the interval {bounds}"
    return f"Not “{answer}”: {measured}; claimed is: {side}."


def _not_the_leader(answer: str, found: str) -> str:
    rare, common = (interval(*recorded_lead(target)) for target in (MAIN_TARGET, "colour"))
    return f"Not “{LEADERS[answer]}”: A-K minus K-A is {rare} with the study's main target, and {common} with colours."


def _sign(claim: Claim, because: str) -> Task:
    words, metric = CLAIM_WORDS[claim.metric, claim.statistic], METRIC_STYLE[claim.metric]
    asked = {"metric": claim.metric, "statistic": claim.statistic}
    return Task(
        prediction=True,
        question=f"Written down before any run: “{words}.” What does the recorded study on SmolLM2 say? "
        f"({metric.label.capitalize()}: {metric.meaning}.)",
        options=VERDICTS,
        given=lambda: asked,
        solve=verdict_on_record,
        because=because,
        distractors=other_options(VERDICTS, lambda: verdict_on_record(asked), functools.partial(_why_not, claim)),
    )


_SIGNS = {
    ("reward", "mean_difference"): (
        "sign_reward",
        "Each seed gives one difference; the verdict follows from their interval, which is in the table below.",
    ),
    ("target_precision", "mean_difference"): (
        "sign_target_precision",
        "More hits raise it and implausible text lowers it; only a measurement tells which of the two weighs more.",
    ),
    ("overall_precision", "mean_difference"): (
        "sign_overall_precision",
        "Here the target does not count, only how plausible the truth finds the model's text.",
    ),
    ("overall_recall", "mean_difference"): (
        "sign_overall_recall",
        "This one is a cost that the paper admits: where it “holds”, A-K has forgotten more.",
    ),
    ("reward", "variance_ratio"): (
        "sign_variance",
        "A ratio of variances over a few seeds says next to nothing. By a rule set beforehand it is shown for "
        "SmolLM2, and decided on the Gaussians only.",
    ),
}

SIGNS: dict[str, Claim] = {_SIGNS[claim.metric, claim.statistic][0]: claim for claim in CLAIMS}

TASKS: dict[str, Task] = {
    **{id: _sign(claim, _SIGNS[claim.metric, claim.statistic][1]) for id, claim in SIGNS.items()},
    "common_target": Task(
        prediction=True,
        question="All settings stay, but the target is now a colour's name, which the base shows three times as often "
        "as an exclamation mark. Who earns more?",
        options=LEADERS,
        solve=common_target,
        because="The interval of the paired differences says so, in the picture below: how much distilling leaves of a "
        "target differs from one target to the next.",
        distractors=other_options(LEADERS, common_target, _not_the_leader),
    ),
    "verdict_of_interval": Task(
        question="Claimed beforehand: A-K earns more reward, so A-K minus K-A lies above 0. Over the seeds of a run "
        "the difference has the corrected interval (−0.02, 0.31). What is the verdict? Answer 'holds', 'fails' or "
        "'undecided'.",
        options=VERDICTS,
        solve=verdict_of_interval,
        because="A verdict needs the whole interval on one side of 0, and 0 lies inside this one. More seeds would "
        "narrow it; a more hopeful reading would not.",
        distractors={
            "holds": "Most of the interval lies above 0, but not all: no difference at all would fit these seeds, too.",
            "fails": "That would need the whole interval below 0. Not to have shown a claim is not to have refuted it.",
        },
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
            -reward_at_equal_kl(checkpoints()): "That is `careful` minus `bold`: change the sign.",
            checkpoints()["bold"]["reward"][2] - checkpoints()["careful"]["reward"][3]: "`bold` has no checkpoint at 6 "
            "nats: take the straight line between those at 4 and at 8.",
        },
        tolerance=0.02,
    ),
}
