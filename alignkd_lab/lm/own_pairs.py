"""Somebody's preference pairs, or prompts alone: split by prompt, cut to length, and what student and reference say.

Training and held-out texts share no prompt.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import ranks
from alignkd_lab.lm.batch import EncodedPrompt, Example
from alignkd_lab.lm.preference_data import (
    count_reasons,
    encode_prompts,
    load_preferences,
    read_prompts,
    render,
    to_examples,
)
from alignkd_lab.lm.preference_rows import Asked
from alignkd_lab.lm.request import read_share
from alignkd_lab.lm.sampling import in_dtype, sample
from alignkd_lab.lm.scoring import response_log_probs
from alignkd_lab.lm.templates import end_ids
from alignkd_lab.store import Store

BATCH = 192  # responses that are sampled together, and kept together or not at all


@dataclass(frozen=True)
class Texts:
    """What is trained on and what is held out; `about` says where it comes from and what was left out.

    Attributes:
        training, heldout: examples with the responses [chosen, rejected], or prompts alone.
        max_tokens: of a response.
        asked: each held-out prompt once, where there are pairs.
    """

    training: list
    heldout: list
    about: dict
    max_tokens: int
    asked: list[Asked] = field(default_factory=list)

    @property
    def reach(self) -> int:
        """Tokens of the longest text that may be read."""
        return max(len(row.prompt) + max(self.max_tokens, 1) for row in self.training + self.heldout)


def read_texts(
    source: Any, heldout: str, tokenizer, max_length: int, max_prompt: int | None, seed: int, *, pairs: bool
) -> Texts:
    """Pairs of `source`, or its prompts alone, without the share `heldout` of their prompts, or those of that file.

    Raises:
        BadInput: as `load_preferences` or `read_prompts` does; a share that is none; nothing left to train on or to
            hold out.
    """

    def read(source: Any, field: str) -> Any:
        return load_preferences(source) if pairs else read_prompts(source, field)

    found, share = read(source, "prompts"), read_share(heldout)
    kept_out = read(heldout, "heldout") if share is None else found
    training, held = _split(found.rows, kept_out.rows, share, seed)
    # Two texts may be one prompt where a chat template takes white space off.
    written = {render(row.prompt, tokenizer) for row in held} - {None}
    apart = [row for row in training if render(row.prompt, tokenizer) not in written] if written else training
    max_prompt = max_prompt or max(1, max_length // 2)
    limits = {"max_prompt_tokens": max_prompt, "max_response_tokens": max_length - max_prompt}
    if pairs:
        parts = [to_examples(replace(found, rows=rows), tokenizer, **limits) for rows in (apart, held)]
    else:
        parts = [encode_prompts(rows, tokenizer, max_prompt) for rows in (apart, held)]
    kind = "pair" if pairs else "prompt"
    odd = {"noted": count_reasons(found.noted)} if pairs else {}
    about = {"data": found.provenance, "skipped": count_reasons(found.skipped), **odd, **limits}
    for name, part in zip(("training", "heldout"), parts, strict=True):
        counts = {"skipped": count_reasons(part.skipped), "cut": count_reasons(part.cut)}
        about[name] = {f"{kind}s": len(part.examples), **counts}
    if share is None:
        skipped = count_reasons([*kept_out.skipped, *parts[1].skipped])
        about["heldout"] |= {"source": kept_out.provenance, "skipped": skipped}
        about["heldout"] |= {"noted": count_reasons(kept_out.noted)} if pairs else {}
    inside = len(found.rows) if share is None else len(training)  # a file's own rows are no part of these
    if len(apart) < inside:
        about["training"]["skipped"]["is held out"] = inside - len(apart)
    if not parts[0].examples:
        left_out = {"held out": len(held), **about["skipped"], **about["training"]["skipped"]}
        raise BadInput(
            f"{'data' if pairs else 'prompts'}: no {kind} of {found.provenance['source']} is left to train on "
            f"({_reasons(left_out)}); {kind}s of one prompt are held out together: give more prompts, or shorter ones "
            "(or raise max_length), or hold out none (heldout 0)"
        )
    if held and not parts[1].examples:
        reasons = _reasons(about["heldout"]["skipped"])
        raise BadInput(f"heldout: no held-out {kind} can be used ({reasons}); hold out more, or 0")
    asked = {_digest(row.prompt, seed): row for row in held if pairs}
    return Texts(parts[0].examples, parts[1].examples, about, max_length - max_prompt, list(asked.values()))


def prompts_of_reward(texts: Texts, source: str | None, tokenizer) -> tuple[list[EncodedPrompt], dict]:
    """Prompts that are answered for a reward: of `source`, or of the held-out pairs; none that is trained on.

    Raises:
        BadInput: as `read_prompts` does, or none is left.
    """
    found = read_prompts(source) if source else None
    rows = found.rows if found else texts.asked
    encoded = encode_prompts(rows, tokenizer, texts.about["max_prompt_tokens"])
    seen = {tuple(row.prompt) for row in texts.training}
    kept = [row for row in encoded.examples if tuple(row.prompt) not in seen]
    left_out = count_reasons([*(found.skipped if found else ()), *encoded.skipped])
    if len(kept) < len(encoded.examples):
        left_out["is trained on"] = len(encoded.examples) - len(kept)
    about = {"prompts": len(kept), "skipped": left_out, **({"source": found.provenance} if found else {})}
    if not kept:
        where = "prompts" if source else "heldout"
        raise BadInput(f"{where}: no prompt is left to measure the reward on ({_reasons(left_out)})")
    return kept, about


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count) or "there are none"


def _digest(prompt: list, seed: int) -> str:
    return hashlib.sha256(json.dumps([seed, prompt]).encode()).hexdigest()


def _split(rows: list, kept_out: list, share: float | None, seed: int) -> tuple[list, list]:
    """Of `rows` what is trained on, and what is held out: a share of their prompts by hash, or all of `kept_out`."""
    digests = [_digest(row.prompt, seed) for row in rows]
    ranked = sorted(set(digests))
    if share is None:
        held = {_digest(row.prompt, seed) for row in kept_out}
    else:
        held = set(ranked[: max(1, round(share * len(ranked)))]) if share else set()
        kept_out = [row for row, digest in zip(rows, digests, strict=True) if digest in held]
    return [row for row, digest in zip(rows, digests, strict=True) if digest not in held], kept_out


def _texts(examples: list[Example]) -> str:
    """A hash of what they say."""
    made = hashlib.sha256()
    for row in examples:
        made.update(json.dumps([list(row.prompt), [list(tokens) for tokens in row.responses]]).encode())
    return made.hexdigest()


def student_examples(
    model, tokenizer, parts: list[list[Example]], store: Store, depends: dict, dtype: torch.dtype
) -> list[list[Example]]:
    """Of each part the chosen response, and `depends["responses"]` that the student writes at temperature 1, kept.

    It writes `BATCH` responses together, and each batch is kept by itself: a writing that was cut off goes on there. Of
    several processes each writes its share of the batches, which are those of one.
    """
    rows = [*parts[0], *parts[1]]
    prompts, depends = [list(row.prompt) for row in rows], {**depends, "prompts": _texts(rows), "batch": BATCH}
    count, most, seed = (depends[name] for name in ("responses", "max_tokens", "seed"))
    order, size = sorted(range(len(rows)), key=lambda at: len(prompts[at])), max(1, BATCH // count)
    sampler = cache(lambda: in_dtype(model, dtype))
    written: dict[int, list] = {}

    def write(only: list[int]) -> list[list[int]]:
        return sample(sampler(), prompts, count, most, end_ids(tokenizer), seed, batch=BATCH, only=only).tokens

    with tqdm(total=len(rows) * count, desc="the student writes", unit="responses", leave=False,
              disable=ranks.index() > 0) as bar:  # fmt: skip
        for at in ranks.turns(-(-len(rows) // size)):
            only = order[at * size : (at + 1) * size]
            found = store.keep_json("student-responses", {**depends, "at": at}, partial(write, only))
            written |= {prompt: found[turn * count : (turn + 1) * count] for turn, prompt in enumerate(only)}
            bar.update(len(found))
    made = [
        Example(row.prompt, [row.responses[0], *written[at]], ["chosen", *["sampled"] * count])
        for at, row in enumerate(rows)
    ]
    return [made[: len(parts[0])], made[len(parts[0]) :]]


def reference_log_probs(model, examples: list[Example], store: Store, weights: str, dtype: torch.dtype) -> None:
    """Gives each example the log-probabilities of its responses under `model`, kept in the store `BATCH` at a time."""
    for at in ranks.turns(-(-len(examples) // BATCH)):
        rows = examples[at * BATCH : (at + 1) * BATCH]
        depends = {"weights": weights, "dtype": str(dtype), "texts": _texts(rows)}
        sums = iter(store.keep_json("reference-log-probs", depends, partial(response_log_probs, model, rows, dtype)))
        for row in rows:
            row.reference_log_probs = [next(sums) for _ in row.responses]
