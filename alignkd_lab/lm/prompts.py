"""Prompts of our own: everyday topics in a few sentence frames, split so that no topic serves twice.

Splits: `healing` (making the student), `training` (preferences and distillation), `validation` (learning
rates, the quantiles of the likelihood oracle) and `test` (evaluation only). A prompt is a topic in one frame; the frame
goes round with the topic's place in its split, so that every split sees every frame.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache

from alignkd_lab.errors import BadInput
from alignkd_lab.paths import data_folder

SPLITS = ("healing", "training", "validation", "test")


@cache
def _file() -> dict:
    return json.loads((data_folder() / "prompts.json").read_text(encoding="utf-8"))


def checksum() -> str:
    """What a result that was made from these prompts depends on."""
    parts = json.dumps([_file()["frames"], _file()["topics"]], sort_keys=True)
    return f"sha256:{hashlib.sha256(parts.encode()).hexdigest()}"


def prompts(split: str, count: int | None = None, all_frames: bool = False) -> list[str]:
    """The first `count` prompts of a split; with `all_frames` every topic in every frame.

    Raises:
        BadInput: unknown split, or more prompts than the split has.
    """
    if split not in SPLITS:
        raise BadInput(f"prompts: unknown split {split!r}; use one of {', '.join(SPLITS)}")
    frames, topics = _file()["frames"], _file()["topics"][split]
    rounds = len(frames) if all_frames else 1
    made = [
        frames[(index + turn) % len(frames)].format(topic=topic)
        for turn in range(rounds)
        for index, topic in enumerate(topics)
    ]
    if count is not None and not 0 < count <= len(made):
        raise BadInput(f"prompts: the split {split!r} has {len(made)} prompts, {count} were asked for")
    return made[:count]


def encode(tokenizer, prompts: Sequence[str | list[dict[str, str]]]) -> list[list[int]]:
    """Token ids of each prompt, a text or messages, as the chat template has it, up to where the answer starts."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
            add_generation_prompt=True,
            return_dict=False,
        )
        for prompt in prompts
    ]
