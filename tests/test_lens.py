"""The course's lens: what models say of each token, tables of it, a DPO teacher in seconds, and TRL's loss."""

from types import SimpleNamespace

import pytest
import torch
from tiny_lm import away_from_zero, log_prob, said
from torch.nn.functional import logsigmoid

from alignkd_lab.course.lens.quick_dpo import PAIRS, dpo_teacher
from alignkd_lab.course.lens.reading_tables import against_release, largest_advantages, pushes
from alignkd_lab.course.lens.readings import Reading, in_words, read, with_space
from alignkd_lab.course.lens.texts import look
from alignkd_lab.course.lens.trl_dpo import trl_dpo
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.lm.teachers import Full
from alignkd_lab.lm.templates import encode
from alignkd_lab.lm.trainer import with_lora


def speaker(decode):
    """A tokenizer that says this of a token."""
    return SimpleNamespace(decode=lambda ids: decode(ids[0]))


def answered(model, tokenizer, prompt, *responses):
    """log pi of each response to a prompt's tokens, its end token among its own."""
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in responses]
    return [log_prob(model, prompt, [*each, tokenizer.eos_token_id]) for each in tokens]


# Readings ---------------------------------------------------------------------------------------------

PROMPT, RESPONSE = [1, 20, 21], [30, 31, 32, 33, 2]


@pytest.fixture(scope="module")
def models():
    teacher = away_from_zero(with_lora(weights.load("tiny-base")[0], rank=2), 0.3)
    return teacher, weights.load("tiny-student")[0]


def close(found, wanted):
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_distributions_advantages_and_divergences_are_those_of_whole_forward_passes(models):
    teacher, found = models[0], read(PROMPT, RESPONSE, *models)
    with torch.no_grad():
        p, q = (said(model, PROMPT, RESPONSE) for model in models)
        with teacher.disable_adapter():
            r = said(teacher, PROMPT, RESPONSE)
    assert found.labels.tolist() == RESPONSE
    for name, expected in (("reference", r), ("dpo", p), ("student", q)):
        close(found.log_probs[name], expected)
    a = p - r
    close(found.advantages, a)
    close(found.log_ratio, torch.stack([a[row, token] for row, token in enumerate(RESPONSE)]))
    close(found.adpa.expected_advantage, (q.exp() * a).sum(-1))
    close(found.adpa.largest_advantage, a.max(-1).values)
    close(found.dckd.kl, (p.exp() * (p - q)).sum(-1))


def test_a_pair_without_a_rejected_response_is_refused_and_the_student_s_own_never_stands_for_it(models, tiny):
    with pytest.raises(KeyError, match="rejected"):
        look(tiny[1], *models, written={"chosen": "Red!"})


def test_a_token_is_written_so_that_a_font_has_it():
    tokenizer = speaker(["\n", " red", "\ufffd", "字", "\t"].__getitem__)
    assert [in_words(tokenizer, token) for token in range(5)] == ["↵", " red", "\\ufffd", "\\u5b57", "⇥"]
    assert with_space(" red") == "␣red"


# Tables of readings whose numbers are known ------------------------------------------------------------

SIZE = 60


@pytest.fixture(scope="module")
def reading():
    """Four positions over 60 tokens; a model's hidden states are its logits."""
    generator, head = torch.Generator().manual_seed(1), torch.eye(SIZE)
    reference, noise, student = torch.randn(3, 4, SIZE, generator=generator)
    says = (Full(logits, head) for logits in (2 * reference, 2 * reference + 0.5 * noise, student))
    return Reading([1], torch.arange(4), *says)


def test_places_count_from_the_dpo_teacher_s_favourite(reading):
    table = largest_advantages({"one": reading})
    places = []
    for dpo, a in zip(reading.log_probs["dpo"], reading.advantages, strict=True):
        order = dpo.argsort(descending=True).tolist()
        places.append(1 + order.index(int(a.argmax())))
    row = table.loc["one"].tolist()
    assert row == [4, sum(place > 10 for place in places), sorted(places)[1], max(places)]


