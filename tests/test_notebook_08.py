"""The choices of notebook 08: what the record says, what the package refuses, and a hint for every wrong way."""

import numpy as np
import pytest

from alignkd_lab.course.exercises import ch08 as tasks
from alignkd_lab.course.exercises.ask import check, task
from alignkd_lab.course.exercises.tasks import OtherOptions
from alignkd_lab.course.explorers import methods
from alignkd_lab.course.lens.other_vocabulary import learn
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import A_K
from alignkd_lab.plots.style import number
from alignkd_lab.report.evidence import difference

RUN = methods.recorded()
MEASURED = {
    "best_per_token": "gain_per_10000_tokens",
    "best_per_second": "gain_per_hour",
    "need_for_diversity": "overall_recall",
}


def mean(name, metric):
    return np.mean([record["pipelines"][name]["metrics"][metric] for record in RUN["records"]])


def compared():
    return [name for name in methods.WAYS if name in RUN["records"][0]["pipelines"]]


@pytest.mark.parametrize("id", ["best_per_token", "best_per_second"])
def test_the_best_for_its_cost_has_the_highest_mean_of_the_record(id):
    assert task(id).outcome() == max(compared(), key=lambda name: mean(name, MEASURED[id]))


def test_the_diverse_way_recalls_most_of_those_that_show_the_target_more_often_than_kd_only():
    shows = [name for name in compared() if mean(name, "target_rate") > mean("kd_only", "target_rate")]
    assert task("need_for_diversity").outcome() == max(shows, key=lambda name: mean(name, "overall_recall"))


@pytest.mark.parametrize("id", MEASURED)
def test_each_wrong_way_is_shown_by_its_row_of_the_record(id):
    asked = task(id)
    assert len(asked.distractors) == len(tasks.WAYS) - 1
    for distractor in asked.distractors:
        if distractor.answer in compared():
            assert (
                f"{methods.short(distractor.answer)} {number(mean(distractor.answer, MEASURED[id]))}, "
                in distractor.hint
            )
        else:
            assert "is not in the recorded comparison" in distractor.hint


@pytest.mark.parametrize("loss", ["full", "reverse", "adpa"])
def test_a_loss_over_the_vocabulary_refuses_another_one_and_the_hint_quotes_it(loss):
    with pytest.raises(BadInput) as refused:
        learn(loss)
    feedback = check("other_vocabulary", loss)
    assert feedback.right is False
    assert str(refused.value) in feedback.text


def test_texts_can_be_learnt_whatever_the_teacher_s_vocabulary():
    assert learn("sequence") > 0
    assert check("other_vocabulary", "sequence").right is True


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("align_then_kd", "weights that it can align"),
        ("dckd", "the probability of every next token"),
        ("gkd", "the probability of every next token"),
        ("align_student_only", "asks the teacher for nothing"),
    ],
)
def test_behind_an_api_only_texts_are_left(way, said):
    assert task("text_only_teacher").outcome() == "kd_then_align"
    assert said in check("text_only_teacher", way).text


def test_the_distractors_of_a_measured_choice_wait_until_they_are_asked_for():
    asked = []

    def solve():
        asked.append(True)
        return "b"

    distractors = OtherOptions({"a": "", "b": "", "c": ""}, solve, lambda name, found: f"{name}, not {found}")
    assert len(distractors) == 2
    assert not asked
    assert [(distractor.answer, distractor.hint) for distractor in distractors] == [
        ("a", "a, not b"),
        ("c", "c, not b"),
    ]


def test_dckd_beside_a_k_is_as_the_text_reads_the_table():
    for metric in ("target_rate", "kl_to_truth"):  # "as often on target and as near the truth, as far as can be told"
        gap = difference(RUN, "dckd", A_K, metric)
        assert gap.low < 0 < gap.high
    assert difference(RUN, "dckd", A_K, "entropy").low > 0  # "it spreads more"
    assert mean("dckd", "reward") == pytest.approx(mean(A_K, "reward") / 3, rel=0.05)
    for name in methods.WAYS:  # "minus two things"
        parts = mean(name, "entropy") + mean(name, "kl_to_truth")
        assert mean(name, "overall_precision") == pytest.approx(-parts, abs=1e-6)
