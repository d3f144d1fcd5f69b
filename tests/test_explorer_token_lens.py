"""The token lens: at every setting it shows what the models' own distributions say; and the tasks of its notebook."""

import html
import time

import numpy as np
import pytest
import torch

from alignkd_lab.course.exercises.ask import check, given
from alignkd_lab.course.explorers import token_lens
from alignkd_lab.course.explorers.token_lens import QUANTITIES, ROWS, START, TEXTS, caption, compute, visible
from alignkd_lab.course.lens.readings import MODELS, Reading
from alignkd_lab.course.lens.texts import Lens, look
from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.errors import UnknownName
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.teachers import Full
from alignkd_lab.lm.trainer import with_lora


@pytest.fixture(scope="module")
def lens():
    """The lens on tiny random models, whose letters are bytes; the adapter is random, too."""
    base, tokenizer = weights.load("tiny-base")
    teacher = with_lora(base, rank=2)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in teacher.named_parameters():
        if "lora_B" in name:
            tensor.data = 0.3 * torch.randn(tensor.shape, generator=generator)
    student, _ = weights.load("tiny-student")
    return look(tokenizer, teacher.eval(), student, "Write.", {"chosen": "Red!", "rejected": "Old."})


@pytest.fixture(scope="module")
def explorer(lens):
    return token_lens.show(lens=lens)


def state(**changes):
    return {**START, **changes}


# compute


def test_the_texts_are_the_given_pair_and_what_the_student_wrote(lens):
    words = {name: "".join(compute(state(text=name), lens).words) for name in TEXTS}
    assert words["chosen"].startswith("Red!")
    assert words["rejected"].startswith("Old.")
    assert len(compute(state(text="student"), lens).words) > 1
    assert "Write." in "".join(compute(state(), lens).prompt)


@pytest.mark.parametrize("text", TEXTS)
def test_every_position_shows_what_the_distributions_say(lens, text):
    reading = lens.readings[text]
    for position in range(len(reading.labels)):
        view = compute(state(text=text, position=position + 1.0), lens)
        rows = {name: reading.log_probs[name][position].double() for name in MODELS}
        a = rows["dpo"] - rows["reference"]
        assert [c.advantage for c in view.advantaged] == pytest.approx(
            a.sort(descending=True).values[:ROWS].tolist(), abs=1e-5
        )
        for name in MODELS:
            best = rows[name].exp().sort(descending=True).values[:ROWS].tolist()
            assert [c.probs[name] for c in view.likely[name]] == pytest.approx(best, abs=1e-6)
            assert [c.ranks[name] for c in view.likely[name]] == list(range(1, ROWS + 1))
            assert view.expected[name] == pytest.approx(float(rows[name].exp() @ a), abs=1e-5)
        assert view.here.advantage == pytest.approx(float(a[reading.labels[position]]), abs=1e-5)
        kl = float((rows["dpo"].exp() * (rows["dpo"] - rows["student"])).sum())
        assert view.kl == pytest.approx(kl, abs=1e-5)
        assert view.cloud.sum() == view.size == len(a)


def test_the_student_s_mean_advantage_is_the_difference_of_two_divergences(lens):
    rows = {name: lens.readings["chosen"].log_probs[name][1] for name in MODELS}
    kl = {
        name: losses.kd(
            rows["student"][None],
            torch.eye(len(rows["student"])),
            Full(rows[name][None], torch.eye(len(rows[name]))),
            divergence="reverse",
        )[0].item()
        for name in ("reference", "dpo")
    }
    assert compute(state(), lens).expected["student"] == pytest.approx(kl["reference"] - kl["dpo"], abs=1e-5)


def test_the_quantities_are_those_of_the_reading(lens):
    reading = lens.readings["chosen"]
    shown = {name: compute(state(quantity=name), lens).values for name in QUANTITIES}
    assert shown["mask"].tolist() == [1.0] * len(reading.labels)
    assert shown["log_ratio"] == pytest.approx(reading.log_ratio.numpy())
    assert shown["advantage"] == pytest.approx(reading.adpa.expected_advantage.numpy())
    assert shown["kl"] == pytest.approx(reading.dckd.kl.numpy())
    for name, values in shown.items():
        assert np.abs(values).max() <= compute(state(quantity=name), lens).limit


