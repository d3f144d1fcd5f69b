"""Experiment 1 of the plan's second part (`data/records/PLAN.md`): the models of one seed, and how they are measured.

`study.fair_run` tunes the methods and runs the seeds.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignkd_lab.lm import training_losses
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.evaluate import distinct_n
from alignkd_lab.lm.preferences import Pair, pair_examples
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.rewards import lexicon_share, sentiment
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import pooled_mean
from alignkd_lab.lm.settings import CurveSettings
from alignkd_lab.lm.stages.adpa import train_with_teachers
from alignkd_lab.lm.stages.curve import Curve
from alignkd_lab.lm.trainer import adapter_tensors, with_lora
from alignkd_lab.study.dense import GAP, draw_pairs
from alignkd_lab.study.lab import ByText, Lab

LEVELS = 0.5, 1.0, 2.0, 4.0  # nats, of the frontier
WIDE_GAP = 0.4


@dataclass(frozen=True)
class Sizes:
    """How much of everything: the plan's, unless given."""

    prompts: int = 384
    responses: int = 6
    max_tokens: int = 40
    pairs: int = 640
    heldout_pairs: int = 500
    heldout_responses: int = 4
    steps: int = 80
    batch: int = 8  # pairs a step, or twice as many single responses
    sft_steps: int = 96
    sft_batch: int = 24
    validation_responses: int = 4  # to each of the 128 validation prompts
    test_prompts: int = 368
    test_responses: int = 2
    curve_points: int = 4  # of seed 0 (`fair_run.curve_steps`)
    teacher_beta: float = 0.1
    lora_rank: int = 16


Steps = tuple[int, ...]  # after which reward and KL are measured


class Setting(NamedTuple):
    rate: float
    weight: float


