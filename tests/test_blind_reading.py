"""Blind reading: nobody picks the responses, the author stands on the back alone, and the words follow the record."""

from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from synthetic_records import PROMPTS, lm_record, tabulated

from alignkd_lab.course.explorers import blind_reading
from alignkd_lab.course.explorers.blind_reading import AUTHORS, Cards, deal, paid, ranking
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.plots.style import number, pipeline_style


@pytest.fixture(scope="module")
def run():
    made = [lm_record(seed) for seed in range(3)]
    for record in made:
        for place, name in enumerate(AUTHORS):
            record["pipelines"][name]["metrics"]["fluency"] = 0.9 - 0.1 * place
    return tabulated(*made)


def test_every_prompt_comes_once_with_each_models_first_response_in_an_order_that_tells_nothing(run):
    pages = list(deal(run))
    assert len({(rows[0].seed, rows[0].prompt) for rows in pages}) == len(pages) == 3 * len(PROMPTS)
    first = run.responses.drop_duplicates(["seed", "prompt", "pipeline"]).set_index(["seed", "prompt", "pipeline"])
    for rows in pages:
        assert {row.pipeline for row in rows} == set(AUTHORS)
        for row in rows:
            assert row.response == first.loc[(row.seed, rows[0].prompt, row.pipeline), "response"]
    assert len({rows[0].pipeline for rows in pages}) > 2
    assert list(deal(run)) == pages


@pytest.mark.parametrize("authors", [AUTHORS, AUTHORS[1:]])
def test_a_card_shows_its_response_and_names_its_author_only_on_its_back(authors):
    made = Cards(4, authors)
    bundle = made._repr_mimebundle_()
    *cards, over_all = BeautifulSoup(bundle["text/html"], "html.parser").select("details:not([open])")
    assert over_all.get_text().endswith(made.words)
    expected = [row for rows in list(deal(recorded_smollm2(), authors))[:4] for row in rows]
    assert len(cards) == len(expected) == 4 * len(authors)
    for card, row in zip(cards, expected, strict=True):
        assert card.summary.extract().get_text() == (" ".join(row.response.split()) or "(nothing)")
        assert card.b.get_text() == pipeline_style(row.pipeline).label
        assert paid(row) in card.get_text()
        assert row.response.split()[0] in bundle["text/plain"]


def test_a_card_says_why_nothing_was_paid_and_every_target_has_words():
    cases = ((0.0, False), (0.0, True), (0.5, True))
    said = [paid(SimpleNamespace(reward=reward, target=target)) for reward, target in cases]
    assert said == ["0: missed the target", "0: on target, but too implausible to be paid", "0.50"]
    assert set(blind_reading.TARGET_WORDS) == set(TARGETS)
    assert blind_reading.target_words("haiku") == "shows the target “haiku”"


def test_the_two_rankings_are_those_of_the_record(run):
    for metric in ("reward", "fluency"):
        means = run.table(metric)[list(AUTHORS)].mean().to_dict()
        ranked = sorted(means, key=means.get, reverse=True)
        listed = [f"{pipeline_style(name).label.partition(':')[0]} ({number(means[name], 2)})" for name in ranked]
        assert ranking(run, metric) == " > ".join(listed)