def test_positions_beyond_the_text_are_its_ends(lens):
    assert compute(state(position=-3.0), lens).position == 0
    assert compute(state(position=999.0), lens).position == len(lens.readings["chosen"].labels) - 1


def test_compute_takes_less_than_a_tenth_of_a_second_at_the_real_vocabulary():
    lens, seconds = _real_size(), []
    for position in range(1, 21):
        began = time.process_time()
        compute(state(position=float(position)), lens)
        seconds.append(time.process_time() - began)
    assert np.percentile(seconds[1:], 95) < 0.1


def _real_size():
    """A lens on random readings of 20 tokens and 49,152 words."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(49_152, 8, generator=generator)
    says = (Full(torch.randn(20, 8, generator=generator), head) for _ in MODELS)
    reading = Reading([1], torch.arange(20), *says)
    tokenizer = type("Words", (), {"decode": staticmethod(lambda ids: f" w{ids[0]}")})
    return Lens(tokenizer, None, None, dict.fromkeys(TEXTS, reading))


def test_the_caption_says_what_becomes_of_the_belief(lens):
    for position in range(1, 6):
        view = compute(state(position=float(position)), lens)
        best, favourite = view.advantaged[0], view.likely["dpo"][0]
        said = caption(view)
        assert f"“{visible(best)}” has the largest advantage" in said
        assert ("Here the belief holds" in said) == (best.words == favourite.words)
        assert ("does not mean likely here" in said) == (best.words != favourite.words and best.ranks["dpo"] > 10)


# On the page


def test_every_control_can_be_moved_over_its_whole_range(explorer, lens):
    longest = max(len(reading.labels) for reading in lens.readings.values())
    assert explorer.controls["position"].slider.max == longest
    moves = [("text", name) for name in TEXTS] + [("quantity", name) for name in QUANTITIES]
    seen = []
    for name, value in (*moves, *(("position", place) for place in (1, 3, longest))):
        explorer.controls[name].value = value
        assert html.escape(caption(compute(explorer.state, lens))) in explorer.words.value
        seen.append(explorer.picture.value)
    assert len(set(seen)) == len(seen) - 1  # the quantity that it starts with is seen twice


def test_a_page_without_a_kernel_shows_three_tokens_and_says_its_depth(explorer, lens):
    bundle, _ = explorer._repr_mimebundle_()
    assert WIDGET_VIEW in bundle
    assert bundle["text/plain"].count("Before token") == 3
    view = compute(state(), lens)
    for figure in (token_lens.draw(view), token_lens.stills([view] * 3)):
        assert any("Live: SmolLM2" in text.get_text().replace("\n", " ") for text in figure.texts)
    with pytest.raises(UnknownName, match="position"):
        token_lens.show(lens=lens, place=3)


# The exercise


def test_the_exercise_s_gradient_is_that_of_the_package_s_loss():
    data = given("adpa_logit_gradient")
    logits = data["student"].log().requires_grad_()
    head = torch.eye(5, dtype=torch.float64)
    reference = torch.full((2, 5), 0.2, dtype=torch.float64).log()
    # The teacher's logits need not be normalised: a constant in A changes no gradient.
    labels, chosen = torch.zeros(2, dtype=torch.long), torch.tensor([False, False])
    signals = Full(reference + data["advantages"], head), Full(reference, head)
    loss, _ = losses.adpa(logits, head, labels, *signals, chosen, gamma=data["gamma"])
    loss.backward()
    assert check("adpa_logit_gradient", logits.grad[0].tolist()).right is True
    assert float(logits.grad[0].sum()) == pytest.approx(0, abs=1e-12)


def test_the_prediction_s_wrong_options_are_what_they_are_said_to_be():
    from alignkd_lab.course.toy.one_state import DPO, REFERENCE, advantage

    gains = np.array(DPO) - np.array(REFERENCE)
    assert int(np.argmax(DPO)) == int(np.argmax(REFERENCE)) == 0
    assert float(advantage()[0]) < 0
    assert int(gains.argmax()) == 1
    assert np.exp(advantage()[[1, 3]].numpy()) == pytest.approx([4 / 3, 10])
    assert check("adpa_corner", "token 4").right is True
