"""What a Vega-Lite chart draws, read from its scene graph: texts, and the places of marks in the data's own units."""

from __future__ import annotations

import math

import numpy as np
import vl_convert

from alignkd_lab.course.widgets.charts import SCHEMA, VERSION, Chart


def _marks(node):
    if isinstance(node, dict):
        if "marktype" in node:
            yield node
        for name in ("scenegraph", "items"):
            for child in node[name] if isinstance(node.get(name), list) else [node.get(name)]:
                yield from _marks(child)


class Scene:
    """A chart as it is first drawn."""

    def __init__(self, chart: Chart) -> None:
        self.marks = list(_marks(vl_convert.vegalite_to_scenegraph(chart.spec, vl_version=VERSION)))

    @property
    def words(self) -> str:
        """Every text on the chart."""
        texts = [item.get("text", "") for mark in self.marks if mark["marktype"] == "text" for item in mark["items"]]
        return "\n".join("\n".join(text) if isinstance(text, list) else str(text) for text in texts)

    def places(self, kind: str) -> list[list[dict]]:
        """The items of every mark of a kind, in the order in which they are drawn."""
        return [mark["items"] for mark in self.marks if mark["marktype"] == kind and mark.get("name")]


def evaluated(chart: Chart, *expressions: str) -> list[np.ndarray]:
    """What expressions in a chart's parameters come to where it begins."""
    texts = {"expr": "[" + ", ".join(f"'' + ({expression})" for expression in expressions) + "]"}
    spec = {"$schema": SCHEMA, "params": chart.spec["params"], "data": {"sequence": {"start": 0, "stop": 1}}}
    graph = vl_convert.vegalite_to_scenegraph(spec | {"mark": {"type": "text", "text": texts}}, vl_version=VERSION)
    (item,) = next(mark for mark in _marks(graph) if mark["marktype"] == "text")["items"]
    found = item["text"] if isinstance(item["text"], list) else [item["text"]]
    return [np.array([float(number) for number in text.split(",")]) for text in found]


def moved(chart: Chart, **state: float | str) -> Chart:
    """The same chart with its sliders elsewhere, in no time."""
    for param in chart.spec["params"]:
        if param["name"] in state:
            param["value"] = state[param["name"]]
    return chart


def value(pixel: float, size: float, low: float, high: float, logarithmic: bool = False) -> float:
    """The number at a pixel of an axis of `size` pixels from `low` to `high`."""
    if logarithmic:
        return 10 ** value(pixel, size, math.log10(low), math.log10(high))
    return low + pixel / size * (high - low)


def off_the_densest(items: list[dict], components, window, size: float, cells: int = 44) -> tuple[float, float]:
    """How many cells of `size` pixels to the right and upward a density's darkest cell lies from where a mixture
    `[[weight, x, y, sd_x, sd_y], ...]` is densest in the window."""
    left, right, bottom, top = window
    x, y = np.linspace(left, right, cells)[None, :, None], np.linspace(bottom, top, cells)[:, None, None]
    weight, mean_x, mean_y, sd_x, sd_y = np.array(components, dtype=float).T
    bumps = weight / (sd_x * sd_y) * np.exp(-(((x - mean_x) / sd_x) ** 2 + ((y - mean_y) / sd_y) ** 2) / 2)
    row, column = np.unravel_index(bumps.sum(-1).argmax(), (cells, cells))
    cell = min(items, key=lambda item: sum(map(int, item["fill"][4:-1].split(","))))
    return cell["x"] / size - column, cells - cell["y"] / size - 1 - row
