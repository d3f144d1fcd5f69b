"""A DPO teacher in seconds: what its pairs are, that it learns them, and that the reference stays in it."""

import pytest
import torch

from alignkd_lab.course.lens.quick_dpo import PAIRS, dpo_teacher
from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import Example, collate
from alignkd_lab.lm.prompts import encode, prompts
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import score
from alignkd_lab.lm.teachers import LiveTeacher


@pytest.fixture(scope="module")
def tiny():
    return weights.load("tiny-base")


@pytest.fixture(scope="module")
def teacher(tiny):
    return dpo_teacher(*tiny, steps=8, batch=4, learning_rate=3e-3, rank=4)


def test_a_chosen_response_names_a_colour_and_a_rejected_one_does_not():
    colour = TARGETS["colour"]
    assert all(colour(pair.chosen) and not colour(pair.rejected) for pair in PAIRS)


def test_some_colours_are_in_no_pair():
    said = " ".join(text for pair in PAIRS for text in pair).lower()
    assert not [colour for colour in ("orange", "purple", "brown", "yellow", "pink") if colour in said]


def test_the_prompts_are_training_prompts():
    allowed = set(prompts("training", all_frames=True))
    assert [pair.prompt for pair in PAIRS if pair.prompt not in allowed] == []


def margins(model, tokenizer):
    """log pi(chosen) - log pi(rejected) of each pair."""
    texts = [text for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    tokens = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
    samples = Samples(encode(tokenizer, [pair.prompt for pair in PAIRS]), [i // 2 for i in range(len(texts))], tokens)
    sums = torch.stack([said.sum() for said in score(model, samples)])
    return sums[0::2] - sums[1::2]


def test_the_teacher_prefers_what_it_was_told_to_prefer(tiny, teacher):
    _, tokenizer = tiny
    with teacher.disable_adapter():
        before = margins(teacher.get_base_model(), tokenizer)
    gained = margins(teacher.get_base_model(), tokenizer) - before
    assert gained.mean() > 0.5
    assert (gained > 0).float().mean() > 0.7


def test_without_its_adapter_it_is_the_reference(tiny, teacher):
    untouched, tokenizer = weights.load("tiny-base")
    batch = collate([Example(encode(tokenizer, ["Write."])[0], [[5, 6, 7]])])
    expected = LiveTeacher(untouched).signal(batch).hidden
    torch.testing.assert_close(LiveTeacher(teacher, without_adapter=True).signal(batch).hidden, expected)
    assert not torch.allclose(LiveTeacher(teacher).signal(batch).hidden, expected)
    assert not teacher.training
