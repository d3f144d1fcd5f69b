"""An explorer with a button that runs a setting of which nothing is known yet.

The run goes on in a thread, because a busy kernel hears no Stop; what it finds is drawn by the kernel's own.
"""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ipywidgets import HTML, Button, HBox, IntProgress
from matplotlib.figure import Figure

from alignkd_lab.course.widgets.controls import Choice, Number
from alignkd_lab.course.widgets.view import Explorer

OnStep = Callable[[str], None]


class _Stopped(Exception):
    """Raised between two stages of a run that is no longer wanted."""


class LiveExplorer(Explorer):
    """An `Explorer` with Run, Stop and the progress of a live run below the controls.

    Args:
        table, shown, state, draw, caption, call, still: as in `Explorer`.
        compute: state, live runs so far -> data.
        run: state, what is to be called at each step with words for it -> what a live run found.
        steps: state -> how many steps that takes.
        standing: state, live runs so far -> whether it still has to be run, and what to say of that.

    runs: the live runs so far, newest last; running: whether one is under way.
    """

    def __init__(
        self,
        table: Mapping[str, Number | Choice],
        shown: Iterable[str],
        state: Mapping[str, Any],
        compute: Callable[[Mapping[str, Any], Sequence[Any]], Any],
        draw: Callable[[Any, str], Figure],
        caption: Callable[[Any], str],
        call: str,
        still: Callable[[Mapping[str, Any]], tuple[Figure, str]],
        run: Callable[[Mapping[str, Any], OnStep], Any],
        steps: Callable[[Mapping[str, Any]], int],
        standing: Callable[[Mapping[str, Any], Sequence[Any]], tuple[bool, str]],
    ) -> None:
        self.runs: list[Any] = []
        self.running = False
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._find, self._steps, self._standing = run, steps, standing
        self.run = Button(description="Run this setting", icon="play", layout={"width": "12em"})
        self.stop = Button(description="Stop", icon="stop", disabled=True, layout={"width": "7em"})
        self.progress = IntProgress(value=0, min=0, max=1, layout={"width": "14em"})
        self.status = HTML()
        super().__init__(
            table, shown, state, lambda here: compute(here, self.runs), draw, caption, "", call, still=still
        )
        row = HBox([self.run, self.stop, self.progress, self.status], layout={"flex_flow": "row wrap"})
        *above, picture, words = self.widget.children
        self.widget.children = (*above, row, picture, words)
        self.run.on_click(lambda button: self.start())
        self.stop.on_click(lambda button: self._wanted.clear())

    def update(self) -> None:
        """Draw the current state, and say whether its run is at hand."""
        super().update()
        if not self.running:
            needed, self.status.value = self._standing(self.state, self.runs)
            self.run.disabled = not needed

    def start(self) -> None:
        """Run the current setting in the background."""
        if self.running:
            return
        state = self.state
        self.run.disabled, self.stop.disabled = True, False
        self.progress.value, self.progress.max = 0, self._steps(state)
        self._wanted.set()
        self.running = True
        self._thread = threading.Thread(target=self._run, args=(state, kernel_loop()), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the run under way has ended, if there is one."""
        if thread := self._thread:
            thread.join()

    def _run(self, state: Mapping[str, Any], later: Callable[[Callable[[], None]], Any]) -> None:
        try:
            self.runs.append(self._find(state, self._step))
            said = ""
        except _Stopped:
            said = "Stopped; nothing was kept."
        except Exception as error:
            said = f"The run ended with an error: {html.escape(str(error))}"
            raise
        finally:
            later(lambda: self._ended(said))

    def _step(self, text: str) -> None:
        if not self._wanted.is_set():
            raise _Stopped
        self.progress.value += 1
        self.status.value = text.replace("_", " ")

    def _ended(self, said: str) -> None:
        self.running = False
        self.stop.disabled, self.progress.value = True, 0
        self.update()
        if said:
            self.status.value = said


def kernel_loop() -> Callable[[Callable[[], None]], Any]:
    """How to hand the drawing back to the kernel's own thread; outside of a kernel it is done at once."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        return lambda act: act()
