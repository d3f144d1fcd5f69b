"""The choices of notebook 08: what the record says, what the package refuses, and a hint for every wrong way."""

import pytest

from alignkd_lab.course.exercises.ask import task
from alignkd_lab.course.explorers import methods
from alignkd_lab.pipelines import A_K
from alignkd_lab.plots.tables import difference

RUN = methods.recorded()


def mean(name, metric):
    rows = RUN.metrics[(RUN.metrics["pipeline"] == name) & (RUN.metrics["metric"] == metric)]
    return rows["value"].mean()


def test_the_best_of_the_record_is_right():
    for id, metric in {"best_per_token": "gain_per_10000_tokens", "need_for_diversity": "overall_recall"}.items():
        ways = [name for name in methods.WAYS if mean(name, "target_rate") > mean("kd_only", "target_rate")]
        assert task(id).outcome() == max(ways, key=lambda name: mean(name, metric))
    assert task("text_only_teacher").outcome() == "kd_then_align"


def test_dckd_beside_a_k_is_as_the_text_reads_the_table():
    for metric in ("target_rate", "kl_to_truth"):  # "as often on target and as near the truth, as far as can be told"
        gap = difference(RUN, None, metric, ("dckd", A_K))
        assert gap.low < 0 < gap.high
    assert difference(RUN, None, "entropy", ("dckd", A_K)).low > 0  # "it spreads more"
    assert mean("dckd", "reward") == pytest.approx(mean(A_K, "reward") / 3, rel=0.05)
    for name in methods.WAYS:  # "minus two things"
        parts = mean(name, "entropy") + mean(name, "kl_to_truth")
        assert mean(name, "overall_precision") == pytest.approx(-parts, abs=1e-6)
