"""What a policy writes while it is trained or measured, and what that earns: on-policy distillation and RLOO.

At each step the policy writes to the step's prompts, at temperature 1 and from its whole distribution, and the loss
reads what it wrote. The draws depend on the seed and the step alone, so a training that goes on draws the same.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from alignkd_lab.lm.batch import Example, autocast, collate, plain, token_counts
from alignkd_lab.lm.own_prompts import Prompt
from alignkd_lab.lm.preference_data import render, token_ids
from alignkd_lab.lm.preference_rows import Message
from alignkd_lab.lm.rewards import Scorer
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.teachers import LiveTeacher
from alignkd_lab.lm.templates import end_ids, frame_of


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Its token ids up to where the answer starts, and what a reward reads of it: a text, or messages."""

    prompt: list[int]
    said: str | list[Message]


def encode_prompts(rows: list[Prompt], tokenizer, most: int) -> tuple[list[EncodedPrompt], dict[str, int]]:
    """Prompts of at most `most` tokens, as the chat template has them; and how many were left out, by reason.

    Raises:
        BadInput: a template that is refused (`lm.templates.frame_of`).
    """
    frame_of(tokenizer)
    texts = render([row.messages for row in rows], tokenizer) if rows else []
    rendered = [(row, text) for row, text in zip(rows, texts, strict=True) if text is not None]
    ids = token_ids([text for _, text in rendered], tokenizer) if rendered else []
    made = [EncodedPrompt(list(one), row.said) for (row, _), one in zip(rendered, ids, strict=True) if len(one) <= most]
    left_out = {"the chat template refuses the prompt": len(rows) - len(rendered),
                f"prompt longer than {most} tokens": len(rendered) - len(made)}  # fmt: skip
    return made, {reason: count for reason, count in left_out.items() if count}


@dataclass
class Rollouts:
    """How a policy writes: `responses` of at most `max_tokens` tokens to each prompt.

    Attributes:
        scorer: what a response earns, R.
        reference: the policy that the KL is measured from.
        beta: weight of the KL in what RLOO maximises; each response then carries its advantage.
    """

    tokenizer: Any
    responses: int
    max_tokens: int
    seed: int
    dtype: torch.dtype
    scorer: Scorer | None = None
    reference: LiveTeacher | None = None
    beta: float | None = None
    _copy: Any = field(default=None, repr=False)

    def write(
        self, model, prompts: list[EncodedPrompt], *purpose: object, measured: bool = False
    ) -> tuple[list[Example], dict[str, float]]:
        """Examples of what the policy writes, and what there is to tell of them; the model is in eval mode afterwards.

        Told is `response_length` in tokens; where it is `measured`, or there is a `beta`, also `mean_reward` and `kl`,
        log pi - log pi_ref in nats a token; and, with `beta`, `objective`: the mean of R - beta (log pi - log pi_ref),
        the KL in nats a response. A response's advantage is that minus the mean of the others to its prompt (Ahmadian
        et al. 2024, RLOO).
        """
        model.eval()
        words = repr((self.seed, *purpose)).encode()
        seed = int.from_bytes(hashlib.sha256(words).digest()[:4], "big")
        asked, ends = [row.prompt for row in prompts], end_ids(self.tokenizer)
        samples = sample(self._sampler(model), asked, self.responses, self.max_tokens, ends, seed)
        count, told = len(samples.tokens), {"response_length": samples.token_count / len(samples.tokens)}
        gaps, rewards = [0.0] * count, [0.0] * count
        measured = measured or self.beta is not None
        if self.reference and measured:
            own = score(model, samples, dtype=self.dtype)
            with self.reference.reading():
                others = score(self.reference.model, samples, dtype=self.dtype)
            gaps = [float((mine - other).sum()) for mine, other in zip(own, others, strict=True)]
            told["kl"] = sum(gaps) / samples.token_count
        if self.scorer and measured:
            texts = [self.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in samples.tokens]
            rewards = self.scorer([prompts[at].said for at in samples.prompt_of], texts)
            told["mean_reward"] = sum(rewards) / count
        made = [Example(row.prompt, [samples.tokens[at] for at in own])
                for row, own in zip(prompts, samples.by_prompt(), strict=True)]  # fmt: skip
        if self.beta is not None:
            earned = [reward - self.beta * gap for reward, gap in zip(rewards, gaps, strict=True)]
            told["objective"] = sum(earned) / count
            for example, own in zip(made, samples.by_prompt(), strict=True):
                mean = sum(earned[at] for at in own) / len(own)
                example.advantages = [(earned[at] - mean) * len(own) / max(1, len(own) - 1) for at in own]
        return made, told

    def drop(self) -> None:
        """Lets go of the copy of the model that writes, until it is to write again."""
        self._copy = None

    def _sampler(self, model):
        """The model itself in float32; else a copy in the dtype of products, brought up to date."""
        if self.dtype == torch.float32:
            return model
        if self._copy is None:
            self._copy = copy.deepcopy(model).to(self.dtype)
        else:
            with torch.no_grad():
                for own, new in zip(self._copy.parameters(), model.parameters(), strict=True):
                    if new.requires_grad:
                        own.copy_(new)
        return self._copy.eval()


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
            self.rollouts.drop()
        objective = told.pop("objective", None)
        if objective is not None:
            return {"loss": -objective, **told}
        if not self.on_policy:
            return told
        total, items = 0.0, token_counts(examples)
        with autocast(plain(model).device, dtype), tqdm(total=len(examples), leave=False, disable=quiet) as bar:
            for start in range(0, len(examples), batch):
                total += float(loss(model, collate(examples[start : start + batch]), items)[0])
                bar.update(batch)
        return {"loss": total, **told}
