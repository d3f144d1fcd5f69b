"""The language world behind the `World` protocol of `alignkd_lab.pipelines`: one seed at a time.

Stages train LoRA adapters on the policies that they start from. The same prompts, counts, KL weight and steps serve
every pipeline; the learning rate of alignment is chosen for the base and for the student by one rule with equal
trials on validation prompts (`trials`), with a seed that no run uses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from functools import cached_property
from pathlib import Path

import torch
from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import evaluate, weights
from alignkd_lab.lm.against_base import against_base, heldout_pairs
from alignkd_lab.lm.judge import Judge
from alignkd_lab.lm.policy import Models, Policy
from alignkd_lab.lm.preferences import Pair
from alignkd_lab.lm.prompts import checksum, encode, prompts
from alignkd_lab.lm.sampling import Samples, sample
from alignkd_lab.lm.scoring import pooled, score
from alignkd_lab.lm.settings import HEALED, LmSettings
from alignkd_lab.lm.stages.adpa import preference_distil
from alignkd_lab.lm.stages.distil import distil
from alignkd_lab.lm.stages.dpo import align
from alignkd_lab.lm.stages.gkd import gkd
from alignkd_lab.lm.stages.rloo import rloo
from alignkd_lab.lm.student import HEALING_BAR, student_identity
from alignkd_lab.lm.trainer import product_dtype, train
from alignkd_lab.lm.trials import choose_rate
from alignkd_lab.pipelines import Align, Distil, Gkd, PreferenceDistil, Stage, StageResult
from alignkd_lab.progress import tell
from alignkd_lab.records import device_with_products
from alignkd_lab.store import Store

ALGORITHMS = ("dpo", "rlhf")

# Raise one where a change of code changes what that part computes: results kept from the old code then rest.
_CODE = {"start": 1, "sample": 1, "distil": 1, "align": 1, "rlhf": 1, "preference_distil": 1, "gkd": 1,
         "evaluate": 3, "trials": 1}  # fmt: skip
_SAMPLING = ("max_tokens",)
_REWARD = ("truth", "target", "reward", "truth_responses", *_SAMPLING)
_DISTIL = ("distil_prompts", "distil_responses", "kd_loss", "distil_passes", "distil_batch", "distil_learning_rate",
           "lora_rank", *_SAMPLING)  # fmt: skip
_PAIRS = ("preference_prompts", "preference_responses", "dpo_label_noise", *_REWARD)
_ALIGN = ("beta", "kl_budget", "align_steps", "align_batch", "align_learning_rates", "trial_seed", "lora_rank",
          "curve_points", "validation_responses", *_PAIRS)  # fmt: skip
_RLHF = ("preference_prompts", "kl_budget", "trial_seed", "lora_rank", "curve_points", "validation_responses",
         "rlhf_beta", "rlhf_steps", "rlhf_prompts", "rlhf_generations", "rlhf_learning_rates", *_REWARD)  # fmt: skip
_EVALUATE = ("test_prompts", "test_responses", "heldout_responses", *_REWARD)
# Settings that came later, by the value that changes nothing: results kept before they came must still be found.
_LATER = {"dpo_label_noise": 0.0}


def _role(stage: Align) -> str:
    """Whose learning rate a stage trains with."""
    return "base" if stage.init == "base" else "student"


class LmWorld:
    """Settings, algorithm and one seed. `store` keeps samples and trials beside the stages.

    Raises:
        BadInput: unknown algorithm or target.
    """

    def __init__(self, settings: LmSettings, algorithm: str, seed: int, store: Store, device: str = "cpu") -> None:
        if algorithm not in ALGORITHMS:
            raise BadInput(
                f"algorithm: {algorithm!r} is not offered in the language world; use one of {', '.join(ALGORITHMS)}"
            )
        if seed == settings.trial_seed:
            raise BadInput(f"seed: {seed} is the seed of the learning-rate trials; choose another")
        self.settings, self.algorithm, self.seeds, self.device = settings, algorithm, (seed,), device
        self.store, self.models = store, Models(device)
        self.tokenizer = weights.load_tokenizer(settings.base)
        self.judge = Judge(self)
        self.spent = dict.fromkeys(("sampled", "trained", "scored"), 0)
        self.seconds_before = 0.0  # what a stage's samples took where another stage had drawn them

    # What results depend on ---------------------------------------------------------------------------

    def _named(self, names: tuple[str, ...]) -> dict:
        named = {name: getattr(self.settings, name) for name in names}
        return {name: value for name, value in named.items() if name not in _LATER or value != _LATER[name]}

    def fingerprint(self) -> dict:
        return {**self._origin(), "student": self._student_identity(), **self._arithmetic()}

    def _arithmetic(self) -> dict[str, str]:
        device = torch.device(self.device).type
        return {"device": device, "products": str(product_dtype(device))}

    def _origin(self) -> dict:
        """What every sample and stage comes from, whatever the student and the machine."""
        model = {"reward_model": weights.checksum(self.judge.model)} if self.judge.model else {}
        return {
            "world": "lm",
            "seed": self.seeds[0],
            "code": _CODE["start"],
            "base": weights.checksum(self.settings.base),
            "truth": weights.checksum(self.settings.truth),
            "prompts": checksum(),
            **model,
        }

    def _student_identity(self) -> str:
        student = self.settings.student
        return student_identity(self.settings.base, student) if HEALED.fullmatch(student) else weights.checksum(student)

    def stage_settings(self, stage: Stage) -> dict:
        settings, code = self.settings, {"code": _CODE[stage.kind]}
        if isinstance(stage, Distil):
            return {**code, "temperature": self._temperature(stage), **self._named(_DISTIL)}
        if isinstance(stage, Gkd):
            return {**code, "divergence": settings.gkd_divergence, **self._named(_DISTIL)}
        if isinstance(stage, PreferenceDistil):
            own = ("alpha",) if stage.method == "dckd" else ("gamma", "student_responses")
            given = {"method": stage.method, "share": stage.share}
            return {**code, **given, **self._named((*own, *_DISTIL, *_PAIRS))}
        # A student's learning rate was chosen on one distilled at `kd_temperature`, whatever this one was distilled at.
        rate = () if stage.init == "base" else (*_DISTIL, "kd_temperature")
        whole = {"whole_budget": True} if stage.whole_budget else {}
        if self.algorithm == "rlhf":
            code = {"code": _CODE["rlhf"]}
        return {**code, "algorithm": self.algorithm, **whole, **self._named((*self._align_names(), *rate))}

    def _align_names(self) -> tuple[str, ...]:
        return _RLHF if self.algorithm == "rlhf" else _ALIGN

    def evaluation_settings(self) -> dict:
        return {"code": _CODE["evaluate"], **self._named(_EVALUATE)}

    def _temperature(self, stage: Distil) -> float:
        return {"kd": self.settings.kd_temperature, "high": self.settings.kd_temperature_high}[stage.temperature]

    def seed_for(self, *purpose: object) -> int:
        """A seed of its own for each purpose; the same for every pipeline, so that differences are paired."""
        words = repr((self.seeds[0], *purpose)).encode()
        return int.from_bytes(hashlib.sha256(words).digest()[:4], "big")

    # Policies -----------------------------------------------------------------------------------------

    def start(self, name: str) -> Policy:
        if name == "base":
            return Policy(self.settings.base)
        base, student = self.settings.base, self.settings.student
        return Policy(f"{student}:{base}" if HEALED.fullmatch(student) else student)

    def _weights_of(self, policy: Policy) -> str:
        own = policy.start == self.start("student").start
        return self._student_identity() if own else weights.checksum(policy.start)

    @property
    def truth(self) -> Policy:
        return Policy(self.settings.truth)

    def save(self, policy: Policy, folder: Path) -> None:
        policy.save(folder)

    def load(self, folder: Path) -> Policy:
        return Policy.read(folder)

    # Sampling and reading -----------------------------------------------------------------------------

    def sample(
        self, model, split: str, count: int | None, responses: int, purpose: str, temperature=1.0, **kwargs
    ) -> Samples:
        """Responses of a model to the first `count` prompts of a split, with a progress bar."""
        asked = encode(self.tokenizer, prompts(split, count))
        with tqdm(total=len(asked) * responses, desc=f"sampling, {purpose}", unit="responses", leave=False) as bar:
            samples = sample(
                self.models.for_sampling(model),
                asked,
                responses,
                self.settings.max_tokens,
                self.tokenizer.eos_token_id,
                self.seed_for("sample", purpose),
                temperature,
                batch=self.settings.sample_batch,
                progress=bar.update,
                **kwargs,
            )
        self.spent["sampled"] += samples.token_count
        return samples

    def kept_samples(
        self, policy: Policy, model, split: str, count: int | None, responses: int, purpose: str
    ) -> Samples:
        """Samples at temperature 1, kept in the store: what several stages read is drawn once."""
        where = device_with_products(**self._arithmetic())
        depends = {"policy": policy.digest, "split": split, "count": count, "responses": responses, "purpose": purpose,
                   "code": _CODE["sample"], "start": self._origin(),
                   "weights": self._weights_of(policy), **self._named(_SAMPLING),
                   **({} if where == "cpu" else {"device": where})}  # fmt: skip

        started = time.perf_counter()

        def save(samples: Samples, folder: Path) -> None:
            took = {"seconds_before": time.perf_counter() - started}
            torch.save({**dataclasses.asdict(samples), **took}, folder / "samples.pt")

        return self.store.keep(
            "samples",
            depends,
            lambda: self.sample(model or self.models.of(policy), split, count, responses, purpose),
            save,
            lambda folder: Samples(**torch.load(folder / "samples.pt", weights_only=True)),
        )

    def score(self, model, samples: Samples) -> list[torch.Tensor]:
        self.spent["scored"] += samples.token_count
        return score(model, samples)

    @cached_property
    def _truth_model(self) -> torch.nn.Module:
        return self.models.of(self.truth)

    def texts(self, samples: Samples) -> list[str]:
        return [self.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in samples.tokens]

    def yardstick(self) -> evaluate.Yardstick:
        """The truth's quantiles and target rate, from its validation samples."""
        samples = self.truth_samples("validation")
        return evaluate.yardstick(samples.log_probs, [self.judge.hit(text) for text in self.texts(samples)])

    def truth_samples(self, split: str) -> Samples:
        count = self.settings.test_prompts if split == "test" else None
        responses = self.settings.test_responses if split == "test" else self.settings.truth_responses
        return self.kept_samples(self.truth, self._truth_model, split, count, responses, f"truth {split}")

    def under_truth(self, samples: Samples, policy: Policy | None) -> list[torch.Tensor]:
        """Log-probabilities under the truth, which does not read again what it wrote itself as `policy`."""
        own = policy is not None and policy.digest == self.truth.digest
        return samples.log_probs if own else self.score(self._truth_model, samples)

    # Stages -------------------------------------------------------------------------------------------

    def prepare(self, stage: Stage) -> None:
        """The yardstick and the learning rate: whichever stage asks first, they are no cost of its own."""
        if isinstance(stage, Align | PreferenceDistil):
            self.yardstick()
        if isinstance(stage, Align):
            self.trials(_role(stage))

    def run(self, stage: Stage, policies: dict[str, Policy]) -> StageResult:
        self.prepare(stage)
        self.spent, self.seconds_before = dict.fromkeys(self.spent, 0), 0.0
        if isinstance(stage, Distil):
            policy, info = self.distil(
                policies[stage.teacher], policies[stage.init], self._temperature(stage), stage.name
            )
        elif isinstance(stage, PreferenceDistil):
            roles = (policies[role] for role in (stage.teacher, stage.reference, stage.init, stage.sampler))
            policy, info = preference_distil(self, *roles, stage.method, stage.share, stage.name)
        elif isinstance(stage, Gkd):
            policy, info = gkd(self, policies[stage.teacher], policies[stage.init], stage.name)
        else:
            rate = self.trials(_role(stage))
            policy, info = self.align(
                policies[stage.init],
                policies[stage.reference],
                policies[stage.sampler],
                rate["learning_rate"],
                stage.name,
                self._align_steps(stage),
            )
            info["trials"] = rate["trials"]
        return StageResult(policy, {**info, "tokens": dict(self.spent), "seconds_before": self.seconds_before})

    def _align_steps(self, stage: Align) -> int:
        """A step of DPO trains on two responses a pair; the whole budget adds the responses of a distillation."""
        settings = self.settings
        distilled = settings.distil_prompts * settings.distil_responses * settings.distil_passes
        return settings.align_steps + stage.whole_budget * round(distilled / (2 * settings.align_batch))

    def distil(self, teacher: Policy, init: Policy, temperature: float, name: str) -> tuple[Policy, dict]:
        return distil(self, teacher, init, temperature, name)

    def align(
        self, init: Policy, reference: Policy, sampler: Policy, rate: float, name: str, steps: int | None = None
    ) -> tuple[Policy, dict]:
        if self.algorithm == "rlhf":
            return rloo(self, init, reference, rate, name)
        return align(self, init, reference, sampler, rate, name, steps)

    def train_adapter(self, model, examples, loss, rate, steps, batch, kind, name, on_step=lambda step: None) -> list:
        """`lm.trainer.train` with a progress bar, and one order of examples for all stages of a kind."""
        with tqdm(total=steps, desc=f"training, {name}", unit="steps", leave=False) as bar:

            def stepped(step: int) -> None:
                bar.update()
                tell("step", stage=name, step=step, steps=steps)
                on_step(step)

            return train(model, examples, loss, learning_rate=rate, steps=steps, batch=batch,
                         seed=self.seed_for("train", kind), on_step=stepped)  # fmt: skip

    # Learning rates -----------------------------------------------------------------------------------

    def trials(self, role: str) -> dict:
        """The learning rate for `base` or `student`, and the trials that it was chosen by (`lm.trials`)."""
        # A rate chosen on one machine serves every other: what differs there is rounding.
        start = {**self._origin(), "seed": self.settings.trial_seed}
        names = self._align_names()
        if role == "student":
            start["student"] = self._student_identity()
            names = (*names, *_DISTIL, "kd_temperature")
        algorithm = {} if self.algorithm == "dpo" else {"algorithm": self.algorithm}
        return choose_rate(self, role, {"start": start, "code": _CODE["trials"], **algorithm, **self._named(names)})

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """What the trials choose from."""
        rlhf = self.algorithm == "rlhf"
        return self.settings.rlhf_learning_rates if rlhf else self.settings.align_learning_rates

    # Judging ------------------------------------------------------------------------------------------

    def evaluate(self, policy: Policy) -> dict:
        """Metrics on test prompts at temperature 1, the counts behind them, and some responses to read."""
        settings, stick = self.settings, self.yardstick()
        model = self.models.of(policy)
        samples = self.sample(model, "test", settings.test_prompts, settings.test_responses, "test")
        judged = self.judge.read(samples, policy, stick)
        reference = self.truth_samples("test")
        texts = self.texts(samples)
        found = evaluate.metrics(
            samples.log_probs,
            judged["under_truth"],
            reference.log_probs if policy.digest == self.truth.digest else self.score(model, reference),
            texts,
            judged["reward"],
            judged["fluency"],
            judged["hits"],
            [self.judge.second_hit(text) for text in texts],
            stick,
        )
        found |= against_base(self, policy, model, samples, judged["under_truth"])
        asked = prompts("test", settings.test_prompts)
        # One response a prompt, the first: a fixed rule, so that nobody picks.
        shown = range(0, len(texts), settings.test_responses)
        return {
            "metrics": {name: [value] for name, value in found.items()},
            "counts": {
                "responses": len(texts),
                "target": sum(judged["hits"]),
                "truth_target_rate": stick.target_rate,
            },
            "samples": [
                {
                    "prompt": asked[samples.prompt_of[i]],
                    "response": texts[i],
                    "reward": judged["reward"][i],
                    "target": judged["hits"][i],
                }
                for i in shown
            ],
        }

    @cached_property
    def heldout(self) -> tuple[Samples, list[Pair]]:
        return heldout_pairs(self)

    def checks(self) -> dict[str, float]:
        """How far the student's recall lies below the base's on the truth's validation samples, nats per token."""
        samples = self.truth_samples("validation")
        base, student = (self._recall(self.start(name), samples) for name in ("base", "student"))
        return {"healing_gap": base - student, "healing_bar": HEALING_BAR}

    def _recall(self, policy: Policy, samples: Samples) -> float:
        own = policy.digest == self.truth.digest
        return pooled(samples.log_probs if own else self.score(self.models.of(policy), samples))
