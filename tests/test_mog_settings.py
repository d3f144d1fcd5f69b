import dataclasses
import json

import pytest

from alignkd_lab.mog.settings import MogSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "beta must be a finite number above 0, not 0.0"),
        ({"sharpening": float("nan")}, "sharpening must be a finite number"),
        ({"sharpening_high": 1.5}, "sharpening_high must be at most 1"),
        ({"rlhf_steps": 0}, "rlhf_steps must be a whole number of at least 1, not 0"),
        ({"dpo_pairs": 10.5}, "dpo_pairs must be a whole number"),
        ({"reward_clip": -1.0}, "reward_clip must be a finite number above 0, or 0 for none"),
        ({"rlhf_batch": 1}, "rlhf_batch must be at least 2"),
        ({"dpo_label_noise": 0.7}, "dpo_label_noise must lie between 0 and 0.5"),
        ({"truth_weights": (0.5, 0.5)}, "equally many, not 2 and 4"),
        ({"truth_weights": (0.5, 0.5, 0.5, 0.5)}, "sum to 1"),
        ({"truth_means": ((0, 0), (1, 1), (2, 2), (3, 3, 3))}, "two coordinates"),
        ({"targets": ()}, "at least one mode"),
        ({"targets": (3, 3)}, "each once"),
        ({"targets": (4,)}, "between 0 and 3"),
        ({"base_components": 401}, "base_components must be at most the 400 points"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        MogSettings(**change)


def test_settings_survive_a_record():
    settings = MogSettings(targets=(2, 3), beta=1.0)
    assert MogSettings(**json.loads(json.dumps(dataclasses.asdict(settings)))) == settings


def test_the_target_is_named_after_its_modes():
    assert MogSettings().target_name == "rare_mode"
    assert MogSettings(targets=(2, 3)).target_name == "modes_2_3"
