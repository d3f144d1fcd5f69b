"""Run the widgets' tests under ipywidgets 7.7, which Colab ships: `python tests/widgets_7.py [pytest's arguments]`.

The older package lies in a folder of its own before the same environment's others, so that nothing else differs.
It is fetched once, 0.2 MB. Where that is impossible this says so and succeeds, except on a machine that sets CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VERSION = "7.7.1"
FOLDER = Path(sys.prefix) / f"ipywidgets-{VERSION}"
TESTS = Path(__file__).parent
FILES = [f"test_{name}.py" for name in ("explorer_run_panel", "prediction", "widgets")]
OLD_COMM = "ignore:The `ipykernel.comm.Comm` class has been deprecated:DeprecationWarning"


def fetch() -> bool:
    """Whether the folder is there, or could be made."""
    if (FOLDER / "ipywidgets").is_dir():
        return True
    # Without what it depends on: all of that is in the environment, but for a few old helpers.
    packages = [f"ipywidgets=={VERSION}", "ipython_genutils==0.2.0"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    aside = FOLDER.with_suffix(".part")
    if subprocess.run([*install, "--target", str(aside), "--upgrade", *packages], check=False).returncode:
        return False
    aside.rename(FOLDER)
    return True


def main(arguments: list[str]) -> int:
    if not fetch():
        print(f"ipywidgets {VERSION} could not be fetched; its tests are left out.", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    path = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "ALIGNKD_IPYWIDGETS": VERSION}
    command = [sys.executable, "-m", "pytest", "-W", OLD_COMM, *arguments, *(str(TESTS / name) for name in FILES)]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