def test_a_push_is_minus_the_gradient_by_the_logits(reading):
    table = pushes(reading, 2, speaker(lambda token: f" w{token}"), count=3)
    logits = reading.student.hidden.clone().requires_grad_()
    loss, _ = losses.adpa(logits, reading.student.head, reading.labels, reading.dpo, reading.reference,
                          torch.zeros(4, dtype=torch.bool), gamma=4.0)  # fmt: skip
    loss.backward()
    expected = -logits.grad[2]  # gamma / N is 1
    assert table["by"].tolist() == pytest.approx(expected.topk(3).values.tolist(), abs=1e-6)
    assert table["by "].tolist() == pytest.approx((-expected).topk(3).values.tolist(), abs=1e-6)
    assert table["pushed up most"][0] == f"␣w{int(expected.argmax())}"
    assert table["largest advantage"][0] == f"␣w{int(reading.advantages[2].argmax())}"


def test_the_release_keeps_fifty_advantages_and_none_below_0(reading):
    table = against_release(reading)
    assert table.loc["tokens with an advantage below 0", "as released"] == 0
    assert table.loc["tokens with an advantage above 0", "as released"] <= 50
    assert table.loc["tokens with an advantage above 0", "formula"] == float(
        (reading.advantages > 0).sum(1).float().mean()
    )
    mean = float(reading.adpa.expected_advantage.mean())
    assert table.loc["mean advantage under the student (nats)", "formula"] == pytest.approx(mean, abs=1e-6)
    cosine = table.loc["cosine of its gradient with the formula's"]
    assert cosine["formula"] == pytest.approx(1)
    assert cosine["as released"] < 0.999
    assert table.loc["mean advantage under the student (nats)", "as released"] > mean


# A DPO teacher in seconds ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return weights.load("tiny-base")


def test_chosen_responses_alone_name_a_colour_of_some_and_the_prompts_are_training_prompts():
    colour, allowed = TARGETS["colour"], set(prompts("training", all_frames=True))
    assert all(colour(pair.chosen) and not colour(pair.rejected) for pair in PAIRS)
    words = " ".join(text for pair in PAIRS for text in pair).lower()
    assert not [left for left in ("orange", "purple", "brown", "yellow", "pink") if left in words]
    assert [pair.prompt for pair in PAIRS if pair.prompt not in allowed] == []


def margins(model, tokenizer):
    """log pi(chosen) - log pi(rejected) of each pair."""
    asked = zip(encode(tokenizer, [pair.prompt for pair in PAIRS]), PAIRS, strict=True)
    both = [answered(model, tokenizer, prompt, pair.chosen, pair.rejected) for prompt, pair in asked]
    return torch.tensor([chosen - rejected for chosen, rejected in both])


def test_the_teacher_prefers_what_it_was_told_to_prefer(tiny):
    tokenizer, teacher = tiny[1], dpo_teacher(*tiny, steps=8, batch=4, learning_rate=3e-3, rank=4)
    with teacher.disable_adapter():
        before = margins(teacher.get_base_model(), tokenizer)
    gained = margins(teacher.get_base_model(), tokenizer) - before
    assert gained.mean() > 0.5
    assert (gained > 0).float().mean() > 0.7
    assert not teacher.training


# TRL's loss -----------------------------------------------------------------------------------------------

ROWS = [
    {"prompt": "Name a bird.", "chosen": " A wren, as small as a plum.", "rejected": " Rain"},
    {"prompt": "Two?", "chosen": " 2", "rejected": " It is a number, they say."},
]


def test_trl_finds_the_same_loss_and_rewards_and_leaves_the_models_computing_what_they_did(capfd):
    (policy, tokenizer), (reference, _) = weights.load("tiny-base"), weights.load("tiny-truth")

    def said_by(model):
        """log pi of the responses, [row, (chosen, rejected)]."""
        prompts = [tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in ROWS]
        return torch.tensor([
            answered(model, tokenizer, prompt, row["chosen"], row["rejected"])
            for prompt, row in zip(prompts, ROWS, strict=True)
        ])  # fmt: skip

    before = said_by(policy), said_by(reference)
    rewards = 0.7 * (before[0] - before[1])
    theirs = trl_dpo(policy, reference, tokenizer, ROWS, beta=0.7)
    assert theirs["loss"] == pytest.approx(-float(logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()), abs=1e-4)
    found = [theirs["chosen_rewards"], theirs["rejected_rewards"]]
    assert found == pytest.approx(rewards.mean(0).tolist(), abs=1e-3)
    torch.testing.assert_close((said_by(policy), said_by(reference)), before)
    assert "".join(capfd.readouterr()) == ""
