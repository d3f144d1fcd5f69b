"""What the pages have beyond Sphinx: previews, words for pictures, formulas, and where all numbers come from."""

from __future__ import annotations

import ast
import hashlib
import html
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from docutils import nodes
from latex2mathml.converter import convert
from lessons import Lesson, colab_address, lead, lessons, stills, title_still
from PIL import Image
from vl_convert import javascript_bundle

from alignkd_lab.course.notebooks import ASKS
from alignkd_lab.course.playground import FOLDER as PLAYGROUND_FOLDER
from alignkd_lab.course.playground import MIME as PLAYGROUND
from alignkd_lab.course.playground import section, write
from alignkd_lab.course.widgets.charts import MIME, VERSION
from alignkd_lab.paths import data_folder
from alignkd_lab.records import load

CARD = (1200, 630)  # pixels, what link previews ask for
WEIGHTS = "SmolLM2-135M-Instruct"
VERSIONS = ("version", "python", "torch", "transformers", "numpy", "scipy")


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_block_formula, None))
    app.connect("builder-inited", read_course)
    app.connect("source-read", prepare)
    app.connect("doctree-read", say_pictures)
    app.connect("html-page-context", add_context)
    return {"parallel_read_safe": False, "parallel_write_safe": False}


def read_course(app) -> None:
    """Read the notebooks once, and write the picture that a link to each shows."""
    folder = Path(app.srcdir)
    app.lessons = {found.name: found for found in lessons(folder)}
    files = sorted(path for path in (data_folder() / "records").iterdir() if path.suffix in (".json", ".zip"))
    app.evidence, app.charted = {path.name: evidence(path) for path in files}, set()
    if app.builder.format != "html":
        return
    previews = Path(app.outdir) / "previews"
    previews.mkdir(parents=True, exist_ok=True)
    for name, found in app.lessons.items():
        first = title_still(found.path)
        if first:
            (previews / f"{name}.png").write_bytes(card(first.png))
    write(Path(app.outdir) / "playground.html")
    (previews / "index.png").write_bytes(card((PLAYGROUND_FOLDER / "still.png").read_bytes()))
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    # In a scope of its own: one of its thousands of names is also one of Sphinx's, and neither would run.
    bundle = f"(() => {{{javascript_bundle(vl_version=VERSION)}}})();"
    (static / "vega.js").write_text(bundle, encoding="utf-8")


# Words and pictures -------------------------------------------------------------------------------------


def prepare(app, name: str, source: list[str]) -> None:
    """Fold a notebook's set-up away, and put playground and map where cells and the landing page want them."""
    if name in app.lessons:
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code" and sets_up("".join(cell["source"])):
                cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
                cell["metadata"]["mystnb"] = {"code_prompt_show": "Set-up", "code_prompt_hide": "Set-up"}
            for output in cell.get("outputs", []):
                if PLAYGROUND in output.get("data", {}):
                    scene = output["metadata"]["alignkd_lab"]["scene"]
                    output["data"] = {"text/html": alive(section(scene))}
        if live_charts(notebook):
            app.charted.add(name)
        for cell in notebook["cells"]:
            fold(cell.get("outputs", []))
        source[0] = json.dumps(notebook)
    elif "<!-- map -->" in source[0]:
        cards = "\n".join(map_card(found) for found in app.lessons.values())
        source[0] = source[0].replace("<!-- map -->", f'<div class="map">\n{cards}\n</div>')
        source[0] = source[0].replace("<!-- playground -->", alive(section()))


def alive(playground: str) -> str:
    """The playground's HTML with the script that brings it to life, which stands beside every page."""
    return f'{playground}<script src="_static/playground.js"></script>'


