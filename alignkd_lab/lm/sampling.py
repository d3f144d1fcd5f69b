"""Sampling responses, and scoring given ones: prompts are read once, their cache serves every response.

Left out compared with `generate`: beams, top-k, top-p. What makes it fast on a CPU: one prefill a
prompt for all of its responses, finished responses leave the batch, a cache with room for what comes
(`Roomy`), and a draw by one cumulative sum in place of `torch.multinomial`. The hidden states that
predicted each token can be kept, so that a teacher never runs twice on the tokens that it wrote.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from alignkd_lab.errors import BadInput, check_number
from alignkd_lab.lm.architecture import backbone, capped, head_of, parts_of, to_head
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.templates import end_ids
from alignkd_lab.memory import halve


@dataclass
class Samples:
    """Responses to prompts, in the order of prompts, `responses_per_prompt` each.

    Attributes:
        prompt_ids: token ids of each prompt.
        prompt_of: index of each response's prompt, [R].
        tokens: token ids of each response with its end token, if it reached one, R lists.
        log_probs: log-probability at temperature 1 of each token under the model that wrote it, R tensors.
        hidden: final hidden state that predicted each token, R tensors [length, width]; None if not kept.
        seconds_before: that drawing them took, where they were kept from an earlier time; else 0.
    """

    prompt_ids: list[list[int]]
    prompt_of: list[int]
    tokens: list[list[int]]
    log_probs: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] | None = None
    seconds_before: float = 0.0

    @property
    def token_count(self) -> int:
        return sum(map(len, self.tokens))

    def texts(self, tokenizer) -> list[str]:
        """What each response says, without what ends it and tokens that are no text."""
        ends = set(end_ids(tokenizer))  # which need not be special
        said = (tokens[:-1] if tokens and tokens[-1] in ends else tokens for tokens in self.tokens)
        return [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in said]

    def ended(self, ends: Sequence[int]) -> list[bool]:
        """Which responses ended by themselves, in one of these tokens; the others were cut at the most tokens."""
        return [tokens[-1] in ends for tokens in self.tokens]

    def by_prompt(self) -> list[list[int]]:
        """Indices of each prompt's responses."""
        found: list[list[int]] = [[] for _ in self.prompt_ids]
        for index, prompt in enumerate(self.prompt_of):
            found[prompt].append(index)
        return found

    def examples(self) -> list[Example]:
        """One for each prompt; the hidden states, where they were kept, are what the teacher "teacher" says."""
        signals = [[{"hidden": self.hidden[i]} for i in rows] if self.hidden else [] for rows in self.by_prompt()]
        return [
            Example(prompt, [self.tokens[i] for i in rows], signals={"teacher": said} if said else {})
            for prompt, rows, said in zip(self.prompt_ids, self.by_prompt(), signals, strict=True)
        ]

    def only(self, indices: Sequence[int]) -> Samples:
        """These responses alone, in this order, beside all prompts."""
        parts = {name: getattr(self, name) for name in ("prompt_of", "tokens", "log_probs", "hidden")}
        picked = {name: [part[index] for index in indices] if part else part for name, part in parts.items()}
        return Samples(self.prompt_ids, **picked)


def seed_for(*purpose: object) -> int:
    """A seed of its own for each purpose, whatever it is made of."""
    return int.from_bytes(hashlib.sha256(repr(purpose).encode()).digest()[:4], "big")


