"""The language world behind the `World` protocol of `alignkd_lab.pipelines`: one seed at a time.

Stages train LoRA adapters on the policies that they start from. The same prompts, counts, KL weight and steps serve
every pipeline; the learning rate of alignment is chosen for the base and for the student by one rule with equal
trials on validation prompts (`lm.trials`), with a seed that no run uses. Only this module calls stages; each gets what
it needs as arguments, and its settings out of those of the run.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from alignkd_lab.errors import BadInput, CannotContinue, UnknownName
from alignkd_lab.lm import evaluate, trials, weights
from alignkd_lab.lm.context import Context, Policy
from alignkd_lab.lm.models import Models, identity
from alignkd_lab.lm.prompts import digest, prompts
from alignkd_lab.lm.request import pin
from alignkd_lab.lm.rewards import Reward, model_of
from alignkd_lab.lm.scoring import pooled_mean
from alignkd_lab.lm.settings import (
    AdpaSettings,
    DckdSettings,
    DistilSettings,
    DpoSettings,
    EvaluationSettings,
    GkdSettings,
    LmSettings,
    RewardSettings,
    RlooSettings,
    base_of_student,
)
from alignkd_lab.lm.stages import adpa, distil, dpo, gkd, rloo
from alignkd_lab.lm.student import HEALING_BAR
from alignkd_lab.lm.vocabulary import check_vocabularies
from alignkd_lab.pipelines import ALGORITHMS, Align, Distil, Gkd, PreferenceDistil, Stage
from alignkd_lab.provenance import resolve_dtype
from alignkd_lab.results import Cost, Result
from alignkd_lab.store import Store, changed, part

START_CODE = 1  # raise it where a change of code changes what stages start from


class Terms:
    """Settings and algorithm: what stages and trials depend on, which no model is needed to tell.

    Raises:
        BadInput: unknown algorithm.
    """

    def __init__(self, settings: LmSettings, algorithm: str) -> None:
        if algorithm not in ALGORITHMS:
            raise UnknownName("algorithm", algorithm, ALGORITHMS)
        self.settings, self.algorithm = pin(settings), algorithm

    def start(self, name: str) -> Policy:
        return Policy(self.settings.base if name == "base" else self.settings.student_source)

    def origin(self, seed: int) -> dict:
        """What every sample and stage comes from, whatever the student and the machine."""
        model = model_of(self.settings.reward)
        return {
            "world": "lm",
            "seed": seed,
            "code": START_CODE,
            "base": weights.checksum(self.settings.base),
            "truth": weights.checksum(self.settings.truth),
            "prompts": digest(self.settings.prompts),
            **({"reward_model": weights.checksum(model)} if model else {}),
        }

    def _of(self, stage: Stage) -> tuple[dict, Any]:
        """What a stage's kept results are told apart by, its code's version among it, and its settings."""
        match stage:
            case Distil():
                return {"code": distil.CODE}, self._distil_settings(stage.temperature)
            case Gkd():
                return {"code": gkd.CODE}, part(GkdSettings, self.settings)
            case PreferenceDistil():
                kind = {"dckd": DckdSettings, "adpa": AdpaSettings}[stage.method]
                return {"code": adpa.CODE, "method": stage.method}, part(kind, self.settings, share=stage.share)
        return self._align_code(), self._align_settings(stage.whole_budget)

    def _distil_settings(self, temperature: str = "kd") -> DistilSettings:
        value = {"kd": self.settings.kd_temperature, "high": self.settings.kd_temperature_high}[temperature]
        return part(DistilSettings, self.settings, kd_temperature=value)

    def _align_code(self) -> dict:
        return {"algorithm": self.algorithm, "code": {"dpo": dpo.CODE, "rlhf": rloo.CODE}[self.algorithm]}

    def _align_settings(self, whole_budget: bool = False) -> DpoSettings | RlooSettings:
        if self.algorithm == "rlhf":
            return part(RlooSettings, self.settings)
        return part(DpoSettings, self.settings, align_steps=self.settings.steps_of_alignment(whole_budget))

    def rate_depends(self, role: str) -> dict:
        """What the learning rate of the role `base` or `student` depends on."""
        # Not the machine: a rate chosen on one serves every other, where rounding alone differs.
        start = self.origin(self.settings.trial_seed)
        if role == "student":
            start["student"] = identity(self.settings.student_source)
        return {"role": role, "start": start, **self._align_code(), **changed(self._align_settings()),
                "trials": self._trial_depends(role)}  # fmt: skip

    def _trial_settings(self) -> trials.TrialSettings:
        rates = self.settings.rates_to_try(self.algorithm)
        return part(trials.TrialSettings, self.settings, learning_rates=rates)

    def _trial_depends(self, init: str) -> dict:
        """What the choice of a learning rate depends on, beside what is aligned."""
        depends = {"code": trials.CODE, **changed(self._trial_settings())}
        if _role(init) == "student":
            # Chosen on a student distilled at `kd_temperature`, whatever the one to be aligned was distilled at.
            depends["distil"] = {"code": distil.CODE, **changed(self._distil_settings())}
        return depends


def check_weights(settings: LmSettings, algorithm: str, records: dict[int, dict]) -> None:
    """Raises BadInput where records of seeds, each by its seed, were made with other weights than the sources hold."""
    now = Terms(settings, algorithm).origin(0)
    with contextlib.suppress(CannotContinue):  # a healed student that is no longer here
        now["student"] = identity(settings.student_source)
    for seed, record in records.items():
        made = record["provenance"].get("weights", {})
        for name in sorted({"base", "truth", "student", "reward_model"} & made.keys() & now.keys()):
            if made[name] != now[name]:
                raise BadInput(
                    f"out: its record of seed {seed} was made with other weights of the {name}; name another folder "
                    "with --out, or bring those weights back"
                )


class LmWorld(Terms):
    """Settings, algorithm and one seed. `store` keeps samples and trials beside the stages.

    Raises:
        BadInput: unknown algorithm or target, or a tokenizer that is refused or is not the base's.
    """

    def __init__(self, settings: LmSettings, algorithm: str, seed: int, store: Store, device: str = "cpu") -> None:
        super().__init__(settings, algorithm)
        if seed == settings.trial_seed:
            raise BadInput(f"seed: {seed} is the seed of the learning-rate trials; choose another")
        settings, self.seeds, self.device = self.settings, (seed,), device
        self.store, self.dtype = store, resolve_dtype(settings.dtype, device)
        models, tokenizer = Models(device, getattr(torch, self.dtype)), weights.load_tokenizer(settings.base)
        student, truth = base_of_student(settings.student_source), settings.truth
        read = {source: tokenizer if source == settings.base else weights.load_tokenizer(source)
                for source in (student, truth)}  # fmt: skip
        check_vocabularies(read[student], base=tokenizer, truth=read[truth])

        asked = partial(prompts, source=settings.prompts)
        self.context = Context(models, tokenizer, asked, store, seed, self.origin(seed), settings.sample_batch)
        self.reward = Reward(self.context, part(RewardSettings, settings))
        self.evaluation = evaluate.Evaluation(
            self.context, self.reward, self.start("base"), part(EvaluationSettings, settings)
        )
        self._chosen: dict[str, dict] = {}

    # What results depend on ---------------------------------------------------------------------------

    def fingerprint(self) -> dict:
        here = {"device": torch.device(self.device).type, "dtype": self.dtype}
        return {**self.context.origin, "student": identity(self.settings.student_source), **here}

    def stage_settings(self, stage: Stage) -> dict:
        code, settings = self._of(stage)
        trials = {"trials": self._trial_depends(stage.init)} if isinstance(stage, Align) else {}
        return {**code, **changed(settings), **trials}

    def evaluation_settings(self) -> dict:
        return {"code": evaluate.CODE, **changed(part(EvaluationSettings, self.settings))}

    # Policies -----------------------------------------------------------------------------------------

    def save(self, policy: Policy, folder: Path) -> None:
        policy.save(folder)

    def load(self, folder: Path) -> Policy:
        return Policy.read(folder)

    # Stages -------------------------------------------------------------------------------------------

    @cached_property
    def admitted(self) -> bool:
        """That every model of the run computes what the fast path does, as far as its texts reach."""
        asked = [tokens for split in ("training", "validation", "test") for tokens in self.context.prompts(split, None)]
        reach = max(map(len, asked)) + self.settings.max_tokens
        starts = {self.start(role).start: True for role in ("base", "student")}
        for start, adapted in ({self.settings.truth: False} | starts).items():
            self.context.models.admit(start, reach=reach, adapted=adapted)
        return True

    def prepare(self, stage: Stage) -> None:
        """Models, yardstick and learning rate: whichever stage asks first, they are no cost of its own."""
        _ = self.admitted
        if isinstance(stage, Align | PreferenceDistil):
            _ = self.reward.yardstick
        if isinstance(stage, Align):
            self.trials(stage.init)

    def run(self, stage: Stage, policies: dict[str, Policy]) -> Result:
        context, (_, settings) = self.context, self._of(stage)
        init = policies[stage.init]
        match stage:
            case Distil():
                return distil.distil(context, policies[stage.teacher], init, settings, stage.name)
            case Gkd():
                return gkd.gkd(context, policies[stage.teacher], init, settings, stage.name)
            case PreferenceDistil():
                teachers = {role: policies[getattr(stage, role)] for role in adpa.TEACHERS[stage.method]}
                sampler = policies[stage.sampler]
                return adpa.preference_distil(context, self.reward, teachers, init, sampler, settings, stage.name)
        chosen, read = self.trials(stage.init), (policies[stage.reference], policies[stage.sampler])
        result = self.align(init, *read, chosen["learning_rate"], stage.name, settings)
        return replace(result, info={**result.info, "trials": chosen["trials"]})

    def align(
        self,
        init: Policy,
        reference: Policy,
        sampler: Policy,
        rate: float,
        name: str,
        settings: DpoSettings | RlooSettings | None = None,
        within: tuple[Context, Reward] | None = None,
    ) -> Result:
        """By the run's algorithm; with its settings, its context and its reward unless others are given."""
        settings = settings or self._align_settings()
        context, reward = within or (self.context, self.reward)
        if self.algorithm == "rlhf":
            return rloo.rloo(context, reward, init, reference, settings, rate, name)
        return dpo.dpo(context, reward, init, reference, sampler, settings, rate, name)

    # Learning rates -----------------------------------------------------------------------------------

    def trials(self, init: str) -> dict:
        """The learning rate of a stage that starts from `base` or a student, and the trials that chose it."""
        role = _role(init)
        if role not in self._chosen:
            tries = partial(
                trials.try_rates,
                start=partial(self._trial_init, role),
                align=lambda policy, rate, name: self.align(policy, policy, policy, rate, name, within=self._trial),
            )
            settings, depends = self._trial_settings(), self.rate_depends(role)
            self._chosen[role] = trials.choose_rate(settings, depends, self.store, tries)
        return self._chosen[role]

    @cached_property
    def _trial(self) -> tuple[Context, Reward]:
        seed = self.settings.trial_seed
        context = replace(self.context, seed=seed, origin=self.origin(seed))
        return context, Reward(context, part(RewardSettings, self.settings))

    def _trial_init(self, role: str) -> tuple[Policy, Cost]:
        base = self.start("base")
        if role == "base":
            return base, Cost()
        settings = self._distil_settings()
        result = distil.distil(self._trial[0], base, self.start("student"), settings, "trial kd")
        return result.policy, result.cost

    # Evaluation ---------------------------------------------------------------------------------------

    def evaluate(self, policy: Policy) -> dict:
        _ = self.admitted
        return self.evaluation.of(policy)

    def checks(self) -> dict[str, float]:
        """How far the student's recall lies below the base's on the truth's validation samples, nats per token."""
        samples = self.reward.truth.samples("validation", None, self.settings.truth_responses)

        def recall(policy: Policy) -> float:
            if self.reward.truth.wrote(policy):
                return pooled_mean(samples.log_probs)
            return pooled_mean(self.context.score(self.context.models.of(policy), samples))

        gap = recall(self.start("base")) - recall(self.start("student"))
        return {"healing_gap": gap, "healing_bar": HEALING_BAR}


def _role(init: str) -> str:
    """Whose learning rate a stage trains with that starts from this policy."""
    return "base" if init == "base" else "student"
