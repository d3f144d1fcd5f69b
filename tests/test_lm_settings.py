"""Settings that cannot be run are refused when they are written down, and the message names them."""

import pytest
from tiny_lm import SMALL

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.settings import LmSettings

WRONG = {
    "max_tokens": 0,
    "preference_prompts": 0,
    "preference_responses": 1,
    "distil_passes": -1,
    "align_steps": 0,
    "curve_points": 0,
    "sample_batch": 0,
    "kd_temperature": 0.0,
    "kd_temperature_high": -1.0,
    "beta": float("nan"),
    "dpo_label_noise": 0.6,
    "distil_learning_rate": 0.0,
    "align_learning_rates": (),
    "rlhf_learning_rates": (0.0,),
    "rlhf_generations": 1,
    "rlhf_prompts": 5,
    "rlhf_beta": 0.0,
    "heldout_responses": 1,
    "student_responses": 0,
    "alpha": 0.0,
    "gamma": -1.0,
    "gkd_divergence": "backward",
    "reward": "likelihoods",
    "kd_loss": "token",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_cannot_be_used_is_refused_by_name(name):
    with pytest.raises(BadInput, match=name):
        LmSettings(**{**SMALL, name: WRONG[name]})


def test_a_rate_that_is_not_positive_is_refused():
    with pytest.raises(BadInput, match="align_learning_rates"):
        LmSettings(align_learning_rates=(1e-4, 0.0))


def test_the_high_temperature_is_above_one_and_above_the_usual_one_by_default():
    settings = LmSettings()
    assert settings.kd_temperature < 1 < settings.kd_temperature_high
