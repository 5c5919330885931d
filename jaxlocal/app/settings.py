"""The settings of a run: the same names on the command line, in a YAML file and in a run's folder."""

import argparse
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml

from jaxlocal import flags
from jaxlocal.app.yaml_text import LONGEST, YamlError, parse
from jaxlocal.files import write_whole
from jaxlocal.hints import nearest


class ConfigError(ValueError):
    """A mistake in the settings, in one sentence that names the setting, its value and the remedy."""


class Flag(NamedTuple):
    """How `--help` shows the flag of a setting."""

    metavar: str
    text: str


@dataclass(frozen=True)
class Config:
    """Everything that the result of a run depends on, besides the code and the data.

    Example:
      >>> from jaxlocal.app import Config
      >>> Config(rule="dfa", epochs=5, model_args=("hidden=[64,64]",)).batch_size
      32
    """

    rule: Annotated[str, Flag("NAME", "learning rule, or FILE.py:NAME")] = "al"
    model: Annotated[str, Flag("NAME", "network")] = "mlp"
    data: Annotated[str, Flag("NAME", "listed name, folder or file")] = "digits"
    label: Annotated[str, Flag("NAME", "column of labels in a table")] = "label"
    epochs: Annotated[int, Flag("N", "number of epochs")] = 40
    batch_size: Annotated[int, Flag("N", "number of examples per step")] = 32
    lr: Annotated[float, Flag("RATE", "learning rate")] = 1e-3
    helper_lr: Annotated[float | None, Flag("RATE", "learning rate of feedback, inverses, autoencoders")] = None
    optimizer: Annotated[Literal["adam", "sgd", "nesterov"], Flag("NAME", "adam, sgd or nesterov")] = "adam"
    schedule: Annotated[Literal["constant", "al", "cosine"], Flag("NAME", "constant, al or cosine")] = "constant"
    l2: Annotated[float, Flag("X", "strength of the L2 penalty")] = 0.0
    augment: Annotated[tuple[str, ...], Flag("NAME", "changes of the images; see jaxlocal list")] = ()
    rule_args: Annotated[tuple[str, ...], Flag("K=V", "arguments of each rule, such as width=256")] = ()
    model_args: Annotated[tuple[str, ...], Flag("K=V", "arguments of the network: hidden=[512,512]")] = ()
    seed: Annotated[int, Flag("N", "seed of weights, order and augmentation")] = 0
    seeds: Annotated[int, Flag("N", "number of runs at once, from --seed on")] = 1
    precision: Annotated[Literal["float32", "bfloat16", "float16"], Flag("TYPE", "float32, bfloat16 or float16")] = (
        "float32"
    )
    patience: Annotated[int | None, Flag("N", "stop after N epochs without improvement")] = None
    validation: Annotated[int | None, Flag("N", "number of examples held out for validation")] = None
    image_size: Annotated[int | None, Flag("N", "resize the images to N by N")] = None
    tokenizer: Annotated[Literal["word", "bpe", "char"], Flag("NAME", "of texts: word, bpe or char")] = "word"
    vocabulary: Annotated[int, Flag("N", "largest number of tokens of texts")] = 20_000
    length: Annotated[int | None, Flag("N", "cut texts off after N tokens")] = None
    devices: Annotated[int, Flag("N", "number of devices")] = 1
    pipeline: Annotated[bool, Flag("", "place the components on different devices")] = False
    split: Annotated[int, Flag("N", "pipeline devices that share each batch")] = 1

    def __post_init__(self) -> None:
        """Each value has the type of its setting, also in Python."""
        for name, wanted in TYPES.items():
            object.__setattr__(self, name, typed(flag(name), getattr(self, name), wanted))


TYPES = get_type_hints(Config)
FLAGS: dict[str, Flag] = {
    name: get_args(annotated)[1] for name, annotated in get_type_hints(Config, include_extras=True).items()
}
OF_TEXTS = "tokenizer", "vocabulary", "length"  # these settings say how texts are read
PLACEMENT = "devices", "pipeline", "split"  # these settings say where a run is computed, but not what it computes


# Settings in a file.


def read(path: Path) -> Config:
    """Read the settings from a YAML file; settings that it does not name keep their defaults."""
    try:
        with path.open(encoding="utf-8") as file:
            content = parse(file.read(LONGEST + 1))
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read ({error.strerror}); name a YAML file of settings") from None
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not YAML of settings ({error}); write lines such as 'rule: al'") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{str(path)!r} holds no settings; write lines such as 'rule: al'")
    values = {}
    for name, value in content.items():
        key = shown(name).replace("-", "_")
        if key not in TYPES:
            raise ConfigError(f"{str(path)!r}: unknown setting {shown(name)!r}; {nearest(key, TYPES)}")
        values[key] = typed(f"{str(path)!r}: {name}", value, TYPES[key])
    return Config(**values)


def nothing_to_resume(folder: Path) -> ConfigError:
    """The complaint about --resume where there is no run."""
    return ConfigError(f"--resume: {folder} holds no run; leave out --resume to start one there")


def write(config: Config, path: Path) -> None:
    """Write all settings to a YAML file."""
    content = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


# Settings on the command line.


