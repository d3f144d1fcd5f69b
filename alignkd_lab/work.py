"""What pipelines cost in the language world, in tokens: counted from their stages and settings alone."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.pipelines import PIPELINES, ROLES, Align, Distil, Gkd, PreferenceDistil, Stage
from alignkd_lab.results import KINDS

TARGET_RATE = 0.05  # of responses that meet a target, unless more is known
COUNTS = (*KINDS, "kept")


class Work:
    """Walks pipelines as `pipelines.run_pipelines` does. A policy is the chain of stages that made it."""

    def __init__(self, settings: LmSettings, algorithm: str, target_rate: float) -> None:
        self._settings, self._sizes, self._rate = settings, {}, target_rate
        self._algorithm, self._validation = algorithm, len(prompts("validation", source=settings.prompts))
        self.entries: list[dict] = []
        self._done: set = set()
        self._place = ""

    def _add(self, source: str, **counts: Any) -> None:
        from alignkd_lab.lm import shapes  # brings torch

        if source not in self._sizes:
            whole = self._settings.student_source if source == self._settings.student else source
            self._sizes[source] = shapes.parameters(shapes.config_of(whole))
        entry = {"stage": self._place, "model": source, "parameters": self._sizes[source]}
        self.entries.append({**entry, **dict.fromkeys(COUNTS, 0), **counts})

    def _once(self, *key: Hashable) -> bool:
        """Whether this is the first that asks; the others find it kept."""
        new = key not in self._done
        self._done.add(key)
        return new

    def _source(self, policy: tuple) -> str:
        """Of the weights that the policy starts from."""
        return self._settings.base if policy[0] == "base" else self._settings.student

    def _is_truth(self, policy: tuple | None) -> bool:
        return policy == ("base",) and self._settings.base == self._settings.truth

    def run(self, pipeline: str) -> None:
        policies = {"base": ("base",), "student": ("student",)}
        last = policies["base"]
        for stage in PIPELINES[pipeline]:
            read = {role: policies[getattr(stage, role)] for role in ROLES if hasattr(stage, role)}
            last = policies[stage.name] = (*read["init"], (stage, *read.values()))
            if self._once(last):
                self._place = stage.name
                self._stage(stage, **read)
        if self._once("evaluated", last):
            self._place = "evaluation"
            self._evaluate(last)

    def _stage(self, stage: Stage, init: tuple, **read: tuple) -> None:
        settings, source, length = self._settings, self._source(init), self._settings.max_tokens
        prompts, responses = settings.distil_prompts, settings.distil_responses
        taught = prompts * responses * length
        match stage:
            case Distil():
                loss = "kd" if settings.kd_loss == "full" else "nll"
                self._add(self._source(read["teacher"]), sampled=taught, responses=responses)
                self._add(source, trained=settings.distil_passes * taught, loss=loss, responses=responses)
            case Gkd():
                batch = min(settings.distil_batch, prompts) * responses
                written = max(1, settings.distil_passes * prompts // settings.distil_batch) * batch * length
                self._add(source, sampled=written, trained=written, loss="gkd", responses=1, at_once=batch)
                self._add(self._source(read["teacher"]), scored=written, responses=1)
            case PreferenceDistil():
                self._preference_distil(stage, source, read)
            case Align():
                steps = settings.steps_of_alignment(stage.whole_budget)
                self._align(init, read["reference"], read["sampler"], steps)

    def _preference_distil(self, stage: PreferenceDistil, source: str, read: dict[str, tuple]) -> None:
        settings, length = self._settings, self._settings.max_tokens
        pairs = self._draw(read["sampler"])
        written = settings.student_responses if stage.method == "adpa" else 0
        if written:
            self._add(source, sampled=settings.preference_prompts * written * length, responses=written)
        responses = 1 + written if written else 2
        batch = max(1, round(settings.distil_batch * settings.distil_responses / responses))
        steps = max(1, round(stage.share * settings.distil_passes * settings.distil_prompts / settings.distil_batch))
        for role in ("teacher", "reference")[: 2 if written else 1]:
            self._add(self._source(read[role]), scored=pairs * (written or 2) * length, responses=responses)
        trained = steps * min(batch, pairs) * responses * length
        self._add(source, trained=trained, loss=stage.method, responses=responses)

    def _align(self, init: tuple, reference: tuple, sampler: tuple, steps: int) -> None:
        settings, length, source = self._settings, self._settings.max_tokens, self._source(init)
        if self._algorithm == "rlhf":
            steps = settings.rlhf_steps
            responses = settings.rlhf_generations
            rows = settings.rlhf_prompts * responses
            drawn = steps * rows * length
            self._add(source, sampled=drawn, trained=drawn, scored=drawn, loss="rloo", responses=responses,
                      at_once=rows)  # fmt: skip
            self._add(self._source(reference), scored=drawn, responses=responses)
            self._reward(drawn, None)
        else:
            pairs = self._draw(sampler)
            trained = steps * min(settings.align_batch, pairs) * 2 * length
            self._add(source, trained=trained, loss="dpo", responses=2)
            if reference != sampler:
                self._add(self._source(reference), scored=2 * pairs * length, responses=2)
        points = len({0, *(round(steps * (at + 1) / settings.curve_points) for at in range(settings.curve_points))})
        read = points * self._validation * settings.validation_responses * length
        for _ in range(points):
            self._add(source, sampled=read // points, responses=settings.validation_responses)
        self._add(self._source(reference), scored=read, responses=settings.validation_responses)
        self._reward(read, None)

    def _draw(self, sampler: tuple) -> int:
        """Preference samples, which are drawn once; the number of informative pairs."""
        settings = self._settings
        drawn = settings.preference_prompts * settings.preference_responses * settings.max_tokens
        kind = "sampled" if self._once("preferences", sampler) else "kept"
        self._add(self._source(sampler), **{kind: drawn}, responses=settings.preference_responses)
        self._reward(drawn, sampler)
        return max(1, self._pairs(settings.preference_prompts, settings.preference_responses))

    def _pairs(self, prompts: int, responses: int) -> int:
        from alignkd_lab.lm.feasibility import expected_pairs  # brings pandas

        return round(float(expected_pairs(self._rate, prompts, responses)))

    def _reward(self, tokens: int, policy: tuple | None) -> None:
        """What the truth reads for it: of what meets the rule; a reward model reads all."""
        reward = self._settings.reward
        if reward == "likelihood" and not self._is_truth(policy):
            self._add(self._settings.truth, scored=round(self._rate * tokens))
        elif reward.startswith("model:"):
            self._add(reward.removeprefix("model:"), scored=tokens)

    def _evaluate(self, policy: tuple) -> None:
        settings, source, length = self._settings, self._source(policy), self._settings.max_tokens
        own, truth = settings.test_prompts * settings.test_responses * length, settings.truth
        if self._once("truth"):
            self._yardstick()
            self._add(truth, sampled=own, responses=settings.test_responses)
        self._add(source, sampled=own, responses=settings.test_responses)
        if not self._is_truth(policy):
            self._add(truth, scored=own, responses=settings.test_responses)
            self._add(source, scored=own, responses=settings.test_responses)
        if settings.reward.startswith("model:"):
            self._reward(own, policy)
        if policy != ("base",):
            if settings.base != truth:
                self._add(settings.base, scored=own, responses=settings.test_responses)
            held = settings.test_prompts * settings.heldout_responses * length
            if self._once("held-out"):
                self._add(settings.base, sampled=held, responses=settings.heldout_responses)
                self._reward(held, ("base",))
            pairs = self._pairs(settings.test_prompts, settings.heldout_responses)
            self._add(source, scored=2 * pairs * length)

    def _yardstick(self) -> None:
        """The truth's samples of validation prompts."""
        sampled = self._validation * self._settings.truth_responses * self._settings.max_tokens
        self._add(self._settings.truth, sampled=sampled, responses=self._settings.truth_responses)

    def try_rates(self, role: str) -> None:
        """The trials by which the learning rate of a role is chosen (`lm.trials`)."""
        settings, policy = self._settings, (role, "trial")
        self._place = f"trials of the {role}"
        if role == "student":
            self._stage(Distil("trial kd", teacher="base"), init=("student",), teacher=("base",))
        if self._once("trial yardstick"):
            self._yardstick()
        for _ in settings.rates_to_try(self._algorithm):
            self._align(policy, policy, policy, settings.align_steps)

    def check(self) -> None:
        """How far the student lies below its base: both read the truth's validation samples."""
        self._place = "checks"
        read = self._validation * self._settings.truth_responses * self._settings.max_tokens
        for policy in (("base",), ("student",)):
            if not self._is_truth(policy):
                self._add(self._source(policy), scored=read, responses=self._settings.truth_responses)
