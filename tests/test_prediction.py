"""Predictions: answered, blank and skipped; the picture waits for a person and never for a cell."""

import pytest
from matplotlib.figure import Figure

from alignkd_lab.course.exercises import prediction, store
from alignkd_lab.course.exercises.ask import answers, predict
from alignkd_lab.course.exercises.bank import TASKS
from alignkd_lab.course.exercises.prediction import SURE
from alignkd_lab.course.exercises.store import kept_answers
from alignkd_lab.course.exercises.tasks import read_number
from alignkd_lab.course.explorers import threshold
from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.course.widgets.charts import MIME
from alignkd_lab.course.widgets.view import Picture
from alignkd_lab.errors import BadInput, UnknownName

ALL = [id for id, asked in TASKS.items() if asked.prediction]


@pytest.fixture(autouse=True)
def _own_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_ANSWERS", str(tmp_path))


@pytest.fixture
def displayed(monkeypatch):
    """What a cell displays, as mime bundles."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: bundles.append(data))
    return bundles


def figure():
    drawn = Figure(figsize=(2, 1))
    drawn.suptitle("a picture")
    return drawn


def asked(id="first_draw"):
    made = predict(id).then(figure)
    made._ipython_display_()
    return made


def test_a_cell_does_not_wait_and_the_picture_is_hidden_until_there_is_an_answer(displayed):
    made = asked()
    question, picture = displayed
    assert TASKS["first_draw"].question in question["text/html"]
    assert all(label in question["text/html"] for label in TASKS["first_draw"].options.values())
    assert question[WIDGET_VIEW]["model_id"] == made.widget.model_id
    assert picture[WIDGET_VIEW]["model_id"] == made.picture.model_id
    assert picture["image/png"]
    assert not made.shown
    assert made.picture.children == ()
    assert "waits" in made.words.value
    made.answer.value, made.sure.value = "sooner", "certain"
    made.tell.click()
    assert made.shown
    assert "<img" in made.picture.children[0].value
    assert kept_answers() == {"first_draw": {"answer": "sooner", "sure": "certain"}}
    made.again.click()
    assert not made.shown
    assert made.picture.children == ()
    assert (made.answer.value, made.sure.value, made.answer.disabled) == (None, None, False)
    assert kept_answers() == {}


def test_an_answer_is_told_what_comes_out_and_so_is_none(displayed):
    wrong, right = predict("first_draw"), predict("handed_target")
    wrong.choose("sooner", "a guess")
    right.choose("loses")
    assert "It comes out otherwise: no, the wait stays the same." in wrong.words.value
    assert "So it is." in right.words.value
    assert TASKS["handed_target"].because[:20] in right.words.value
    assert "1 of 2" in right.words.value
    table = prediction.Outcomes("01")
    assert "“a guess”: 0 of 1" in table.widget.value
    assert "of 2" not in table.table()
    skipped = asked("eight_components")
    skipped.show_me.click()
    assert skipped.shown
    assert skipped.picture.children
    assert kept_answers()["eight_components"] == {"answer": None, "sure": None}


def test_a_blank_answer_or_what_is_no_number_shows_nothing_and_keeps_nothing(displayed):
    for id, text in (("first_draw", None), *(("rare_weight", text) for text in ("", "two", "1/0", "1/2/3", "%"))):
        made = asked(id)
        made.answer.value = text
        made.tell.click()
        assert ("That is no number" if text else "No answer yet") in made.words.value
        assert not made.shown
        assert made.picture.children == ()
        assert kept_answers() == {}


@pytest.mark.parametrize("id", ALL)
def test_every_prediction_can_be_answered_and_skipped_in_words_that_are_safe(id, displayed):
    assert "<script" not in prediction._question(TASKS[id], options=True)
    assert prediction._question(TASKS[id]).count("<p ") == 1
    options = TASKS[id].options or {0.1: "a tenth", TASKS[id].outcome(): "right"}
    for answer in options:
        made = asked(id)
        assert (made.answer.value, made.sure.value) == (None if TASKS[id].options else "", None)
        for field in (made.answer, made.sure):
            assert field.tooltip == field.description != ""
        made.choose(answer, SURE[0])
        assert made.shown
        assert kept_answers()[id]["answer"] == answer
        made.ask_again()
    made.skip()
    assert made.shown


def test_a_number_is_read_as_people_write_it():
    written = {"0.02": 0.02, " ,02": 0.02, "2 %": 0.02, "1/50": 0.02, "−14.1": -14.1, "": None}
    assert {text: read_number(text) for text in written} == pytest.approx(written)
    for text in ("nan", "inf", "1/0", "a", "1,000", "-2,298", "10,000/3"):
        with pytest.raises(ValueError, match=r"."):
            read_number(text)
    made = predict("rare_weight")
    made.answer.value = "0.5 %"
    made.tell.click()
    assert "So it is." in made.words.value


def test_an_answer_of_an_earlier_day_is_restored_with_its_picture_and_one_that_no_longer_fits_counts_as_none(displayed):
    predict("first_draw").choose("same", "fairly sure")
    made = asked()
    assert made.shown
    assert (made.answer.value, made.sure.value) == ("same", "fairly sure")
    assert made.answer.disabled
    assert made.picture.children
    predict("first_draw").skip()
    assert asked().answer.value is None
    for id, old in (("first_draw", "perhaps"), ("rare_weight", "a tenth"), ("first_draw", [1])):
        store.keep_answer(id, old, "certain")
        assert not asked(id).shown
        assert "not answered yet" in answers(TASKS[id].notebook).widget.value


def test_a_full_disk_does_not_hide_the_picture(displayed, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    made = asked()
    monkeypatch.setattr(store, "keep_answer", refuse)
    made.choose("same")
    assert made.picture.children
    assert "could not be kept: No space left on device" in made.words.value


def test_a_chart_or_a_picture_or_nothing_can_be_what_is_kept_back(displayed):
    made = predict("first_draw").then(threshold.show)
    made._ipython_display_()
    made.skip()
    assert MIME in made.picture.children[0].outputs[0]["data"]
    made = predict("first_draw").then(lambda: Picture(figure(), "in words"))
    made._ipython_display_()
    assert 'alt="in words"' in made.picture.children[0].value
    displayed.clear()
    predict("first_draw")._ipython_display_()
    assert len(displayed) == 1


def test_exercises_and_strange_options_are_refused():
    with pytest.raises(BadInput, match="use check"):
        predict("smallest_reward")
    with pytest.raises(BadInput, match="sooner, same, later"):
        predict("first_draw").choose("never")
    with pytest.raises(UnknownName, match="00, 01, 02"):
        answers("17")


def test_the_table_sets_answers_beside_outcomes_as_they_come_and_a_saved_page_holds_no_learner_s_answer(displayed):
    table = answers("01")
    assert table.widget.value.count("not answered yet") == 2
    assert "no, the wait stays the same" not in table.widget.value
    predict("first_draw").choose("sooner", "certain")
    predict("handed_target").skip()
    for said in ("yes, sooner (certain)", "no, the wait stays the same", "skipped", "it gives the target up again"):
        assert said in table.widget.value
    assert "not answered yet" not in table.widget.value
    data = answers("01")._repr_mimebundle_()
    asked()
    static = [text for bundle in (data, *displayed) for kind, text in bundle.items() if kind.startswith("text/")]
    assert not [text for text in static if "certain" in text or "You said" in text]
    assert "<details><summary>Show</summary>no, the wait stays the same</details>" in data["text/html"]
