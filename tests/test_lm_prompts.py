"""The prompts: enough of them, none in two splits, and short when a chat template has had its say."""

import re

import pytest

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import prompts as module
from alignkd_lab.lm.prompts import SPLITS, digest, prompts
from alignkd_lab.lm.rewards import TARGETS, target
from alignkd_lab.presets import PRESETS


def topics(split):
    return module._file()["topics"][split]


def test_no_topic_serves_twice_and_no_prompt_is_in_two_splits_in_any_frame():
    everything = [topic.lower().removeprefix("a ").removeprefix("an ").removeprefix("the ")
                  for split in SPLITS for topic in topics(split)]  # fmt: skip
    assert len(set(everything)) == len(everything) >= 300
    everything = [prompt for split in SPLITS for prompt in prompts(split, all_frames=True)]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_sees_every_frame_and_all_frames_ask_every_topic_in_every_frame(split):
    frames = [re.escape(frame).replace(r"\{topic\}", ".+") for frame in module._file()["frames"]]
    assert all(any(re.fullmatch(frame, prompt) for prompt in prompts(split)) for frame in frames)
    everything = prompts(split, all_frames=True)
    assert len(everything) == len(topics(split)) * len(frames)
    assert everything[: len(topics(split))] == prompts(split)


def test_no_prompt_shows_a_target_itself():
    # A response that repeats its topic must not meet a rule by that alone. (A sad topic may have a sad answer, and
    # the healing split serves no target.)
    everything = [topic for split in SPLITS if split != "healing" for topic in topics(split)]
    for name in TARGETS.keys() - {"positive", "negative"}:
        assert [topic for topic in everything if target(name)(topic)] == [], name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_asks_for_no_more_prompts_than_there_are(name):
    settings = PRESETS[name].lm
    asked = [("training", settings.preference_prompts), ("training", settings.distil_prompts)]
    for split, count in (*asked, ("test", settings.test_prompts)):
        assert len(prompts(split, count)) == count


def test_splits_have_their_names_and_counts_and_begin_with_the_same_prompts_always():
    assert prompts("test", 5) == prompts("test", 9)[:5] == prompts("test")[:5]
    for given in (("train",), ("test", 0), ("test", -1), ("test", 10_000)):
        with pytest.raises(BadInput, match=r"'train'.*training|were asked for"):
            prompts(*given)


def test_the_digest_follows_the_prompts(monkeypatch):
    before = digest()
    assert digest() == before
    changed = {"frames": module._file()["frames"], "topics": {**module._file()["topics"], "test": ["a yak"]}}
    monkeypatch.setattr(module, "_file", lambda: changed)
    assert digest() != before
