"""The fields of a prediction, and the picture that waits for it.

Live, the picture stays hidden until there is an answer or "Show me" was pressed. A cell never waits, and a
page without a kernel has question and picture one above the other. What a learner said stands in widgets
only, so that saving a notebook saves no answer.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable

from ipywidgets import HTML, Button, Dropdown, HBox, Output, RadioButtons, Text, VBox
from matplotlib.figure import Figure

from alignkd_lab.course.exercises import store
from alignkd_lab.course.exercises.bank import TASKS, task
from alignkd_lab.course.exercises.tasks import Task, read_number
from alignkd_lab.course.notebooks import ASKS
from alignkd_lab.course.widgets.charts import Chart
from alignkd_lab.course.widgets.view import Picture, hinted, inline, paragraph, widget_view
from alignkd_lab.errors import BadInput, UnknownName

SURE = ("a guess", "fairly sure", "certain")
_WIDE = {"width": "auto", "max_width": "62em"}
_MARKS = {True: ("✓ Right", "#1a7f37"), False: ("✗ Otherwise", "#b35900")}  # white on these reads on any page
_LABELS = {"description_width": "6em"}
# An HTML widget spaces its lines for one line of controls.
_LINES = "line-height:1.45"

# Tables on the page that show a new answer at once.
_tables: weakref.WeakSet[Outcomes] = weakref.WeakSet()


class Prediction:
    """The question's fields, and below them the picture of `then`; see `ask.predict`. Its answer is kept under `id`."""

    def __init__(self, id: str) -> None:
        asked = task(id)
        if not asked.prediction:
            raise BadInput(f"{id!r} is an exercise, not a prediction: use check({id!r}, answer)")
        self.id, self.asked, self.shown = id, asked, False
        self._figure: Callable[[], Picture | Chart | Figure] | None = None
        self.answer = hinted(_field(asked))
        levels = [("not said", None), *((level, level) for level in SURE)]
        self.sure = hinted(Dropdown(options=levels, description="How sure", style=_LABELS, layout={"width": "16em"}))
        self.tell = Button(description="Answer", button_style="primary")
        self.show_me, self.again = Button(description="Show me"), Button(description="Ask me again")
        self.words = HTML(layout=_WIDE)
        question = HTML(_question(asked), layout=_WIDE)
        self.buttons = HBox()
        self.widget = VBox([question, self.answer, self.sure, self.buttons, self.words])
        self.picture, self._kept_back = VBox(), ()
        self.tell.on_click(lambda button: self._told())
        self.show_me.on_click(lambda button: self.skip())
        self.again.on_click(lambda button: self.ask_again())
        self._set(_fitting(id, store.kept_answers()))

    def then(self, figure: Callable[[], Picture | Chart | Figure]) -> Prediction:
        """Show what `figure()` returns once there is an answer; it is called when the cell is displayed."""
        self._figure = figure
        return self

    def choose(self, answer: str | float | None, sure: str | None = None) -> None:
        """Answer as the fields and the button do: keep the answer, show the picture and what came out.

        Raises BadInput for an answer that is no option.
        """
        if answer is not None and self.asked.options and answer not in self.asked.options:
            raise BadInput(f"{answer!r} is no option of {self.id!r}: {', '.join(self.asked.options)}")
        trouble = ""
        try:
            store.keep_answer(self.id, answer, sure)
        except OSError as error:  # the picture is shown all the same
            trouble = f" (Your answer could not be kept: {error.strerror or error}.)"
        self._set({"answer": answer, "sure": sure}, trouble)

    def skip(self) -> None:
        """Show the picture without an answer."""
        self.choose(None)

    def ask_again(self) -> None:
        """Forget the answer and hide the picture, on this page also where the disk refuses."""
        with contextlib.suppress(OSError):
            store.forget_answer(self.id)
        self._set(None)

    def _told(self) -> None:
        try:
            answer = self.answer.value if self.asked.options else read_number(self.answer.value)
        except ValueError:
            self.words.value = paragraph("That is no number. Write it like 0.02 or 2 %.")
            return
        if answer is None:
            self.words.value = paragraph("No answer yet. Give one, or press “Show me”.")
            return
        self.choose(answer, self.sure.value)

    def _set(self, entry: dict | None, trouble: str = "") -> None:
        """Fields, buttons, words and picture for what was answered; None while there is no answer."""
        self.shown = entry is not None
        answer, sure = (entry["answer"], entry.get("sure")) if entry else (None, None)
        self.answer.value = answer if self.asked.options else "" if answer is None else f"{answer:g}"
        self.sure.value = sure if sure in SURE else None
        self.answer.disabled = self.sure.disabled = self.shown
        self.buttons.children = (self.again,) if self.shown else (self.tell, self.show_me)
        self.picture.children = self._kept_back if self.shown else ()
        waits = "The picture waits for your answer, or for “Show me”." if self._figure else ""
        said = paragraph(_said(self.asked, answer, sure) + trouble if self.shown else waits)
        if answer is not None:
            mark, colour = _MARKS[self.asked.right(answer)]
            pill = f"background:{colour};color:white;border-radius:4px;padding:.1em .6em;font-weight:600"
            scores = map(paragraph, _scores(self.asked.notebook)[:1])  # none where the disk kept no answer
            said = f'<span style="{pill}">{mark}</span>{said}{"".join(scores)}'
        self.words.value = said
        for table in list(_tables):
            table.update()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        # Each time anew: a figure made once could be shown stale by a cell that is run again.
        figure = self._figure() if self._figure else None
        data = {"text/html": _question(self.asked, options=True), "text/plain": self.asked.question}
        display({**widget_view(self.widget), **data}, raw=True)
        if figure is None:
            return
        made = Picture(figure, figure.get_suptitle()) if isinstance(figure, Figure) else figure
        bundle, size = made._repr_mimebundle_()
        output = {"output_type": "display_data", "data": bundle, "metadata": size}
        self._kept_back = (Output(outputs=(output,)) if isinstance(made, Chart) else HTML(made.tag()),)
        self._set(_fitting(self.id, store.kept_answers()))
        display({**bundle, **widget_view(self.picture)}, metadata=size, raw=True)