class FairLab(Lab):
    """One seed: what all methods share is made when it is first asked for, and kept."""

    def __init__(self, folder: Path, seed: int, sizes: Sizes, teacher_rate: float | None = None, **where: Any) -> None:
        super().__init__(folder, seed, **where)
        self.sizes, self._teacher_rate = sizes, teacher_rate
        self.reward = ByText(self.context.texts, sentiment, lambda reward: reward > GAP)

    # Preferences --------------------------------------------------------------------------------------

    def pool(self, policy: Policy) -> tuple[Samples, list[Pair]]:
        """A policy's responses to training prompts, and the seed's labelled pairs among them."""
        sizes = self.sizes
        drawn = self.context.keep_samples(
            policy, "training", sizes.prompts, sizes.responses, sizes.max_tokens, "fair pool"
        )
        texts, seed = self.context.texts(drawn), self.context.seed_for("fair pairs")
        return drawn, draw_pairs(drawn, texts, list(map(sentiment, texts)), sizes.pairs, seed)

    @cached_property
    def heldout(self) -> tuple[Samples, np.ndarray]:
        """Pairs by the true order of the base's responses to test prompts, better and worse in turn, and their gaps."""
        sizes = self.sizes
        drawn = self.context.keep_samples(
            self.base, "test", sizes.test_prompts, sizes.heldout_responses, sizes.max_tokens, "fair held-out"
        )
        texts = self.context.texts(drawn)
        rewards = list(map(sentiment, texts))
        pairs = draw_pairs(drawn, texts, rewards, sizes.heldout_pairs, None)
        read = drawn.only([index for pair in pairs for index in (pair.chosen, pair.rejected)])
        return read, np.array([rewards[pair.chosen] - rewards[pair.rejected] for pair in pairs])

    # Models -------------------------------------------------------------------------------------------

    @cached_property
    def teacher(self) -> Policy:
        return self.align(self.base, self.base, self._teacher_rate, self.sizes.teacher_beta, "teacher")[0]

    @cached_property
    def sft(self) -> Policy:
        """The student that every method starts from."""
        drawn, sizes = self.pool(self.base)[0], self.sizes
        examples = [Example(drawn.prompt_ids[at], [drawn.tokens[i]]) for i, at in enumerate(drawn.prompt_of)]
        about = {"method": "sft", "rate": 5e-4, "sizes": dataclasses.asdict(sizes)}

        def make() -> tuple[Policy, dict]:
            model = self._adapted(self.student)
            self._train(model, examples, training_losses.nll, 5e-4, sizes.sft_steps, sizes.sft_batch, "sft")
            return self.student.with_adapter(adapter_tensors(model)), {}

        return self.keep(about, [self.student, self.base], make)[0]

    def align(
        self, init: Policy, sampler: Policy, rate: float, beta: float, name: str, at: Steps = ()
    ) -> tuple[Policy, dict]:
        """DPO from `init`, its own reference, on the sampler's pairs."""
        drawn, pairs = self.pool(sampler)
        examples = pair_examples(drawn, pairs)

        def prepare() -> None:
            read = [index for pair in pairs for index in (pair.chosen, pair.rejected)]
            sums = [float(own.sum()) for own in self.context.score(self.context.models.of(init), drawn.only(read))]
            for at, example in enumerate(examples):
                example.reference_log_probs = sums[2 * at : 2 * at + 2]

        loss = partial(training_losses.dpo, beta=beta)
        about = {"method": "dpo", "rate": rate, "beta": beta}
        return self._fit(name, about, init, [sampler], examples, loss, at=at, prepare=prepare)

    def method(self, given: dict, at: Steps) -> tuple[Policy, dict]:
        """`given["method"]` at its rate and weight, from the SFT student; ADPA+ is given its form and DCKD's, too."""
        name, rate, weight = given["method"], given["rate"], given["weight"]
        setting, about = Setting(rate, weight), {"method": name, "rate": rate, "weight": weight}
        drawn, pairs = self.pool(self.base)
        match name:
            case "teacher":
                return self.align(self.base, self.base, rate, self.sizes.teacher_beta, name, at)
            case "dpo":
                return self.align(self.sft, self.base, rate, weight, name, at)
            case "kd_then_align":
                return self.align(self.sft, self.sft, rate, weight, name, at)
            case "sft_chosen":
                examples = [Example(drawn.prompt_ids[pair.prompt], [drawn.tokens[pair.chosen]]) for pair in pairs]
                batch = 2 * self.sizes.batch
                return self._fit(name, about, self.sft, [], examples, training_losses.nll, batch=batch, at=at)
            case "dckd":
                return self._dckd(self.sizes.steps, setting, at)
            case "adpa" | "adpa_released":
                return self._adpa(name, self.sft, self.sizes.steps, setting, at)
            case "adpa_plus":
                half, form = self.sizes.steps // 2, given["form"]
                early, late = [step for step in at if step <= half], [step - half for step in at if step > half]
                init, first = self._dckd(half, Setting(*given["dckd"]), tuple(early))
                policy, second = self._adpa(form, init, self.sizes.steps - half, setting, tuple(late))
                later = [{**point, "step": point["step"] + half} for point in second["curve"]]
                return policy, {**second, "curve": first["curve"] + later}
        return self._kd(rate, weight, at)

    def _dckd(self, steps: int, setting: Setting, at: Steps) -> tuple[Policy, dict]:
        loss = partial(training_losses.dckd, alpha=setting.weight)
        return self._fit(
            "dckd", {"method": "dckd", **setting._asdict(), "steps": steps}, self.sft, [self.teacher],
            pair_examples(*self.pool(self.base)), loss, steps=steps, at=at,
            teachers={"teacher": self.teacher}, read=("chosen", "rejected"),
        )  # fmt: skip

    def _adpa(self, form: str, init: Policy, steps: int, setting: Setting, at: Steps) -> tuple[Policy, dict]:
        """Each pair's chosen response beside one of two that `init` wrote to its prompt beforehand."""
        (drawn, pairs), sizes = self.pool(self.base), self.sizes
        end = self.context.tokenizer.eos_token_id if form == "adpa_released" else None
        written = self.context.keep_samples(init, "training", sizes.prompts, 2, sizes.max_tokens, "fair written")
        answers, turn, examples = written.by_prompt(), dict.fromkeys(range(sizes.prompts), 0), []
        for pair in pairs:
            own = answers[pair.prompt][turn[pair.prompt] % 2]
            turn[pair.prompt] += 1
            responses = [drawn.tokens[pair.chosen], written.tokens[own]]
            examples.append(Example(drawn.prompt_ids[pair.prompt], responses, ["chosen", "sampled"]))

        loss = partial(training_losses.adpa, gamma=setting.weight, end_token=end)
        return self._fit(
            form, {"method": form, **setting._asdict(), "steps": steps}, init, [self.teacher], examples, loss,
            steps=steps, at=at, teachers={"teacher": self.teacher, "reference": self.base}, read=("sampled",),
        )  # fmt: skip

    def _kd(self, rate: float, temperature: float, at: Steps) -> tuple[Policy, dict]:
        """KL to the aligned teacher at a temperature, on what it writes at that temperature, two responses a prompt."""
        sizes, teacher = self.sizes, self.context.models.of(self.teacher)
        head = head_of(teacher).detach()

        def prepare() -> list[Example]:
            turns = -(-2 * sizes.steps * sizes.batch // (2 * sizes.prompts)) * 2
            drawn = self.context.sample(
                teacher, "training", sizes.prompts, turns, sizes.max_tokens, f"fair teacher at {temperature}",
                temperature, keep_hidden=True,
            )  # fmt: skip
            return [
                Example(
                    drawn.prompt_ids[at],
                    [drawn.tokens[i] for i in rows[turn : turn + 2]],
                    signals={"teacher": [{"hidden": drawn.hidden[i]} for i in rows[turn : turn + 2]]},
                )
                for at, rows in enumerate(drawn.by_prompt())
                for turn in range(0, turns, 2)
            ]

        about = {"method": "align_then_kd", "rate": rate, "temperature": temperature}
        loss = training_losses.asking("kd", training_losses.carried(head), temperature=temperature)
        return self._fit("align_then_kd", about, self.sft, [self.teacher], [], loss, at=at, prepare=prepare)

    # Training -----------------------------------------------------------------------------------------

    def _adapted(self, init: Policy):
        return with_lora(self.context.models.of(init), self.sizes.lora_rank, self.context.seed_for("adapter"))

    def _train(self, model, examples, loss, rate, steps, batch, name, on_step=lambda step: None) -> list:
        return self.context.train(
            model, examples, loss, learning_rate=rate, steps=steps, batch=batch, kind="fair", name=name, on_step=on_step
        )

    def _fit(
        self, name: str, about: dict, init: Policy, reads: list[Policy], examples: list[Example], loss: Callable, *,
        at: Steps, steps: int | None = None, batch: int | None = None, prepare: Callable = lambda: None,
        teachers: dict[str, Policy] | None = None, read: tuple[str, ...] = (),
    ) -> tuple[Policy, dict]:  # fmt: skip
        """Trains from `init` and measures along the way, against where it started or, a student, the SFT student."""
        sizes, steps, batch = self.sizes, steps or self.sizes.steps, batch or self.sizes.batch
        about = {**about, "at": at, "steps": steps, "sizes": dataclasses.asdict(sizes)}

        def make() -> tuple[Policy, dict]:
            began, given = time.perf_counter(), prepare() or examples
            model, reference = self._adapted(init), init if init.start == self.base.start else self.sft
            settings = CurveSettings(max_tokens=sizes.max_tokens, validation_responses=sizes.validation_responses)
            at_reference = self.context.models.of(reference)
            curve = Curve(self.context, self.reward, model, at_reference, settings, steps, name, at)
            if teachers:
                infos = train_with_teachers(
                    self.context, teachers, read, model, given, loss, learning_rate=about["rate"], steps=steps,
                    batch=batch, kind="fair", name=name, on_step=curve.on_step,
                )  # fmt: skip
            else:
                infos = self._train(model, given, loss, about["rate"], steps, batch, name, curve.on_step)
            info = {"curve": curve.points, "losses": [value for value, _ in infos], "examples": len(given)}
            info["seconds"] = time.perf_counter() - began
            return init.with_adapter(adapter_tensors(model)), info

        return self.keep(about, [init, *reads], make)

    # Measuring ----------------------------------------------------------------------------------------

    @cached_property
    def _of_sft(self) -> tuple[list[float], list]:
        """The SFT student's rewards on test prompts, and its log-probabilities of the held-out pairs."""
        scored = self.context.score(self.context.models.of(self.sft), self.heldout[0])
        return list(map(sentiment, self.context.texts(self._test(self.sft)))), scored

    def _test(self, policy: Policy) -> Samples:
        sizes = self.sizes
        return self.context.keep_samples(
            policy, "test", sizes.test_prompts, sizes.test_responses, sizes.max_tokens, "fair test"
        )

    def measure(self, policy: Policy, curve: Sequence[dict] = ()) -> dict:
        """A record's entry of a policy: metrics on test prompts, and every response with its reward."""
        samples, (read, gaps), (of_sft, sft_scored) = self._test(policy), self.heldout, self._of_sft
        texts, model = self.context.texts(samples), self.context.models.of(policy)
        rewards = list(map(sentiment, texts))
        under_base = self.context.score(self.context.models.of(self.base), samples)
        under_sft = self.context.score(self.context.models.of(self.sft), samples)
        scored = self.context.score(model, read)
        ratio = [float((own - sft).mean()) for own, sft in zip(scored, sft_scored, strict=True)]
        won, lost = np.array(ratio[::2]), np.array(ratio[1::2])
        right, wide = (won > lost) + 0.5 * (won == lost), gaps > WIDE_GAP

        def kl(other: list) -> float:
            return float(np.mean([float((p - q).sum()) for p, q in zip(samples.log_probs, other, strict=True)]))

        metrics = {
            "win_rate": win_rate(rewards, of_sft, samples.prompt_of),
            "reward": float(np.mean(rewards)),
            "accuracy": float(right.mean()),
            "accuracy_wide": float(right[wide].mean()) if wide.any() else None,
            "kl_to_sft": kl(under_sft),
            "kl_to_base": kl(under_base),
            "entropy": -pooled_mean(samples.log_probs),
            "overall_precision": pooled_mean(under_base),
            "length": samples.token_count / len(texts),
            "distinct_2": distinct_n(texts, 2),
            "lexicon_share": lexicon_share(texts),
            **frontier(curve),
        }
        asked = prompts("test", self.sizes.test_prompts, all_frames=True)
        shown = [
            {"prompt": asked[at], "response": text, "reward": reward, "target": reward > GAP}
            for at, text, reward in zip(samples.prompt_of, texts, rewards, strict=True)
        ]
        return {"metrics": metrics, "samples": shown}


def win_rate(rewards: list[float], against: list[float], prompt_of: list[int]) -> float:
    """How often a response earns more than one of the other policy to the same prompt; a tie counts one half."""
    own, other, place = np.array(rewards), np.array(against), np.array(prompt_of)
    return float(np.mean([wins(own[place == at], other[place == at]) for at in np.unique(place)]))


def wins(own: np.ndarray, other: np.ndarray) -> float:
    """The same of the rewards of two policies' responses to one prompt."""
    gaps = own[:, None] - other[None]
    return ((gaps > 0) + 0.5 * (gaps == 0)).mean()


def frontier(curve: Sequence[dict]) -> dict[str, float | None]:
    """Reward at each of `LEVELS`, linear between the points of a curve from its first; None where it is not reached."""
    names = {level: f"reward_at_{level:g}_nats" for level in LEVELS}
    found: dict[str, float | None] = dict.fromkeys(names.values())
    for left, right in itertools.pairwise(curve):
        for level, name in names.items():
            if left["kl"] <= level <= right["kl"] and found[name] is None and left["kl"] < right["kl"]:
                part = (level - left["kl"]) / (right["kl"] - left["kl"])
                found[name] = left["reward"] + part * (right["reward"] - left["reward"])
    return found if curve else {}
