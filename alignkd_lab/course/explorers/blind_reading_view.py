"""How a page of blind reading looks: as text, which readers can enlarge, copy and hear, on a ground of its own."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignkd_lab.plots.drawing import GRID, INK, QUIET
from alignkd_lab.plots.style import number, pipeline_style

if TYPE_CHECKING:
    from alignkd_lab.course.explorers.blind_reading import Reading, Response

# Cell by cell, since a dark page colours the rows of tables.
_GROUND = f"max-width:64em;padding:.2em .8em;line-height:1.45;color:{INK};background:white"
_CELL = (
    f"text-align:left;vertical-align:top;padding:.35em .7em;border-top:1px solid {GRID};color:{INK};background:white"
)


def ground(content: str) -> str:
    """HTML on white, so that it reads the same on a dark page."""
    return f'<div style="{_GROUND}">{content}</div>'


def page(data: Reading) -> str:
    """The prompt and its responses; once told, with author and reward."""
    heads = ["", "response", *(["written by", "reward"] if data.told else [])]
    return _heading(data) + _table(heads, [_row(response, data.told) for response in data.responses])


def pages_above_answers(readings: Sequence[Reading]) -> str:
    """Several prompts to guess at, and below them who wrote what."""
    asked = [
        _heading(data) + _table(["", "response"], [_row(response, told=False) for response in data.responses])
        for data in readings
    ]
    rows = [
        [f"{data.page + 1}{response.letter}", _author(response.pipeline), paid(response)]
        for data in readings
        for response in data.responses
    ]
    answers = paragraphs("Who wrote them, and what the reward paid:") + _table(["", "written by", "reward"], rows)
    return "".join(asked) + answers


def plain(data: Reading) -> str:
    """A page with its answers, as lines of text."""
    told = [f"{r.letter} ({short(r.pipeline)}, {paid(r)}): {_one_line(r.text)}" for r in data.responses]
    return "\n".join([f"Prompt {data.page + 1} of {data.pages}: {data.prompt}", *told])


def paragraphs(*texts: str) -> str:
    """Each text that is not empty as a paragraph."""
    return "".join(f'<p style="margin:.4em 0">{html.escape(text)}</p>' for text in texts if text)


def rebuilding(data: Reading) -> str:
    """The call that shows this page again."""
    return f'<p style="margin:.4em 0">To come back here: <code>blind_reading.show(page={data.page})</code></p>'


def paid(response: Response) -> str:
    """The reward, and why there is none."""
    if not response.target:
        return "0: missed the target"
    return number(response.reward, 2) + ("" if response.reward > 0 else ": on target, but too implausible to be paid")


def short(pipeline: str) -> str:
    """`K-A` where the label spells out the order."""
    return pipeline_style(pipeline).label.partition(":")[0]


def shown(text: str) -> str:
    """A response as it was written, escaped and on one line; an empty one is named."""
    return html.escape(_one_line(text)) or f'<span style="color:{QUIET}">(nothing)</span>'


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _heading(data: Reading) -> str:
    place = f"Prompt {data.page + 1} of {data.pages}, seed {data.seed}: “{data.prompt}”"
    return f'<p style="margin:.7em 0 .2em"><b>{html.escape(place)}</b></p>'


def _row(response: Response, told: bool) -> list[str]:
    cells = [f"<b>{response.letter}</b>", shown(response.text)]
    return [*cells, _author(response.pipeline), paid(response)] if told else cells


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f'<th scope="col" style="{_CELL};color:{QUIET};font-weight:normal">{head}</th>' for head in heads)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    style = "border-collapse:collapse;margin:0;font-size:inherit"
    return f'<table style="{style}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _author(pipeline: str) -> str:
    style = pipeline_style(pipeline)
    return f'<b style="color:{style.colour}">{html.escape(style.label)}</b>'
