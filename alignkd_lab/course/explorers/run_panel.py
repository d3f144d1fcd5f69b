"""The run panel: `alignkd run` with buttons. The run is a child process, so the page stays alive beside it.

It begins with both orders on Gaussians, of seeds that nobody has run yet, in seconds; `show("lm")` with text. What a
run leaves are the ordinary records and stages of the command line, in the folder that the panel names.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import time
from dataclasses import replace
from pathlib import Path

from ipywidgets import HTML, Button, FloatProgress, HBox, Text, VBox

from alignkd_lab import records
from alignkd_lab.course.explorers import run_picture
from alignkd_lab.course.explorers.runs import Request, Run, get_ready, under_way
from alignkd_lab.course.shipped import recorded_gaussians, recorded_smollm2
from alignkd_lab.course.widgets.view import LABELS, WIDE, Picture, choice, hinted, kept, paragraph, widget_view
from alignkd_lab.errors import AlignkdError
from alignkd_lab.paths import learner_folder
from alignkd_lab.pipelines import ORDERS, YARDSTICKS
from alignkd_lab.plots.drawing import whole

POLL = 0.5  # seconds
OPTIONS = {
    "world": {"mog": "Gaussians", "lm": "text: SmolLM2, or tiny random models"},
    "preset": {"tiny": "tiny: does it all work?", "laptop": "laptop: two cores", "gpu": "gpu", "paper": "paper: a GPU"},
    "pipelines": {"orders": "both orders", "orders,controls": "both orders and the controls", "": "the preset's"},
    "algorithm": {"rlhf": "RLHF", "dpo": "DPO", "": "the world's default (Gaussians: both; text: DPO)"},
}
HINTS = {"seeds": "the preset's, or e.g. 0-2", "settings": "the preset's, or e.g. beta=0.3 align_steps=48"}


def suggestion(world: str, out: Path) -> Request:
    """Something short and new: seeds that neither the shipped records nor the folder hold."""
    held = 20 if world == "mog" else 10
    ran = [path.stem.rpartition("-seed")[2] for path in (out / "runs").glob(f"{world}-*-seed*.json")]
    first = max(held, *(int(seed) + 1 for seed in ran if seed.isdecimal()), 0)
    if world == "mog":
        return Request("mog", "laptop", "orders", "rlhf", f"{first}-{first + 19}", "sharpening=2.0 beta=0.5", out)
    return Request(world, "tiny", "orders", "", str(first), "", out)


class RunPanel:
    """Fields, Start, Stop, and what the run tells; `widget` is on the page.

    `run` is the latest run, None before the first; `controls` are the fields by their name in `Request`.
    """

    def __init__(self, request: Request) -> None:
        self.out, self.run, self._drawn = request.out, under_way(request.out), 0
        self.controls = {name: choice(name.title(), getattr(request, name), held) for name, held in OPTIONS.items()}
        for name, hint in HINTS.items():
            look = {"placeholder": hint, "continuous_update": False, "style": LABELS, "layout": WIDE}
            self.controls[name] = hinted(Text(getattr(request, name), description=name.title(), **look))
        self.start_button = Button(description="Start", icon="play", button_style="primary")
        self.stop_button = Button(description="Stop", icon="stop", disabled=True)
        self.bar = FloatProgress(value=0.0, min=0.0, max=1.0, layout={"width": "14em"})
        self.status, self.line, self.picture = HTML(), HTML(), HTML()
        row = HBox([self.start_button, self.stop_button, self.bar], layout={"flex_flow": "row wrap"})
        shown = [*self.controls.values(), self.line, row, self.status, self.picture]
        self.widget = VBox(shown, layout={"max_width": "100%"})
        self.start_button.on_click(lambda button: self.start())
        self.stop_button.on_click(lambda button: self.run.stop())
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._changed(name), "value")
        self._show_line()
        if self.run is not None:  # of an earlier panel, whose cell was run again
            self._watch()

    def request(self) -> Request:
        """What the fields ask for."""
        return Request(out=self.out, **{name: control.value for name, control in self.controls.items()})

    def start(self) -> None:
        """Start the run that the fields ask for, or go on with it where it was stopped."""
        if self.run is not None and self.run.poll() == "running":
            return
        run = Run(self.request())
        try:
            run.start()
        except AlignkdError as error:
            self._say("not started", str(error))
            return
        self.run, self._drawn, self.picture.value = run, 0, ""
        self._watch()

    def refresh(self) -> str:
        """Show where the run stands, and give its status; what fails in the drawing is written into the panel."""
        status = self.run.poll()
        try:
            self._show(status, self.run)
        except Exception as error:
            self._say(status, f"this panel cannot show the run: {error}")
            raise
        return status

    def _watch(self) -> None:
        """Refresh in the kernel's own loop; a script has none, and calls `refresh` itself."""
        self._expected = run_picture.expected_seconds(self.run.request)  # once: a plan takes a tenth of a second
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self._watching = loop.create_task(self._follow())
        self.refresh()

    async def _follow(self) -> None:
        while self.refresh() == "running":
            await asyncio.sleep(POLL)

    def _show(self, status: str, run: Run) -> None:
        for control in self.controls.values():
            control.disabled = status == "running"
        self.start_button.disabled, self.stop_button.disabled = status == "running", status != "running"
        if status == "running":
            events = run.events()
            self.bar.value, _, where = run_picture.standing(run.request, events, time.time(), self._expected)
            self._say("running", where)
            if (news := sum(event["what"] == "curve" for event in events)) != self._drawn:
                self._drawn = news
                figure = run_picture.progress(events, run.request.preset == "tiny")
                self.picture.value = Picture(figure, "Reward and KL along every alignment so far.").tag()
        elif status == "finished":
            self.bar.value = 1.0
            new = len(run.events()) > 1
            self.controls["seeds"].value = suggestion(run.request.world, self.out).seeds
            figure, words = run_picture.outcome(list(records.load(*run.files).each()), "live")
            self.picture.value = paragraph(words) + Picture(figure, words).tag()
            self._say("finished", f"{'' if new else 'every record was there; '}the records are in {self.out}")
        elif status == "stopped":
            self._say("stopped", "Start goes on from the last whole stage; the one under way begins again")
        else:
            self._say("failed", f"{run.error} (All that it printed: {run.log})")

    def _changed(self, name: str) -> None:
        if name == "world":
            suggested = suggestion(self.controls["world"].value, self.out)
            for field, control in self.controls.items():
                control.value = getattr(suggested, field)
        self._show_line()

    def _show_line(self) -> None:
        """What the run will take, and the command line that does the same; or why it cannot run."""
        request = self.request()
        try:
            request.parts()
        except AlignkdError as error:
            self.line.value = paragraph(f"These settings cannot run: {error}")
            return
        if run_picture.needs_rates(request):
            self.line.value = paragraph("This machine is measured for an estimate, which takes some seconds.")
        words = run_picture.cost_in_words(request)
        code = f"<code style='white-space:normal;overflow-wrap:anywhere'>{html.escape(request.command)}</code>"
        self.line.value = f"{paragraph(words)}<div style='line-height:1.45'>In a terminal: {code}</div>"

    def _say(self, status: str, detail: str) -> None:
        said = f"<strong>{status}</strong>: {html.escape(detail)}"
        self.status.value = f"<div style='line-height:1.45'>{said}</div>"

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        """Without a kernel, a recorded run stands there."""
        world = self.controls["world"].value
        run = recorded_gaussians() if world == "mog" else whole(recorded_smollm2(), (*YARDSTICKS, *ORDERS))
        bundle, size = kept(*run_picture.outcome([run], "record"))._repr_mimebundle_()
        return {**widget_view(self.widget), **bundle}, size


def show(world: str = "mog", out: Path | str | None = None, **fields: str) -> RunPanel:
    """The panel, set to something short and new in a world, and to `fields` by their name in `Request`.

    `out` None is a folder of the learner's own, apart from the project.
    """
    get_ready()
    return RunPanel(replace(suggestion(world, Path(out) if out else learner_folder() / "runs"), **fields))