def draw(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """One token a row by inverting the cumulative distribution. logits [R, V], uniform in [0, 1) [R] -> ids [R]."""
    cumulative = torch.softmax(logits.float() / temperature, dim=-1).cumsum_(dim=-1)
    wanted = (uniform * cumulative[:, -1]).unsqueeze(1)
    return torch.searchsorted(cumulative, wanted, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)


def _draw(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A token a row and its log-probability at temperature 1, [R] each; on a CPU few rows a time, for its cache."""
    rows = 8 * torch.get_num_threads() if logits.device.type == "cpu" else len(logits)
    found = []
    for part, numbers in zip(logits.split(rows), uniform.split(rows), strict=True):
        tokens = draw(part, temperature, numbers)
        found.append((tokens, part.gather(1, tokens[:, None]).squeeze(1) - part.logsumexp(dim=-1)))
    tokens, log_probs = zip(*found, strict=True)
    return torch.cat(tokens), torch.cat(log_probs)


@torch.inference_mode()
def sample(
    model,
    prompt_ids: list[list[int]],
    responses_per_prompt: int,
    max_tokens: int,
    eos: int | Sequence[int],
    seed: int,
    temperature: float = 1.0,
    keep_hidden: bool = False,
    batch: int = 192,
    shown: str | None = None,
    only: Sequence[int] | None = None,
) -> Samples:
    """Responses of at most `max_tokens` tokens, drawn from the whole distribution at `temperature`.

    `eos` ends a response; where several ids do, any of them (`lm.templates.end_ids`).
    `shown` is what a progress bar says; there is none without. The same seed gives the same responses whatever
    `batch` is, and where memory does not hold it and it halves: each has its own stream of random numbers.
    With `only`, numbers of prompts, these alone are answered, as they are among all. In place of a model there may be
    an engine that has one (`lm.engines.Vllm`), whose draws are its own.

    Raises:
        CannotContinue: not even one response fits in memory.
    """
    check_number("temperature", temperature, above=0)
    for name, value in (("responses_per_prompt", responses_per_prompt), ("max_tokens", max_tokens), ("batch", batch)):
        check_number(name, value, least=1, whole=True)
    if not all(map(len, prompt_ids)):
        raise BadInput("prompts: one holds no token, so nothing predicts its answer's first; give it a begin token")
    asked = range(len(prompt_ids)) if only is None else only
    if hasattr(model, "write"):
        ends = [eos] if isinstance(eos, int) else eos
        tokens = model.write(prompt_ids, asked, responses=responses_per_prompt, max_tokens=max_tokens, ends=ends,
                             seed=seed, temperature=temperature)  # fmt: skip
        return Samples(prompt_ids, [index for index in asked for _ in range(responses_per_prompt)], tokens)
    count = len(prompt_ids) * responses_per_prompt
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, max_tokens, generator=generator)
    way_out = "one response alone does not fit in sampling; lower max_tokens, or use a smaller model"
    result = Samples(
        prompt_ids,
        [index // responses_per_prompt for index in range(count)],
        [[] for _ in range(count)],
        [None] * count,
        [None] * count if keep_hidden else None,
    )
    # Neighbours in length share a batch, so that little padding is read.
    order = sorted(asked, key=lambda index: len(prompt_ids[index]))
    per_batch = max(1, batch // responses_per_prompt)
    size = min(per_batch, len(order)) * responses_per_prompt
    total = len(order) * responses_per_prompt
    bar = tqdm(total=total, desc=shown, unit="responses", leave=False, disable=shown is None)
    for start in range(0, len(order), per_batch):
        chosen = order[start : start + per_batch]

        def work(size: int, chosen: list[int] = chosen) -> None:
            prompts, turns = max(1, size // responses_per_prompt), min(size, responses_per_prompt)
            for at, turn in product(range(0, len(chosen), prompts), range(0, responses_per_prompt, turns)):
                several = range(turn, min(turn + turns, responses_per_prompt))
                _sample_batch(model, chosen[at : at + prompts], several, max_tokens, eos, uniform, temperature, result)

        _, size = halve(work, size, "sample_batch", way_out)
        bar.update(len(chosen) * responses_per_prompt)
    bar.close()
    return result.only([index * responses_per_prompt + turn for index in asked for turn in range(responses_per_prompt)])


def _sample_batch(model, chosen, turns, max_tokens, eos, uniform, temperature, result) -> None:
    device, repeats = model.device, len(result.tokens) // len(result.prompt_ids)
    ends = torch.tensor([eos] if isinstance(eos, int) else list(eos), device=device)
    weight, cap = parts_of(head_of(model))
    hidden, cache, mask, position = prefill(model, [result.prompt_ids[index] for index in chosen], len(turns))
    cache.layers = [
        Roomy(layer, max_tokens) if type(layer) is DynamicLayer and layer.is_initialized else layer
        for layer in cache.layers
    ]
    rows = torch.tensor([index * repeats + turn for index in chosen for turn in turns])
    written: dict[int, list] = {int(row): [] for row in rows}
    for step in range(max_tokens):
        logits = capped(F.linear(hidden, weight).float(), cap)
        tokens, log_probs = _draw(logits, temperature, uniform[rows, step].to(device))
        kept = hidden.float().cpu() if result.hidden is not None else [None] * len(rows)
        for row, token, log_prob, state in zip(rows.tolist(), tokens.tolist(), log_probs.tolist(), kept, strict=True):
            written[row].append((token, log_prob, state))
        going = (~torch.isin(tokens, ends)).nonzero().squeeze(1)
        if step + 1 == max_tokens or not len(going):
            break
        if len(going) < len(rows):
            rows, tokens, mask, position = rows[going.cpu()], tokens[going], mask[going], position[going]
            cache.batch_select_indices(going)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        states = backbone(model)(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=(position + step)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = to_head(model, states[:, -1])
    for row, steps in written.items():
        tokens, log_probs, states = zip(*steps, strict=True)
        result.tokens[row] = list(tokens)
        result.log_probs[row] = torch.tensor(log_probs)
        if result.hidden is not None:
            result.hidden[row] = torch.stack(states)


def prefill(model, prompt_ids: list[list[int]], repeats: int) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
    """Reads each prompt once (padded on the left) and repeats what it remembers: rows = prompts × `repeats`.

    The last hidden state as the head takes it [rows, width], the cache, 1 where that holds a token of the prompt
    [rows, longest prompt], and the tokens in the prompt [rows].
    """
    longest = max(map(len, prompt_ids))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompt_ids], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompt_ids], device=model.device)
    cache = DynamicCache(config=model.config)
    states = backbone(model)(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp_(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden = to_head(model, states[:, -1])
    cache.batch_repeat_interleave(repeats)
    rows, mask = (tensor.repeat_interleave(repeats, 0) for tensor in (hidden, mask))
    return rows, cache, mask, mask.sum(1)


class Roomy(DynamicLayer):
    """One layer's keys and values with room for `more` tokens: a `DynamicLayer` copies all that it holds at each."""

    def __init__(self, layer: DynamicLayer, more: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._whole = [F.pad(tensor, (0, 0, 0, more)) for tensor in (layer.keys, layer.values)]
        self._show(layer.keys.shape[-2])

    def _show(self, length: int) -> None:
        self.keys, self.values = (tensor[..., :length, :] for tensor in self._whole)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        before = self.keys.shape[-2]
        for whole, new in zip(self._whole, (key_states, value_states), strict=True):
            whole[..., before : before + new.shape[-2], :] = new
        self._show(before + key_states.shape[-2])
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._whole = [tensor[indices] for tensor in self._whole]
        self._show(self.keys.shape[-2])


def in_dtype(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of the model in `dtype`, to sample from; the model itself where that is float32, or an engine's."""
    return model if dtype == torch.float32 or hasattr(model, "write") else copy.deepcopy(model).to(dtype)
