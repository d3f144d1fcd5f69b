"""Tokens a second of `lm.sampling.sample`, against `generate` of transformers on the same prompts."""

from __future__ import annotations

import statistics

import torch
from transformers import GenerationConfig

from alignkd_lab.bench.meters import Seconds, seconds
from alignkd_lab.errors import CannotContinue
from alignkd_lab.lm.sampling import sample

PROMPTS, RESPONSES = 8, 4


def sampling_rows(model, prompt_tokens: int, tokens: int, repeats: int) -> list[dict]:
    """A row for each way of sampling, timed in turn; the first call of each, which compiles, is not timed.

    Every prompt has `RESPONSES` responses of `tokens` tokens, from the whole distribution. On a CPU `generate` has its
    dynamic cache, on a GPU that and the static one, with which it compiles a step of decoding.
    """
    device, vocabulary = model.device.type, model.config.vocab_size
    no_token = vocabulary  # ends no response, so that all sides write as many
    ids = torch.randint(vocabulary, (PROMPTS, prompt_tokens), generator=torch.Generator().manual_seed(0)).to(
        model.device
    )

    def ours() -> int:
        return sample(model, ids.tolist(), RESPONSES, tokens, no_token, seed=0).token_count

    def generate(cache: str) -> int:
        config = GenerationConfig(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=tokens, pad_token_id=0,
                                  eos_token_id=no_token, num_return_sequences=RESPONSES,
                                  cache_implementation=cache)  # fmt: skip
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return made[:, prompt_tokens:].numel()

    ways = {"ours": ours, "generate_dynamic": lambda: generate("dynamic")}
    if device == "cuda":
        ways["generate_static_compiled"] = lambda: generate("static")
    count = PROMPTS * RESPONSES * tokens
    for name, way in ways.items():
        if (found := way()) != count:
            raise CannotContinue(f"sampling: {name} wrote {found} tokens and not {count}, so speeds would not compare")
    times: dict[str, list[Seconds]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append(seconds(way, device))
    return [
        {
            "variant": name,
            "tokens_per_second": count / statistics.median(time.wall for time in found),
            "tokens_per_cpu_second": count / statistics.median(time.cpu for time in found),
            "tokens": count,
            "prompts": PROMPTS,
            "responses": RESPONSES,
            "repeats": repeats,
        }
        for name, found in times.items()
    ]
