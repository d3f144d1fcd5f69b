"""What stages work on, a policy, and what those of one seed share: models, tokenizer, store and random seeds.

Nothing here knows a pipeline.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from alignkd_lab.lm.sampling import Samples, in_dtype, sample, seed_for
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.templates import encode, end_ids
from alignkd_lab.lm.trainer import train
from alignkd_lab.progress import tell
from alignkd_lab.provenance import device_label
from alignkd_lab.store import Store, safe_name

# By whether models are float32: raise it where a change of code draws other samples, or says else of them.
SAMPLES_CODE = {True: 1, False: 2}


@dataclass
class Policy:
    """Adapters on a start; each is `W += B A` on the layers that it names.

    `start` is a source of weights, or `<name>:<source>` for its healed student of that name (`lm.student`).
    """

    start: str
    adapters: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """A hash of what the policy is, whatever made it."""
        made = hashlib.sha256(self.start.encode())
        for adapter in self.adapters:
            for name in sorted(adapter):
                made.update(name.encode() + adapter[name].numpy().tobytes())
        return made.hexdigest()[:16]

    def with_adapter(self, adapter: dict[str, Tensor]) -> Policy:
        return Policy(self.start, [*self.adapters, adapter])

    def save(self, folder: Path) -> None:
        for index, adapter in enumerate(self.adapters):
            save_file(adapter, folder / f"adapter-{index}.safetensors")
        (folder / "policy.json").write_text(json.dumps({"start": self.start, "adapters": len(self.adapters)}))

    @staticmethod
    def read(folder: Path) -> Policy:
        written = json.loads((folder / "policy.json").read_text())
        adapters = [load_file(folder / f"adapter-{index}.safetensors") for index in range(written["adapters"])]
        return Policy(written["start"], adapters)


class Models(Protocol):
    """Policies as models on one device (`lm.models.Models`); `dtype` is that of matrix products."""

    device: str
    dtype: torch.dtype

    def of(self, policy: Policy) -> torch.nn.Module: ...

    def identity(self, start: str) -> str: ...


class Earned(NamedTuple):
    """Of each response: its reward, and whether it meets the rule; where the truth read all, what it said of each."""

    rewards: list[float]
    hits: list[bool]
    tokens: int  # that the truth read
    fluency: Sequence[float] = ()
    under_truth: Sequence[Tensor] = ()  # log-probabilities


class Reward(Protocol):
    """What responses earn (`lm.rewards`); `policy` is what wrote them, where that is known."""

    def earn(self, samples: Samples, policy: Policy | None) -> Earned: ...


@dataclass(frozen=True)
class Context:
    """One seed of a run. Nothing in it changes but what its models and its store keep.

    Attributes:
        prompt_texts: the first so many prompts of a split, None for all.
        origin: what every sample comes from, as JSON: weights, prompts, seed.
        sample_batch: responses decoded together; they are the same whatever it is.
    """

    models: Models
    tokenizer: Any
    prompt_texts: Callable[[str, int | None], list[str]]
    store: Store
    seed: int
    origin: dict
    sample_batch: int

    def prompts(self, split: str, count: int | None) -> list[list[int]]:
        """Token ids of the prompts."""
        return encode(self.tokenizer, self.prompt_texts(split, count))

    def seed_for(self, *purpose: object) -> int:
        """A seed of its own for each purpose; the same for every pipeline, so that differences are paired."""
        return seed_for(self.seed, *purpose)

    def sample(
        self, model, split: str, count: int | None, responses: int, max_tokens: int, purpose: str, temperature=1.0,
        **options,
    ) -> Samples:  # fmt: skip
        """Responses of a model to the first `count` prompts of a split, with a progress bar.

        In 16 bits it writes with rounded weights. There its log-probabilities are read again, as those of every other
        model are, or a policy would be at a distance from itself.
        """
        samples = sample(
            in_dtype(model, self.models.dtype),
            self.prompts(split, count),
            responses,
            max_tokens,
            end_ids(self.tokenizer),
            self.seed_for("sample", purpose),
            temperature,
            batch=self.sample_batch,
            shown=f"sampling, {purpose}",
            **options,
        )
        if not self._whole:
            samples.log_probs = self.score(model, samples)
        return samples

    def keep_samples(
        self, policy: Policy, split: str, count: int | None, responses: int, max_tokens: int, purpose: str, model=None
    ) -> Samples:
        """Samples at temperature 1, kept in the store: what several stages read is drawn once."""
        depends = {"policy": policy.digest, "weights": self.models.identity(policy.start), "split": split,
                   "count": count, "responses": responses, "max_tokens": max_tokens, "purpose": purpose,
                   "code": SAMPLES_CODE[self._whole],
                   "start": self.origin, **({} if self.place == "cpu" else {"device": self.place})}  # fmt: skip
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
    def _whole(self) -> bool:
        return self.models.dtype == torch.float32

    @property
    def place(self) -> str:
        """The device, with the dtype of products where it is not the usual one: another draws other samples."""
        return device_label(torch.device(self.models.device).type, str(self.models.dtype))

    def score(self, model, samples: Samples) -> list[torch.Tensor]:
        """Log-probabilities of the samples' tokens under a model, a tensor a response."""
        return score(model, samples, dtype=self.models.dtype)

    def texts(self, samples: Samples) -> list[str]:
        return samples.texts(self.tokenizer)

    def train(self, model, examples, loss, *, learning_rate: float, steps: int, batch: int, kind: str, name: str,
              on_step: Callable[[int], None] = lambda step: None, write: Callable | None = None) -> list:  # fmt: skip
        """`lm.trainer.train` with a progress bar, and one order of examples for all stages of a kind."""
        with tqdm(total=steps, desc=f"training, {name}", unit="steps", leave=False) as bar:

            def end_step(step: int) -> None:
                bar.update()
                tell("step", stage=name, step=step, steps=steps)
                on_step(step)

            return train(model, examples, loss, learning_rate=learning_rate, steps=steps, batch=batch,
                         seed=self.seed_for("train", kind), dtype=self.models.dtype, on_step=end_step,
                         aside=self.store.root / f"stopped-{safe_name(name)}", write=write)  # fmt: skip
