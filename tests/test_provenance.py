"""Provenance: it names what made a record, and never somebody else's commit."""

import json
import platform
import subprocess

import pytest
import torch

import alignkd_lab
from alignkd_lab import provenance


def test_provenance_is_json_with_the_versions_in_use_and_of_a_missing_library_has_none(monkeypatch):
    made = provenance.provenance("cpu")
    assert json.loads(json.dumps(made)) == made
    assert made["torch"] == torch.__version__
    assert made["python"] == platform.python_version()
    assert made["version"] == alignkd_lab.__version__
    assert made["device_name"]
    assert made["threads"] == torch.get_num_threads()

    def missing(name):
        raise provenance.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.importlib.metadata, "version", missing)
    assert provenance.provenance()["torch"] is None


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The file from which the module seems to have been loaded, in a folder of its own."""
    path = tmp_path / "alignkd_lab" / "provenance.py"
    path.parent.mkdir()
    path.touch()
    monkeypatch.setattr(provenance, "__file__", str(path))
    yield path
    provenance.commit.cache_clear()


def told():
    provenance.commit.cache_clear()
    made = provenance.provenance()
    return made["commit"], made["dirty"]


def git(folder, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_copy_outside_a_checkout_or_inside_another_has_no_commit_and_a_change_makes_its_own_dirty(
    copy, tmp_path, monkeypatch
):
    assert told() == (None, None)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "somebody else's", "--allow-empty")
    assert told() == (None, None)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert told() == (head, False)
    copy.write_text("# changed\n")
    assert told() == (head, True)
    git(tmp_path, "commit", "-qam", "b")
    asked = provenance._git
    monkeypatch.setattr(provenance, "_git", lambda folder, what, *rest: what != "status" and asked(folder, what, *rest))
    assert told() == (git(tmp_path, "rev-parse", "HEAD"), True)  # git could not say
