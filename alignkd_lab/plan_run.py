"""What `alignkd run` would cost: tokens are counted from its stages and settings alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from alignkd_lab.clock import START, Clock, Machine, Rates
from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.experiment import Cell, cells_of
from alignkd_lab.lm.feasibility import expected_pairs
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.rewards import model_of
from alignkd_lab.lm.settings import HEALED, LmSettings
from alignkd_lab.lm.shapes import adapter_size, config_of, parameters
from alignkd_lab.lm.student import Recipe, student_identity
from alignkd_lab.lm.trials import shipped
from alignkd_lab.lm.world import Terms
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import PIPELINES, YARDSTICKS, Align, Distil, Gkd, PreferenceDistil, Stage
from alignkd_lab.records import load
from alignkd_lab.results import KINDS

TARGET_RATE = 0.05  # of responses that meet a target, unless more is known


def plan_run(
    request: dict[str, Any], rates: Rates | None = None, target_rate: float = TARGET_RATE, written: int | None = None
) -> dict[str, Any]:
    """Of arguments of `experiment.run_experiment`: stages with tokens and seconds; time, memory and disk in sum.

    Seconds are measured here, or estimated by `rates`. Every response has `written` tokens, or as many as it may;
    `target_rate` of them meet the target, on which the number of pairs depends, though all steps are taken. Nothing
    that is kept in `out` already is subtracted.

    Raises:
        CannotContinue: a model of the hub that was never fetched, so that its size is not known.
    """
    cells = cells_of({**request, "device": None})
    if request["world"] == "mog":
        return _plan_mog(cells)
    ((*_, algorithm, settings, names, seeds),) = cells
    settings = replace(settings, max_tokens=min(written or settings.max_tokens, settings.max_tokens))
    texts = prompts("training", source=settings.prompts)
    prompt = round(sum(map(len, texts)) / len(texts) / 4) + 12  # of four characters a token, and a template's
    speed = rates or Machine(request.get("device"), settings.dtype, prompt, settings.max_tokens)
    clock = Clock(speed, settings.dtype)
    run = Run(settings, algorithm, target_rate, clock, prompt)
    run.prepare(names)
    once = clock.seconds
    run.walk(names)
    seconds = once + len(seeds) * (clock.seconds - once) + clock.start(sum(map(parameters, run.configs.values())))
    kept = len(seeds) * run.kept
    return clock.plan(
        "run", seconds, run.memory(), kept, kept, run.configs, seeds=len(seeds), response_tokens=settings.max_tokens,
        target_rate=target_rate,
    )  # fmt: skip


class Run:
    """Charges a clock for one seed, in tokens of responses.

    Attributes:
        configs: of the models, by their sources.
        made: the source of the weights of each policy, and the adapters that it carries.
        kept: bytes in the store: of each policy its adapters, beside which samples hardly count.
        place: the stage that is charged.
    """

    def __init__(
        self, settings: LmSettings, algorithm: str, target_rate: float, clock: Clock, prompt: int = 20
    ) -> None:
        self.settings, self.algorithm, self.rate, self.clock = settings, algorithm, target_rate, clock
        self.prompt, self.length, self.place, self.kept = prompt, settings.max_tokens, "", 0
        sources = {settings.base, settings.truth, settings.student_source, model_of(settings.reward)} - {""}
        self.configs = {source: config_of(source) for source in sources}
        self.validation = len(prompts("validation", source=settings.prompts)) * self.length
        self.made = {"base": (settings.base, 0), "student": (settings.student_source, 0)}
        self.drawn: set[str] = set()  # the policies of which preference samples are kept

    def prepare(self, names: Sequence[str]) -> None:
        """What is done once for all seeds: a healed student that is not here, and trials that do not ship."""
        settings, healed = self.settings, True
        if HEALED.fullmatch(settings.student):
            try:
                student_identity(settings.base, settings.student)
            except CannotContinue:
                healed = False
                self._heal()
        rates, terms = settings.rates_to_try(self.algorithm), Terms(settings, self.algorithm)
        aligned = {stage.init for name in names for stage in PIPELINES[name] if isinstance(stage, Align)}
        for role in sorted({"base" if init == "base" else "student" for init in aligned} if len(rates) > 1 else ()):
            if (healed or role == "base") and shipped(terms.rate_depends(role)):
                continue
            self.place = f"trials of the {role}"
            if role == "student":
                self._stage(Distil("trial kd", teacher="base"))
            self._sample(settings.truth, self.validation * settings.truth_responses, settings.truth_responses)
            for _ in rates:
                self._align(role, role, role, settings.align_steps)
        self.drawn.clear()

    def walk(self, names: Sequence[str]) -> None:
        """The stages of the yardsticks and the pipelines, each once, and the evaluation of what they end in."""
        settings, names = self.settings, dict.fromkeys((*YARDSTICKS, *names))
        for stage in dict.fromkeys(stage for name in names for stage in PIPELINES[name]):
            source, adapters = self.made[stage.init]
            self.made[stage.name], self.place = (source, adapters + 1), stage.name
            self._stage(stage)
            self.kept += 4 * (adapters + 1) * adapter_size(self.configs[source], settings.lora_rank)
        self.place = "evaluation"
        truth, own = settings.truth, settings.test_prompts * settings.test_responses * self.length
        heldout = settings.test_prompts * settings.heldout_responses * self.length
        pairs = round(float(expected_pairs(self.rate, settings.test_prompts, settings.heldout_responses)))
        yardstick = self.validation * settings.truth_responses
        self._sample(truth, yardstick, settings.truth_responses)
        for start in ("base", "student"):  # how far the student lies below its base
            self._score_unless_truth(start, yardstick)
        self._sample(truth, own, settings.test_responses)
        self._sample(settings.base, heldout, settings.heldout_responses)
        self._reward(heldout, "base")
        for name in names:
            last = PIPELINES[name][-1].name if PIPELINES[name] else "base"
            source, _ = self.made[last]
            self._sample(source, own, settings.test_responses)
            self._score_unless_truth(last, own)
            if not self._is_truth(last):
                self._score(truth, own)
            if model_of(settings.reward):
                self._reward(own)
            if last != "base":
                self._score_unless_truth("base", own)
                self._score(source, 2 * pairs * self.length)

    # The work of a model, in tokens of responses, so many of them to a prompt

    def _add(self, kind: str, source: str, tokens: int, responses: int, at_once: int = 1, heads: int = 0) -> None:
        read = tokens + self.prompt * tokens / (responses * self.length)
        self.clock.add(self.place, kind, self.configs[source], tokens, read, at_once, heads)

    def _sample(self, source: str, tokens: int, responses: int, at_once: int | None = None) -> None:
        at_once = min(at_once or tokens // self.length, self.settings.sample_batch)
        self._add("sampled", source, tokens, responses, at_once)

    def _score(self, source: str, tokens: int) -> None:
        self._add("scored", source, tokens, self.settings.test_responses)

    def _is_truth(self, policy: str) -> bool:
        return policy == "base" and self.settings.base == self.settings.truth

    def _score_unless_truth(self, policy: str, tokens: int) -> None:
        """What the truth wrote or reads in any case is known under the base, where it is the truth."""
        if not self._is_truth(policy):
            self._score(self.made[policy][0], tokens)

    def _reward(self, tokens: int, policy: str = "") -> None:
        """What the truth reads for it: of what meets the rule, unless it wrote it; a reward model reads all."""
        if self.settings.reward == "likelihood" and not self._is_truth(policy):
            self._score(self.settings.truth, round(self.rate * tokens))
        elif model := model_of(self.settings.reward):
            self._score(model, tokens)

    # Stages

    def _heal(self) -> None:
        """What `lm.student.heal` does to make the student, but for the choice of its layers."""
        self.place, recipe, student = "healing the student", Recipe(), self.settings.student_source
        each = recipe.responses * recipe.max_tokens
        heldout = each * len(prompts("validation"))
        texts = each * len(prompts("healing", all_frames=True)) + heldout
        self._sample(self.settings.base, texts, recipe.responses)
        self._add("trained", student, recipe.steps * recipe.batch * each, recipe.responses, heads=1)
        self._score(student, 2 * heldout)

    def _stage(self, stage: Stage) -> None:
        settings, (source, _) = self.settings, self.made[stage.init]
        prompts, responses = settings.distil_prompts, settings.distil_responses
        taught = prompts * responses * self.length
        match stage:
            case Distil():
                self._sample(self.made[stage.teacher][0], taught, responses)
                heads = int(settings.kd_loss == "full")
                self._add("trained", source, settings.distil_passes * taught, responses, heads=heads)
            case Gkd():
                batch = min(settings.distil_batch, prompts) * responses
                written = max(1, settings.distil_passes * prompts // settings.distil_batch) * batch * self.length
                self._sample(source, written, 1, batch)
                self._add("trained", source, written, 1, heads=1)
                self._score(self.made[stage.teacher][0], written)
            case PreferenceDistil():
                self._preference_distil(stage, source)
            case Align():
                steps = settings.steps_of_alignment(stage.whole_budget)
                self._align(stage.init, stage.reference, stage.sampler, steps)

    def _preference_distil(self, stage: PreferenceDistil, source: str) -> None:
        settings, pairs = self.settings, self._draw(stage.sampler)
        teachers, responses, read = [stage.teacher], 2, 2
        if stage.method == "adpa":
            read = settings.student_responses
            teachers, responses = [stage.teacher, stage.reference], 1 + read
            self._sample(source, settings.preference_prompts * read * self.length, read)
        batch = max(1, round(settings.distil_batch * settings.distil_responses / responses))
        steps = max(1, round(stage.share * settings.distil_passes * settings.distil_prompts / settings.distil_batch))
        for teacher in teachers:
            self._score(self.made[teacher][0], pairs * read * self.length)
        tokens = steps * min(batch, pairs) * responses * self.length
        self._add("trained", source, tokens, responses, heads=len(teachers))

    def _align(self, init: str, reference: str, sampler: str, steps: int) -> None:
        settings, source, under = self.settings, self.made[init][0], self.made[reference][0]
        if self.algorithm == "rlhf":
            steps, responses = settings.rlhf_steps, settings.rlhf_generations
            rows = settings.rlhf_prompts * responses
            drawn = steps * rows * self.length
            self._sample(source, drawn, responses, rows)
            self._score(source, drawn)
            self._add("trained", source, drawn, responses)
            self._score(under, drawn)
            self._reward(drawn)
        else:
            pairs = self._draw(sampler)
            self._add("trained", source, steps * min(settings.align_batch, pairs) * 2 * self.length, 2)
            if reference != sampler:
                self._score(under, 2 * pairs * self.length)
        points = len({0, *(round(steps * (at + 1) / settings.curve_points) for at in range(settings.curve_points))})
        read = self.validation * settings.validation_responses
        for _ in range(points):
            self._sample(source, read, settings.validation_responses)
        self._score(under, points * read)
        self._reward(points * read)

    def _draw(self, sampler: str) -> int:
        """Preference samples, drawn once and counted by all who read them; the number of informative pairs."""
        count, responses = self.settings.preference_prompts, self.settings.preference_responses
        tokens = count * responses * self.length
        if sampler in self.drawn:
            self.clock.spend(self.place, 0.0)["sampled"] += tokens
        else:
            self.drawn.add(sampler)
            self._sample(self.made[sampler][0], tokens, responses)
        self._reward(tokens, sampler)
        return max(1, round(float(expected_pairs(self.rate, count, responses))))

    def memory(self) -> float:
        """Held are the starts, the truth again, and of a stage a teacher or reference and who learns."""
        settings, clock = self.settings, self.clock
        base, student = self.configs[settings.base], self.configs[settings.student_source]
        size = {source: 4 * parameters(config) for source, config in self.configs.items()}
        held = sum(size.values()) + size[settings.truth] + 2 * size[settings.base]
        taught = settings.distil_batch * (self.prompt + settings.distil_responses * self.length)
        aligned = settings.align_batch * (self.prompt + 2 * self.length)
        at_once = min(settings.sample_batch, settings.preference_prompts * settings.preference_responses)
        writing = clock.sampling_bytes(base, at_once, self.prompt + self.length)
        return clock.memory(held, clock.kept_bytes(student, taught), clock.kept_bytes(base, aligned), writing)


def _plan_mog(cells: Sequence[Cell]) -> dict[str, Any]:
    """Cells of one batch cost alike, so the seconds that were recorded, on another machine, serve for all of them.

    Raises BadInput for settings other than the recorded ones, on which those seconds depend.
    """
    seeds, usual = len(cells[0].seeds), MogSettings()
    for cell in cells:
        if replace(cell.settings, beta=usual.beta, sharpening=usual.sharpening) != usual:
            raise BadInput(
                "plan: of Gaussians only the preset laptop was timed, at its settings but for beta and sharpening"
            )
    recorded = load(data_folder() / "records" / "gaussians-pilot.zip").provenance["seconds"].mean()
    row = {"stage": f"{len(cells)} cells", **dict.fromkeys(KINDS, 0), "seconds": len(cells) * seeds * recorded}
    return {"what": "run", "device": "cpu", "estimate": "as the recorded runs took", "stages": [row],
            "seconds": row["seconds"] + START, "seeds": seeds}  # fmt: skip
