"""Somebody's preference pairs as examples: split by prompt, cut to length, and what the student and the reference say.

Training and held-out pairs share no prompt.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.preference_data import Preferences, count_reasons, load_preferences, to_examples
from alignkd_lab.lm.sampling import Samples, sample
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.templates import end_ids
from alignkd_lab.store import Store


@dataclass(frozen=True)
class Pairs:
    """Examples with the responses [chosen, rejected]; `about` says where they come from and what was left out."""

    training: list[Example]
    heldout: list[Example]
    about: dict
    max_tokens: int  # of a response

    @property
    def reach(self) -> int:
        """Tokens of the longest text that may be read."""
        return max(len(row.prompt) + max(self.max_tokens, 1) for row in self.training + self.heldout)


def read_pairs(source: Any, heldout: str, tokenizer, max_length: int, max_prompt: int | None, seed: int) -> Pairs:
    """Pairs of `source`, without the share `heldout` of their prompts, or without those of that file.

    Raises:
        BadInput: as `load_preferences` does; a share that is none; nothing left to train on or to hold out.
    """
    found = load_preferences(source)
    try:
        share = float(heldout)
    except ValueError:
        kept_out = load_preferences(heldout)
        held = {_digest(row, seed) for row in kept_out.rows}
        parts = replace(found, rows=[row for row in found.rows if _digest(row, seed) not in held]), kept_out
    else:
        if not 0 <= share < 1:
            raise BadInput(f"heldout: {heldout} must be a share of the prompts, from 0 to below 1, or a file of pairs")
        parts = _split(found, share, seed)
    max_prompt = max_prompt or max(1, max_length // 2)
    limits = {"max_prompt_tokens": max_prompt, "max_response_tokens": max_length - max_prompt}
    encoded = [to_examples(part, tokenizer, **limits) for part in parts]
    counts = {name: count_reasons(getattr(found, name)) for name in ("skipped", "noted")}
    about = {"data": found.provenance, **counts, **limits}
    for name, part in zip(("training", "heldout"), encoded, strict=True):
        counts = {kind: count_reasons(getattr(part, kind)) for kind in ("skipped", "cut")}
        about[name] = {"pairs": len(part.examples), **counts}
    if not encoded[0].examples:
        left_out = {"held out": len(parts[1].rows), **about["skipped"], **about["training"]["skipped"]}
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        raise BadInput(
            f"data: no pair of {found.provenance['source']} is left to train on ({reasons}); pairs of one prompt are "
            "held out together: give more prompts, or hold out none (heldout 0)"
        )
    if parts[1].rows and not encoded[1].examples:
        raise BadInput(f"heldout: no held-out pair can be used ({about['heldout']}); hold out more, or 0")
    return Pairs(encoded[0].examples, encoded[1].examples, about, limits["max_response_tokens"])


def _digest(row, seed: int) -> str:
    return hashlib.sha256(json.dumps([seed, row.prompt]).encode()).hexdigest()


def _split(found: Preferences, share: float, seed: int) -> tuple[Preferences, Preferences]:
    digests = [_digest(row, seed) for row in found.rows]
    ranked = sorted(set(digests))
    held = set(ranked[: max(1, round(share * len(ranked)))]) if share else set()
    by_side = ([row for row, digest in zip(found.rows, digests, strict=True) if (digest in held) == side]
               for side in (False, True))  # fmt: skip
    return tuple(replace(found, rows=rows) for rows in by_side)


def _texts(examples: list[Example]) -> str:
    """A hash of what they say."""
    made = hashlib.sha256()
    for row in examples:
        made.update(json.dumps([list(row.prompt), [list(tokens) for tokens in row.responses]]).encode())
    return made.hexdigest()


def student_examples(
    model, tokenizer, parts: list[list[Example]], store: Store, depends: dict, dtype: torch.dtype
) -> list[list[Example]]:
    """Of each part the chosen response, and `depends["responses"]` that the student writes at temperature 1, kept."""
    rows = [*parts[0], *parts[1]]
    count, most, seed = (depends[name] for name in ("responses", "max_tokens", "seed"))

    def write() -> Samples:
        sampler = model if dtype == torch.float32 else _copy(model, dtype)
        with tqdm(total=len(rows) * count, desc="the student writes", unit="responses", leave=False) as bar:
            return sample(sampler, [list(row.prompt) for row in rows], count, most, end_ids(tokenizer), seed,
                          progress=bar.update)  # fmt: skip

    written = store.keep(
        "student-responses", {**depends, "prompts": _texts(rows)}, write,
        lambda samples, folder: torch.save(asdict(samples), folder / "samples.pt"),
        lambda folder: Samples(**torch.load(folder / "samples.pt", weights_only=True)),
    )  # fmt: skip
    made = [
        Example(row.prompt, [row.responses[0], *(written.tokens[at] for at in own)], ["chosen", *["sampled"] * count])
        for row, own in zip(rows, written.by_prompt(), strict=True)
    ]
    return [made[: len(parts[0])], made[len(parts[0]) :]]


def _copy(model, dtype: torch.dtype):
    import copy

    return copy.deepcopy(model).to(dtype)


def reference_log_probs(model, examples: list[Example], store: Store, weights: str, dtype: torch.dtype) -> None:
    """Gives each example the log-probabilities of its responses under `model`, kept in the store."""

    def read() -> dict:
        tokens = [list(tokens) for row in examples for tokens in row.responses]
        of = [index for index, row in enumerate(examples) for _ in row.responses]
        found = score(model, Samples([list(row.prompt) for row in examples], of, tokens), dtype=dtype)
        return {"sums": [float(tokens.sum()) for tokens in found]}

    depends = {"weights": weights, "dtype": str(dtype), "texts": _texts(examples)}
    sums = iter(store.keep_json("reference-log-probs", depends, read)["sums"])
    for row in examples:
        row.reference_log_probs = [next(sums) for _ in row.responses]
