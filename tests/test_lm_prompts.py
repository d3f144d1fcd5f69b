"""The prompts: enough of them, none in two splits, and short when a chat template has had its say."""

import re

import pytest

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import prompts as module
from alignkd_lab.lm.prompts import SPLITS, checksum, encode, prompts
from alignkd_lab.lm.rewards import TARGETS, target
from alignkd_lab.lm.weights import load_tokenizer
from alignkd_lab.presets import PRESETS


def topics(split):
    return module._file()["topics"][split]


def test_there_are_at_least_three_hundred_topics_and_several_frames():
    assert sum(len(topics(split)) for split in SPLITS) >= 300
    assert len(module._file()["frames"]) >= 3


def test_no_topic_serves_twice():
    everything = [topic.lower().removeprefix("a ").removeprefix("an ").removeprefix("the ")
                  for split in SPLITS for topic in topics(split)]  # fmt: skip
    assert len(set(everything)) == len(everything)


def test_no_prompt_is_in_two_splits_in_any_frame():
    everything = [prompt for split in SPLITS for prompt in prompts(split, all_frames=True)]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_sees_every_frame(split):
    frames = [re.escape(frame).replace(r"\{topic\}", ".+") for frame in module._file()["frames"]]
    assert all(any(re.fullmatch(frame, prompt) for prompt in prompts(split)) for frame in frames)


@pytest.mark.parametrize("split", SPLITS)
def test_all_frames_ask_every_topic_in_every_frame(split):
    everything = prompts(split, all_frames=True)
    assert len(everything) == len(topics(split)) * len(module._file()["frames"])
    assert everything[: len(topics(split))] == prompts(split)


def test_no_prompt_shows_a_target_itself():
    # A response that repeats its topic must not meet a rule by that alone. (A sad topic may have a sad answer, and
    # the healing split serves no target.)
    everything = [topic for split in SPLITS if split != "healing" for topic in topics(split)]
    for name in TARGETS.keys() - {"positive", "negative"}:
        assert [topic for topic in everything if target(name)(topic)] == [], name


def test_the_first_prompts_of_a_split_are_always_the_same():
    assert prompts("test", 5) == prompts("test", 9)[:5] == prompts("test")[:5]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_asks_for_no_more_prompts_than_there_are(name):
    settings = PRESETS[name].lm
    for split, count in (
        ("training", settings.preference_prompts),
        ("training", settings.distil_prompts),
        ("test", settings.test_prompts),
    ):
        assert len(prompts(split, count)) == count


@pytest.mark.parametrize("count", [0, -1, 10_000])
def test_a_count_that_the_split_does_not_have_is_refused(count):
    with pytest.raises(BadInput, match="were asked for"):
        prompts("test", count)


def test_an_unknown_split_is_refused():
    with pytest.raises(BadInput, match=r"'train'.*training"):
        prompts("train")


def test_a_prompt_becomes_one_chat_turn_that_waits_for_the_answer():
    tokenizer = load_tokenizer("tiny-base")
    (ids,) = encode(tokenizer, ["Name a bird."])
    assert tokenizer.decode(ids) == "<|im_start|>user\nName a bird.<|im_end|>\n<|im_start|>assistant\n"
    assert all(isinstance(token, int) for token in ids)


def test_the_checksum_follows_the_prompts(monkeypatch):
    before = checksum()
    assert checksum() == before
    changed = {"frames": module._file()["frames"], "topics": {**module._file()["topics"], "test": ["a yak"]}}
    monkeypatch.setattr(module, "_file", lambda: changed)
    assert checksum() != before
