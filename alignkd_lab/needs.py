"""What a pipeline asks of its teacher, read from its stages: who may call for texts only is soon out of methods."""

from __future__ import annotations

from typing import NamedTuple

from alignkd_lab.errors import UnknownName
from alignkd_lab.pipelines import PIPELINES, Align, Distil, OnPolicyDistil, PreferenceDistil

KD_LOSSES = ("sequence", "full")


class Needs(NamedTuple):
    """texts: that the teacher writes. probabilities: of every next token, which one vocabulary alone can give.
    training: weights that can be aligned."""

    texts: bool
    probabilities: bool
    training: bool


def needs(pipeline: str, kd_loss: str = "sequence") -> Needs:
    """What the pipeline asks of `base`, from which all of its teachers are made.

    Args:
        kd_loss: of a distillation, `sequence` (likelihood of the teacher's texts) or `full` (KL over the vocabulary).

    Raises:
        UnknownName: no such pipeline or loss.
    """
    if pipeline not in PIPELINES:
        raise UnknownName("pipeline", pipeline, PIPELINES)
    if kd_loss not in KD_LOSSES:
        raise UnknownName("kd_loss", kd_loss, KD_LOSSES)
    teachers, texts, probabilities, training = {"base"}, False, False, False
    for stage in PIPELINES[pipeline]:
        match stage:
            case Align(init=init) if init in teachers:
                teachers.add(stage.name)
                training = texts = True
            case Align():
                texts |= stage.sampler in teachers
                probabilities |= stage.anchor in teachers
            case Distil():
                texts = True
                probabilities |= kd_loss == "full"
            case PreferenceDistil():
                texts |= stage.sampler in teachers
                probabilities = True
            case OnPolicyDistil():
                probabilities = True
    return Needs(texts, probabilities, training)
