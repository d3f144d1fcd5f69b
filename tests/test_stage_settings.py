"""What a kept result is found by: its stage's settings, whose defaults are pinned here, and the version of its code."""

import dataclasses

import pytest

from alignkd_lab.lm import evaluate
from alignkd_lab.lm.stages import adpa, distil, dpo, gkd, rloo
from alignkd_lab.lm.trials import CODE as TRIALS_CODE
from alignkd_lab.lm.trials import TrialSettings
from alignkd_lab.mog import settings as mog
from alignkd_lab.mog.world import CODE as MOG_CODE
from alignkd_lab.store import key_of

# (code version, settings): a hash of both with every default written out.
PINNED = {
    "lm distil": (distil.CODE, distil.DistilSettings(), "d06da87f290a87ca"),
    "lm gkd": (gkd.CODE, gkd.GkdSettings(), "6541266444997091"),
    "lm dpo": (dpo.CODE, dpo.DpoSettings(), "43af88fc43b4e821"),
    "lm rloo": (rloo.CODE, rloo.RlooSettings(), "cdc72e21d7aae45c"),
    "lm dckd": (adpa.CODE, adpa.DckdSettings(), "0309b5965cbcc3b5"),
    "lm adpa": (adpa.CODE, adpa.AdpaSettings(), "5f03a304c19a0e20"),
    "lm evaluation": (evaluate.CODE, evaluate.EvaluationSettings(), "d1bbfddc0f33d779"),
    "lm trials": (TRIALS_CODE, TrialSettings(learning_rates=()), "3a71cabc25e8b21d"),
    "mog start": (MOG_CODE["start"], mog.StartSettings(), "dd50014d6e8c0e0e"),
    "mog distil": (MOG_CODE["distil"], mog.DistilSettings(), "4656137964a3073b"),
    "mog rlhf": (MOG_CODE["rlhf"], mog.RlhfSettings(), "522021c4235bc760"),
    "mog dpo": (MOG_CODE["dpo"], mog.DpoSettings(), "2c1fbc53871e4c77"),
    "mog evaluation": (MOG_CODE["evaluate"], mog.EvaluationSettings(), "0546c8ea26a99977"),
}


@pytest.mark.parametrize("stage", PINNED)
def test_whoever_changes_a_default_raises_the_code_version(stage):
    code, settings, pinned = PINNED[stage]
    found = key_of({"code": code, **dataclasses.asdict(settings)})
    assert found == pinned, (
        f"A default of {stage} is another, so its kept results would be found for what they are not: raise its code "
        f"version, then pin {found}. Where a setting is new and its default does what the code did before, only pin."
    )
