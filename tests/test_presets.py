"""Named sizes of a run, and how single settings are changed."""

import dataclasses

from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import CONTROLS, METHODS, ORDERS, PIPELINES, YARDSTICKS
from alignkd_lab.presets import PRESETS, default_pipelines, override, possible_pipelines


def test_the_presets_that_the_command_line_offers_exist():
    from alignkd_lab.arguments import PRESETS as offered

    assert set(offered) == set(PRESETS)


def test_a_world_and_an_algorithm_have_the_pipelines_that_are_possible_with_them_and_methods_run_when_asked_for():
    usual = {*ORDERS, *CONTROLS, *YARDSTICKS}
    assert set(default_pipelines("lm", "dpo")) == set(possible_pipelines("mog", "dpo")) == usual
    assert set(possible_pipelines("lm", "dpo")) == set(PIPELINES) == usual | set(METHODS)
    for world in ("mog", "lm"):
        # Under RLHF there are no preferences to take from another sampler.
        assert set(possible_pipelines(world, "rlhf")) == usual - {"kd_then_align_base_preferences"}


# Changing settings --------------------------------------------------------------------------------------------


def test_override_changes_what_is_named_and_nothing_else_and_reads_nested_lists_as_tuples():
    before = LmSettings()
    after = override(before, {"beta": 0.2, "align_learning_rates": [1e-3, 2e-3], "target": "digit"})
    assert (after.beta, after.align_learning_rates, after.target) == (0.2, (1e-3, 2e-3), "digit")
    assert dataclasses.replace(after, beta=before.beta, target=before.target,
                               align_learning_rates=before.align_learning_rates) == before  # fmt: skip
    assert override(before, {}) == before
    means = [[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]
    settings = override(MogSettings(), {"truth_means": means, "truth_weights": [0.5, 0.4, 0.1], "targets": [2]})
    assert settings.truth_means == ((0.0, 1.0), (1.0, 0.0), (2.0, 2.0))
