"""The chart of sharpening: every stop is the ring's own and the sharpened teacher a closed form."""

import numpy as np
import pytest
from scene import Scene, evaluated, value

from alignkd_lab.course.explorers import sharpening
from alignkd_lab.mog.ring import RingSettings, run_ring

PUBLISHED = {"sharpening": 100.0}
TRUTH = {**PUBLISHED, "scored_under": "truth", "draws": "fresh"}


@pytest.fixture(scope="module", autouse=True)
def few_seeds():
    """The pages' seeds are independent of each other, and few are fitted faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharpening, "COMPONENTS", (1, 8))
        sharpening.fitted.cache_clear()
        yield
    sharpening.fitted.cache_clear()


@pytest.mark.parametrize(
    ("changes", "scorer", "draws"),
    [
        ({"sharpening": 10.0}, "published", "published"),
        ({**TRUTH, "seed": 4.0}, "true", "true"),
        ({"sharpening": 10**-0.5, "components": 8, "draws": "fresh"}, "published", "true"),
    ],
)
def test_a_state_s_scores_are_those_of_a_ring_run_for_it_alone(changes, scorer, draws):
    s, components, seed = changes["sharpening"], changes.get("components", 1), int(changes.get("seed", 10))
    ring = run_ring((seed,), RingSettings(student_components=components, sharpening=s))
    chart = sharpening.show(**changes)
    precision, recall, shares, drawn = evaluated(chart, "precision", "recall", "shares", "distilled[0]")
    for place, student in enumerate(("direct", "distilled")):
        assert precision[place] == pytest.approx(ring.scores[scorer][student]["precision"].item(), abs=2e-3)
        assert recall[place] == pytest.approx(ring.scores[draws][student]["recall"].item(), abs=2e-3)
    assert shares == pytest.approx(ring.sharpened.weights[0].numpy(), abs=2e-3)
    found = ring.distilled
    assert drawn[:3] == pytest.approx([found.weights[0, 0].item(), *found.means[0, 0].tolist()], abs=1e-3)
    judge = ring.sharpened if scorer == "published" else ring.truth
    own = [judge.log_prob(ring.own_draws[name])[0].numpy() for name in ("direct", "distilled")]
    spread = np.sqrt(sum(values.var(ddof=1) / 2000 for values in own))
    assert precision[3] == pytest.approx(spread, abs=2e-3)


def test_both_students_stand_where_they_scored():
    chart = sharpening.show(**PUBLISHED)
    precision, recall = evaluated(chart, "precision", "recall")

    def place(low, high, x):
        def bent(v):
            return np.sign(v) * np.log1p(abs(v) / 2)

        return (bent(x) - bent(low)) / (bent(high) - bent(low))

    *_, direct, distilled = Scene(chart).places("symbol")
    for place_of, student in ((0, direct[0]), (1, distilled[0])):
        assert value(student["x"], 390, 0, 1) == pytest.approx(place(-200, -0.5, recall[place_of]), abs=1e-4)
        assert value(300 - student["y"], 300, 0, 1) == pytest.approx(place(-60, 0.9, precision[place_of]), abs=1e-4)


def test_every_score_of_every_seed_lies_within_the_axes():
    for stops in sharpening.fitted()["scores"].values():
        scores = [by for seeds in stops for by in seeds]
        precision = np.array([by[name][:3] for by in scores for name in ("truth", "teacher")])
        recall = np.array([by[name][:3] for by in scores for name in ("fresh", "training")])
        assert precision.min() > -60
        assert precision.max() < 0.9
        assert recall.min() > -200
        assert recall.max() < -0.5
