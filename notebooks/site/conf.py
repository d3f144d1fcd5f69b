"""Settings of the pages that `make site` builds from the saved notebooks, with Sphinx, MyST-NB and Furo.

Nothing is executed, and neither building nor reading the pages needs a network: the theme has no fonts of
its own, and formulas are MathML, which browsers draw themselves.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from lessons import pages_address, public_address

import alignkd_lab
from alignkd_lab.course.playground import FOLDER as PLAYGROUND

repository = public_address(HERE.parent.parent / "pyproject.toml")

project = "Align before you distil?"
author = "the authors of alignkd_lab"
version = release = alignkd_lab.__version__
extensions = ["myst_nb", "pages", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False
root_doc = "index"
exclude_patterns = ["site", ".ipynb_checkpoints", "**/.ipynb_checkpoints"]
language = "en"
# How far a map's links reach is the pages' business; a saved notebook stands as it is.
suppress_warnings = ["mystnb.unknown_mime_type"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

html_theme = "furo"
html_title = project
html_baseurl = pages_address(repository) if repository else ""
html_static_path = ["pages.css", "pages.js", *(str(PLAYGROUND / f"playground.{kind}") for kind in ("css", "js"))]
html_css_files = ["pages.css", "playground.css"]
html_js_files = [("pages.js", {"defer": "defer"})]
templates_path = ["templates"]
html_sourcelink_suffix = ""
html_show_copyright = False
_TEXT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
_CODE = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'
html_theme_options = {
    "top_of_page_buttons": [],
    # The colours of the report.
    "light_css_variables": {
        "font-stack": _TEXT,
        "font-stack--monospace": _CODE,
        "color-foreground-primary": "#1f2328",
        "color-foreground-secondary": "#57606a",
        "color-foreground-muted": "#57606a",
        "color-foreground-boundary": "#8c959f",
        "color-background-primary": "#ffffff",
        "color-background-secondary": "#f6f8fa",
        "color-background-boundary": "#d8dee4",
        "color-brand-primary": "#0b5cad",
        "color-brand-content": "#0b5cad",
        "color-brand-visited": "#0b5cad",
        "color-code-background": "#f6f8fa",
    },
    "dark_css_variables": {
        "color-foreground-primary": "#e6eaef",
        "color-foreground-secondary": "#a0aab5",
        "color-foreground-muted": "#a0aab5",
        "color-foreground-boundary": "#6b7683",
        "color-background-primary": "#14181d",
        "color-background-secondary": "#1c2128",
        "color-background-boundary": "#353d47",
        "color-brand-primary": "#79b8ff",
        "color-brand-content": "#79b8ff",
        "color-brand-visited": "#79b8ff",
        "color-code-background": "#1c2128",
    },
}
if repository:
    html_theme_options |= {
        "source_repository": repository,
        "source_branch": "main",
        "source_directory": "notebooks/",
        "top_of_page_buttons": ["view"],
    }

linkcheck_timeout = 20


def setup(app) -> None:
    def escape(app, what, name, obj, options, lines: list[str]) -> None:
        """Docstrings are plain text with `code`: in reST a bar begins a substitution, and code ends before a space."""
        for at, line in enumerate(lines):
            parts = enumerate(line.split("`"))
            lines[at] = "".join(f"``{part}``\\ " if n % 2 else part.replace("|", r"\|") for n, part in parts)

    app.connect("autodoc-process-docstring", escape, priority=900)  # after napoleon
