"""What a policy writes while it is trained or measured, and what that earns: on-policy distillation and RLOO.

At each step the policy writes to the step's prompts, at temperature 1 and from its whole distribution, and the loss
reads what it wrote. The draws depend on the seed and the step alone, so a training that goes on draws the same, and so
do several processes, each of which writes, scores and pays its share of the prompts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from tqdm.auto import tqdm

from alignkd_lab.lm import ranks
from alignkd_lab.lm.batch import EncodedPrompt, Example, autocast, collate, plain, token_counts
from alignkd_lab.lm.sampling import Samples, sample, seed_for
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.teachers import LiveTeacher
from alignkd_lab.lm.templates import end_ids


def paying(scorer: Callable, tokenizer) -> Callable[[list[EncodedPrompt], Samples], list[float]]:
    """`Rollouts.pay` of a reward that reads texts (`lm.rewards.scorer`)."""
    return lambda prompts, samples: scorer([prompts[at].said for at in samples.prompt_of], samples.texts(tokenizer))


@dataclass
class Rollouts:
    """How a policy writes: `responses` of at most `max_tokens` tokens to each prompt.

    Attributes:
        pay: what responses earn, R: (prompts, samples) -> rewards.
        reference: the policy that the KL is measured from.
        beta: weight of the KL in what RLOO maximises; each response then carries its advantage.
    """

    tokenizer: Any
    responses: int
    max_tokens: int
    seed: int
    dtype: torch.dtype
    pay: Callable[[list, Samples], list[float]] | None = None
    reference: LiveTeacher | None = None
    beta: float | None = None
    _copy: Any = field(default=None, repr=False)

    def write(
        self, model, prompts: list[EncodedPrompt | Example], *purpose: object, measured: bool = False
    ) -> tuple[list[Example], dict[str, float]]:
        """Examples of what the policy writes, and what there is to tell of them; the model is in eval mode afterwards.

        Told is `response_length` in tokens; where it is `measured`, or there is a `beta`, also `mean_reward` and `kl`,
        log pi - log pi_ref in nats a token; and, with `beta`, `objective`: the mean of R - beta (log pi - log pi_ref),
        the KL in nats a response. A response's advantage is that minus the mean of the others to its prompt (Ahmadian
        et al. 2024, RLOO).
        """
        model.eval()
        seed = seed_for(self.seed, *purpose)
        asked, ends, number = [row.prompt for row in prompts], end_ids(self.tokenizer), self.responses
        mine = ranks.share(list(range(len(prompts))))
        samples = sample(self._sampler(model), asked, number, self.max_tokens, ends, seed, only=[at for at, _ in mine])
        gaps, rewards = ([0.0] * len(samples.tokens) for _ in range(2))
        measured = measured or self.beta is not None
        if self.reference and measured:
            read = partial(score, samples=samples, dtype=self.dtype)
            own = ranks.inside(model, read)
            with self.reference.reading():
                others = ranks.inside(self.reference.model, read)
            gaps = [float((one - other).sum()) for one, other in zip(own, others, strict=True)]
        if self.pay and measured:
            rewards = self.pay(prompts, samples)
        made = list(zip(samples.tokens, gaps, rewards, strict=True))
        parts = ranks.gather([made[at * number : (at + 1) * number] for at, (_, counts) in enumerate(mine) if counts])
        tokens, gaps, rewards = zip(*chain(*parts), strict=True)
        told = {"response_length": sum(map(len, tokens)) / len(tokens)}
        if self.reference and measured:
            told["kl"] = sum(gaps) / sum(map(len, tokens))
        if self.pay and measured:
            told["mean_reward"] = sum(rewards) / len(rewards)
        made = [Example(row.prompt, [tokens for tokens, *_ in part]) for row, part in zip(prompts, parts, strict=True)]
        if self.beta is not None:
            for example, part in zip(made, parts, strict=True):
                earned = [reward - self.beta * gap for _, gap, reward in part]
                told["objective"] = told.get("objective", 0.0) + sum(earned) / len(tokens)
                mean = sum(earned) / number
                example.advantages = [(one - mean) * number / max(1, number - 1) for one in earned]
        return made, told

    def keep_whole(self, model) -> None:
        """Copies the model before it is sharded: what writes is whole in every process."""
        self._copy = self._copied(model).cpu()

    def drop(self, model) -> None:
        """Lets go of the copy of the model that writes, until it is to write again."""
        self._copy = self._copy.cpu() if ranks.is_sharded(model) else None

    def _sampler(self, model):
        """The model itself in float32, where it is whole; else a copy in the dtype of products, brought up to date."""
        if self.dtype == torch.float32 and not ranks.is_sharded(model):
            return model
        if self._copy is None:
            self._copy = self._copied(model)
        else:
            self._copy.to(model.device)
            with torch.no_grad():
                for own, new in zip(self._copy.parameters(), model.parameters(), strict=True):
                    if new.requires_grad:
                        own.copy_(ranks.whole(new))
        return self._copy.eval()

    def _copied(self, model):
        return copy.deepcopy(model).to(model.dtype if self.dtype == torch.float32 else self.dtype)


@dataclass(frozen=True)
class HeldoutPrompts:
    """Prompts that training never sees, and how the policy is to write to them; with the same draws each time."""

    prompts: list[EncodedPrompt]
    rollouts: Rollouts
    on_policy: bool

    @torch.no_grad()
    def measure(self, model, loss: Callable, dtype: torch.dtype, batch: int, quiet: bool) -> dict[str, float]:
        """What `Rollouts.write` tells; where the method is on-policy, its loss on these responses, too.

        That of RLOO is minus the objective, since the value of a policy gradient's surrogate says nothing.
        """
        examples, told = self.rollouts.write(model, self.prompts, "heldout", measured=True)
        if not self.on_policy:
            self.rollouts.drop(model)
        objective = told.pop("objective", None)
        if objective is not None:
            return {"loss": -objective, **told}
        if not self.on_policy:
            return told
        items = token_counts(examples)

        def read(part: slice, model) -> float:
            return float(loss(model, collate(examples[part]), items)[0])

        return {"loss": sum(in_parts(model, read, len(examples), batch, dtype, quiet)), **told}


def in_parts(
    model, read: Callable[[slice, Any], Any], count: int, batch: int, dtype: torch.dtype, quiet: bool
) -> list:  # fmt: skip
    """`read(part, model)` of every `batch` of `count` examples, in their order; of several processes each its share."""
    found, parts = [], [slice(start, start + batch) for start in range(0, count, batch)]
    with autocast(plain(model).device, dtype):
        for part, counts in tqdm(ranks.share(parts), desc="held out", leave=False, disable=quiet):
            found += [ranks.inside(model, partial(read, part))] * counts
    return ranks.gather(found)
