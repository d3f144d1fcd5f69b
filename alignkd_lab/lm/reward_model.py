"""A sequence-classification reward model as a reward: one number for a prompt and a response."""

from __future__ import annotations

import itertools
import math

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor

from alignkd_lab.errors import BadInput, refusing
from alignkd_lab.lm.folders import is_adapter
from alignkd_lab.lm.weights import LOCAL, resolve
from alignkd_lab.memory import halve


class RewardModel:
    """`model(prompts, responses) -> scores`: the model's one logit for each pair, unbounded, higher is better.

    A prompt is a text, or a list of messages.

    The tokenizer's chat template wraps the pair where it has one; else the two texts go in as a pair, as encoder reward
    models want them. Scores do not depend on the batch nor on the order.

    `source` is a folder, or `owner/name@revision` of the hub (see `lm.weights`); `batch` pairs are read together, and
    half of them, for good, where memory does not hold them.

    Raises:
        BadInput: no sequence classifier with a single output, or one whose head is not among its weights.
    """

    def __init__(self, source: str, *, device: str = "cpu") -> None:
        folder = resolve(source)
        if is_adapter(folder):
            raise BadInput(f"reward model: {source} is an adapter; merge it into its base, and save both parts there")
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        with refusing(f"reward model: transformers reads no configuration from {source}", Exception):
            config = AutoConfig.from_pretrained(folder, **LOCAL)
        built = ", ".join(config.architectures or ["of no stated architecture"])
        if "ForSequenceClassification" not in built:  # transformers would put a random head on it and go on
            raise BadInput(f"reward model: {source} is {built}, not a model for sequence classification")
        if config.num_labels != 1:
            raise BadInput(
                f"reward model: {source} has {config.num_labels} outputs; a reward model has 1 (num_labels=1)"
            )
        kinds = OSError, ValueError, TypeError, RuntimeError, KeyError, ImportError, SafetensorError
        with refusing(f"reward model: {source} cannot be read", *kinds, way_out="save model and tokenizer there again"):
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **LOCAL
            )
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        if loading["missing_keys"]:
            names = ", ".join(sorted(loading["missing_keys"]))
            raise BadInput(f"reward model: {source} has no weights for {names}; save the trained reward model again")
        self.source, self.batch = source, 16
        self.model = model.to(device).eval()
        ids, rows = max(self.tokenizer.get_vocab().values()) + 1, model.get_input_embeddings().num_embeddings
        if ids > rows:
            raise BadInput(f"reward model: the tokenizer of {source} has {ids} tokens and the model reads {rows}")
        self._text_config = model.config.get_text_config()
        self._pad = self._text_config.pad_token_id
        most = getattr(self._text_config, "max_position_embeddings", 1 << 30)
        self.longest = min(self.tokenizer.model_max_length, most)

    @torch.inference_mode()
    def __call__(self, prompts: list, responses: list[str]) -> list[float]:
        """Scores in the order given.

        Raises:
            BadInput: unequal numbers, a pair longer than the model reads, or a score that is no number.
            CannotContinue: not even one pair fits in memory.
        """
        if len(prompts) != len(responses):
            raise BadInput(f"reward model: {len(prompts)} prompts and {len(responses)} responses; each needs its own")
        rows = [self._encode(*pair) for pair in zip(prompts, responses, strict=True)]
        for number, row in enumerate(rows, 1):
            if len(row["input_ids"]) > self.longest:
                raise BadInput(
                    f"reward model: prompt and response {number} have {len(row['input_ids'])} tokens together, "
                    f"{self.source} reads at most {self.longest}; shorten one"
                )
        scores = [0.0] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))

        def read(batch: int) -> None:
            for start in range(0, len(rows), batch):
                members = by_length[start : start + batch]
                logits = self.model(**self._pad_rows([rows[index] for index in members])).logits
                for index, score in zip(members, logits[:, 0].float().tolist(), strict=True):
                    scores[index] = score

        way_out = f"{self.source} has no room for one response; choose a smaller reward model, or another device"
        _, self.batch = halve(read, self.batch, "reward_batch", way_out)
        for number, score in enumerate(scores, 1):
            if not math.isfinite(score):
                raise BadInput(
                    f"reward model: {self.source} gives {score} for response {number}, {responses[number - 1][:60]!r}; "
                    "check its weights, or choose another"
                )
        return scores

    def _encode(self, prompt: str | list[dict[str, str]], response: str) -> dict[str, list[int]]:
        if self.tokenizer.chat_template is None:
            if not isinstance(prompt, str):
                raise BadInput(f"reward model: {self.source} has no chat template, so it reads no prompt of many turns")
            return dict(self.tokenizer(prompt, response, return_attention_mask=False))
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        turns = [*asked, {"role": "assistant", "content": response}]
        with refusing(f"reward model: the chat template of {self.source} refuses a prompt", TemplateError):
            return {"input_ids": self.tokenizer.apply_chat_template(turns, return_dict=False)}

    def _pad_rows(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Rows padded on the right, with the id by which the model's config tells padding.

        A decoder reads its score at the last token that is not that id, so the tokenizer's own pad token would be read
        as text where the two differ. Where the config has none, any id serves that no row ends with.
        """
        if self._pad is None:
            last = {row["input_ids"][-1] for row in rows}
            self._text_config.pad_token_id = next(token for token in itertools.count() if token not in last)
        longest = max(len(row["input_ids"]) for row in rows)
        fill = dict.fromkeys(rows[0], 0) | {"input_ids": self._text_config.pad_token_id}
        padded = {key: [row[key] + [value] * (longest - len(row[key])) for row in rows] for key, value in fill.items()}
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        padded["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return {key: torch.as_tensor(value).to(self.model.device) for key, value in padded.items()}
