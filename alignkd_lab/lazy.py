"""Names and modules of a package that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def names(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: by module, as a path below it, its names, separated by blanks.

    A name may stand as `new=old`; one that is the path's last part is the module itself.
    """
    pairs = [(name.split("="), module) for module, listed in places.items() for name in listed.split()]
    found = {name[0]: (module, name[-1]) for name, module in pairs}

    def get(name: str) -> object:
        if name not in found:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path, attribute = found[name]
        module = importlib.import_module(f"{package}.{path}")
        return module if path.rpartition(".")[2] == attribute else getattr(module, attribute)

    return get, lambda: sorted(found)
