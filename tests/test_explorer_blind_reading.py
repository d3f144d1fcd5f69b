"""Blind reading: nobody picks the responses, nothing is told before the guess, and the words follow the record."""

import itertools

import pytest
from bs4 import BeautifulSoup
from synthetic_records import PROMPTS, lm_record, tabulated

from alignkd_lab.course.explorers import blind_reading
from alignkd_lab.course.explorers.blind_reading import Reading, caption, compute
from alignkd_lab.course.explorers.responses import AUTHORS, LETTERS, Response, Responses
from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.style import number, pipeline_style


@pytest.fixture(scope="module")
def run():
    made = [lm_record(seed) for seed in range(3)]
    for record in made:
        for place, name in enumerate(AUTHORS):
            record["pipelines"][name]["metrics"]["fluency"] = 0.9 - 0.1 * place
    return tabulated(*made)


@pytest.fixture(scope="module")
def responses(run):
    return Responses(run)


@pytest.fixture
def explorer(run):
    return blind_reading.show(run=run)


def pages(responses):
    return [compute({"page": page}, responses) for page in range(len(responses))]


def kept(run, reading, pipeline):
    rows = run.responses
    here = (rows["seed"] == reading.seed) & (rows["prompt"] == reading.prompt) & (rows["pipeline"] == pipeline)
    return rows[here].iloc[0]


def reading(rewards, best="", told=True, guesses=()):
    """A page whose responses earned `rewards`; what earned nothing missed the target."""
    responses = tuple(
        Response(letter, f"text {letter}", name, reward, reward > 0)
        for letter, name, reward in zip(LETTERS, AUTHORS, rewards, strict=False)
    )
    said = dict(itertools.zip_longest(LETTERS[: len(responses)], guesses, fillvalue=""))
    return Reading(0, 1, 0, "a prompt", responses, said, best, told)


# What is read


def test_every_prompt_of_every_seed_comes_once_with_what_the_record_kept(run, responses):
    found = [(data.seed, data.prompt) for data in pages(responses)]
    assert sorted(found) == sorted(itertools.product(range(3), PROMPTS))
    for data in pages(responses):
        assert sorted(response.pipeline for response in data.responses) == sorted(AUTHORS)
        for response in data.responses:
            sample = kept(run, data, response.pipeline)
            expected = (sample["response"], sample["reward"], sample["target"])
            assert (response.text, response.reward, response.target) == expected


def test_of_several_responses_to_a_prompt_the_first_is_read():
    record = lm_record(0)
    samples = record["pipelines"][K_A]["samples"]
    samples.append({**samples[0], "response": "a later one"})
    texts = {response.text for data in pages(Responses(tabulated(record))) for response in data.responses}
    assert samples[0]["response"] in texts
    assert "a later one" not in texts


def test_authors_are_mixed_and_always_in_the_same_way(run, responses):
    places = {(response.letter, response.pipeline) for data in pages(responses) for response in data.responses}
    assert places == set(itertools.product(LETTERS, AUTHORS))
    assert pages(Responses(run)) == pages(responses)


def test_after_the_last_page_comes_the_first(responses):
    count = len(responses)
    assert compute({"page": count + 1}, responses) == compute({"page": 1}, responses)
    assert compute({"page": -1}, responses) == compute({"page": count - 1}, responses)


def test_a_prompt_that_one_model_answered_is_no_riddle():
    record = lm_record(0)
    for name in AUTHORS[1:]:
        record["pipelines"][name]["samples"] = record["pipelines"][name]["samples"][:2]
    assert len(Responses(tabulated(record))) == 2
    explorer = blind_reading.show(run=tabulated({**record, "pipelines": _two(record)}))
    assert [value for _, value in explorer.controls["best"].options] == ["", "A", "B"]
    assert list(explorer.choices.children) == [explorer.controls[name] for name in ("best", "A", "B")]


def _two(record):
    return {name: entry for name, entry in record["pipelines"].items() if name in ("base", "base_aligned")}


def test_a_run_without_responses_is_refused_in_words():
    record = lm_record(0)
    for entry in record["pipelines"].values():
        entry.pop("samples")
    with pytest.raises(BadInput, match="kept no responses"):
        Responses(tabulated(record))


# What is said


def test_every_page_and_every_opinion_has_its_words(responses):
    for page, best, told in itertools.product(range(len(responses)), ("", *LETTERS), (False, True)):
        data = compute({"page": page, "best": best, "told": told, "A": K_A}, responses)
        assert data.right == (data.responses[0].pipeline == K_A)
        assert ("Then press" in caption(data)) is not told


@pytest.mark.parametrize(
    ("rewards", "best", "words"),
    [
        ((0, 0, 0, 0), "A", "cannot tell these responses apart: all earned 0."),
        ((0, 0.25, 0, 0.5), "", "The reward prefers D (0.50)."),
        ((0, 0.25, 0, 0.5), "D", "You found D best, and so does the reward (0.50)."),
        ((0, 0.25, 0, 0.5), "A", "You found A best; it earned 0: it missed the target. The reward prefers D (0.50)."),
        ((0, 0.25, 0, 0.5), "B", "it earned 0.25: on target, but less plausible to the truth. The reward prefers D"),
        ((1, 0, 0, 1), "B", "The reward prefers A and D (1.0)."),
    ],
)
def test_the_reader_s_favourite_stands_beside_the_reward_s(rewards, best, words):
    assert words in caption(reading(rewards, best))


def test_the_two_rankings_are_those_of_the_record(run, responses):
    for metric in ("reward", "fluency"):
        means = run.table(metric)[list(AUTHORS)].mean().to_dict()
        ranked = sorted(means, key=means.get, reverse=True)
        listed = [f"{pipeline_style(name).label.partition(':')[0]} ({number(means[name], 2)})" for name in ranked]
        assert " > ".join(listed) in responses.in_words


