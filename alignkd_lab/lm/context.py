"""What the stages of one seed share: models, tokenizer, store and random seeds. Nothing here knows a pipeline."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from alignkd_lab.lm.policy import Models, Policy
from alignkd_lab.lm.prompts import encode, prompts
from alignkd_lab.lm.sampling import Samples, sample
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.trainer import train
from alignkd_lab.progress import tell
from alignkd_lab.recording import device_label
from alignkd_lab.store import Store

SAMPLES_CODE = 1  # raise it where a change of code draws other samples


@dataclass(frozen=True)
class Context:
    """One seed of a run. Nothing in it changes but what its models and its store keep.

    Attributes:
        origin: what every sample comes from, as JSON: weights, prompts, seed.
        sample_batch: responses decoded together; they are the same whatever it is.
    """

    models: Models
    tokenizer: Any
    store: Store
    seed: int
    origin: dict = field(default_factory=dict)
    sample_batch: int = 192

    def seed_for(self, *purpose: object) -> int:
        """A seed of its own for each purpose; the same for every pipeline, so that differences are paired."""
        words = repr((self.seed, *purpose)).encode()
        return int.from_bytes(hashlib.sha256(words).digest()[:4], "big")

    def sample(
        self, model, split: str, count: int | None, responses: int, max_tokens: int, purpose: str, temperature=1.0,
        **options,
    ) -> Samples:  # fmt: skip
        """Responses of a model to the first `count` prompts of a split, with a progress bar."""
        asked = encode(self.tokenizer, prompts(split, count))
        with tqdm(total=len(asked) * responses, desc=f"sampling, {purpose}", unit="responses", leave=False) as bar:
            return sample(
                self.models.for_sampling(model),
                asked,
                responses,
                max_tokens,
                self.tokenizer.eos_token_id,
                self.seed_for("sample", purpose),
                temperature,
                batch=self.sample_batch,
                progress=bar.update,
                **options,
            )

    def keep_samples(
        self, policy: Policy, split: str, count: int | None, responses: int, max_tokens: int, purpose: str, model=None
    ) -> Samples:
        """Samples at temperature 1, kept in the store: what several stages read is drawn once."""
        depends = {"policy": policy.digest, "split": split, "count": count, "responses": responses, "purpose": purpose,
                   "code": SAMPLES_CODE, "start": self.origin, "weights": policy.weights, "max_tokens": max_tokens,
                   **({} if self.place == "cpu" else {"device": self.place})}  # fmt: skip
        started = time.perf_counter()

        def save(samples: Samples, folder: Path) -> None:
            took = {"seconds_before": time.perf_counter() - started}
            torch.save({**asdict(samples), **took}, folder / "samples.pt")

        return self.store.keep(
            "samples",
            depends,
            lambda: self.sample(model or self.models.of(policy), split, count, responses, max_tokens, purpose),
            save,
            lambda folder: Samples(**torch.load(folder / "samples.pt", weights_only=True)),
        )

    @property
    def place(self) -> str:
        """The device, with the dtype of products where it is not the usual one: another draws other samples."""
        return device_label(torch.device(self.models.device).type, str(self.models.dtype))

    def score(self, model, samples: Samples) -> list[torch.Tensor]:
        """Log-probabilities of the samples' tokens under a model, a tensor a response."""
        return score(model, samples, dtype=self.models.dtype)

    def texts(self, samples: Samples) -> list[str]:
        return [self.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in samples.tokens]

    def train(self, model, examples, loss, *, learning_rate: float, steps: int, batch: int, kind: str, name: str,
              on_step: Callable[[int], None] = lambda step: None) -> list:  # fmt: skip
        """`lm.trainer.train` with a progress bar, and one order of examples for all stages of a kind."""
        with tqdm(total=steps, desc=f"training, {name}", unit="steps", leave=False) as bar:

            def end_step(step: int) -> None:
                bar.update()
                tell("step", stage=name, step=step, steps=steps)
                on_step(step)

            return train(model, examples, loss, learning_rate=learning_rate, steps=steps, batch=batch,
                         seed=self.seed_for("train", kind), dtype=self.models.dtype, on_step=end_step)  # fmt: skip


class Truth:
    """The truth p* of a run: what it wrote itself, and how likely it finds what others wrote.

    It does not read again what it wrote itself.
    """

    def __init__(self, context: Context, source: str, max_tokens: int) -> None:
        self.policy = Policy(source)
        self._context, self._max_tokens = context, max_tokens

    @cached_property
    def _model(self) -> torch.nn.Module:
        return self._context.models.of(self.policy)

    def samples(self, split: str, count: int | None, responses: int) -> Samples:
        return self._context.keep_samples(
            self.policy, split, count, responses, self._max_tokens, f"truth {split}", self._model
        )

    def wrote(self, policy: Policy | None) -> bool:
        return policy is not None and policy.digest == self.policy.digest

    def read(self, samples: Samples, policy: Policy | None) -> tuple[list[torch.Tensor], int]:
        """Log-probabilities under the truth of what `policy` wrote, and how many tokens it had to read for them."""
        if self.wrote(policy):
            return samples.log_probs, 0
        return self._context.score(self._model, samples), samples.token_count