def add_flags(parser: argparse.ArgumentParser, defaults: Config, names: Iterable[str] = tuple(TYPES)) -> None:
    """Add a flag for each of these settings; only flags that the user gives appear among the parsed arguments."""
    group = parser.add_argument_group("settings")
    for name in names:
        metavar, text = FLAGS[name]
        default = getattr(defaults, name)
        shown = text if default is None or default is False or default == () else f"{text} (default: {default})"
        if TYPES[name] is bool:
            flags.add_switch(group, flag(name), shown, default=argparse.SUPPRESS)
        else:
            nargs = "*" if get_origin(TYPES[name]) is tuple else None
            group.add_argument(flag(name), nargs=nargs, default=argparse.SUPPRESS, metavar=metavar, help=shown)


def from_flags(read: argparse.Namespace, defaults: Config) -> Config:
    """The settings whose flags were given, and the defaults for all others."""
    return replace(defaults, **{name: value for name, value in vars(read).items() if name in TYPES})


def flag(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


# Values.


def check(config: Config) -> None:
    """Refuse numbers that are out of range for any rule and any data."""
    if not isinstance(config, Config):
        raise TypeError(f"config={shown(repr(config))}: must be a Config, such as jaxlocal.app.Config(rule='dfa')")
    for name, most in MOST.items():
        if (number := getattr(config, name)) is None:
            continue
        if number < 1:
            raise ConfigError(f"{flag(name)}={shown(number)}: must be at least 1")
        if number > most:
            raise ConfigError(f"{flag(name)}={shown(number)}: must be at most {most}")
    for name in ("lr", "helper_lr"):
        if (number := getattr(config, name)) is not None and not 0 < number < float("inf"):
            raise ConfigError(f"{flag(name)}={number}: must be a finite number above 0")
    if not 0 <= config.l2 < float("inf"):
        raise ConfigError(f"--l2={config.l2}: must be a finite number, 0 or more")
    last = 2**31 - config.seeds
    if not 0 <= config.seed <= last:
        raise ConfigError(f"--seed={shown(config.seed)}: must be from 0 to {last}")


MOST = {  # beyond these numbers a run would not end, or not even begin
    "epochs": 10**7,
    "batch_size": 2**31 - 1,
    "seeds": 10**6,
    "devices": 1024,
    "split": 1024,
    "patience": 10**7,
    "validation": 2**31 - 1,
    "image_size": 2048,
    "vocabulary": 10**7,
    "length": 10**5,
}
LONGEST_SHOWN = 80  # characters of a value in an error
LONGEST_REASON = 300  # characters of an error of others: those of JAX may have many lines
NOUNS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def typed(source: str, value: Any, wanted: Any) -> Any:
    """A value of a file or a flag, converted to the type of its setting; `source` is its name in an error."""
    value = value.item() if getattr(value, "shape", None) == () else value  # a number of NumPy
    if get_origin(wanted) in (Union, UnionType):
        return None if value in (None, "none", "None") else typed(source, value, get_args(wanted)[0])
    if get_origin(wanted) is Literal:
        return known(source, value, {choice: choice for choice in get_args(wanted)})
    if get_origin(wanted) is tuple:
        if isinstance(value, dict):
            return tuple(f"{key}={json.dumps(one)}" for key, one in value.items())
        if isinstance(value, list | tuple):
            return tuple(map(str, value))
        raise ConfigError(f"{source}={shown(value)}: must be a list, such as [{shown(value)}]")
    if isinstance(value, PathLike) and wanted is str:
        return os.fspath(value)
    if isinstance(value, str) and wanted in (int, float):  # a flag; YAML, too, reads 1e-3 as a text
        with suppress(ValueError):
            return wanted(value)
    fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{source}={shown(value)}: must be {NOUNS[wanted]}")
    try:
        return wanted(value)
    except OverflowError:  # a whole number beyond all floats
        raise ConfigError(f"{source}={shown(value)}: must be {NOUNS[wanted]}, and is too large for one") from None


def shown(value: Any, longest: int = LONGEST_SHOWN) -> str:
    """The value on one line, cut short if it is long."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # Python does not print whole numbers of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}…"


def known(source: str, name: Any, options: Mapping[str, Any]) -> Any:
    """What a name stands for among the options; `source` is the name of its setting in an error."""
    if isinstance(name, str) and name in options:
        return options[name]
    raise ConfigError(f"{source}={shown(name)}: unknown name; {nearest(shown(name), options)}")


def pairs(source: str, texts: Iterable[str]) -> dict[str, Any]:
    """The arguments that are written as KEY=VALUE, with the value in YAML.

    Example:
      >>> pairs("--model-args", ["hidden=[64,64]", "norm=true"])
      {'hidden': (64, 64), 'norm': True}
    """
    found = {}
    for pair in texts:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"{source}={shown(pair)}: must be KEY=VALUE, such as width=256")
        try:
            value = parse(text)
        except YamlError as error:
            raise ConfigError(
                f"{source}={shown(pair)}: the value is not YAML ({error}); write for example hidden=[512,512]"
            ) from None
        found[key] = tuple(map(_as_number, value)) if isinstance(value, list) else _as_number(value)
    return found


def _as_number(value: Any) -> Any:
    """A text such as 1e-3, which YAML does not read as a number, as a float; other values as they are."""
    with suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return value
