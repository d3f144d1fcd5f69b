"""Tasks of notebook 08, with their solutions and typical wrong answers.

Which method came out best at what is read from the recorded run, whatever it says; so are the hints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pandas as pd

from alignkd_lab.course.exercises.tasks import Task, other_options
from alignkd_lab.course.explorers import methods
from alignkd_lab.course.lens.other_vocabulary import LOSSES, learn
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import METHODS, ORDERS, needs
from alignkd_lab.plots.style import number, pipeline_style
from alignkd_lab.stats import paired_difference

WAYS = {name: pipeline_style(name).label for name in (*ORDERS, *METHODS)}


def best_per_token() -> str:
    from alignkd_lab.course.explorers import methods

    # Reward above that of KD only, for 10,000 trained tokens; the mean over the record's seeds.
    return methods.recorded().table("gain_per_10000_tokens").mean().idxmax()


def best_per_second() -> str:
    from alignkd_lab.course.explorers import methods

    # The same gain, for an hour of the median time.
    return methods.recorded().table("gain_per_hour").mean().idxmax()


def need_for_diversity() -> str:
    from alignkd_lab.course.explorers import methods

    run = methods.recorded()
    rate, recall = (run.table(metric).mean() for metric in ("target_rate", "overall_recall"))
    return recall[rate > rate["kd_only"]].filter(methods.WAYS).idxmax()


def other_vocabulary() -> str:
    from alignkd_lab.course.lens.other_vocabulary import LOSSES, learn
    from alignkd_lab.errors import BadInput

    def accepts(loss):
        try:
            learn(loss)
        except BadInput:
            return False
        return True

    (loss,) = filter(accepts, LOSSES)
    return loss


def text_only_teacher() -> str:
    from alignkd_lab.pipelines import METHODS, ORDERS, Needs, needs

    texts_alone = Needs(texts=True, probabilities=False, training=False)
    (way,) = (name for name in (*ORDERS, *METHODS) if needs(name, kd_loss="sequence") == texts_alone)
    return way


def _refusal(loss: str, _: str) -> str:
    try:
        learn(loss)
    except BadInput as error:
        return f"It compares two distributions token by token. Tried on a teacher of 9 tokens it says: “{error}”"
    return "It works, too."


_ASKED = {
    "texts": "texts",
    "probabilities": "the probability of every next token",
    "training": "weights that it can align",
}


def _asks(way: str, _: str) -> str:
    asked = [_ASKED[need] for need, wanted in needs(way)._asdict().items() if wanted]
    wants = " and ".join(asked) or "nothing, and so it learns nothing from it"
    return f"{WAYS[way].partition(':')[0]} asks the teacher for {wants}."


def _row(metric: str) -> Callable[[str, str], str]:
    """A hint that shows the rows of a wrong way and of the right one."""

    def hint(way: str, found: str) -> str:
        run = methods.recorded()
        table = pd.DataFrame({name: run.table(name).mean() for name in (metric, "target_rate")}).loc[[way, found]]
        said = [
            f"{methods.short(name)} {number(row[metric])}, with a target rate of {number(100 * row['target_rate'])} %"
            for name, row in table.iterrows()
        ]
        return f"Over {len(run.seeds)} seeds, {methods.label(metric)}: {'; '.join(said)}."

    return hint


def level(metric: str) -> list[str]:
    """The ways that the seeds do not tell from the one that has most of a metric."""
    ways = methods.recorded().table(metric).filter(methods.WAYS)
    best = ways.mean().idxmax()
    return [name for name in ways if name != best and paired_difference(ways[best], ways[name]).low <= 0]


def _measured(metric: str, solve: Callable[[], str], question: str, because: str, prediction: bool = True) -> Task:
    return Task(
        prediction=prediction,
        question=question,
        options=WAYS,
        solve=solve,
        because=because,
        distractors=other_options(WAYS, solve, _row(metric), functools.partial(level, metric)),
        level=functools.partial(level, metric),
    )


_GAIN = "Gain is the mean reward above that of a student that was only distilled (KD only)."

TASKS: dict[str, Task] = {
    "best_per_token": _measured(
        "gain_per_10000_tokens",
        best_per_token,
        "Seven ways to one small model, under one budget of trained responses. Which of them gains most reward per "
        f"trained token, teachers' training included? {_GAIN}",
        "Read from the record, by the mean over its seeds.",
    ),
    "best_per_second": _measured(
        "gain_per_hour",
        best_per_second,
        "Seven ways to one small model, under one budget of trained responses. Which of them gains most reward per "
        f"second of machine time, sampling and teachers included? {_GAIN}",
        "Read from the record, by the median time: single seeds are slower where a machine had other work. A way "
        "that the seeds cannot distinguish from the best counts as right, too.",
    ),
    "other_vocabulary": Task(
        question="Your teacher's tokenizer differs from your student's. Which of these losses can still learn from it? "
        "Answer by name. " + "; ".join(f"{name!r}: {words}" for name, words in LOSSES.items()) + ".",
        options=LOSSES,
        solve=other_vocabulary,
        because="The student's own tokenizer can split a text again. The other three compare two distributions "
        "token by token, which means nothing where the same id stands for different tokens.",
        distractors=other_options(LOSSES, other_vocabulary, _refusal),
    ),
    "text_only_teacher": Task(
        question="Your teacher is an API: it writes texts, and gives neither probabilities nor weights. Which of the "
        f"seven ways, with sequence-level KD, can still learn from it? Answer one of {', '.join(map(repr, WAYS))}.",
        options=WAYS,
        solve=text_only_teacher,
        because="Its texts can be learnt by likelihood, and what is aligned afterwards is your own student, on its own "
        "samples. So whoever rents the teacher is left with K-A, the order that the claim warns of. It helps to draw "
        "so many texts, without sharpening, that the target is still among them.",
        distractors=other_options(WAYS, text_only_teacher, _asks),
    ),
    "need_for_diversity": _measured(
        "overall_recall",
        need_for_diversity,
        "You need a small model that shows the target more often than one that was only distilled, and can still say "
        "everything else that the truth says. By the record: which of the seven ways? Answer one of "
        f"{', '.join(map(repr, WAYS))}.",
        "Of the ways with a higher target rate than KD only, it has the highest overall recall, the mean "
        "log-likelihood of the truth's texts. Entropy would be the wrong measure: noise has plenty.",
        prediction=False,
    ),
}
