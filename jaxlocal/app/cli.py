"""The command line: `jaxlocal train`, `eval`, `compare`, `search`, `plot`, `list`."""

import contextlib
import inspect
import io
import logging
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import absl.logging
import jax
import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from jaxlocal import data, plots, rules
from jaxlocal.app import runs
from jaxlocal.app import settings as config
from jaxlocal.app.settings import Config, ConfigError
from jaxlocal.files import cache_folder
from jaxlocal.training import DivergedError
from jaxlocal.training.checkpoints import MismatchError

Flags = TypeVar("Flags")
DEFAULTS = Config()

# What tyro says, and what we say.
SENTENCES = {
    r"^Error parsing (\S+): invalid literal for int.*: '(.*)'$": r"\1=\2: must be a whole number",
    r"^Error parsing (\S+): could not convert string to float: '(.*)'$": r"\1=\2: must be a number",
    r"^invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)\.$": r"\2=\1: must be one of \3",
    r"^Missing value for argument '(\S+)'.*": r"\1: needs a value",
    r"^Missing from .*: (\S+) (.*) \(required\)$": r"\1: is missing, the \2",
    r"^Unrecognized options: ([^,]+).*": r"\1: there is no such flag",
}


@dataclass(frozen=True)
class Train:
    """Train a network by a learning rule; without flags, by associated learning."""

    settings: OmitArgPrefixes[Config] = DEFAULTS
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """of the run, else runs/RULE-DATA-N"""
    resume: bool = False
    """go on with the run in --out"""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """YAML settings; flags come before"""
    tensorboard: bool = False
    """write TensorBoard's logs, too"""


def train(argv: Sequence[str]) -> None:
    """Train a network and leave a run's folder."""
    flags = _with_file("train", _parse(Train, "train", argv), argv, "config.yaml")
    _make_devices(flags.settings.devices)
    runs.train(flags.settings, flags.out, resume=flags.resume, tensorboard=flags.tensorboard, say=_say)


@dataclass(frozen=True)
class Compare:
    """Train each of some rules with the same settings: a table, and a picture."""

    rules: Positional[Annotated[tuple[str, ...], arg(metavar="RULE …")]] = ()
    """which, such as al bp dfa"""
    settings: OmitArgPrefixes[Config] = DEFAULTS
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """of the runs, else runs/compare-N"""
    resume: bool = False
    """go on with what is in --out"""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """YAML settings; flags come before"""


def compare(argv: Sequence[str]) -> None:
    """Train several rules alike: a table and a picture."""
    flags = _with_file("compare", _parse(Compare, "compare", argv), argv, "*/config.yaml")
    _check_rules(flags.rules)
    if any(word.startswith("--rule=") or word == "--rule" for word in argv):
        raise ConfigError("--rule: is not for compare; name the rules without a flag, such as al bp dfa")
    _make_devices(flags.settings.devices)
    each = {rule: replace(flags.settings, rule=rule) for rule in flags.rules}
    for settings in each.values():  # what is wrong with the last one is told before the first is trained
        config.build(settings)
    folder = flags.out or runs.next_free("compare")
    done = {}
    for rule, settings in each.items():
        try:
            done[rule] = runs.train(settings, folder / rule, resume=flags.resume, say=_say)
        except runs.Interrupted as stop:
            command = f"jaxlocal compare {' '.join(flags.rules)} --out {shlex.quote(str(folder))} --resume"
            raise runs.Interrupted(stop.number, f"{stop.after} of {rule}", command) from None
    plots.compare({rule: summary.history for rule, summary in done.items()}).savefig(folder / "compare.png", dpi=120)
    _say(f"\n{runs.table(done)}\npicture: {folder / 'compare.png'}")


@dataclass(frozen=True)
class Evaluate:
    """Loss and accuracy of a run on each part of its data."""

    run: Positional[Path]
    """folder of the run"""
    best: bool = False
    """of the best epoch on validation, not the last"""
    data: Annotated[str | None, arg(metavar="NAME")] = None
    """another data set"""


def evaluate(argv: Sequence[str]) -> None:
    """Measure a run on train, validation and test."""
    flags = _parse(Evaluate, "eval", argv)
    restored = runs.restored(flags.run, best=flags.best, data=flags.data)
    _say(runs.table({str(flags.run): restored}))


@dataclass(frozen=True)
class Plot:
    """Draw a run: its curves; t-SNE, class distances and alignment of its layers."""

    run: Positional[Path]
    """folder of the run; the pictures go there"""
    best: bool = False
    """of the best epoch on validation, not the last"""
    examples: Annotated[int, arg(metavar="N")] = 1000
    """of the test set, for the layers"""


def plot(argv: Sequence[str]) -> None:
    """Draw a run: curves, t-SNE of the layers, class distances, alignment."""
    flags = _parse(Plot, "plot", argv)
    if flags.examples < 2:
        raise ConfigError(f"--examples={flags.examples}: must be at least 2")
    for path in runs.draw(flags.run, best=flags.best, examples=flags.examples):
        _say(str(path))


@dataclass(frozen=True)
class Search:
    """Random search of a rule's settings, as Bartunov et al. did; repeat it to go on."""

    rules: Positional[Annotated[tuple[str, ...], arg(metavar="RULE …")]] = ()
    """which, such as dtp bp"""
    trials: Annotated[int, arg(metavar="N")] = 60
    """settings of each rule"""
    group: Annotated[int, arg(metavar="N")] = 10
    """so many in one program"""
    model: Annotated[str, arg(metavar="NAME")] = "mlp"
    """network"""
    data: Annotated[str, arg(metavar="NAME")] = "digits"
    """digits, TFDS name, folder, .npz file"""
    epochs: Annotated[int, arg(metavar="N")] = 10
    """of each trial"""
    batch_size: Annotated[int, arg(metavar="N")] = 32
    """examples a step"""
    rule_args: Annotated[tuple[str, ...], arg(metavar="K=V …")] = ()
    """of all rules, and not searched"""
    model_args: Annotated[tuple[str, ...], arg(metavar="K=V …")] = ()
    """such as hidden=[512,512]"""
    seed: Annotated[int, arg(metavar="N")] = 0
    """of settings, weights and order"""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """of the search, else runs/search-N"""


