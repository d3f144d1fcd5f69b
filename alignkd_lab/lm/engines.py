"""Engines that write a policy's responses: our own sampler (`lm.sampling`), or vLLM where a user has it.

vLLM's part is written against its documented interface (`vllm.LLM`, `vllm.SamplingParams`) and tested on a stub of it:
it is untried with the library itself. Source: Kwon et al. 2023, SOSP; https://docs.vllm.ai.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignkd_lab.errors import BadInput, CannotContinue, check_choice, check_number
from alignkd_lab.lm.settings import base_of_student
from alignkd_lab.progress import processes

ENGINES = "own", "vllm"


def check_engine(engine: str, source: str) -> None:
    """Raises BadInput where the engine is unknown, not installed, or cannot read the policy of `source`."""
    check_choice("engine", engine, ENGINES)
    if engine != "vllm":
        return
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput("engine: vLLM is not installed; pip install vllm brings it, or leave --engine out") from error
    if processes() > 1:
        raise BadInput("engine: vLLM is started from one process, and several were started; leave --engine out")
    of_the_hub = "/" in source and source == base_of_student(source) and not Path(source).is_dir()
    if not ((Path(source) / "config.json").is_file() or of_the_hub):
        raise BadInput(
            f"engine: vLLM reads a model of the hub or a folder with config.json, and {source} is neither; merge an "
            "adapter (alignkd train --merge), or leave --engine out"
        )


class Vllm:
    """The model of a folder, from which vLLM samples; it stands where `lm.sampling.sample` takes a model."""

    def __init__(self, folder: str | Path, dtype: Any) -> None:
        self._folder, self._dtype, self._started = str(folder), str(dtype).removeprefix("torch."), None

    def write(
        self, prompt_ids: list[list[int]], only: Sequence[int], responses: int, max_tokens: int, ends: Sequence[int],
        seed: int, temperature: float,
    ) -> list[list[int]]:  # fmt: skip
        """Token ids of the responses to the prompts numbered `only`: draws by `seed` and number, other than our own.

        Raises:
            BadInput: what vLLM refuses, as a prompt beyond what it reads.
            CannotContinue: a response that neither ended nor has `max_tokens`.
        """
        from vllm import SamplingParams

        check_number("temperature", temperature, least=0.01)  # below, vLLM takes another one
        # All that would cut the distribution is off, and only our end tokens end a response.
        common = {"n": responses, "temperature": temperature, "max_tokens": max_tokens, "stop_token_ids": list(ends),
                  "ignore_eos": True, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "detokenize": False}  # fmt: skip
        seeds = [int.from_bytes(hashlib.sha256(repr((seed, at)).encode()).digest()[:4], "big") for at in only]
        texts, asked = [{"prompt_token_ids": prompt_ids[at]} for at in only], len(only) * responses
        try:
            self._started = self._started or self._start()
            found = self._started.generate(texts, [SamplingParams(seed=one, **common) for one in seeds], use_tqdm=False)
        except ValueError as error:
            raise BadInput(f"engine: vLLM refuses: {error}") from error
        written = [list(one.token_ids) for of in found for one in sorted(of.outputs, key=lambda one: one.index)]
        whole = sum(len(tokens) == max_tokens or (bool(tokens) and tokens[-1] in ends) for tokens in written)
        if not asked == len(written) == whole:
            raise CannotContinue(f"engine: of {asked} responses vLLM gave {whole} whole ones; lower max_tokens")
        return written

    def _start(self):
        import torch
        from vllm import LLM

        free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (1, 1)  # beside what is there already
        asked = {"dtype": self._dtype, "generation_config": "vllm", "gpu_memory_utilization": 0.9 * free / total}
        return LLM(model=self._folder, **asked)
