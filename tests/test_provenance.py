"""Provenance: it names what made a record, and never somebody else's commit."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import alignkd_lab
from alignkd_lab import provenance


def test_provenance_is_json_with_the_versions_in_use():
    made = provenance.provenance("cpu")
    assert json.loads(json.dumps(made)) == made
    assert made["torch"] == torch.__version__
    assert made["python"] == platform.python_version()
    assert made["version"] == alignkd_lab.__version__
    assert made["device_name"]
    assert made["threads"] == torch.get_num_threads()


def ask(folder):
    """(commit, dirty) as a copy of the package in `folder` tells it."""
    code = "import json; from alignkd_lab.provenance import provenance as p; print(json.dumps(p()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    return told["commit"], told["dirty"]


def git(folder, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def copy_package(folder):
    package = folder / "alignkd_lab"
    package.mkdir()
    for path in Path(alignkd_lab.__file__).parent.glob("*.py"):
        shutil.copy(path, package)
    return package


def test_the_commit_is_that_of_the_checkout_and_a_change_makes_it_dirty(tmp_path):
    package = copy_package(tmp_path)
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert ask(tmp_path) == (head, False)
    (package / "__init__.py").write_text((package / "__init__.py").read_text() + "# changed\n")
    assert ask(tmp_path) == (head, True)


def test_an_installed_copy_outside_a_checkout_or_inside_another_has_no_commit(tmp_path):
    copy_package(tmp_path)
    assert ask(tmp_path) == (None, None)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "somebody else's", "--allow-empty")
    assert ask(tmp_path) == (None, None)


def test_a_library_that_is_missing_has_no_version(monkeypatch):
    def missing(name):
        raise provenance.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.importlib.metadata, "version", missing)
    assert provenance.library_versions()["torch"] is None
