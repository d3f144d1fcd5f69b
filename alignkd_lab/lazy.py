"""Names and modules of a package that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping


def names(
    package: str, places: Mapping[str, str], modules: Iterable[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package, below which all paths are.

    `places` has by module its names, separated by blanks; a name may stand as `new=old`. `modules` are names
    themselves, by the last part of their paths.
    """
    pairs = [(name.split("="), module) for module, listed in places.items() for name in listed.split()]
    found = {name[0]: (module, name[-1]) for name, module in pairs}
    found |= {module.rpartition(".")[2]: (module, None) for module in modules}

    def get(name: str) -> object:
        if name not in found:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path, attribute = found[name]
        module = importlib.import_module(f"{package}.{path}")
        return module if attribute is None else getattr(module, attribute)

    return get, lambda: sorted(found)
