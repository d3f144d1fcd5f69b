"""Blind reading: nobody picks the responses, the author stands on the back alone, and the words follow the record."""

import pytest
from bs4 import BeautifulSoup
from synthetic_records import PROMPTS, lm_record, tabulated

from alignkd_lab.course.explorers import blind_reading
from alignkd_lab.course.explorers.blind_reading import AUTHORS, Cards, Response, deal, in_words, paid
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.pipelines import K_A
from alignkd_lab.plots.style import number, pipeline_style


@pytest.fixture(scope="module")
def run():
    made = [lm_record(seed) for seed in range(3)]
    for record in made:
        for place, name in enumerate(AUTHORS):
            record["pipelines"][name]["metrics"]["fluency"] = 0.9 - 0.1 * place
    return tabulated(*made)


def test_every_prompt_comes_once_with_each_models_first_response_in_an_order_that_tells_nothing(run):
    pages = deal(run)
    assert len({(page.seed, page.prompt) for page in pages}) == len(pages) == 3 * len(PROMPTS)
    first = run.responses.drop_duplicates(["seed", "prompt", "pipeline"]).set_index(["seed", "prompt", "pipeline"])
    for page in pages:
        assert {response.pipeline for response in page.responses} == set(AUTHORS)
        for response in page.responses:
            assert response.text == first.loc[(page.seed, page.prompt, response.pipeline), "response"]
    leaders = {page.responses[0].pipeline for page in pages}
    assert len(leaders) > 2
    assert deal(run) == pages


def test_a_prompt_that_only_one_model_answered_is_no_riddle(run):
    with pytest.raises(BadInput, match="choose a run of the lm world"):
        deal(run.select(pipeline="base"))


@pytest.mark.parametrize("authors", [AUTHORS, AUTHORS[1:]])
def test_a_card_shows_its_response_and_names_its_author_only_on_its_back(authors):
    bundle = Cards(4, authors)._repr_mimebundle_()
    cards = BeautifulSoup(bundle["text/html"], "html.parser").select("details:not([open])")
    expected = [response for page in deal(recorded_smollm2(), authors)[:4] for response in page.responses]
    assert len(cards) == len(expected) == 4 * len(authors)
    for card, response in zip(cards, expected, strict=True):
        front = card.summary.extract().get_text()
        assert front == (" ".join(response.text.split()) or "(nothing)")
        assert card.b.get_text() == pipeline_style(response.pipeline).label
        assert paid(response) in card.get_text()
        assert response.text.split()[0] in bundle["text/plain"]


def test_a_card_says_why_nothing_was_paid():
    said = [paid(Response("a", K_A, reward, target)) for reward, target in ((0.0, False), (0.0, True), (0.5, True))]
    assert said == ["0: missed the target", "0: on target, but too implausible to be paid", "0.50"]


def test_the_two_rankings_are_those_of_the_record(run):
    for metric in ("reward", "fluency"):
        means = run.table(metric)[list(AUTHORS)].mean().to_dict()
        ranked = sorted(means, key=means.get, reverse=True)
        listed = [f"{pipeline_style(name).label.partition(':')[0]} ({number(means[name], 2)})" for name in ranked]
        assert " > ".join(listed) in in_words(run)


@pytest.mark.parametrize(("fluency", "words"), [((1, 2, 3, 4), "the two agree"), ((4, 3, 2, 1), "two different")])
def test_the_belief_is_judged_by_the_record(fluency, words):
    record = lm_record(0)
    for rank, (name, plausible) in enumerate(zip(AUTHORS, fluency, strict=True)):
        record["pipelines"][name]["metrics"] |= {"reward": 0.1 * rank, "fluency": 0.1 * plausible}
    assert words in in_words(tabulated(record))


def test_the_page_says_how_deep_its_evidence_is(run):
    assert "Live run. Language world: laptop preset, 3 seeds." in Cards(run=run)._repr_mimebundle_()["text/html"]
    assert "Recorded run." in Cards()._repr_mimebundle_()["text/plain"]


def test_every_target_has_words():
    assert set(blind_reading.TARGET_WORDS) == set(TARGETS)
    assert blind_reading.target_words("haiku") == "shows the target “haiku”"
