"""Solutions and data of notebook 08.

Which way came out best at what is read from the recorded run, whatever it says.
"""

from __future__ import annotations

from alignkd_lab.course.explorers import methods
from alignkd_lab.pipelines import METHODS, ORDERS, needs
from alignkd_lab.plots.style import pipeline_style

WAYS = {name: pipeline_style(name).label for name in (*ORDERS, *METHODS)}


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


ASKED = {way: asks(way) for way in WAYS if way != "kd_then_align"}