class Outcomes:
    """A notebook's predictions as a table; see `ask.answers`."""

    def __init__(self, notebook: str) -> None:
        self.notebook, self.ids = notebook, _predictions(notebook)
        if not self.ids:
            known = {asked.notebook for asked in TASKS.values() if asked.prediction}
            raise UnknownName("notebook with predictions", notebook, sorted(known))
        self.widget = HTML()
        self.update()
        _tables.add(self)

    def update(self) -> None:
        """Read the answers again."""
        self.widget.value = self.table(store.kept_answers())

    def table(self, kept: dict[str, dict] | None = None) -> str:
        """HTML; without `kept` for a page that anybody may read."""
        heads = ["Prediction", *(["You said"] if kept is not None else []), "What comes out"]
        rows = [_row(TASKS[id], _fitting(id, kept or {}), kept is not None) for id in self.ids]
        cells = "".join(f'<th scope="col" style="text-align:left">{head}</th>' for head in heads)
        scores = "".join(map(paragraph, _scores(self.notebook))) if kept else ""
        return f'<table style="max-width:62em;{_LINES}"><tr>{cells}</tr>{"".join(rows)}</table>{scores}'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        plain = "\n".join(f"{TASKS[id].question} {TASKS[id].words()}" for id in self.ids)
        return {**widget_view(self.widget), "text/html": self.table(), "text/plain": plain}


def _predictions(notebook: str) -> list[str]:
    return [id for id, asked in TASKS.items() if asked.prediction and asked.notebook == notebook]


def _scores(notebook: str) -> list[str]:
    """How many of a notebook's answered predictions came out as the learner said, in all and by how sure that was."""
    kept = store.kept_answers()
    answered = [(TASKS[id], entry) for id in _predictions(notebook) if (entry := _fitting(id, kept))]
    right: dict[str | None, list[bool]] = {"": []}
    for asked, entry in answered:
        if entry["answer"] is not None:
            for level in ("", entry.get("sure")):
                right.setdefault(level, []).append(asked.right(entry["answer"]))
    levels = [("Right so far", ""), *((f"When you said “{level}”", level) for level in SURE)]
    return [f"{words}: {sum(right[level])} of {len(right[level])}." for words, level in levels if right.get(level)]


def _fitting(id: str, kept: dict[str, dict]) -> dict | None:
    """The kept entry, if it still answers the question, which may have changed since."""
    asked, entry = TASKS[id], kept.get(id)
    if entry is None or "answer" not in entry:
        return None
    answer = entry["answer"]
    kind = str if asked.options else (int, float)
    fits = answer is None or (isinstance(answer, kind) and (not asked.options or answer in asked.options))
    return entry if fits else None


def _said(asked: Task, answer: str | float | None, sure: str | None) -> str:
    if answer is None:
        return f"It comes out so: {asked.words()}. {asked.because}"
    said = f"You said: {asked.words(answer)}" + (f" ({sure})" if sure else "") + ". "
    told = "So it is. " if asked.right(answer) else f"It comes out otherwise: {asked.words()}. "
    return said + told + asked.because


def _row(asked: Task, entry: dict | None, personal: bool) -> str:
    """A table's row; a personal one keeps the outcome back until there is an `entry`, another folds it away."""
    cells = [inline(asked.question)]
    if personal:
        answer, sure = (entry["answer"], entry.get("sure")) if entry else (None, None)
        said = "not answered yet" if entry is None else "skipped" if answer is None else asked.words(answer)
        cells.append(inline(said + (f" ({sure})" if sure else "")))
    outcome = inline(asked.words())
    folded = f"<details><summary>Show</summary>{outcome}</details>"
    cells.append(folded if not personal else outcome if entry else "…")
    return "<tr>" + "".join(f'<td style="text-align:left;vertical-align:top">{cell}</td>' for cell in cells) + "</tr>"


def _question(asked: Task, options: bool = False) -> str:
    text = f'<p style="{_LINES}">{ASKS} {inline(asked.asked())}</p>'
    listed = "".join(f"<li>{inline(label)}</li>" for label in asked.options.values()) if options else ""
    return text + (f"<ul>{listed}</ul>" if listed else "")


def _field(asked: Task) -> RadioButtons | Text:
    look = {"description": "Your guess", "style": _LABELS}
    if asked.options:
        options = [(label, value) for value, label in asked.options.items()]
        return RadioButtons(options=options, index=None, layout=_WIDE, **look)
    return Text(placeholder="a number", layout={"width": "16em"}, **look)
