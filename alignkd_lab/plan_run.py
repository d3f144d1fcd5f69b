"""What `alignkd run` would cost: tokens are counted from its stages and settings alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from alignkd_lab.clock import START, Clock, How, Rates, Shape
from alignkd_lab.errors import CannotContinue
from alignkd_lab.experiment import Cell, cells_of
from alignkd_lab.lm import weights
from alignkd_lab.lm.feasibility import expected_pairs
from alignkd_lab.lm.prompts import encode, prompts
from alignkd_lab.lm.rewards import model_of
from alignkd_lab.lm.settings import HEALED, LmSettings
from alignkd_lab.lm.shapes import adapter_size, config_of, is_here, parameters
from alignkd_lab.lm.student import Recipe, student_identity
from alignkd_lab.lm.trials import shipped
from alignkd_lab.lm.world import Terms
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import PIPELINES, ROLES, YARDSTICKS, Align, Distil, Gkd, PreferenceDistil, Stage
from alignkd_lab.records import load
from alignkd_lab.results import KINDS

A_TOKEN, A_RESPONSE = 7, 270  # bytes of samples that are kept
TARGET_RATE = 0.05  # of responses that meet a target, unless more is known


def plan_run(
    request: dict[str, Any], rates: Rates | None = None, target_rate: float = TARGET_RATE, written: int | None = None,
    start: float = START,
) -> dict[str, Any]:  # fmt: skip
    """Of arguments of `experiment.run_experiment`: stages with tokens and seconds; time, memory and disk in sum.

    Seconds are measured for the run's own sizes, or estimated by `rates`; `start` of them pass before it works. Every
    response has `written` tokens, or as many as it may; `target_rate` of them meet the target, on which the number of
    pairs depends, though all steps are taken. Nothing that is kept in `out` already is subtracted.

    Raises:
        CannotContinue: a model of the hub that was never fetched, so that its size is not known.
    """
    cells = cells_of({**request, "device": None})
    if request["world"] == "mog":
        return _plan_mog(cells, start)
    ((*_, algorithm, settings, names, seeds),) = cells
    clock = Clock(request.get("device"), settings.dtype, rates)
    counted = replace(settings, max_tokens=min(written or settings.max_tokens, settings.max_tokens))
    run = Run(counted, algorithm, target_rate, clock)
    if not _is_made(settings):
        run.heal()
    for role in _trials(settings, algorithm, names):
        run.try_rates(role)
    once, kept_once = sum(row["seconds"] for row in clock.rows.values()), run.kept
    run.walk(names)
    each = sum(row["seconds"] for row in clock.rows.values()) - once
    clock.handle("start", sum(map(parameters, run.configs.values())))
    once += clock.spend("start", start)["seconds"]
    kept = kept_once + len(seeds) * (run.kept - kept_once)
    return clock.sum_up(
        "run", once + len(seeds) * each, run.memory(), kept, kept, run.configs,
        seeds=len(seeds), response_tokens=counted.max_tokens, target_rate=target_rate,
    )  # fmt: skip


class Run:
    """Charges a clock for one seed, walking pipelines as `pipelines.run_pipelines` does.

    A policy is the chain of stages that made it. `configs` are those of the models by their sources; `kept` are the
    bytes in the store: of a policy an adapter for every stage that made it, and samples that are read again.
    """

    def __init__(self, settings: LmSettings, algorithm: str, target_rate: float, clock: Clock) -> None:
        self.settings, self.algorithm, self.rate, self.clock = settings, algorithm, target_rate, clock
        sources = {settings.base, settings.truth, settings.student_source, model_of(settings.reward)} - {""}
        self.configs = {source: config_of(source) for source in sources}
        self.prompt, self.validation = _prompt_tokens(settings), len(prompts("validation", source=settings.prompts))
        self.kept, self.done, self.place = 0, set(), ""

    # The work of a model, in tokens of responses

    def _sample(self, source: str, tokens: int, responses: int, at_once: int | None = None) -> None:
        settings = self.settings
        at_once = min(at_once or tokens // settings.max_tokens, settings.sample_batch)
        shape = Shape(self.prompt, settings.max_tokens, responses, at_once)
        self.clock.add(self.place, "sampled", self.configs[source], tokens, shape)

    def _keep(self, source: str, tokens: int, responses: int) -> None:
        """Samples that are kept in the store."""
        self._sample(source, tokens, responses)
        self.kept += A_TOKEN * tokens + A_RESPONSE * tokens // self.settings.max_tokens

    def _score(self, source: str, tokens: int) -> None:
        shape = Shape(self.prompt, self.settings.max_tokens, self.settings.test_responses)
        self.clock.add(self.place, "scored", self.configs[source], tokens, shape)

    def _train(self, source: str, tokens: int, loss: str, responses: int) -> None:
        shape, how = Shape(self.prompt, self.settings.max_tokens, responses), How(loss, self.settings.lora_rank)
        self.clock.add(self.place, "trained", self.configs[source], tokens, shape, how)
        self.clock.handle(self.place, parameters(self.configs[source]))

    def _once(self, *key: Hashable) -> bool:
        """Whether this is the first that asks; the others find it kept."""
        new = key not in self.done
        self.done.add(key)
        return new

    def _source(self, policy: tuple) -> str:
        """Of the weights that the policy starts from."""
        return self.settings.base if policy[0] == "base" else self.settings.student_source

    def _is_truth(self, policy: tuple | None) -> bool:
        return policy == ("base",) and self.settings.base == self.settings.truth

    # Pipelines and their stages

    def walk(self, names: Sequence[str]) -> None:
        """The yardsticks, the pipelines and the check of the student."""
        for name in dict.fromkeys((*YARDSTICKS, *names)):
            policies = {"base": ("base",), "student": ("student",)}
            last = policies["base"]
            for stage in PIPELINES[name]:
                read = {role: policies[getattr(stage, role)] for role in ROLES if hasattr(stage, role)}
                last = policies[stage.name] = (*read["init"], (stage, *read.values()))
                if self._once(last):
                    self.place = stage.name
                    self._stage(stage, **read)
                    adapter = adapter_size(self.configs[self._source(last)], self.settings.lora_rank)
                    self.kept += 4 * adapter * (len(last) - 1)
            if self._once("evaluated", last):
                self.place = "evaluation"
                self._evaluate(last)
        self.place = "checks"  # how far the student lies below its base: both read the truth's validation samples
        for policy in (("base",), ("student",)):
            if not self._is_truth(policy):
                self._score(self._source(policy), self._of_validation(self.settings.truth_responses))

    def heal(self) -> None:
        """What `lm.student.heal` does to make the student, but for the choice of its layers."""
        stage, recipe, clock = "healing the student", Recipe(), self.clock
        base, student = self.configs[self.settings.base], self.configs[self.settings.student_source]
        shape, each = Shape(self.prompt, recipe.max_tokens, recipe.responses), recipe.responses * recipe.max_tokens
        heldout = each * len(prompts("validation"))
        clock.add(stage, "sampled", base, each * len(prompts("healing", all_frames=True)) + heldout, shape)
        clock.add(stage, "trained", student, recipe.steps * recipe.batch * each, shape, How("kd", recipe.rank))
        clock.add(stage, "scored", student, 2 * heldout, shape)

    def try_rates(self, role: str) -> None:
        """The trials by which the learning rate of a role is chosen (`lm.trials`)."""
        settings, policy = self.settings, (role, "trial")
        self.place = f"trials of the {role}"
        if role == "student":
            self._stage(Distil("trial kd", teacher="base"), init=("student",), teacher=("base",))
        if self._once("trial yardstick"):
            self._yardstick()
        for _ in settings.rates_to_try(self.algorithm):
            self._align(policy, policy, policy, settings.align_steps)

    def _stage(self, stage: Stage, init: tuple, **read: tuple) -> None:
        settings, source, length = self.settings, self._source(init), self.settings.max_tokens
        prompts, responses = settings.distil_prompts, settings.distil_responses
        taught = prompts * responses * length
        match stage:
            case Distil():
                self._sample(self._source(read["teacher"]), taught, responses)
                loss = "kd" if settings.kd_loss == "full" else "nll"
                self._train(source, settings.distil_passes * taught, loss, responses)
            case Gkd():
                batch = min(settings.distil_batch, prompts) * responses
                written = max(1, settings.distil_passes * prompts // settings.distil_batch) * batch * length
                self._sample(source, written, 1, batch)
                self._train(source, written, "gkd", 1)
                self._score(self._source(read["teacher"]), written)
            case PreferenceDistil():
                self._preference_distil(stage, source, read)
            case Align():
                steps = settings.steps_of_alignment(stage.whole_budget)
                self._align(init, read["reference"], read["sampler"], steps)

    def _preference_distil(self, stage: PreferenceDistil, source: str, read: dict[str, tuple]) -> None:
        settings, length = self.settings, self.settings.max_tokens
        pairs = self._draw(read["sampler"])
        written = settings.student_responses if stage.method == "adpa" else 0
        if written:
            self._sample(source, settings.preference_prompts * written * length, written)
        responses = 1 + written if written else 2
        batch = max(1, round(settings.distil_batch * settings.distil_responses / responses))
        steps = max(1, round(stage.share * settings.distil_passes * settings.distil_prompts / settings.distil_batch))
        for role in ("teacher", "reference")[: 2 if written else 1]:
            self._score(self._source(read[role]), pairs * (written or 2) * length)
        self._train(source, steps * min(batch, pairs) * responses * length, stage.method, responses)

    def _align(self, init: tuple, reference: tuple, sampler: tuple, steps: int) -> None:
        settings, length, source = self.settings, self.settings.max_tokens, self._source(init)
        if self.algorithm == "rlhf":
            steps, responses = settings.rlhf_steps, settings.rlhf_generations
            rows = settings.rlhf_prompts * responses
            drawn = steps * rows * length
            self._sample(source, drawn, responses, rows)
            self._score(source, drawn)
            self._train(source, drawn, "rloo", responses)
            self._score(self._source(reference), drawn)
            self._reward(drawn)
        else:
            pairs = self._draw(sampler)
            self._train(source, steps * min(settings.align_batch, pairs) * 2 * length, "dpo", 2)
            if reference != sampler:
                self._score(self._source(reference), 2 * pairs * length)
        points = len({0, *(round(steps * (at + 1) / settings.curve_points) for at in range(settings.curve_points))})
        read = self._of_validation(settings.validation_responses)
        for _ in range(points):
            self._sample(source, read, settings.validation_responses)
        self._score(self._source(reference), points * read)
        self._reward(points * read)

    def _draw(self, sampler: tuple) -> int:
        """Preference samples, drawn once and counted by all who read them; the number of informative pairs."""
        settings = self.settings
        count, responses = settings.preference_prompts, settings.preference_responses
        drawn = count * responses * settings.max_tokens
        if self._once("preferences", sampler):
            self._keep(self._source(sampler), drawn, responses)
        else:
            self.clock.spend(self.place, 0.0)["sampled"] += drawn
        self._reward(drawn, sampler)
        return max(1, round(float(expected_pairs(self.rate, count, responses))))

    def _reward(self, tokens: int, policy: tuple | None = None) -> None:
        """What the truth reads for it: of what meets the rule; a reward model reads all."""
        reward = self.settings.reward
        if reward == "likelihood" and not self._is_truth(policy):
            self._score(self.settings.truth, round(self.rate * tokens))
        elif model := model_of(reward):
            self._score(model, tokens)

    def _evaluate(self, policy: tuple) -> None:
        settings, source, length = self.settings, self._source(policy), self.settings.max_tokens
        prompts, responses, truth = settings.test_prompts, settings.test_responses, settings.truth
        own = prompts * responses * length
        if self._once("truth"):
            self._yardstick()
            self._keep(truth, own, responses)
        self._sample(source, own, responses)
        if not self._is_truth(policy):
            self._score(truth, own)
            self._score(source, own)
        if model_of(settings.reward):
            self._reward(own)
        if policy != ("base",):
            if settings.base != truth:
                self._score(settings.base, own)
            if self._once("held-out"):
                held = prompts * settings.heldout_responses * length
                self._keep(settings.base, held, settings.heldout_responses)
                self._reward(held, ("base",))
            pairs = round(float(expected_pairs(self.rate, prompts, settings.heldout_responses)))
            self._score(source, 2 * pairs * length)

    def _yardstick(self) -> None:
        """The truth's samples of validation prompts."""
        responses = self.settings.truth_responses
        self._keep(self.settings.truth, self._of_validation(responses), responses)

    def _of_validation(self, responses: int) -> int:
        """Tokens of so many responses to each validation prompt."""
        return self.validation * responses * self.settings.max_tokens

    def memory(self) -> float:
        """Weights that are held at once, and the larger of what a step keeps and what sampling holds.

        Held are the starts, the truth again, and of a stage a teacher or reference and who learns.
        """
        settings, clock = self.settings, self.clock
        size = {source: 4 * parameters(config) for source, config in self.configs.items()}
        held = sum(size.values()) + size[settings.truth] + 2 * size[settings.base]
        taught = settings.distil_batch * settings.distil_responses
        rows = {"dpo": 2 * settings.align_batch, "rloo": settings.rlhf_prompts * settings.rlhf_generations}
        kept = (rows.get(loss, taught) * settings.max_tokens * of for loss, of in clock.kept_bytes.items())
        at_once = min(settings.sample_batch, settings.preference_prompts * settings.preference_responses)
        half = 0 if clock.dtype == "float32" else size[settings.base] // 2
        length = self.prompt + settings.max_tokens
        writing = clock.sampling_bytes(self.configs[settings.base], at_once, length) + half
        return clock.resident + held + max(max(kept, default=0.0) + clock.logits_bytes, writing)


