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
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.models import in_dtype
from alignkd_lab.lm.own_prompts import Prompt, read_prompts
from alignkd_lab.lm.preference_data import count_reasons, load_preferences, to_examples
from alignkd_lab.lm.rollouts import EncodedPrompt, encode_prompts
from alignkd_lab.lm.sampling import Samples, sample
from alignkd_lab.lm.scoring import score
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
    asked: list[Prompt] = field(default_factory=list)

    @property
    def reach(self) -> int:
        """Tokens of the longest text that may be read."""
        return max(len(row.prompt) + max(self.max_tokens, 1) for row in self.training + self.heldout)


def read_pairs(source: Any, heldout: str, tokenizer, max_length: int, max_prompt: int | None, seed: int) -> Texts:
    """Pairs of `source`, without the share `heldout` of their prompts, or without those of that file.

    Raises:
        BadInput: as `load_preferences` does; a share that is none; nothing left to train on or to hold out.
    """
    found = load_preferences(source)
    share, rows = _share(heldout), found.rows
    kept_out = load_preferences(heldout) if share is None else found
    training, held = _split(*([row.prompt for row in part.rows] for part in (found, kept_out)), share, seed)
    parts = (
        replace(found, rows=[rows[at] for at in training]),
        replace(kept_out, rows=[kept_out.rows[at] for at in held]),
    )
    limits = _limits(max_length, max_prompt)
    encoded = [to_examples(part, tokenizer, **limits) for part in parts]
    counts = {name: count_reasons(getattr(found, name)) for name in ("skipped", "noted")}
    about = {"data": found.provenance, **counts, **limits}
    for name, part in zip(("training", "heldout"), encoded, strict=True):
        counts = {kind: count_reasons(getattr(part, kind)) for kind in ("skipped", "cut")}
        about[name] = {"pairs": len(part.examples), **counts}
    if not encoded[0].examples:
        left_out = {"held out": len(parts[1].rows), **about["skipped"], **about["training"]["skipped"]}
        raise BadInput(
            f"data: no pair of {found.provenance['source']} is left to train on ({_reasons(left_out)}); pairs of one "
            "prompt are held out together: give more prompts, or hold out none (heldout 0)"
        )
    if parts[1].rows and not encoded[1].examples:
        reasons = _reasons(about["heldout"]["skipped"])
        raise BadInput(f"heldout: no held-out pair can be used ({reasons}); hold out more, or 0")
    asked = list({_digest(row.prompt, seed): Prompt(row.row, row.prompt, [], {}) for row in parts[1].rows}.values())
    return Texts(encoded[0].examples, encoded[1].examples, about, limits["max_response_tokens"], asked)


def read_asked(source: Any, heldout: str, tokenizer, max_length: int, max_prompt: int | None, seed: int) -> Texts:
    """Prompts of `source` alone, split as `read_pairs` splits pairs.

    Raises:
        BadInput: as `read_prompts` does; a share that is none; nothing left to train on or to hold out.
    """
    found = read_prompts(source)
    share, limits = _share(heldout), _limits(max_length, max_prompt)
    kept_out = read_prompts(heldout, "heldout").rows if share is None else found.rows
    training, held = _split(*([row.messages for row in rows] for rows in (found.rows, kept_out)), share, seed)
    about = {"data": found.provenance, "skipped": count_reasons(found.skipped), **limits}
    made = {}
    for name, rows in (("training", [found.rows[at] for at in training]), ("heldout", [kept_out[at] for at in held])):
        made[name], left_out = encode_prompts(rows, tokenizer, limits["max_prompt_tokens"])
        about[name] = {"prompts": len(made[name]), "skipped": left_out}
        if (rows or name == "training") and not made[name]:
            field, more = ("prompts", {"held out": len(held)}) if name == "training" else (name, {})
            raise BadInput(f"{field}: no prompt is left for {name} ({_reasons({**more, **left_out})})")
    return Texts(**made, about=about, max_tokens=limits["max_response_tokens"])


def prompts_of_reward(texts: Texts, source: str | None, tokenizer) -> tuple[list[EncodedPrompt], dict]:
    """Prompts that are answered for a reward: of `source`, or of the held-out pairs; none that is trained on.

    Raises:
        BadInput: as `read_prompts` does, or none is left.
    """
    found = read_prompts(source) if source else None
    rows = found.rows if found else texts.asked
    made, left_out = encode_prompts(rows, tokenizer, texts.about["max_prompt_tokens"])
    seen = {tuple(row.prompt) for row in texts.training}
    kept = [row for row in made if tuple(row.prompt) not in seen]
    if len(kept) < len(made):
        left_out["is trained on"] = len(made) - len(kept)
    about = {"prompts": len(kept), "skipped": left_out, **({"source": found.provenance} if found else {})}
    if not kept:
        where = "prompts" if source else "heldout"
        raise BadInput(f"{where}: no prompt is left to measure the reward on ({_reasons(left_out)})")
    return kept, about


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count) or "there are none"


def _share(heldout: str) -> float | None:
    """The share that is held out; None where a file is named."""
    try:
        share = float(heldout)
    except ValueError:
        return None
    if not 0 <= share < 1:
        raise BadInput(f"heldout: {heldout} must be a share of the prompts, from 0 to below 1, or a file of them")
    return share


def _limits(max_length: int, max_prompt: int | None) -> dict[str, int]:
    max_prompt = max_prompt or max(1, max_length // 2)
    return {"max_prompt_tokens": max_prompt, "max_response_tokens": max_length - max_prompt}


def _digest(prompt: list, seed: int) -> str:
    return hashlib.sha256(json.dumps([seed, prompt]).encode()).hexdigest()


def _split(prompts: list, kept_out: list, share: float | None, seed: int) -> tuple[list[int], list[int]]:
    """Which of `prompts` are trained on, and which of `kept_out` are held out: a share of them by hash, or all."""
    digests = [_digest(prompt, seed) for prompt in prompts]
    if share is None:
        held = {_digest(prompt, seed) for prompt in kept_out}
        return [at for at, digest in enumerate(digests) if digest not in held], list(range(len(kept_out)))
    ranked = sorted(set(digests))
    held = set(ranked[: max(1, round(share * len(ranked)))]) if share else set()
    return tuple([at for at, digest in enumerate(digests) if (digest in held) == side] for side in (False, True))


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

    def read(rows: list[Example]) -> list[float]:
        tokens = [list(tokens) for row in rows for tokens in row.responses]
        of = [index for index, row in enumerate(rows) for _ in row.responses]
        found = score(model, Samples([list(row.prompt) for row in rows], of, tokens), dtype=dtype)
        return [float(tokens.sum()) for tokens in found]

    for at in ranks.turns(-(-len(examples) // BATCH)):
        rows = examples[at * BATCH : (at + 1) * BATCH]
        depends = {"weights": weights, "dtype": str(dtype), "texts": _texts(rows)}
        sums = iter(store.keep_json("reference-log-probs", depends, partial(read, rows)))
        for row in rows:
            row.reference_log_probs = [next(sums) for _ in row.responses]
