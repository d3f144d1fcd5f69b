"""A function of one's own by name, `module:function`: a reward, or the rule of a target.

A name is pinned by a hash of the module's source file, `module:function@<12 hex digits>`, so that what was made with it
is told from what another version would make. What the module itself imports is not part of the hash.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from types import ModuleType

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.settings import FUNCTION
from alignkd_lab.store import file_sha256

_READ: dict[tuple[Path, str], ModuleType] = {}  # by file and hash


def load_function(field: str, name: str) -> tuple[Callable, str]:
    """The function that a setting names, found as Python would from the current folder, and its pinned name.

    Raises:
        BadInput: there is none, or the file is not the one that the name pins.
    """
    module_name, function_name, pinned = FUNCTION.fullmatch(name).groups()
    sys.path.insert(0, str(Path.cwd()))
    try:
        module, digest = _read(module_name, Path.cwd() / f"{module_name.replace('.', '/')}.py")
    except Exception as error:  # a module runs code of its own, which may raise whatever it likes
        raise BadInput(
            f"{field}: {module_name} cannot be imported from here ({type(error).__name__}: {error}); name a function "
            f"as module:function, where {module_name.replace('.', '/')}.py lies in the current folder or is installed"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise BadInput(f"{field}: {module.__file__} has no function {function_name!r}")
    if pinned not in (None, digest):
        raise BadInput(
            f"{field}: {module.__file__} has changed: {name} names another version, and this is @{digest}; put that "
            "version back, or leave the hash out"
        )
    return function, f"{module_name}:{function_name}@{digest}"


def _read(name: str, own: Path) -> tuple[ModuleType, str]:
    """The module and a hash of its source: of the file `own` where there is one, else of what is installed.

    A file of one's own is compiled from what is hashed, since Python would keep the version that it imported first.
    """
    if not own.is_file():
        module = importlib.import_module(name)
        return module, file_sha256(Path(module.__file__))[:12]
    source = own.read_bytes()
    key = own, hashlib.sha256(source).hexdigest()[:12]
    if key not in _READ:
        module = ModuleType(name)
        module.__file__, module.__package__ = str(own), name.rpartition(".")[0]
        sys.modules[name] = module
        exec(compile(source, str(own), "exec"), module.__dict__)
        _READ[key] = module
    return _READ[key], key[1]


def load_reward(name: str) -> tuple[Callable, str]:
    """A reward and its pinned name; it is tried on one response, so that it fails before anything else is done.

    Raises:
        BadInput: there is none, or it raises, or gives something else than a number.
    """
    function, pinned = load_function("reward", name)
    call_reward(pinned, function, ["What floats?"], ["A small boat."])
    return partial(call_reward, pinned, function), pinned


def call_reward(name: str, function: Callable, prompts: Sequence, responses: Sequence[str]) -> list[float]:
    """`function(prompts, responses)` as one finite number for each response.

    A prompt is a text, or a list of messages where it is more than one turn of the user.

    Raises:
        BadInput: the function raises, or gives something else, with the first row that it happens at.
    """
    try:
        found = function(list(prompts), list(responses))
    except Exception as error:
        raise BadInput(
            f"reward: {name} raises {type(error).__name__} ({error}) {_at(function, prompts, responses)}"
        ) from error
    found = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(found, list | tuple) or len(found) != len(responses):
        given = f"{len(found)} values" if isinstance(found, list | tuple) else repr(found)[:60]
        raise BadInput(
            f"reward: {name} gives {given} for {len(responses)} responses; it must give a list of a number each"
        )
    for row, value in enumerate(found):
        value = value.item() if hasattr(value, "item") else value
        if not isinstance(value, Real) or not math.isfinite(value):
            raise BadInput(
                f"reward: {name} gives {value!r} for row {row + 1}, the response {responses[row][:60]!r}; it must give "
                "a finite number"
            )
    return [float(value) for value in found]


def _at(function: Callable, prompts: Sequence, responses: Sequence[str]) -> str:
    """The first row that the function raises at when it is asked about it alone."""
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True), 1):
        try:
            function([prompt], [response])
        except Exception:
            return f"for row {row}, the response {response[:60]!r}"
    return f"for {len(responses)} responses together, and for none of them alone"
