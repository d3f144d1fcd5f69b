"""The files that set the project up agree with each other, and the Makefile does what the README says."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_imports import ABOVE, IMPORTS, room

from alignkd_lab.cli import build_parser

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = list(map(Requirement, PROJECT["dependencies"]))
EXTRAS = {name: list(map(Requirement, lines)) for name, lines in PROJECT["optional-dependencies"].items()}
REQUIREMENTS = DEPENDENCIES + [line for lines in EXTRAS.values() for line in lines]
# Where the name that is imported is not the name that is installed.
INSTALLED_AS = {"vl_convert": "vl-convert-python", "PIL": "pillow", "yaml": "pyyaml"}


def by_name(requirements):
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements}


# Requirements


def test_constraints_pin_every_requirement_to_one_version_within_its_range_and_all_install_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", '-e ".[course,test,site]"']
    assert f"python{PROJECT['requires-python']}" in environment
    assert f"-c constraints.txt {pip[1]}" in (ROOT / "Makefile").read_text()
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = by_name(Requirement(line) for line in lines if line and not line.startswith("#"))
    assert "alignkd-lab" not in pins
    assert not [name for name, pin in pins.items() if "+" in str(pin)], "a local build"
    for name, specifier in by_name(REQUIREMENTS).items():
        (pin,) = pins[name]
        assert pin.operator == "=="
        assert specifier.contains(pin.version), f"{name}{pin} is outside {specifier}"


def test_every_package_that_the_code_imports_is_required_and_the_core_needs_no_course():
    core = by_name(DEPENDENCIES + EXTRAS["eval"] + EXTRAS["ray"])
    course = by_name(DEPENDENCIES + EXTRAS["course"] + EXTRAS["bench"])
    # The notebook tools that JupyterLab itself is made of, and what a user brings, who is told so.
    free = {"alignkd_lab", "__future__", "IPython", "nbformat", "nbclient", "vllm", "afinn"} | sys.stdlib_module_names
    missing = {
        (module, name)
        for module, found in IMPORTS.items()
        for name in {target.partition(".")[0] for target, _ in found} - free
        if canonicalize_name(INSTALLED_AS.get(name, name)) not in (course if room(module) in ABOVE else core)
    }
    assert not missing


WITHOUT = """
import sys
from alignkd_lab import cli
sys.modules.update(dict.fromkeys(cli.COURSE))
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_machine_without_the_course_trains_and_says_what_a_page_needs(tmp_path):
    pairs = [{"prompt": f"Why {at}?", "chosen": "a", "rejected": "b"} for at in range(9)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))

    def alignkd(*arguments):
        command = [sys.executable, "-c", WITHOUT, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    train = "train dpo --student tiny-student --data pairs.jsonl --out out --max-steps 1 --max-length 64 --use-cpu"
    done = alignkd(*train.split())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "curves.csv").is_file()
    assert not (tmp_path / "out" / "curves.png").exists()
    done = alignkd("report", str(ROOT / "data" / "records"))
    assert done.returncode == 1
    assert done.stderr.endswith("is missing; pip install 'alignkd-lab[course]' brings it\n")


def test_a_wheel_carries_the_data_and_reads_it_there(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT / "alignkd_lab", source / "alignkd_lab", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "data" / "records").mkdir(parents=True)
    (source / "data" / "records" / "shipped.jsonl").write_text("{}\n")

    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "data").mkdir()  # another project's folder beside it

    ask = "from alignkd_lab.paths import data_folder; print(data_folder())"
    done = subprocess.run([sys.executable, "-c", ask], cwd=site, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()) == (site / "alignkd_lab" / "_data").resolve()
    assert (site / "alignkd_lab" / "_data" / "records" / "shipped.jsonl").is_file()


# Makefile


def make(*arguments, folder=ROOT, **environment):
    # A make that runs this test must not pass its own flags on to the one that is tested.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, check=False
    )


def test_every_target_is_in_the_help_and_make_run_runs_both_worlds_and_ends_with_the_report():
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY"))
    described = {line.split()[1] for line in make("help").stdout.splitlines() if line.startswith("make ")}
    assert described == set(phony.split()[1:]) - {"help"}
    lines = [line for line in make("-n", "run", "OUT=here").stdout.splitlines() if "-m alignkd_lab " in line]
    mog, lm, report = (build_parser().parse_args(line.split("-m alignkd_lab ")[1].split()) for line in lines)
    assert (mog.world, lm.world, report.folder) == ("mog", "lm", Path("here"))


@pytest.fixture
def machine(tmp_path):
    """A folder with the Makefile, and a PATH on which there is a shell and no Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "make", "rm", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def fake_python(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_without_a_new_enough_python_or_ensurepip_make_says_what_to_install(machine):
    for answer, said in (
        ("exit 1", "No Python 3.11 or newer found"),  # the answer of an older Python
        ('case "$*" in *ensurepip*) exit 1;; esac', "python3-venv"),
    ):
        fake_python(machine / "bin" / "python3", answer)
        done = make("env", folder=machine, PATH=str(machine / "bin"))
        assert done.returncode != 0
        assert said in done.stderr
    assert not (machine / ".venv").exists()


def test_make_installs_what_is_not_there_and_nothing_twice(machine):
    fake_python(machine / "bin" / "python3", 'case "$*" in *"-m venv"*) mkdir -p .venv/bin;; esac')
    python, calls = machine / ".venv" / "bin" / "python", machine / "calls"

    def installs(checked="echo yes"):
        """What `make env` says where the environment's Python answers its check so, and whether it installs."""
        fake_python(python, f'echo "$*" >> calls; {checked}')
        calls.write_text("")
        done = make("env", folder=machine)
        assert done.returncode == 0
        return done.stdout, "pip install" in calls.read_text()

    said, installed = installs()
    assert installed
    assert all(size in said for size in ("0.5 GB", "3 GB", "93 MB"))
    assert not installs()[1]
    later = (machine / ".venv" / ".alignkd-installed").stat().st_mtime + 10
    os.utime(machine / "constraints.txt", (later, later))
    assert installs()[1], "a changed requirement"
    said, installed = installs("true")  # the check no longer says yes: packages are lost
    assert installed
    assert "Completing .venv" in said
    (machine / ".venv" / "left-over").touch()
    python.unlink()
    done = make("env", folder=machine, PATH=f"{machine / 'bin'}:{os.environ['PATH']}")
    assert "Making .venv" in done.stdout
    assert not (machine / ".venv" / "left-over").exists()
