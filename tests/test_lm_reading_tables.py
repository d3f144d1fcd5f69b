"""Tables of readings: places, pushes and the released advantage, on readings whose numbers are known."""

import pytest
import torch

from alignkd_lab.course.lens.reading_tables import against_release, largest_advantages, pushes
from alignkd_lab.course.lens.readings import Reading
from alignkd_lab.lm import losses
from alignkd_lab.lm.teachers import Full

SIZE = 60
TOKENIZER = type("Words", (), {"decode": staticmethod(lambda ids: f" w{ids[0]}")})


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
    table = pushes(reading, 2, TOKENIZER, count=3)
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
