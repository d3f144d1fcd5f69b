"""The token lens: at every token it shows what the models' own distributions say; and the tasks of its notebook."""

import itertools
import json

import numpy as np
import pytest
import torch
from scene import Scene, moved
from tiny_lm import away_from_zero

from alignkd_lab.course.exercises.ask import check, given
from alignkd_lab.course.explorers import token_lens
from alignkd_lab.course.explorers.token_lens import NAMES, QUANTITIES, ROWS, values_of, views
from alignkd_lab.course.lens.readings import MODELS, Reading
from alignkd_lab.course.lens.texts import TEXTS, Lens, look
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.teachers import Full
from alignkd_lab.lm.trainer import with_lora
from alignkd_lab.plots.style import number


@pytest.fixture(scope="module")
def lens():
    """The lens on tiny random models, whose letters are bytes; the adapter is random, too."""
    base, tokenizer = weights.load("tiny-base")
    teacher = away_from_zero(with_lora(base, rank=2), 0.3)
    student, _ = weights.load("tiny-student")
    return look(tokenizer, teacher.eval(), student, "Write.", {"chosen": "Red!", "rejected": "Old."})


@pytest.fixture(scope="module")
def chart(lens):
    return token_lens.show(lens=lens)


def drawn(chart, position=2, quantity="log_ratio"):
    """The scene once field and menu are moved."""
    at = next(param for param in chart.spec["params"] if param["name"] == "at")
    at["value"] = [{"position": position}]
    return Scene(moved(chart, quantity=quantity))


@pytest.mark.parametrize("text", TEXTS)
def test_every_position_shows_what_the_distributions_say(lens, text):
    reading, (left, right, low, high) = lens.readings[text], token_lens.extent(lens)
    for position, view in enumerate(views(lens)[text]):
        rows = {name: reading.log_probs[name][position].double() for name in MODELS}
        a = rows["dpo"] - rows["reference"]
        assert [held[1] for held in view["advantaged"]] == pytest.approx(
            a.sort(descending=True).values[:ROWS].tolist(), abs=1e-3
        )
        for place, name in enumerate(MODELS):
            best = rows[name].exp().sort(descending=True).values[:ROWS].tolist()
            assert [share for _, share in view["likely"][name]] == pytest.approx(best, rel=1e-3)
            order = rows[name].argsort(descending=True).tolist()
            assert view["here"][3][place] == 1 + order.index(int(reading.labels[position]))
        assert [held[3][MODELS.index("dpo")] for held in view["dpo"]] == list(range(1, ROWS + 1))
        assert view["here"][1] == pytest.approx(float(a[reading.labels[position]]), abs=1e-3)
        assert 10 ** view["here"][2] == pytest.approx(float(rows["dpo"][reading.labels[position]].exp()), rel=2e-3)
        cells = {"bins": (42, 56), "range": ((low, high), (left, right))}
        counts = np.histogram2d(a.float(), (rows["dpo"] / np.log(10)).float(), **cells)[0]
        assert [level > "0" for level in view["cloud"]] == (counts.ravel() > 0).tolist()
        said = " ".join(view["words"])
        means = [float(rows[name].exp() @ a) for name in MODELS]
        assert all(f"{NAMES[name]} {number(mean)}" in said for name, mean in zip(MODELS, means, strict=True))
        kl = float((rows["dpo"].exp() * (rows["dpo"] - rows["student"])).sum())
        assert f"{number(kl)} nats." in said


def test_the_field_walks_through_the_texts_to_the_last_token_and_opens_where_the_belief_fails(lens, chart):
    held = views(lens)
    places = [(text, place) for text in TEXTS for place in range(len(held[text]))]
    field = next(p for p in chart.spec["params"] if p["name"] == "at")["bind"]["position"]
    assert (field["min"], field["max"]) == (1, len(places))
    for position, (text, place) in enumerate(places, 1):
        if place in (0, 1, len(held[text]) - 1):
            scene = drawn(chart, position)
            assert held[text][place]["words"][0] in scene.words
            assert TEXTS[text] in str(scene.marks)
            tokens, frame = scene.places("rect")[:2]
            assert len(tokens) == len(held[text])
            assert frame[0]["x"] == tokens[place]["x"]
    view = [view for text in TEXTS for view in views(lens)[text]]
    (opened,) = next(p["value"] for p in token_lens.show(lens=lens).spec["params"] if p["name"] == "at")
    fails = [held["advantaged"][0][3][1] > 10 for held in view]
    assert fails.index(True) + 1 == opened["position"]


def test_the_menu_chooses_the_colour(lens, chart):
    fills = {name: [item["fill"] for item in drawn(chart, quantity=name).places("rect")[0]] for name in QUANTITIES}
    for name, drawn_fills in fills.items():
        values = values_of(lens.readings["chosen"], name).tolist()
        by_value = [fill for _, fill in sorted(zip(values, drawn_fills, strict=True))]
        green = [int(fill[4:-1].split(",")[0]) - int(fill[4:-1].split(",")[1]) for fill in by_value]
        assert all(before >= after - 12 for before, after in itertools.pairwise(green))


def test_what_there_is_not_is_named(lens):
    for refused in ({"place": 3}, {"quantity": "another"}):
        with pytest.raises(UnknownName):
            token_lens.show(lens=lens, **refused)
    with pytest.raises(BadInput, match="position"):
        token_lens.show(lens=lens, position=999)


@pytest.mark.parametrize("token", ["<script>alert(1)</script>", "if", "constructor", '"', "\\"])
def test_a_token_stays_the_text_that_it_is(token):
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(20, 8, generator=generator)
    says = (Full(torch.randn(3, 8, generator=generator), head) for _ in MODELS)
    tokenizer = type("Words", (), {"decode": staticmethod(lambda ids: token)})
    lens = Lens(tokenizer, None, None, dict.fromkeys(TEXTS, Reading([1], torch.arange(3), *says)))
    chart = token_lens.show(lens=lens)
    texts = [item.get("text") for items in Scene(chart).places("text") for item in items]
    assert texts.count(token) >= 3
    json.dumps(chart.spec)


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
