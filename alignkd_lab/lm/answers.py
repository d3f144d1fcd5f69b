"""What a model answers to somebody's prompts, of one turn or of several."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
import torch

from alignkd_lab.errors import refusing
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.engines import Vllm
from alignkd_lab.lm.preference_data import Prompt
from alignkd_lab.lm.sampling import Samples, in_dtype, sample
from alignkd_lab.lm.templates import encode, end_ids


def encode_rows(tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt. Raises BadInput for one that the chat template refuses."""
    found = []
    for prompt in prompts:
        what = f"prompts: the chat template refuses row {prompt.row}"
        with refusing(what, jinja2.TemplateError, way_out="change it"):
            found += encode(tokenizer, [prompt.prompt])
    return found


def answer(
    model, tokenizer, source: str, prompt_ids: list[list[int]], *, responses: int, max_tokens: int, seed: int,
    dtype: torch.dtype, temperature: float = 1.0,
) -> Samples:  # fmt: skip
    """Responses of the model of `source`, sampled in matrix products of `dtype` after it was admitted for their length.

    Raises:
        BadInput: the model is refused (`lm.admission`).
        CannotContinue: not even one response fits in memory.
    """
    if not isinstance(model, Vllm):
        admit(model, source, reach=max(map(len, prompt_ids)) + max_tokens)
    sampler, ends = in_dtype(model, dtype), end_ids(tokenizer)
    return sample(sampler, prompt_ids, responses, max_tokens, ends, seed, temperature, shown=f"{source} answers")


def converse(model, tokenizer, source: str, prompts: list[Prompt], turns: list[list[dict]], **options) -> None:
    """Adds to each prompt's `turns`: `prompt` (the messages so far), `response`, and whether it `ended` by itself.

    A later turn of the user is asked after the answers so far. `options` are those of `answer`.
    """
    turns += [[] for _ in prompts]
    seed = options.pop("seed")
    for turn in range(1 + max(len(prompt.later) for prompt in prompts)):
        asked = [index for index, prompt in enumerate(prompts) if turn <= len(prompt.later)]
        now = []
        for index in asked:
            prompt, messages = prompts[index], list(prompts[index].prompt)
            for done, said in zip(turns[index], prompt.later, strict=False):
                messages += [{"role": "assistant", "content": done["response"]}, {"role": "user", "content": said}]
            now.append(Prompt(prompt.row, messages, [], prompt.fields))
        ids = encode_rows(tokenizer, now)
        samples = answer(model, tokenizer, source, ids, responses=1, seed=seed + turn, **options)
        rows = zip(asked, now, samples.texts(tokenizer), samples.ended(end_ids(tokenizer)), strict=True)
        for index, prompt, text, whole in rows:
            turns[index].append({"prompt": prompt.said, "response": text, "ended": whole})
