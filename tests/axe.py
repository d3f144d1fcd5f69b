"""axe-core, which tells what a page keeps from a keyboard or a screen reader: one script, fetched once and checked."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from alignkd_lab.paths import cache_folder

VERSION = "4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
_RUN = "axe.run({runOnly: RULES, resultTypes: ['violations']}).then(found => found.violations)"


def script() -> str:
    """The source, from the user's cache or by npm.

    Raises:
        RuntimeError: there is no npm, or it reaches no registry; says how to get the file otherwise.
        ValueError: the file is another.
    """
    path = cache_folder() / f"axe-{VERSION}.min.js"
    if not path.is_file():
        _fetch(path)
    source = path.read_bytes()
    if hashlib.sha256(source).hexdigest() != SHA256:
        raise ValueError(f"{path} is not axe.min.js of axe-core {VERSION}; remove it")
    return source.decode()


def violations(page, source: str) -> list[tuple[str, str]]:
    """Rule and element of all that breaks WCAG 2.1 A or AA on the page as it stands."""
    page.evaluate(source)
    found = page.evaluate(_RUN.replace("RULES", str(RULES)))
    return [(rule["id"], " ".join(map(str, node["target"]))) for rule in found for node in rule["nodes"]]


def _fetch(path: Path) -> None:
    npm, package = shutil.which("npm"), f"axe-core@{VERSION}"
    otherwise = f"no axe-core: install npm, or put axe.min.js of {package} at {path}"
    if npm is None:
        raise RuntimeError(otherwise)
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--silent", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{otherwise} (npm: {done.stderr.strip()[-200:]})")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as held:
            source = held.extractfile("package/axe.min.js").read()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source)