def live_charts(notebook: dict) -> int:
    """Put each Vega-Lite chart, which MyST-NB leaves out, around its still, for `pages.js` to draw; their number."""
    found = [
        output for cell in notebook["cells"] for output in cell.get("outputs", []) if MIME in output.get("data", {})
    ]
    for output in found:
        data = output["data"]
        spec = json.dumps(data.pop(MIME)).replace("<", "\\u003c")
        script = f'<script type="application/json">{spec}</script>'
        data["text/html"] = f'<figure class="chart">{script}{take_still(output)}</figure>'
    return len(found)


def take_still(output: dict) -> str:
    """An output's picture as HTML, with its words; it is no longer among the output's data."""
    png, words = "".join(output["data"].pop("image/png")).strip(), output["metadata"]["image/png"]["alt"]
    return f'<img src="data:image/png;base64,{png}" alt="{html.escape(words)}">'


def fold(outputs: list[dict]) -> None:
    """Keep what comes out closed below the question of a prediction, until the reader opens it."""
    asks = [ASKS in "".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    if not asks or not asks[0]:
        return
    for output in itertools.compress(outputs, [not each for each in asks]):
        data = output["data"]
        chart = data.get("text/html") or take_still(output)
        data["text/html"] = f"<details><summary>Show me</summary>{chart}</details>"


def sets_up(code: str) -> bool:
    """Whether most statements of a cell are imports."""
    try:
        found = ast.parse(code).body
    except SyntaxError:  # a magic command
        return False
    return 2 * sum(isinstance(line, (ast.Import, ast.ImportFrom)) for line in found) > len(found)


def map_card(found: Lesson) -> str:
    """A notebook on the landing page: picture, question, minutes."""
    picture = f'<img src="previews/{found.name}.png" alt="" loading="lazy">' if title_still(found.path) else ""
    return (
        f'<a href="{found.name}.html">{picture}<b>{found.number} · {html.escape(found.title)}</b>'
        f"<span>{html.escape(found.asked)}</span>"
        f"<small>{found.minutes} minutes; {html.escape(found.running)} to run</small></a>"
    )


def say_pictures(app, doctree) -> None:
    """Give each picture the words that it was saved with; MyST-NB names a picture by its hash."""
    found = app.lessons.get(app.env.docname)
    if found is None:
        return
    words = {hashlib.sha256(still.png).hexdigest(): still.alt for still in stills(found.path)}
    for image in doctree.findall(nodes.image):
        image["alt"] = words.get(Path(image["uri"]).stem) or image.get("alt", "")


def card(png: bytes) -> bytes:
    """A preview of `CARD` pixels: the upper part of a picture, cut where it is blank, on white."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    width, height = CARD
    image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    image = image.crop((0, 0, width, _blank_row(image, height)))
    whole = Image.new("RGB", CARD, "white")
    whole.paste(image, (0, (height - image.height) // 2))
    buffer = io.BytesIO()
    whole.quantize(128, dither=Image.Dither.NONE).save(buffer, "png")
    return buffer.getvalue()


def _blank_row(image: Image.Image, height: int) -> int:
    """Where to cut at the latest: the middle of the longest run of white rows in the lower third."""
    if image.height <= height:
        return image.height
    blank = (np.asarray(image.convert("L")) > 250).all(axis=1)
    start = 2 * height // 3
    runs, length = [], 0
    for row in range(start, height):
        length = length + 1 if blank[row] else 0
        runs.append(length)
    longest = int(np.argmax(runs))
    return start + longest + 1 - runs[longest] // 2 if runs[longest] else height


# Formulas -----------------------------------------------------------------------------------------------


# A function's name, but not one that carries an index or is followed by a bracket.
_FUNCTION = re.compile(r"(?<!<msub>)(?<!<msup>)<mi>(log|exp|min|max)</mi>(?!<mo)")


def formula(latex: str, display: str = "inline") -> str:
    """MathML, with the thin space after a function's name that the converter leaves out."""
    return _FUNCTION.sub(r'<mi>\1</mi><mspace width="0.167em" />', convert(latex, display=display))


def _inline_formula(translator, node) -> None:
    translator.body.append(formula(node.astext()))
    raise nodes.SkipNode


def _block_formula(translator, node) -> None:
    block = formula(node.astext(), display="block")
    translator.body.append(f'<div class="formula" tabindex="0" role="region" aria-label="formula">{block}</div>\n')
    raise nodes.SkipNode


# Where it comes from ------------------------------------------------------------------------------------


def evidence(path: Path) -> dict:
    """What a file of records says of its making: versions, days and weights, each as the set of its values."""
    if path.suffix == ".zip":
        made = load(path).provenance
    else:
        made = pd.DataFrame([json.loads(path.read_text(encoding="utf-8"))["provenance"]])
    made = made.reindex(columns=[*VERSIONS, "created", "weights"])
    found = {name: set(made[name].dropna()) for name in VERSIONS}
    weights = [json.loads(text) for text in made["weights"].dropna().unique()]
    found["weights"] = {entry["base"] for entry in weights if "base" in entry}
    return found | {"created": {day[:10] for day in made["created"].dropna()}}


def united(pieces: list[dict], name: str) -> list[str]:
    """All values that the pieces have for a name, in order."""
    return sorted(set().union(*(piece[name] for piece in pieces)))


def made_from(app, records: dict[str, str]) -> dict:
    """What the footer says: records with their hashes, versions, days and the weights' checksum."""
    known = [app.evidence[Path(name).name] for name in records if Path(name).name in app.evidence]
    every = list(app.evidence.values())
    names = {"version": "alignkd_lab", "python": "Python"}
    return {
        "records": records,
        "versions": [(names.get(name, name), ", ".join(united(known or every, name))) for name in VERSIONS],
        "days": united(known or every, "created"),
        "weights": [(WEIGHTS, checksum) for checksum in united(every, "weights") if checksum.startswith("sha256:")],
    }


def add_context(app, name: str, template: str, context: dict, doctree) -> None:
    """Title, description and picture for previews, and what banner and footer are made of."""
    found = app.lessons.get(name)
    if name in app.charted:
        app.add_js_file("vega.js", loading_method="defer", priority=400)  # before the script that draws with it
    if "body" in context:  # what is folded is called by its own words
        context["body"] = context["body"].replace(' aria-label="Toggle hidden content"', "")
    title = f"{found.number} · {found.title}: {found.question}" if found else app.config.project
    about = lead(found.path) if found else "Should a small model be aligned before or after it is distilled? A course."
    first = title_still(found.path) if found else None
    picture = f"previews/{name if found and first else 'index'}.png"
    address, repository = app.config.html_baseurl, app.config.html_theme_options.get("source_repository")
    tags = {
        "og:type": "article",
        "og:site_name": app.config.project,
        "og:title": title,
        "og:description": shortened(about),
        "og:image": address + picture,
        "og:image:width": str(CARD[0]),
        "og:image:height": str(CARD[1]),
        "og:image:alt": shortened(first.alt) if first and first.alt else title,
    }
    if address:
        tags["og:url"] = f"{address}{name}.html"
    lines = [f'<meta property="{key}" content="{html.escape(value)}">' for key, value in tags.items()]
    lines += [f'<meta name="description" content="{html.escape(shortened(about))}">']
    lines += ['<meta name="twitter:card" content="summary_large_image">']
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)
    records = _saved_with(found.path) if found else _saved_with(next(iter(app.lessons.values())).path)
    context |= {
        "lesson": found,
        "cited": title,
        "cited_year": max(united(list(app.evidence.values()), "created"), default="")[:4],
        "page_url": tags.get("og:url"),
        "made_from": made_from(app, records),
        "repository": repository,
        "colab": colab_address(repository, name) if found and repository else None,
    }


def shortened(text: str, most: int = 200) -> str:
    """Whole words of a text, at most so many characters."""
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def _saved_with(path: Path) -> dict[str, str]:
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    return metadata.get("alignkd_lab", {}).get("records", {})