def search(argv: Sequence[str]) -> None:
    """Search a rule's settings at random, on validation."""
    flags = _parse(Search, "search", argv)
    _check_rules(flags.rules)
    runs.search(flags, _say)


@dataclass(frozen=True)
class List:
    """List rules, networks, data sets and augmentations."""


def list_names(argv: Sequence[str]) -> None:
    """List rules, networks, data sets and augmentations."""
    _parse(List, "list", argv)
    kinds: dict[str, Any] = {
        "rules": rules.ALL,
        "networks": config.MODELS,
        "augmentations": config.AUGMENTATIONS,
        "optimizers": dict.fromkeys(config.OPTIMIZERS),
        "data sets": dict.fromkeys(("digits", *data.NAMES)),
    }
    for kind, options in kinds.items():
        described = {name: what for name, what in options.items() if what}
        _say(f"{kind}:" if described else f"{kind}: {', '.join(options)}")
        for name, what in described.items():
            _say(f"  {name:14}{(inspect.getdoc(what) or '').splitlines()[0]}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "compare": compare,
    "search": search,
    "plot": plot,
    "list": list_names,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for what the user can mend, 130 for Ctrl-C, and else 1."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    program = "jaxlocal" if name not in COMMANDS else f"jaxlocal {name}"
    try:
        if name in ("-h", "--help"):
            _say(_help())
        elif name == "--version":
            _say(runs.__version__)
        elif name in COMMANDS:
            _keep_compiled_programs()
            with _plain_warnings(program):
                COMMANDS[name](rest)
        else:
            raise ConfigError(f"there is no command {name!r}; {config.nearest(name, COMMANDS)}")
    except SystemExit:  # after --help
        return 0
    except MismatchError as error:
        return _complain(program, f"{error}; give config.yaml the settings that it was saved with", 2)
    except ConfigError as error:
        return _complain(program, error, 2)
    except (runs.RunError, DivergedError) as error:
        return _complain(program, error, 1)
    except runs.Interrupted as error:
        return _complain(program, error, 128 + error.number)
    except KeyboardInterrupt:
        return _complain(program, "stopped", 128 + signal.SIGINT)
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(program, f"{where}{error.strerror or error}; make room, or write to another place", 1)
    return 0


def _help() -> str:
    lines = [f"  {name:8} {inspect.getdoc(command)}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Local and biologically motivated learning rules.",
            "",
            "jaxlocal COMMAND …",
            "",
            *lines,
            "",
            "jaxlocal COMMAND --help says more.",
        ]
    )


def _parse(kind: type[Flags], name: str, argv: Sequence[str], default: Flags | None = None) -> Flags:
    """The flags; what is wrong with them is one sentence, where tyro draws a box."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                prog=f"jaxlocal {name}",
                args=list(argv),
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(FlagCreatePairsOff,) if {"-h", "--help"} & set(argv) else (),  # --no-… would take half a screen
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_sentence(errors.getvalue(), f"jaxlocal {name} --help says more")) from None


def _sentence(box: str, remedy: str) -> str:
    """What is wrong, of all that tyro says, and a remedy."""
    parts = [" ".join(part.split()) for part in re.split(r"[─-]{9,}", re.sub("[│╭╮╰╯]", " ", box))]
    _, problem, *hints = parts if len(parts) > 1 else ["", *parts]  # a title, if it is a box
    for theirs, ours in SENTENCES.items():
        problem = re.sub(theirs, ours, problem)
    meant = re.search(r"Perhaps you meant: (--[\w-]+)", " ".join(hints))
    return f"{problem}; {f'did you mean {meant[1]}?' if meant else remedy}"


def _with_file(name: str, flags: Flags, argv: Sequence[str], saved: str) -> Flags:
    """The flags, over the settings in --config, or else in those of the run that is gone on with."""
    given: Any = flags
    file = given.config
    if given.resume:
        if not given.out:
            raise ConfigError("--resume: of which run? name its folder by --out")
        file = file or min(given.out.glob(saved), default=None)
    return _parse(type(flags), name, argv, type(given)(settings=config.read(file))) if file else flags


def _check_rules(names: Sequence[str]) -> None:
    for name in names:
        config.known("rules", name, rules.ALL)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"rules={' '.join(names)}: name some rules, each once, such as al bp dfa")


def _complain(program: str, error: Exception | str, code: int) -> int:
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _plain_warnings(program: str) -> Iterator[None]:
    """A warning is one line, too."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"{program}: {message}", file=sys.stderr)
        yield


def _say(text: str) -> None:
    print(text, flush=True)


def _make_devices(count: int) -> None:
    """Make a CPU into so many devices, where it is the only one there is."""
    if count > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has begun: the devices are what they are
            jax.config.update("jax_num_cpu_devices", count)


def _keep_compiled_programs() -> None:
    """What was compiled once is loaded from a file by the next process."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError, RuntimeError):  # no place to write to, or no home
            folder = cache_folder("compiled")
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                jax.config.update("jax_compilation_cache_dir", str(folder))
                jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def command() -> None:
    """`jaxlocal` in a shell."""
    # Orbax's threads log, and raise where nobody can catch it, what comes as an exception as well.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where there is no → or ±
    code = main()
    if code > 128:  # XLA may be at work still, and crashes if Python goes away under it
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
