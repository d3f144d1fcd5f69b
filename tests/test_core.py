"""The core needs torch, transformers, safetensors, numpy and pandas alone, so that a bare GPU machine can run it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alignkd_lab

PACKAGE = Path(alignkd_lab.__file__).parent
WORLDS = sorted((*(PACKAGE / "lm").rglob("*.py"), *(PACKAGE / "mog").rglob("*.py")))


def imports(path, everywhere=True):
    """Names of the modules that a file imports; not `everywhere` are those of loading it alone."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def within(found, *rooms):
    return {name for name in found for room in rooms if name == room or name.startswith(f"{room}.")}


@pytest.mark.parametrize("path", WORLDS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_worlds_stand_on_their_own(path):
    found = imports(path)
    other = "mog" if "lm" in path.relative_to(PACKAGE).parts else "lm"
    above = ("cli", "plots", "course", "study", "report", "bench", "experiment", other)
    assert not within(found, *(f"alignkd_lab.{room}" for room in above))
    if path.parent.name == "stages":
        assert not within(found, "alignkd_lab.lm.world")
    assert not within(imports(path, everywhere=False), "trl", "datasets", "peft")


def test_no_module_of_the_worlds_is_imported_by_what_it_imports():
    names = {".".join(("alignkd_lab", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in WORLDS}
    arrows = {name: within(imports(path), *names) & names.keys() for name, path in names.items()}

    def visit(name, above):
        assert name not in above, f"a circle: {' -> '.join([*above, name])}"
        for below in sorted(arrows[name]):
            visit(below, [*above, name])

    for name in names:
        visit(name, [])


WITHOUT = """
import importlib.machinery, sys

absent = {
    "trl", "datasets", "peft", "accelerate", "gguf", "psutil", "matplotlib", "seaborn", "scipy", "sklearn",
    "IPython", "ipywidgets", "jupyterlab", "nbformat", "nbclient", "jinja2", "vaderSentiment",
}
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if name.split(".")[0] in absent else find(name, path, target)
)
"""


def run_without(code):
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, timeout=300)


def test_the_packages_are_absent_in_this_test():
    found = run_without("import peft")
    assert "No module named 'peft'" in found.stderr


def test_the_core_imports_without_trl_datasets_peft_plotting_and_jupyter():
    found = run_without(
        "import alignkd_lab.mog.world, alignkd_lab.lm.world, alignkd_lab.records, alignkd_lab.experiment\n"
        "print('imported')"
    )
    assert found.stdout.strip() == "imported", found.stderr[-2000:]


def test_losses_and_sampling_run_without_them():
    found = run_without(
        "from alignkd_lab.lm import losses, weights\n"
        "from alignkd_lab.lm.batch import Example, collate, hidden_states\n"
        "from alignkd_lab.lm.teachers import Full\n"
        "from alignkd_lab.lm.sampling import sample\n"
        "student, teacher = (weights.load(name)[0] for name in ('tiny-student', 'tiny-base'))\n"
        "batch = collate([Example([1, 5], [[7, 8, 2]])])\n"
        "said = Full(hidden_states(teacher, batch).detach(), teacher.lm_head.weight.detach())\n"
        "loss, _ = losses.kd(hidden_states(student, batch), student.lm_head.weight, said)\n"
        "loss.backward()\n"
        "print(float(loss) > 0, len(sample(student, [[1, 5]], 2, 4, 2, 0).tokens))"
    )
    assert found.stdout.strip() == "True 2", found.stderr[-2000:]
