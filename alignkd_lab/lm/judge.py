"""A judge that says which of two answers is better: a local model, or a server that speaks OpenAI's chat completions.

Each pair is shown twice, with the answers' places exchanged. An answer wins where both verdicts are for it; all else is
a tie, so that a judge who prefers a place decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urldefrag

import numpy as np
from tqdm.auto import tqdm

from alignkd_lab.errors import CannotContinue
from alignkd_lab.stats import wilson_interval

A, B, TIE = LETTERS = "A", "B", "C"
TEMPLATE = """Which answer to this request is better: more helpful, more correct, better written?

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

Reply with one letter alone: A if answer A is better, B if answer B is better, C if they are equally good."""
TRIES, SECONDS = 3, 120  # how often a request to a server is sent, and how long each may take

Verdict = str | None  # one of LETTERS; None for a reply that is none


def compare(judge: str, first: Sequence[dict], second: Sequence[dict], device: str, kept: Path | None = None) -> dict:
    """How often the first model's answers win by the judge, paired.

    Args:
        judge: a source of weights, or `http://HOST:PORT/v1#MODEL`, without `#MODEL` the first model that the server
            lists; its key is what the environment has as `OPENAI_API_KEY`.
        first, second: rows with `row`, `prompt` (a text, or messages) and `response`, in the same order of prompts.
        kept: a file of verdicts, a line a question: what it holds is not asked again.

    Returns:
        `win_rate` (a tie is one half; Wilson's interval over prompts), the number of `pairs`, and the shares of them
        that are `ties`, that were `swayed` (both verdicts for the same place), and that have a verdict `unread`.

    Raises:
        BadInput: a source that cannot be used.
        CannotContinue: the server gives no answer, or most pairs have a verdict that cannot be read.
    """
    orders = [
        TEMPLATE.format(prompt=_as_text(one["prompt"]), first=left["response"], second=right["response"])
        for one, other in zip(first, second, strict=True)
        for left, right in ((one, other), (other, one))
    ]
    found = _verdicts(judge, orders, device, kept)
    pairs = list(zip(found[::2], found[1::2], strict=True))
    scores = np.array([{(A, B): 1.0, (B, A): 0.0}.get(pair, 0.5) for pair in pairs])
    unread = float(np.mean([None in pair for pair in pairs]))
    if unread > 0.5:
        raise CannotContinue(f"judge: {judge} answers {100 * unread:.0f} % of the pairs with none of A, B and C")
    rows = np.array([row["row"] for row in first])
    per_prompt = [scores[rows == row].mean() for row in np.unique(rows)]
    return {
        "source": judge,
        "win_rate": wilson_interval(float(sum(per_prompt)), len(per_prompt))._asdict(),
        "pairs": len(pairs),
        "ties": float(np.mean(scores == 0.5)),
        "swayed": float(np.mean([pair in ((A, A), (B, B)) for pair in pairs])),
        "unread": unread,
    }


def _as_text(prompt: str | list[dict]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _verdicts(judge: str, questions: list[str], device: str, kept: Path | None) -> list[Verdict]:
    from alignkd_lab.lm.models import identity

    place = _place(judge) if is_remote(judge) else None
    name = "#".join(place) if place else identity(judge)
    keys = [hashlib.sha256(f"{name}\0{question}".encode()).hexdigest() for question in questions]
    lines = kept.read_text(encoding="utf-8").splitlines(keepends=True) if kept and kept.is_file() else []
    whole = [line for line in lines if line.endswith("]\n")]
    if kept and lines != whole:  # a line was cut off: it is asked again
        kept.write_text("".join(whole), encoding="utf-8")
    held = dict(map(json.loads, whole))
    if set(keys) - held.keys():
        ask = _remote(*place) if place else _local(judge, device)
        for key, question in zip(keys, tqdm(questions, desc="judge", unit="questions", leave=False), strict=True):
            if key not in held:
                held[key] = ask(question)
                if kept and held[key]:  # one that could not be read is asked again
                    with kept.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([key, held[key]]) + "\n")
    return [held[key] for key in keys]


def _local(source: str, device: str) -> Callable[[str], Verdict]:
    """The letter to which a model gives most probability as its answer's beginning."""
    from alignkd_lab.lm import models, weights
    from alignkd_lab.lm.sampling import Samples
    from alignkd_lab.lm.scoring import score
    from alignkd_lab.lm.templates import encode

    model, tokenizer = models.read(source, device), weights.load_tokenizer(source)
    letters = [tokenizer.encode(letter, add_special_tokens=False) for letter in LETTERS]

    def ask(question: str) -> Verdict:
        found = score(model, Samples(encode(tokenizer, [question]), [0, 0, 0], letters))
        return LETTERS[int(np.argmax([float(tokens.sum()) for tokens in found]))]

    return ask


def is_remote(judge: str) -> bool:
    return judge.startswith(("http://", "https://"))


def try_remote(judge: str) -> None:
    """Asks a server one question, so that it is known to answer. Raises CannotContinue where it does not."""
    _remote(*_place(judge))("Reply with the letter A alone.")


def _place(judge: str) -> tuple[str, str]:
    """A server's address, and the model that is asked there."""
    address, model = urldefrag(judge)
    address = address.rstrip("/")
    return address, model or _send(f"{address}/models", lambda said: said["data"][0]["id"])


def _remote(address: str, model: str) -> Callable[[str], Verdict]:
    """The letter that a server's model replies with."""

    def ask(question: str) -> Verdict:
        asked = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 8}
        said = _send(f"{address}/chat/completions", lambda said: said["choices"][0]["message"]["content"], asked)
        letter = re.fullmatch(r"[\W_]*([ABC])[\W_]*", said.upper()) if isinstance(said, str) else None
        return letter[1] if letter else None

    return ask


def _send(address: str, read: Callable[[dict], Any], body: dict | None = None) -> Any:
    """What `read` takes from a server's reply. Raises CannotContinue where there is none, or one of another kind."""
    heads = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY", "").strip():  # what http.client refuses, its error would show
        heads["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address, json.dumps(body).encode() if body else None, heads)
    for tried in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                said = json.load(answer)
            break
        except (OSError, ValueError, HTTPException) as error:
            if isinstance(error, HTTPError) and 400 <= error.code < 500 and error.code != 429:
                why = error.read().decode(errors="replace").strip()[:300]
                raise CannotContinue(
                    f"judge: {address} refuses ({error.code} {error.reason}): {why}; name another model behind #, or "
                    "set OPENAI_API_KEY"
                ) from error
            if tried == TRIES:
                raise CannotContinue(
                    f"judge: {address} gives no answer ({error}); what was judged is kept, so run this again"
                ) from error
            time.sleep(2**tried)
    try:
        return read(said)
    except (KeyError, IndexError, TypeError) as error:
        raise CannotContinue(f"judge: {address} replies {json.dumps(said)[:200]}, and no completion") from error
