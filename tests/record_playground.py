"""Record the playground: `python tests/record_playground.py MOVING.gif STILL.png`.

The README shows the first, a notebook's cell where no script runs the second.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from browser import find_chromium, launch
from PIL import Image
from playwright.sync_api import sync_playwright

from alignkd_lab.course.playground import write

MOMENTS = [*[0.0] * 4, *np.linspace(0.02, 1, 26), *[1.0] * 6, *np.linspace(1.02, 2, 26), *[2.0] * 16]
BARE = """h1 { display: none } .pg .pg-verdict { order: 9 }
.pg :is(.pg-side, .pg-lead, .pg-scenes, .pg-ask, .pg-transport, .pg-ruler, .pg-legend) { display: none }
.pg .pg-grid { display: block }"""


def shot(page, **options) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")


def record(moving: Path, still: Path) -> None:
    """Both pictures; the same palette for all frames, so that only what moves is stored."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "playground.html"
        write(page_file)
        browser = launch(playwright, find_chromium(playwright))
        page = browser.new_page(viewport={"width": 1060, "height": 900})
        page.goto(page_file.as_uri() + "#playground?seed=6&scene=rare&stage=2")
        page.wait_for_selector(".pg-verdict.over", timeout=120_000)
        page.wait_for_timeout(1500)
        shot(page, full_page=True).quantize(128, dither=Image.Dither.NONE).save(still, optimize=True)
        page.set_viewport_size({"width": 800, "height": 610})
        page.add_style_tag(content=BARE)
        time = page.locator("[data-do=time]")
        frames = []
        for moment in MOMENTS:
            time.evaluate("(bar, t) => { bar.value = t; bar.dispatchEvent(new Event('input')); }", moment)
            page.wait_for_timeout(120)
            frames.append(shot(page))
        browser.close()
    palette = frames[-1].quantize(64, dither=Image.Dither.NONE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    frames[0].save(moving, save_all=True, append_images=frames[1:], duration=110, loop=0, optimize=True)


if __name__ == "__main__":
    record(*map(Path, sys.argv[1:]))