def _prompt_tokens(settings: LmSettings) -> int:
    """Of a training prompt on average; where the tokenizer is not here, a template's and one for four characters."""
    texts = prompts("training", source=settings.prompts)
    if not is_here(settings.base):
        return round(sum(map(len, texts)) / len(texts) / 4) + 12
    return round(sum(map(len, encode(weights.load_tokenizer(settings.base), texts))) / len(texts))


def _is_made(settings: LmSettings) -> bool:
    """Whether the student is at hand; a healed one is made by the first run that names it."""
    if HEALED.fullmatch(settings.student):
        try:
            student_identity(settings.base, settings.student)
        except CannotContinue:
            return False
    return True


def _trials(settings: LmSettings, algorithm: str, names: Sequence[str]) -> list[str]:
    """The roles whose learning rate must be found first, since none ships for these settings."""
    roles = {"base" if stage.init == "base" else "student"
             for name in names for stage in PIPELINES[name] if isinstance(stage, Align)}  # fmt: skip
    terms, found = Terms(settings, algorithm), []
    for role in sorted(roles) if len(settings.rates_to_try(algorithm)) > 1 else []:
        try:
            held = shipped(terms.rate_depends(role))
        except CannotContinue:  # a healed student that is not made yet
            held = None
        found += [] if held else [role]
    return found


def _plan_mog(cells: Sequence[Cell], start: float) -> dict[str, Any]:
    """Cells of one batch cost alike, so the seconds that were recorded, on another machine, serve for all of them."""
    seeds = len(cells[0].seeds)
    recorded = load(data_folder() / "records" / "gaussians-pilot.zip").provenance["seconds"].mean()
    row = {"stage": f"{len(cells)} cells", **dict.fromkeys(KINDS, 0), "seconds": len(cells) * seeds * recorded}
    return {"what": "run", "device": "cpu", "estimate": "as long as the recorded runs took", "stages": [row],
            "seconds": row["seconds"] + start, "seeds": seeds}  # fmt: skip
