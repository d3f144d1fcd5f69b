"""The import rules of the house, read from every import: inside functions, for types, and of packages, too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alignkd_lab

HOUSE = Path(alignkd_lab.__file__).parent
ABOVE = ("plots", "course", "report", "study", "bench")
PICTURES = ("matplotlib", "seaborn", "ipywidgets", "IPython")

# From the ground; a module may import its own floor and those before it. What stands in no floor is a room above.
FLOORS = (
    ("errors", "lazy", "paths", "theory", "stats", "nano", "progress", "memory", "results"),
    ("store", "pipelines", "provenance", "recording", "records", "claims", "costs"),
    ("mog", "lm"),
    ("arguments", "presets", "experiment", "rerun", "options", "training", "evaluation", "answering", "cluster"),
    ("clock", "plan_run", "plan_training", "plan", "doctor"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> set[tuple[str, bool]]:
    """What a file imports, as (module, whether at the top); `from a import b` counts as a.b where that is a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top, found = set(map(id, tree.body)), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in top) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {(name if name in MODULES else node.module, id(node) in top) for name in names}
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(HOUSE.rglob("*.py"))}
IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def room(name: str) -> str:
    """`lm` of `alignkd_lab.lm.world`."""
    return name.split(".")[1] if name.startswith("alignkd_lab.") else name.split(".")[0]


def reached() -> dict[str, set[str]]:
    """By module, all that it needs, directly or not; who imports a module needs its packages' `__init__`, too."""
    needs = {}
    for name, found in IMPORTS.items():
        targets = {target for target, _ in found if target in MODULES}
        targets |= {".".join(t.split(".")[:depth]) for t in targets for depth in range(2, t.count(".") + 1)}
        needs[name] = {t for t in targets if t in MODULES and t != "alignkd_lab"}
    for middle in needs:
        for found in needs.values():
            if middle in found:
                found |= needs[middle]
    return needs


REACHED = reached()


def test_every_module_stands_on_a_floor_or_above_and_needs_itself_in_no_circle():
    assert {room(name) for name in MODULES if name.count(".") > 0} == {*FLOOR, *ABOVE}
    assert not [name for name, needed in REACHED.items() if name in needed]


def test_a_module_stays_within_350_lines_and_a_stage_with_all_that_it_imports_within_3900():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    stages = [name for name in MODULES if ".lm.stages." in name]
    assert max(lines.values()) <= 350
    assert max(lines[name] + sum(lines[needed] for needed in REACHED[name]) for name in stages) <= 3900


@pytest.mark.parametrize(
    "rule",
    {  # which imports are forbidden: by the module, what it imports, and whether at the top
        "no arrow runs upward": lambda n, t, _: FLOOR.get(room(n), 9) < FLOOR.get(room(t), -1),
        "the two worlds do not know each other": lambda n, t, _: {room(n), room(t)} == {"mog", "lm"},
        "stages do not know the world": lambda n, t, _: ".lm.stages." in n and t.endswith(".lm.world"),
        "the core knows nothing above it": lambda n, t, _: room(n) not in (*ABOVE, "cli") and room(t) in ABOVE,
        "the core draws nothing": lambda n, t, _: room(n) not in ABOVE and room(t) in PICTURES,
        "TRL's world is imported where it is used": lambda n, t, top: top and room(t) in ("trl", "datasets", "peft"),
        "nothing imports the command line": lambda n, t, _: room(t) == "cli" and room(n) != "__main__",
        "the command line alone runs the apparatus": lambda n, t, _: (
            room(t) in ABOVE[2:] and room(n) not in (room(t), "cli")
        ),
        "pictures know no course": lambda n, t, _: room(n) == "plots" and room(t) in ABOVE[1:],
    }.items(),
    ids=lambda rule: rule[0],
)
def test_imports_run_downward(rule):
    assert not {(name, t) for name, targets in IMPORTS.items() for t, top in targets if rule[1](name, t, top)}


BARE = """
import importlib.machinery

absent = {
    "trl", "datasets", "peft", "accelerate", "gguf", "psutil", "matplotlib", "seaborn", "scipy", "sklearn",
    "IPython", "ipywidgets", "jupyterlab", "nbformat", "nbclient", "jinja2", "vaderSentiment",
}
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if name.split(".")[0] in absent else find(name, path, target)
)
try:
    import peft
except ModuleNotFoundError:
    print("absent")

import alignkd_lab.mog.world, alignkd_lab.lm.world, alignkd_lab.records, alignkd_lab.experiment
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.teachers import Full

student, teacher = (weights.load(name)[0] for name in ("tiny-student", "tiny-base"))
batch = collate([Example([1, 5], [[7, 8, 2]])])
said = Full(hidden_states(teacher, batch).detach(), teacher.lm_head.weight.detach())
loss, _ = losses.kd(hidden_states(student, batch), student.lm_head.weight, said)
loss.backward()
print(float(loss) > 0, len(sample(student, [[1, 5]], 2, 4, 2, 0).tokens))
"""


def test_the_core_imports_and_its_losses_and_sampling_run_on_a_bare_machine():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["absent", "True", "2"], done.stderr[-2000:]
