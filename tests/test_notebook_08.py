"""The choices of notebook 08: what the record says, what the package refuses, and a hint for every wrong way."""

import pytest
from scipy import stats

from alignkd_lab.course.exercises.ask import check, task
from alignkd_lab.course.exercises.prediction import outcome
from alignkd_lab.course.exercises.tasks import other_options
from alignkd_lab.course.explorers import methods
from alignkd_lab.course.lens.other_vocabulary import learn
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import A_K
from alignkd_lab.plots.style import number
from alignkd_lab.plots.tables import difference

RUN = methods.recorded()
MEASURED = {
    "best_per_token": "gain_per_10000_tokens",
    "best_per_second": "gain_per_hour",
    "need_for_diversity": "overall_recall",
}


def values(name, metric):
    rows = RUN.metrics[(RUN.metrics["pipeline"] == name) & (RUN.metrics["metric"] == metric)]
    return rows.sort_values("seed")["value"].to_numpy()


def mean(name, metric):
    return values(name, metric).mean()


@pytest.mark.parametrize("id", MEASURED)
def test_the_best_of_the_record_is_right_with_those_that_the_seeds_do_not_tell_from_it(id):
    asked, metric, ways = task(id), MEASURED[id], list(methods.WAYS)
    if id == "need_for_diversity":
        ways = [name for name in ways if mean(name, "target_rate") > mean("kd_only", "target_rate")]
    best = max(ways, key=lambda name: mean(name, metric))
    assert asked.outcome() == best
    others = [name for name in methods.WAYS if name != best]
    below = {name: stats.ttest_rel(values(best, metric), values(name, metric)) for name in others}
    level = [name for name in others if below[name].confidence_interval(0.95).low <= 0]
    assert list(asked.level()) == level
    assert level == (["align_student_only"] if id == "best_per_second" else [])
    assert all(check(id, name).right for name in (best, *level))
    assert ("; level with " in outcome(asked)) == bool(level)
    hints = dict(asked.wrong())
    assert set(hints) == set(others) - set(level)
    for name, hint in hints.items():  # each is shown by its row of the record
        assert f"{methods.short(name)} {number(mean(name, metric))}, " in hint
        assert check(id, name).text == f"Not yet. {hint}"


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

    distractors = other_options({"a": "", "b": "", "c": ""}, solve, lambda name, found: f"{name}, not {found}")
    assert not asked
    assert distractors() == {"a": "a, not b", "c": "c, not b"}


def test_dckd_beside_a_k_is_as_the_text_reads_the_table():
    for metric in ("target_rate", "kl_to_truth"):  # "as often on target and as near the truth, as far as can be told"
        gap = difference(RUN, None, metric, ("dckd", A_K))
        assert gap.low < 0 < gap.high
    assert difference(RUN, None, "entropy", ("dckd", A_K)).low > 0  # "it spreads more"
    assert mean("dckd", "reward") == pytest.approx(mean(A_K, "reward") / 3, rel=0.05)
    for name in methods.WAYS:  # "minus two things"
        parts = mean(name, "entropy") + mean(name, "kl_to_truth")
        assert mean(name, "overall_precision") == pytest.approx(-parts, abs=1e-6)
