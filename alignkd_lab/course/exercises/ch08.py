"""Tasks of notebook 08, with their solutions and typical wrong answers.

Which way came out best at what is read from the recorded run, whatever it says.
"""

from __future__ import annotations

from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.explorers import methods
from alignkd_lab.pipelines import METHODS, ORDERS, needs
from alignkd_lab.plots.style import pipeline_style

WAYS = {name: pipeline_style(name).label for name in (*ORDERS, *METHODS)}
LOSSES = {
    "sequence": "sequence-level KD (likelihood of the teacher's texts)",
    "full": "full-vocabulary KD (KL(teacher ‖ student) at each token of the teacher's texts)",
    "reverse": "on-policy distillation (KL(student ‖ teacher) at each token of the student's texts)",
    "adpa": "ADPA (expected advantage at each token of the student's texts)",
}


def best_per_token() -> str:
    # Reward above that of KD only, for 10,000 trained tokens; the mean over the record's seeds.
    return methods.recorded().table("gain_per_10000_tokens").mean().idxmax()


def need_for_diversity() -> str:
    from alignkd_lab.course.explorers import methods

    run = methods.recorded()
    rate, recall = (run.table(metric).mean() for metric in ("target_rate", "overall_recall"))
    return recall[rate > rate["kd_only"]].filter(methods.WAYS).idxmax()


def other_vocabulary() -> str:
    # It needs texts alone, which the student's tokenizer splits anew.
    return "sequence"


def text_only_teacher() -> str:
    from alignkd_lab.pipelines import METHODS, ORDERS, Needs, needs

    texts_alone = Needs(texts=True, probabilities=False, training=False)
    (way,) = (name for name in (*ORDERS, *METHODS) if needs(name, kd_loss="sequence") == texts_alone)
    return way


def asks(way: str) -> str:
    """What a way asks of its teacher, in words."""
    words = ("texts", "the probability of every next token", "weights that it can align")
    asked = [each for each, wanted in zip(words, needs(way), strict=True) if wanted]
    wants = " and ".join(asked) or "nothing, and so it learns nothing from it"
    return f"{methods.short(way)} asks the teacher for {wants}."


TASKS: dict[str, Task] = {
    "best_per_token": Task(
        prediction=True,
        question="Seven ways to one small model, under one budget of trained responses. Which of them gains most "
        "reward per trained token, teachers' training included? Gain is the mean reward above that of a student that "
        "was only distilled (KD only).",
        options=WAYS,
        solve=best_per_token,
        because="Read from the record, by the mean over its seeds.",
    ),
    "other_vocabulary": Task(
        question="Your teacher's tokenizer differs from your student's. Which of these losses can still learn from it? "
        "Answer by name. " + "; ".join(f"{name!r}: {words}" for name, words in LOSSES.items()) + ".",
        options=LOSSES,
        solve=other_vocabulary,
        because="The student's own tokenizer can split a text again. The other three compare two distributions "
        "token by token, which means nothing where the same id stands for different tokens.",
        distractors=dict.fromkeys(
            ("full", "reverse", "adpa"), "It compares two distributions token by token. Whose tokens would those be?"
        ),
    ),
    "text_only_teacher": Task(
        question="Your teacher is an API: it writes texts, and gives neither probabilities nor weights. Which of the "
        f"seven ways, with sequence-level KD, can still learn from it? Answer one of {', '.join(map(repr, WAYS))}.",
        options=WAYS,
        solve=text_only_teacher,
        because="Its texts can be learnt by likelihood, and what is aligned afterwards is your own student, on its own "
        "samples. So whoever rents the teacher is left with K-A, the order that the claim warns of. It helps to draw "
        "so many texts, without sharpening, that the target is still among them.",
        distractors={way: asks(way) for way in WAYS if way != "kd_then_align"},
    ),
    "need_for_diversity": Task(
        question="You need a small model that shows the target more often than one that was only distilled, and can "
        "still say everything else that the truth says. By the record: which of the seven ways? Answer one of "
        f"{', '.join(map(repr, WAYS))}.",
        options=WAYS,
        solve=need_for_diversity,
        because="Of the ways with a higher target rate than KD only, it has the highest overall recall, the mean "
        "log-likelihood of the truth's texts. Entropy would be the wrong measure: noise has plenty.",
        hint="Of the ways that show the target more often than KD only, which has the highest overall recall? The "
        "table above has both.",
    ),
}
