"""Tasks of notebook 09, with their solutions and typical wrong answers."""

from __future__ import annotations

from alignkd_lab.course.exercises.tasks import Task


def responses_needed() -> float:
    from alignkd_lab.lm.feasibility import responses_for

    return float(responses_for(rate=0.02, prompts=96, pairs=30))


def upper_rate() -> float:
    from alignkd_lab.stats import wilson_interval

    return wilson_interval(hits=0, total=100).high


def preference_rows() -> dict:
    """Eight rows as they stand in files that people send each other."""
    said = [{"role": "user", "content": "Name a lake."}]
    good, bad = ([{"role": "assistant", "content": text}] for text in ("Lake Como.", "I cannot."))
    return {
        "rows": [
            {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "No idea."},
            {"prompt": "Name a bird.", "chosen": "A wren.", "rejected": "A wren."},
            {"prompt": "Name a tree.", "chosen": "An oak.", "rejected": ""},
            {"chosen": "Name a colour. Blue is one.", "rejected": "Name a colour. A pear is one."},
            {"prompt": "Name a fish.", "chosen": "A trout."},
            {"prompt": said, "chosen": good, "rejected": bad},
            {"prompt": "Name a river.", "chosen": "The Po. ", "rejected": " The Po."},
            {"prompt": [*said, {"role": "assistant", "content": "Why?"}], "chosen": good, "rejected": bad},
        ]
    }


def usable_rows(data: dict) -> int:
    import json
    import tempfile
    from pathlib import Path

    from alignkd_lab.lm.preference_data import load_preferences

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in data["rows"]))
        return len(load_preferences(path).rows)


TASKS: dict[str, Task] = {
    "responses_needed": Task(
        prediction=True,
        question="Your base shows the target in 2 % of its responses, and you have 96 prompts. An informative pair is "
        "a response with the target and one without, to the same prompt; each response serves once. How many responses "
        "to each prompt does it take until 30 informative pairs are expected?",
        solve=responses_needed,
        because="A rare hit nearly always has a miss beside it, so pairs are as many as hits: prompts × responses "
        "× rate. The prompts share the work.",
        tolerance=0.1,
    ),
    "upper_rate": Task(
        question="You drew 100 responses from your base, and none shows the target. How high can the base rate still "
        "be? Give the upper end of Wilson's 95 % interval, as a share.",
        solve=upper_rate,
        because="No hit in 100 draws leaves room for several per cent. With 96 prompts × 24 responses that would be "
        "plenty of pairs, so this is no reason to give up: draw more.",
        hint="Wilson's interval for 0 of n ends at z²/(n + z²), with z = 1.96. `stats.wilson_interval` does it.",
        distractors={
            0.0: "Not seen does not mean never: at a rate of 1 %, 100 draws miss the target in 37 of 100 cases.",
            0.01: "At 1 % you would expect one hit, and see none in 37 of 100 cases. More is possible, too.",
            0.03: "That is the rule of three, one-sided at 95 %. Wilson's interval is two-sided and goes further.",
        },
        tolerance=0.02,
    ),
    "usable_rows": Task(
        question="`given('usable_rows')['rows']` holds eight rows of a preference file. From how many can a model "
        "learn? Count by eye, then let `load_preferences` count.",
        given=preference_rows,
        solve=usable_rows,
        because="Fruit, colour and the first lake. The colour's prompt is what both texts share; equal, empty and "
        "missing answers teach nothing, and a prompt must end with the user.",
        hint="Go through chosen and rejected: both there, not empty, not equal? Then the prompt: whose turn is last?",
        distractors={
            8: "A row without two different answers to one prompt teaches nothing. Five have some such fault.",
            4: "Look at the river: white space at the ends makes no difference. Or at the last row: who spoke last?",
            2: "The colour has no prompt of its own, but both texts begin alike: the shared part is the prompt.",
            1: "Plain strings with a prompt are one format of three. Messages and a shared beginning work, too.",
        },
    ),
}