@pytest.mark.parametrize(("fluency", "words"), [((1, 2, 3, 4), "the two agree"), ((4, 3, 2, 1), "two different")])
def test_the_belief_is_judged_by_the_record(fluency, words):
    record = lm_record(0)
    for rank, (name, plausible) in enumerate(zip(AUTHORS, fluency, strict=True)):
        record["pipelines"][name]["metrics"] |= {"reward": 0.1 * rank, "fluency": 0.1 * plausible}
    assert words in Responses(tabulated(record)).in_words


def test_every_target_has_words():
    assert set(blind_reading.TARGET_WORDS) == set(TARGETS)
    assert blind_reading.target_words("haiku") == "shows the target “haiku”"


# The page


def test_nothing_gives_an_author_away_before_the_answers_are_asked_for(explorer):
    labels = [pipeline_style(name).label for name in AUTHORS]
    for _ in range(len(explorer.responses)):
        assert not [label for label in labels if label in explorer.text.value]
        assert "<th" in explorer.text.value
        assert "reward" not in explorer.text.value
        explorer.tell.click()
        assert all(label in explorer.text.value for label in labels)
        explorer.next.click()
    assert explorer.page == 0


def test_a_turned_page_is_blank_again(explorer):
    explorer.controls["best"].value, explorer.controls["B"].value = "C", A_K
    explorer.tell.click()
    assert explorer.tell.disabled
    assert all(control.disabled for control in explorer.controls.values())
    explorer.previous.click()
    blank = {"best": "", **dict.fromkeys(LETTERS, "")}
    assert explorer.state == {"page": len(explorer.responses) - 1, **blank, "told": False}
    assert not explorer.tell.disabled
    assert not any(control.disabled for control in explorer.controls.values())


def test_pages_read_so_far_add_up(explorer):
    expected = 0
    for _ in range(3):
        data = compute({"page": explorer.page}, explorer.responses)
        for response in data.responses[:2]:
            explorer.controls[response.letter].value = response.pipeline
        expected += 2
        explorer.tell.click()
        explorer.tell.click()
        explorer.next.click()
    explorer.tell.click()
    assert f"So far: {expected} of 12 authors named rightly; blind luck names one in 4." in explorer.words.value


def test_the_reward_s_favourites_are_counted_where_it_has_one():
    told = blind_reading._tallied([reading((0, 1), "A"), reading((0, 1), "B"), reading((0, 0), "A"), reading((0, 1))])
    assert told == "You and the reward had the same favourite on 1 of 2 pages."


def test_what_a_model_wrote_is_escaped():
    record = lm_record(0)
    for name in AUTHORS:
        for sample in record["pipelines"][name]["samples"]:
            sample["response"] = "<script>\n\nalert()</script>"
    explorer = blind_reading.show(run=tabulated(record))
    bundle = explorer._repr_mimebundle_()
    for text in (explorer.text.value, bundle["text/html"]):
        assert "&lt;script&gt; alert()" in text
        assert "<script" not in text
    assert "(nothing)" in blind_reading.shown("  \n")


def test_without_a_kernel_three_prompts_stand_above_their_answers(explorer):
    explorer.turn_to(1)
    bundle = explorer._repr_mimebundle_()
    assert bundle[WIDGET_VIEW]["model_id"] == explorer.widget.model_id
    questions, _, answers = bundle["text/html"].partition("Who wrote them")
    readings = explorer.still()
    assert [data.page for data in readings] == [1, 2, 3]
    for data in readings:
        assert all(blind_reading.shown(response.text) in questions for response in data.responses)
        for response in data.responses:
            assert f"{data.page + 1}{response.letter}" in answers
            assert response.text in bundle["text/plain"]
    assert not [name for name in AUTHORS if pipeline_style(name).label in questions]
    assert all(pipeline_style(name).label in answers for name in AUTHORS)
    assert explorer.responses.evidence in bundle["text/plain"]


def test_a_card_shows_its_response_and_names_its_author_only_on_its_back():
    bundle = blind_reading.Cards(pages=4)._repr_mimebundle_()
    cards = BeautifulSoup(bundle["text/html"], "html.parser").select("details:not([open])")
    expected = [r for page in range(4) for r in compute({"page": page}).responses if r.pipeline != "base"]
    assert len(cards) == len(expected) > 8
    for card, response in zip(cards, expected, strict=True):
        front = card.summary.extract().get_text()
        assert front == (" ".join(response.text.split()) or "(nothing)")
        assert card.b.get_text() == pipeline_style(response.pipeline).label
        assert blind_reading.paid(response) in card.get_text()


def test_the_page_says_how_deep_its_evidence_is(run, explorer):
    assert "Live run. Language world: laptop preset, 3 seeds." in explorer.words.value
    assert "Live run. Language world: laptop preset, 3 seeds." in explorer._repr_mimebundle_()["text/html"]
    assert Responses(run).evidence.startswith("Recorded run. Language world: laptop preset, 3 seeds.")
    assert blind_reading.show().responses.evidence.startswith("Recorded run.")


def test_an_error_is_shown_on_the_page_and_raised(explorer, monkeypatch):
    def broken(data):
        raise ValueError("out of ink")

    monkeypatch.setattr(blind_reading, "caption", broken)
    with pytest.raises(ValueError, match="out of ink"):
        explorer.turn_to(1)
    assert "out of ink" in explorer.words.value


def test_the_recorded_study_is_read_unless_another_run_is_given():
    explorer = blind_reading.show()
    assert explorer.responses.run is recorded_smollm2()
    assert len(explorer.still()[0].responses) == len(AUTHORS)
    assert compute({}) == compute({"page": 0, "told": False}, blind_reading.recorded())
