"""The "two orders" explorer on the page: its controls, and a button that runs a setting that no record holds.

The run goes on in a thread, because a busy kernel hears no Stop; what it finds is drawn by the kernel's own.
"""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ipywidgets import HTML, Button, HBox, IntProgress

from alignkd_lab.course.explorers import orders
from alignkd_lab.course.explorers.orders_view import draw, marks, strip
from alignkd_lab.course.widgets.choice import ChoiceExplorer
from alignkd_lab.experiment import run_cell
from alignkd_lab.pipelines import planned_steps
from alignkd_lab.presets import default_pipelines


class _Stopped(Exception):
    """Raised between two stages of a run that is no longer wanted."""


class OrdersExplorer(ChoiceExplorer):
    """The two orders, with Run, Stop and the progress of a live run below the controls.

    runs: the live runs so far, newest last; running: whether one is under way.
    """

    def __init__(self, controls: Mapping[str, Any], shown: Iterable[str]) -> None:
        self.runs: list[dict] = []
        self.running = False
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self.run = Button(description="Run this setting", icon="play", layout={"width": "12em"})
        self.stop = Button(description="Stop", icon="stop", disabled=True, layout={"width": "7em"})
        self.progress = IntProgress(value=0, min=0, max=1, layout={"width": "14em"})
        self.status = HTML()
        super().__init__(
            controls, shown, self._compute_here, draw, orders.caption, "", "orders.show", self._strip_of_stages
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
            depth = orders.find_run(self.state, self.runs)[1]
            self.run.disabled = depth != "predicted"
            self.status.value = {
                "record": "This setting is in the record.",
                "live": "This setting was run just now.",
                "predicted": "Predicted only. A run of three seeds takes a few seconds.",
            }[depth]

    def start(self) -> None:
        """Run the current setting, three seeds from the chosen one on, in the background."""
        if self.running:
            return
        state = self.state
        self.run.disabled, self.stop.disabled = True, False
        self.progress.value, self.progress.max = 0, planned_steps(default_pipelines("mog", state["algorithm"]))
        self._wanted.set()
        self.running = True
        self._thread = threading.Thread(target=self._run, args=(state, kernel_loop()), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the run under way has ended, if there is one."""
        if thread := self._thread:
            thread.join()

    def _run(self, state: Mapping[str, Any], later: Callable[[Callable[[], None]], Any]) -> None:
        seed = round(state["seed"])
        try:
            seeds = range(seed, seed + orders.LIVE_SEEDS)
            self.runs.append(run_cell(orders.settings_of(state), state["algorithm"], seeds, on_step=self._step))
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

    def _compute_here(self, state: Mapping[str, Any]) -> orders.Orders:
        return orders.compute(state, self.runs)

    def _strip_of_stages(self, state: Mapping[str, Any]):
        data = orders.compute({**state, "stage": 2.0}, self.runs)
        text = orders.caption(data)
        return strip(data, f"{text} {marks(data)}"), text


def kernel_loop() -> Callable[[Callable[[], None]], Any]:
    """How to hand the drawing back to the kernel's own thread; outside of a kernel it is done at once."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        return lambda act: act()
