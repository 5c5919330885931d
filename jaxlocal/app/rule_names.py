"""Rules by name: those of the library, and functions in a file of the user's own, written as FILE.py:NAME."""

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from jaxlocal import checks, rules
from jaxlocal.app.settings import LONGEST_REASON, ConfigError, known, shown
from jaxlocal.files import of_user
from jaxlocal.hints import nearest
from jaxlocal.rule import Batch, Params, Rule
from jaxlocal.search.rule_settings import HELPERS


def rule_maker(source: str, name: str) -> Callable[..., Rule]:
    """The function that makes the rule of this name; `source` is the name of its setting in an error.

    Raises:
      ConfigError: there is no such rule, or the file cannot be read.
    """
    if isinstance(name, str) and name.endswith(".py"):
        raise ConfigError(f"{source}={shown(name)}: names a file; write {shown(name)}:NAME for a function in it")
    if not is_own(name):
        file, colon, function = name.rpartition(":") if isinstance(name, str) else ("", "", "")
        if colon:
            raise ConfigError(
                f"{source}={shown(name)}: unknown name; for a function of your own write {shown(file)}.py:{function}"
            )
        return known(source, name, rules.ALL)
    path, function = _parts(name)
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(
            f"{source}={shown(name)}: {path.name} cannot be read ({error.strerror}); put it there or, if a run "
            "names it, write its new place into config.yaml"
        ) from None
    try:
        module = _module(path, changed)
    except (Exception, SystemExit) as error:  # the file may raise anything
        words = f"{type(error).__name__}: {shown(error)}{_line(error, path)}"
        raise ConfigError(f"{source}={shown(name)}: {path.name} cannot be run ({words}); correct it") from None
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


def check_rules(names: Any) -> None:
    """These are the names of one rule or more, each once."""
    check_each_once(names)
    check_apart(names, short)
    for name in names:
        rule_maker("RULE", name)


def check_each_once(names: Any) -> None:
    """These are one text or more, each once."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"rules={checks.show(names)}: must be a list of names, such as ['al', 'bp']")
    if not names:
        raise ConfigError("RULE: is missing; name one rule or more, such as al bp dfa")
    if len(set(names)) < len(names):
        raise ConfigError(f"RULE={' '.join(names)}: name one rule or more, each once, such as al bp dfa")


def check_apart(names: Sequence[str], called: Callable[[str], str]) -> None:
    """No two of these names have the same short name, because folders are called by it."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(called(name), name)) != name:
            raise ConfigError(
                f"RULE: {other} and {name} would both be called {called(name)}; give one of the functions another name"
            )


def written_settings(make: Callable[..., Rule]) -> list[str]:
    """The names of the settings of a rule that can be written: all but its optimizers."""
    return [setting for setting in checks.settings(make) if not checks.is_helper(setting)]


def check_is_no_optimizer(source: str, make: Callable[..., Rule], setting: str) -> None:
    """Refuse an optimizer of the rule among the settings that are written."""
    if checks.is_helper(setting) and setting in checks.settings(make):
        raise ConfigError(
            f"{source}: {setting} is an optimizer, which has no name; leave it out, and set --optimizer, --lr or "
            "--helper-lr"
        )


def no_helper_rate(source: str, rule: str, make: Callable[..., Rule]) -> ConfigError:
    """The complaint about --helper-lr for a rule that has no optimizer of a name that it sets."""
    if others := list(filter(checks.is_helper, checks.settings(make))):
        return ConfigError(
            f"{source}: sets the rate of {', '.join(HELPERS)} only; in {rule} rename {', '.join(others)} to one of "
            "them, or leave --helper-lr out"
        )
    return ConfigError(f"{source}: {rule} has no second optimizer; leave it out")


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


def check_is_rule(made: object) -> None:
    """The function of a rule has made one."""
    if not isinstance(made, Rule):
        raise TypeError(f"made {checks.show(made)}, which is no jl.Rule; return jl.make_rule(…)")


def traced(name: str, rule: Rule, batch: Batch) -> Params:
    """The shapes of the rule's parameters. Of a rule in a file the first step is traced, too: its mistakes show here.

    The library's own rules have no such mistakes, and a step takes longer to trace than the start.
    """
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    if is_own(name):
        jax.eval_shape(rule.step, params, batch)
    return params


@contextmanager
def making(name: str, beginning: str) -> Iterator[None]:
    """Say in one sentence, with this beginning, why the rule of this name cannot be made."""
    try:
        yield
    except mistakes(name) as error:
        raise ConfigError(f"{beginning}: {reason(error, name)}") from None


def mistakes(name: str) -> tuple[type[Exception], ...]:
    """The errors that say that this rule cannot be made: a function in a file may raise any."""
    return (Exception,) if is_own(name) else (ValueError, TypeError)


def reason(error: BaseException, name: str) -> str:
    """The message of such an error; of a rule in a file on one line, with its kind and its line."""
    if not is_own(name):
        return str(error)
    kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
    return f"{kind}{shown(error, LONGEST_REASON).rstrip('.')}{_line(error, _parts(name)[0])}"


def _line(error: BaseException, path: Path) -> str:
    """In which line of the file an error was raised, in words; nothing if it was elsewhere."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", in line {lines[-1]} of {path.name}" if lines else ""


def _parts(name: str) -> tuple[Path, str]:
    file, _, function = name.rpartition(":")
    return of_user(file).resolve(), function


@cache
def _module(path: Path, changed: int) -> ModuleType:
    """The file, run as a module, once unless it has changed since. It can import what lies beside it.

    Such modules are forgotten afterwards, because a file in another folder may have others of the same names.
    """
    folder, before = str(path.parent), set(sys.modules)
    spec = importlib.util.spec_from_file_location(f"rules in {path}", path)
    assert spec and spec.loader  # any file that ends in .py has them
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before - {spec.name}:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder + os.sep):
                del sys.modules[name]
    return module
