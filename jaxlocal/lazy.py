"""Names of a package that are imported at their first use: what needs no JAX, such as --help, starts at once."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def attributes(
    package: str, names: Sequence[str], homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    Args:
      package: its name.
      names: all that it offers, its `__all__`.
      homes: the module of the package in which each of the names is defined. A name that is not among them is a module.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes.get(name, name)
        value = import_module(f"{package}.{home}")
        if home.rpartition(".")[2] != name:
            value = getattr(value, name)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *names})
