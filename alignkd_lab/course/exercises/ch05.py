"""Tasks of notebook 05, with their solutions and typical wrong answers."""

from __future__ import annotations

from alignkd_lab.course.exercises.tasks import Distractor, Task


def layers_to_drop() -> str:
    from alignkd_lab.course.explorers.layer_cuts import CUTS  # which 14 of the 30 layers go
    from alignkd_lab.course.recorded import measured_influence

    influence = measured_influence()  # of each of the 30 layers: how much it turns the state that passes
    return min(CUTS, key=lambda name: sum(influence[layer] for layer in CUTS[name]))


def sequences_or_tokens() -> tuple[float, float]:
    a, b, leaves = 0.6, 0.4, 4
    sequences = [a / leaves] * leaves + [b]
    squares = [p**2 for p in sequences]
    b_by_sequences = squares[-1] / sum(squares)
    a_by_tokens = a**2 / (a**2 + b**2)
    return b_by_sequences, a_by_tokens


TASKS: dict[str, Task] = {
    "layers_to_drop": Task(
        prediction=True,
        question="14 of SmolLM2's 30 layers have to go. Every layer adds something to a state that passes through all "
        "of them. Which 14 together turn it least?",
        options={
            "first": "the first 14",
            "middle": "14 in the middle",
            "last": "the last 14",
            "every second": "every second one",
        },
        solve=layers_to_drop,
        because="Measured block influence is large at both ends and small between them.",
        distractors=(
            Distractor("first", "The first layers turn token embeddings into something that can be worked with."),
            Distractor("last", "The last layers turn the state towards the next token."),
            Distractor("every second", "That spares the first two, but it takes some of the influential last ones."),
        ),
    ),
    "sequences_or_tokens": Task(
        question="A teacher says A first with 0.6, then one of four leaves, 0.25 each; or B with 0.4, then always the "
        "same leaf. Give (share of B when whole sequences are sharpened with s = 2, share of A when every token is "
        "drawn at temperature ½).",
        solve=sequences_or_tokens,
        because="The same exponent, two winners: B's one sequence beats each of A's four, while A's first token wins. "
        "Token temperature is no sequence sharpening.",
        hint="Sequences: four of 0.15 and one of 0.4, each squared. Tokens: 0.6 and 0.4 squared; leaves come after.",
        distractors=(
            Distractor(
                (0.4**2 / (0.6**2 + 0.4**2), 0.6**2 / (0.6**2 + 0.4**2)),
                "You took both to be the same. Sequences are sharpened whole: A's mass lies on four of them.",
            ),
            Distractor(
                (sequences_or_tokens()[0], 1 - sequences_or_tokens()[0]),
                "You took both to be the same. A token is drawn before its leaves are known: square 0.6 and 0.4.",
            ),
        ),
        tolerance=0.005,
    ),
}
