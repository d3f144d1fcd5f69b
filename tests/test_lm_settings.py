"""The defaults of the language world mean what their names say; what is refused stands in `bad_inputs.py`."""

from alignkd_lab.lm.settings import LmSettings


def test_the_high_temperature_is_above_one_and_above_the_usual_one_by_default():
    settings = LmSettings()
    assert settings.kd_temperature < 1 < settings.kd_temperature_high
