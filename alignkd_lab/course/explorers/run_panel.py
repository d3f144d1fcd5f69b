"""The run panel: `alignkd run` with buttons. The run is a child process, so the page stays alive beside it.

    show()                              a tiny run on text
    show(world="mog", preset="laptop")  the whole Gaussian study

What the run leaves are the ordinary records and stages of the command line, in the folder that the panel names.
"""

from __future__ import annotations

import asyncio
import dataclasses
import html
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipywidgets import HTML, Button, FloatProgress, HBox, Text, VBox

from alignkd_lab.course.explorers import run_picture
from alignkd_lab.course.explorers.runs import Request, Run, numbers, request_of, under_way
from alignkd_lab.course.widgets.view import LABELS, WIDE, Picture, choice, hinted, number, paragraph, widget_view
from alignkd_lab.errors import AlignkdError, UnknownName
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.paths import learner_folder
from alignkd_lab.presets import preset

POLL = 0.5  # seconds
_STATIC = (
    "With a running kernel, buttons stand here that start, stop and resume a run beside the notebook, and its curves "
    "as they grow. In a terminal the same is the line below."
)
WORLD_NAMES = {"lm": "text: SmolLM2, or tiny random models", "mog": "Gaussians"}
PRESET_NAMES = {
    "tiny": "tiny: does it all work? (random models on text)",
    "laptop": "laptop: the real thing on two cores",
    "gpu": "gpu: more prompts and seeds",
    "paper": "paper: three sizes of SmolLM2, on a GPU",
}
PIPELINE_NAMES = {
    "orders": "both orders",
    "orders,controls": "both orders and the controls",
    "orders,methods": "both orders and the other methods (text, DPO)",
    "orders,controls,methods": "all of them (text, DPO)",
}
ALGORITHM_NAMES = {"": "the world's default (Gaussians: both; text: DPO)", "dpo": "DPO", "rlhf": "RLHF"}
CELL_NAMES = {"all": "every sharpening and KL weight of the preset", "one": "one cell: the two numbers below"}


# The fields


def controls(request: Request) -> dict[str, Any]:
    """All fields by their name, set to the request's world, preset and folder."""
    default = getattr(preset(request.preset), request.world)
    on_text, on_gaussians = preset("laptop").lm, preset("laptop").mog
    return {
        "world": choice("World", request.world, WORLD_NAMES),
        "preset": choice("Preset", request.preset, PRESET_NAMES),
        "pipelines": choice("Pipelines", "orders", PIPELINE_NAMES),
        "algorithm": choice("Alignment", "", ALGORITHM_NAMES),
        "target": choice("Target", "", {"": "the preset's", **{name: name.replace("_", " ") for name in TARGETS}}),
        "kd_temperature": number("KD temperature τ", on_text.kd_temperature, 0.1, 2.0, 0.05),
        "cells": choice("Settings", "all", CELL_NAMES),
        "sharpening": number("Sharpening s", on_gaussians.sharpening, 0.5, 4.0, 0.1),
        "beta": number("KL weight β", default.beta, 0.01, 10.0, 0.05),
        "seeds": _text("Seeds", "", "the preset's, or e.g. 0-2"),
        "settings": _text("Other settings", "", "e.g. align_steps=48 preference_prompts=96"),
        "out": _text("Folder", str(request.out), ""),
    }


def fields(world: str, cells: str) -> list[str]:
    """The controls that mean something, from top to bottom."""
    own = ["target", "kd_temperature", "beta"] if world == "lm" else ["cells"]
    if world == "mog" and cells == "one":
        own += ["sharpening", "beta"]
    return ["world", "preset", "pipelines", "algorithm", *own, "seeds", "settings", "out"]


def _text(label: str, value: str, placeholder: str) -> Text:
    look = {"placeholder": placeholder, "continuous_update": False, "style": LABELS, "layout": WIDE}
    return hinted(Text(value, description=label, **look))


# The panel


