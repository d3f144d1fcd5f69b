"""Tasks of notebook 02, with their solutions and typical wrong answers."""

from __future__ import annotations

import torch

from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written
from alignkd_lab.nano import maximise


def rare_weight() -> float:
    weights, s = [0.33, 0.33, 0.30, 0.04], 2
    powers = [weight**s for weight in weights]
    return powers[-1] / sum(powers)


def ring_to_rescore() -> dict:
    """The set-up of KD-MWE, seed 15: the models, the draws that they were fitted to, and fresh draws of each."""
    from alignkd_lab.mog.ring import run_ring

    ring = run_ring((15,))
    return {
        "truth": ring.truth,
        "teacher": ring.teacher,
        "direct": ring.direct,
        "distilled": ring.distilled,
        "training_draws": ring.training_draws,
        "truth_draws": ring.fresh_draws,
        "direct_draws": ring.own_draws["direct"],
        "distilled_draws": ring.own_draws["distilled"],
    }


def rescored_precision(data: dict) -> tuple[float, ...]:
    truth = data["truth"]
    return tuple(truth.log_prob(data[f"{student}_draws"]).mean().item() for student in ("direct", "distilled"))


def eight_components() -> str:
    from alignkd_lab.mog.ring import RingSettings, run_ring
    from alignkd_lab.stats import paired_difference

    scores = run_ring(range(20), RingSettings(student_components=8, sharpening=100.0)).scores["true"]
    signs = []
    for metric in ("precision", "recall"):
        _, low, high = paired_difference(scores["distilled"][metric], scores["direct"][metric])
        signs.append("rises" if low > 0 else "falls" if high < 0 else "stays")
    return f"precision {signs[0]}, recall {signs[1]}"


def shared_points() -> list[tuple]:
    """Points [B, 2], and the share [B, K] of each that a component owns."""
    noise = torch.Generator().manual_seed(2)

    def call(count: int, components: int) -> tuple:
        data = 1 + 2 * torch.randn(count, 2, generator=noise, dtype=torch.float64)
        return data, (2 * torch.randn(count, components, generator=noise, dtype=torch.float64)).softmax(-1)

    return [call(40, 3), call(30, 4)]


TASKS: dict[str, Task | Written] = {
    "rare_weight": Task(
        prediction=True,
        question="A teacher has four modes with weights 0.33, 0.33, 0.30 and 0.04. Sharpened with s = 2, what does the "
        "rare one weigh?",
        solve=rare_weight,
        because="Every weight is squared, and the squares are divided by their sum. A rare mode loses most.",
        tolerance=0.1,
    ),
    "rescored_precision": Task(
        question="Precision is E_student[log p*]. The published notebook scores it in these steps: p is the truth; 100 "
        "draws of p train the direct student and the teacher; p is the teacher, sharpened; 1,000 draws of p train the "
        "distilled student; precision is the mean of p.log_prob(each student's draws). Find the mistake, and "
        "give the "
        "precision of (direct, distilled) as it is defined.",
        given=ring_to_rescore,
        solve=rescored_precision,
        because="The name p was reused: at the end it is the sharpened teacher, which of course likes what it "
        "taught. Under the truth the distilled student still leads, but by far less.",
        hint="Give two numbers: the mean of truth.log_prob over each student's own draws.",
        distractors={
            'data["truth"] → data["teacher"].sharpen(100)': "That is the published mistake: the sharpened teacher is "
            "the judge. Ask the truth.",
            'data["truth"] → data["teacher"]': "That is the teacher before it is sharpened: a milder judge, and still "
            "not the truth.",
            "{student}_draws → truth_draws": "Draws from the truth score the same for every student. Precision takes "
            "the student's own draws.",
            'truth.log_prob(data[f"{student}_draws"]) → data[student].log_prob(data["truth_draws"])': "That is recall: "
            "the truth's draws under each student. Precision asks the other way round.",
            '"direct", "distilled" → "distilled", "direct"': "These are the right numbers in the wrong order: first "
            "the direct student, then the distilled one.",
        },
    ),
    "eight_components": Task(
        prediction=True,
        question="Now both students get eight components, one for each mode of the ring; the teacher keeps its four, "
        "and s = 100. Judged by the truth and on fresh draws: what does distilling do now?",
        options={
            "precision rises, recall falls": "precision rises, recall falls: the same trade",
            "precision rises, recall rises": "both rise: now there is room for everything",
            "precision stays, recall stays": "next to nothing: so large a student can be fitted without a teacher",
            "precision falls, recall falls": "both fall",
        },
        solve=eight_components,
        because="With a component for every mode the direct student is precise by itself. The distilled one can be no "
        "better than what it is shown: one broad component of a teacher of four.",
    ),
    "write_m_step": Written(
        question="Write maximise(data, shares), the M step: the likeliest mixture where component k owns the share "
        "shares[b, k] of point b. `data` is [B, 2], `shares` [B, K] with rows that sum to 1. Return Mixture(logits, "
        "means, log_sds): logarithms of the weights [K], means [K, 2], logarithms of the standard deviations [K, 2].",
        solve=maximise,
        inputs=shared_points,
        seen=lambda found: (torch.as_tensor(found[0]).log_softmax(-1), *found[1:]),
        because="Means and variances, each point counted by its share. (Ours also keeps variances above 0.001, or a "
        "component could shrink onto one point.)",
        hint="mass = shares.sum(0), the points that each component owns. The weights are its shares of all points; "
        "the means are shares.T @ data over the mass; the variances are the same for data², minus the squared means.",
        mistakes={
            "(mass / mass.sum()).log() → mass / mass.sum()": "The first part holds weights. A mixture here keeps their "
            "logarithms.",
            "(mass / mass.sum()).log() → torch.zeros_like(mass)": "All weights are equal. A component's weight is the "
            "share of all points that it owns.",
            "mass[:, None] → len(data)": "You divided by all B points. A component's mean is over the points that it "
            "owns: shares.sum(0).",
            "    mass = →     shares = torch.ones_like(shares) / shares.shape[1]\n    mass =": "The shares are not "
            "used: every component has the mean of all points.",
            "    mass = →     shares = (shares == shares.amax(-1, keepdim=True)).double()\n    mass =": "Each point "
            "went to one component alone. That is k-means; here a point is shared.",
            " - means**2 → ": "The squared mean is missing: a variance is the mean of the squares minus the square of "
            "the mean.",
            "0.5 * variances.log() → variances.log()": "Those are logarithms of variances. Those of standard "
            "deviations are half as large.",
            "0.5 * variances.log() → variances.sqrt()": "Those are standard deviations. A mixture here keeps their "
            "logarithms.",
        },
    ),
}
