"""Tasks of notebook 02, with their solutions and the slips that lead to typical wrong answers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from alignkd_lab.exercises.tasks import Slip, Task


def rare_weight() -> float:
    weights, s = [0.33, 0.33, 0.30, 0.04], 2
    powers = [weight**s for weight in weights]
    return powers[-1] / sum(powers)


def ring_to_rescore() -> dict:
    """The set-up of KD-MWE, seed 0: the judges and the draws that one might score."""
    from alignkd_lab.mog.noise import SeedNoise
    from alignkd_lab.mog.ring import run_ring

    ring, noise = run_ring((0,)), SeedNoise((0,))

    def draws(mixture) -> Tensor:
        return mixture.from_noise(noise.uniform("rescoring", 2000), noise.normal("rescoring", 2000, 2))

    models = {"truth": ring.truth, "direct": ring.direct, "distilled": ring.distilled}
    return {
        "truth": ring.truth,
        "sharpened_teacher": ring.sharpened,
        **{f"{name}_draws": draws(mixture) for name, mixture in models.items()},
    }


def rescored_precision() -> tuple[float, float]:
    from alignkd_lab.exercises import given

    data = given("rescored_precision")
    judge = data["truth"]
    direct = judge.log_prob(data["direct_draws"]).mean().item()
    distilled = judge.log_prob(data["distilled_draws"]).mean().item()
    return direct, distilled


def mean_scores(judge: str, *draws: str) -> Callable[[], tuple[float, ...]]:
    def score() -> tuple[float, ...]:
        data = ring_to_rescore()
        return tuple(data[judge].log_prob(data[name]).mean().item() for name in draws)

    return score


TASKS: dict[str, Task] = {
    "rare_weight": Task(
        notebook="02",
        prediction=True,
        question="A teacher has four modes with weights 0.33, 0.33, 0.30 and 0.04. Sharpened with s = 2, what does the "
        "rare one weigh?",
        solve=rare_weight,
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
        given=ring_to_rescore,
        solve=rescored_precision,
        because="Precision is E[log p*] over the student's own draws. The published one re-used a variable and asked "
        "the sharpened teacher, who of course likes what it taught.",
        hint="Give two numbers: the mean of truth.log_prob over each student's own draws.",
        slips=(
            Slip(
                mean_scores("sharpened_teacher", "direct_draws", "distilled_draws"),
                "That is the published slip: the sharpened teacher is the judge. Ask the truth.",
            ),
            Slip(
                mean_scores("truth", "truth_draws", "truth_draws"),
                "Draws from the truth score the same for every student. Precision takes the student's own draws.",
            ),
        ),
    ),
}
