"""What a pipeline asks of its teacher is read from its stages."""

import pytest

from alignkd_lab.errors import UnknownName
from alignkd_lab.pipelines import Needs, needs

ASKED = {
    "kd_then_align": Needs(texts=True, probabilities=False, training=False),
    "kd_then_align_base_reference": Needs(texts=True, probabilities=True, training=False),
    "align_then_kd": Needs(texts=True, probabilities=False, training=True),
    "dckd": Needs(texts=True, probabilities=True, training=True),
    "adpa_plus": Needs(texts=True, probabilities=True, training=True),
    "gkd": Needs(texts=True, probabilities=True, training=True),
    "align_student_only": Needs(texts=False, probabilities=False, training=False),
    "base": Needs(texts=False, probabilities=False, training=False),
}


def test_each_pipeline_asks_for_what_its_stages_use_and_full_vocabulary_distillation_for_probabilities_too():
    assert {name: needs(name) for name in ASKED} == ASKED
    assert needs("kd_then_align", "full") == Needs(texts=True, probabilities=True, training=False)
    assert needs("align_student_only", "full") == needs("align_student_only")
    for asked, accepted in ((("a_k",), "kd_then_align"), (("dckd", "logits"), "sequence")):
        with pytest.raises(UnknownName, match=accepted):
            needs(*asked)
