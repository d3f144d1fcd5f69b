import dataclasses
import json

from alignkd_lab.mog.settings import MogSettings


def test_settings_survive_a_record():
    settings = MogSettings(targets=(2, 3), beta=1.0)
    assert MogSettings(**json.loads(json.dumps(dataclasses.asdict(settings)))) == settings


def test_the_target_is_named_after_its_modes():
    assert MogSettings().target_name == "rare_mode"
    assert MogSettings(targets=(2, 3)).target_name == "modes_2_3"
