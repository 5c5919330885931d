"""Rules by name: those of the library, and functions in a file of the user's own, written as FILE.py:NAME."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

from jaxlocal import rules
from jaxlocal.app.settings import ConfigError, known, shown
from jaxlocal.hints import nearest
from jaxlocal.rule import Rule


def rule_maker(source: str, name: str) -> Callable[..., Rule]:
    """The function that makes the rule of this name; `source` is the name of its setting in an error.

    Raises:
      ConfigError: there is no such rule, or the file cannot be read.
    """
    if isinstance(name, str) and name.endswith(".py"):
        raise ConfigError(f"{source}={shown(name)}: names a file; write {shown(name)}:NAME for a function in it")
    if not is_own(name):
        return known(source, name, rules.ALL)
    path, function = _parts(name)
    try:
        module = _module(path)
    except OSError as error:
        raise ConfigError(f"{source}={shown(name)}: {path.name} cannot be read ({error.strerror})") from None
    except Exception as error:  # the file may raise errors of any kind
        reason = f"{type(error).__name__}: {shown(error)}{line(error, name)}"
        raise ConfigError(f"{source}={shown(name)}: {path.name} cannot be run ({reason}); mend it") from None
    make = getattr(module, function, None)
    if not callable(make):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        hint = nearest(function, functions) if functions else "define it there"
        raise ConfigError(f"{source}={shown(name)}: {path.name} has no function {function}; {hint}")
    try:
        inspect.signature(make).bind("net", "tx")
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{source}={shown(name)}: {error}; a rule is made of a network and an optimizer, and its settings have "
            f"defaults: def {function}(net, tx, *, setting=1.0)"
        ) from None
    return make


def is_own(name: str) -> bool:
    """Whether the name is that of a function in a file."""
    return isinstance(name, str) and ".py:" in name


def short(name: str) -> str:
    """The name of the rule without its file, as in the names of folders."""
    return name.rpartition(":")[2]


def located(name: str) -> str:
    """The name with the whole path of the file, so that it can be read from any folder."""
    if not is_own(name):
        return name
    path, function = _parts(name)
    return f"{path}:{function}"


def line(error: BaseException, name: str) -> str:
    """In which line of the rule's file an error was raised, in words; nothing if it was elsewhere."""
    if not is_own(name):
        return ""
    path = str(_parts(name)[0])
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f", in line {lines[-1]} of {Path(path).name}" if lines else ""


def _parts(name: str) -> tuple[Path, str]:
    file, _, function = name.rpartition(":")
    return Path(file).expanduser().resolve(), function


@cache
def _module(path: Path) -> ModuleType:
    """The file, run once as a module. What lies beside it can be imported, after all that is installed."""
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such file")
    spec = importlib.util.spec_from_file_location(f"rules in {path}", path)
    assert spec and spec.loader  # any file that ends in .py has them
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    return module
