"""The playground: both orders on four bumps that one can drag, in a browser, without a kernel or a network.

`show()` shows it in a notebook's cell, `write` makes a page of it. The world itself, the pictures and the
controls are `playground.js`; `tests/test_playground_world.py` holds its numbers equal to those of `alignkd_lab.mog`.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

from alignkd_lab.errors import BadInput, UnknownName

FOLDER = Path(__file__).resolve().parent
SCENES = ("rare", "bigger", "leash", "pairs", "nothing", "flat")
MIME = "application/javascript"  # JupyterLab runs it where a notebook is trusted, and else shows the picture
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Align before you distil? A playground</title>
<style>
body {{ margin: 0 auto; padding: {padding}; max-width: 1180px; font-family: system-ui, sans-serif; }}
:root {{ color-scheme: light dark; background: Canvas; }}
h1 {{ font-size: 24px; margin: 0 0 6px; }}
{css}</style></head>
<body>{title}{section}<script>{js}</script></body></html>
"""
_IN_CELL = """{
const frame = document.createElement("iframe");
frame.title = "Playground: empty the circle";
frame.style.cssText = "width: 100%; border: 0; height: 720px";
frame.addEventListener("load", () => {
  const body = frame.contentDocument.body;
  new ResizeObserver(() => { frame.style.height = `${body.scrollHeight + 8}px`; }).observe(body);
});
frame.srcdoc = PAGE;
element.append(frame);
}"""


class Playground:
    """The playground as a notebook shows it: alive where scripts run, else a still picture of it."""

    def __init__(self, scene: str) -> None:
        self.scene = scene

    def __repr__(self) -> str:
        return f"course.playground.show({self.scene!r})"

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        page = json.dumps(_page(self.scene)).replace("</", "<\\/")
        still = (FOLDER / "still.png").read_bytes()
        words = f"Both orders on four bumps, live where scripts run, opened at {self.scene!r}: planes, curves and why"
        data = {
            MIME: _IN_CELL.replace("PAGE", page),
            "image/png": base64.b64encode(still).decode(),
            "text/plain": words,
        }
        return data, {"image/png": {"alt": words}, "alignkd_lab": {"scene": self.scene}}


def show(scene: str = "rare") -> Playground:
    """The playground, opened at a scene (`SCENES`) or at a link's end (`#playground?...`, from its *copy link*).

    Raises:
        UnknownName: neither.
    """
    if scene not in SCENES and not str(scene).startswith("#playground?"):
        raise UnknownName("scene of the playground", scene, (*SCENES, "#playground?…"))
    return Playground(scene)


def section(scene: str = "rare") -> str:
    """The playground's HTML without its style and script, and without a blank line."""
    template = (FOLDER / "playground.html").read_text("utf-8")
    return template.replace('data-open="rare"', f'data-open="{html.escape(scene)}"')


def write(path: str | Path, scene: str = "rare") -> None:
    """The playground as one page that needs nothing else. Raises BadInput where it cannot be written."""
    try:
        Path(path).write_text(_page(scene, "14px 20px", "<h1>Align before you distil?</h1>"), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write the playground to {path}: {error.strerror}") from error


def _page(scene: str, padding: str = "0", title: str = "") -> str:
    css, js = ((FOLDER / f"playground.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return _PAGE.format(
        padding=padding, css=css, title=title, section=section(scene), js=js.replace("</script", "<\\/script")
    )