class RunPanel:
    """Controls, Start, Stop, and what the run tells; `widget` is on the page.

    `run` is the latest run, None before the first; `controls` are the fields by their name in `show`.
    """

    def __init__(self, request: Request) -> None:
        self.run: Run | None = None
        self._thread: threading.Thread | None = None
        self._measuring: threading.Thread | None = None
        self._pending, self._closed, self._ended, self._drawn = False, False, False, 0
        self.controls = controls(request)
        self.start_button = Button(description="Start", icon="play", button_style="primary", layout={"width": "8em"})
        self.stop_button = Button(description="Stop", icon="stop", disabled=True, layout={"width": "8em"})
        self.bar = FloatProgress(value=0.0, min=0.0, max=1.0, layout={"width": "14em"})
        self.status, self.message, self.line, self.picture = HTML(), HTML(), HTML(), HTML()
        self._fields = VBox()
        row = HBox([self.start_button, self.stop_button, self.bar, self.status], layout={"flex_flow": "row wrap"})
        self.widget = VBox([self._fields, self.line, row, self.message, self.picture])
        self.start_button.on_click(lambda button: self.start())
        self.stop_button.on_click(lambda button: self.stop())
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._changed(name), "value")
        self._changed("out")
        if (run := under_way(self.request().out)) is not None:  # of an earlier panel, whose cell was run again
            self.run = run
            self._watch()

    def request(self) -> Request:
        """What the controls ask for. Raises BadInput for other settings that are none."""
        return request_of({name: control.value for name, control in self.controls.items()})

    def start(self) -> None:
        """Start the run that the controls ask for, or go on with it where it was stopped."""
        if self.run is not None and self.run.status == "running":
            return
        try:
            run = Run(self.request())
            run.start()
        except AlignkdError as error:
            self._say(f"Not started. {error}")
            return
        self.run, self._drawn = run, 0
        self.picture.value = ""
        self._say("Resumed: what an earlier start has done is picked up." if run.resumed else "")
        self._watch()

    def stop(self) -> None:
        """End the run; its finished stages are kept."""
        if self.run is not None and self.run.status == "running":
            self.run.stop()
            self.stop_button.disabled = True

    def close(self) -> None:
        """Take the panel off the page; a run that is under way goes on, and the next panel shows it."""
        self._closed = True
        self.widget.close()

    def wait(self, seconds: float = 600.0) -> str:
        """The status once the run has ended and the panel shows it, or after `seconds`."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.run.status if self.run is not None else "ready"

    def refresh(self) -> None:
        """Show where the run stands; an error in the drawing is written into the panel before it is raised."""
        self._pending = False
        if self.run is None or self._closed or self._ended:
            return
        try:
            self._show_standing(self.run)
        except Exception as error:
            self._say(f"The run goes on, but this panel cannot show it: {error}")
            raise

    # The run as it goes -------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Refresh twice a second, in the kernel's own thread, until the run has ended."""
        self._enable(False)
        self._ended = False
        run, later = self.run, kernel_loop()

        def watch() -> None:
            while run.poll() == "running" and not self._closed:
                self._refresh_soon(later)
                time.sleep(POLL)
            later(self.refresh)

        self.refresh()
        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()

    def _refresh_soon(self, later: Callable[[Callable[[], None]], object]) -> None:
        """Not twice: a kernel that is busy for a minute would find a hundred of them waiting."""
        if not self._pending:
            self._pending = True
            later(self.refresh)

    def _show_standing(self, run: Run) -> None:
        status, events = run.status, run.events(earlier=False)
        if status == "running":
            where = run_picture.standing(events, time.time())
            self.bar.value = where.share
            self._status("running", where.text)
        news = sum(event["what"] in ("unit", "curve", "cell") for event in events)
        if news != self._drawn and status != "finished":
            self._drawn = news
            self._show_progress(run, events)
        if status != "running":
            self._show_end(run)

    def _show_progress(self, run: Run, events: list[dict]) -> None:
        if run.request.world == "lm":
            units, found = run_picture.timed(events, time.time()), run_picture.curves(run.events())
            words = "Seconds of each stage, and reward and KL along every alignment so far."
            self.picture.value = Picture(run_picture.progress(units, found, run.request.preset == "tiny"), words).tag()
        elif runs := run_picture.runs_of(run.request):
            self.picture.value = _below("So far", *run_picture.outcome(runs, "live"))

    def _show_end(self, run: Run) -> None:
        self._ended = True
        self._enable(True)
        if run.status == "finished":
            self.bar.value = 1.0
            self._status("finished", "its records are below and in the folder")
            self._show_outcome(run)
        elif run.status == "stopped":
            self._status("stopped", "Start goes on from the last whole stage")
            self._say("What was done is kept; the stage that was under way begins again.")
        else:
            self._status("failed", "see below")
            self._say(f"{run.error} (All that it printed: {_short(run.log)})")

    def _show_outcome(self, run: Run) -> None:
        runs = run_picture.runs_of(run.request)
        if not runs:
            self._say(f"There is no record of these settings in {_short(run.request.out)}.")
            return
        told = bool(run.events(earlier=False))
        self._say("" if told else "Nothing new had to be run: every record was there.")
        figure, words = run_picture.outcome(runs, "live")
        self.picture.value = _below("Your run", figure, words)
        if shipped := run_picture.shipped_runs(run.request):
            figure, words = run_picture.outcome(shipped, "record")
            self.picture.value += _below("The recorded run of the same settings, for comparison", figure, words)

    # What the page shows ------------------------------------------------------------------------------

    def _changed(self, name: str) -> None:
        """Fields that fit the world, the preset's numbers, the command line and what it will take."""
        chosen = {name: control.value for name, control in self.controls.items()}
        if name in ("world", "preset", "algorithm"):
            default = getattr(preset(chosen["preset"]), chosen["world"])
            for setting, control in numbers(chosen["world"], chosen["algorithm"]).items():
                self.controls[control].value = getattr(default, setting)
        self._fields.children = tuple(self.controls[name] for name in fields(chosen["world"], chosen["cells"]))
        if self.run is None or self.run.status != "running":
            self._status("ready", "")
            self._show_line()

    def _show_line(self) -> None:
        try:
            request = self.request()
            request.check()
        except AlignkdError as error:
            self.line.value = paragraph(f"These settings cannot run: {error}")
            return
        if run_picture.needs_rates(request) and run_picture.machine_rates.cache_info().currsize == 0:
            words = "This machine is being measured for an estimate (some seconds)."
            self._measure()
        else:
            words = run_picture.cost_in_words(request)
        line = html.escape(request.command.replace(str(Path.home()), "~"))
        shown = f'<p style="margin:0;line-height:1.45">In a terminal: <code>{line}</code></p>'
        self.line.value = paragraph(words) + shown

    def _measure(self) -> None:
        if self._measuring is not None and self._measuring.is_alive():
            return
        later = kernel_loop()

        def measure() -> None:
            run_picture.machine_rates()
            later(self._show_line)

        self._measuring = threading.Thread(target=measure, daemon=True)
        self._measuring.start()

    def _enable(self, enabled: bool) -> None:
        self.start_button.disabled, self.stop_button.disabled = not enabled, enabled
        for control in self.controls.values():
            control.disabled = not enabled

    def _status(self, status: str, detail: str) -> None:
        self.status.value = f"<strong>{status}</strong>" + (f": {html.escape(detail)}" if detail else "")

    def _say(self, text: str) -> None:
        self.message.value = paragraph(text) if text else ""

    def still(self) -> Picture:
        """What stands on a page without a kernel: a recorded run, and the command line that does the same."""
        request = dataclasses.replace(self.request(), out=Path("out"))
        figure, words = run_picture.outcome(run_picture.recorded_runs(request.world), "record")
        banner = run_picture.banner((_STATIC, f"Below, a recorded run. {words}"), request.command)
        top = Picture(banner, f"{_STATIC} {request.command}.")
        return Picture.stack([top, Picture(figure, words)])

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        bundle, size = self.still()._repr_mimebundle_()
        return {**widget_view(self.widget), **bundle}, size


def show(world: str = "lm", preset: str = "tiny", out: Path | str | None = None, **settings) -> RunPanel:
    """The panel, set to a world and a preset; `settings` are further fields by name, e.g. `seeds="0-2"`.

    `out` None is a folder of the learner's own, apart from the project.

    Raises:
        UnknownName: no such world, preset or field.
    """
    for what, name, known in (("world", world, WORLD_NAMES), ("preset", preset, PRESET_NAMES)):
        if name not in known:
            raise UnknownName(what, name, known)
    panel = RunPanel(Request(world=world, preset=preset, out=Path(out) if out else learner_folder() / "runs"))
    for name, value in settings.items():
        if name not in panel.controls:
            raise UnknownName("field", name, panel.controls)
        panel.controls[name].value = value
    return panel


def kernel_loop() -> Callable[[Callable[[], None]], Any]:
    """How a thread hands the drawing back to the kernel's own; outside of a kernel it is done at once."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        return lambda act: act()


def _below(heading: str, figure, words: str) -> str:
    said = f'<p style="margin:.6em 0 .2em"><strong>{heading}.</strong> {html.escape(words)}</p>'
    return said + Picture(figure, words).tag()


def _short(path: Path) -> str:
    return str(path).replace(str(Path.home()), "~")
