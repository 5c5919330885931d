"""The command line: `jaxlocal train`, `eval`, `compare`, `search`, `plot`, `list`."""

import contextlib
import inspect
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from jaxlocal import config, data, plots, rules, runs
from jaxlocal.config import Config, ConfigError
from jaxlocal.training import DivergedError

Flags = TypeVar("Flags")
DEFAULTS = Config()


@dataclass(frozen=True)
class Train:
    """Train a network by a learning rule; without flags, associated learning on the digits, in a minute."""

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
    flags = _parse(Train, "train", argv)
    file = flags.config
    if flags.resume:
        if not flags.out:
            raise ConfigError("--resume: of which run? name its folder by --out")
        saved = flags.out / "config.yaml"
        file = file or (saved if saved.exists() else None)
    if file:  # then its settings are the defaults
        flags = _parse(Train, "train", argv, Train(config.read(file)))
    _make_devices(flags.settings.devices)
    runs.train(flags.settings, flags.out, resume=flags.resume, tensorboard=flags.tensorboard, say=_say)


@dataclass(frozen=True)
class Compare:
    """Train each of some rules with the same settings; a table, and a picture of how they learn."""

    rules: Positional[tuple[str, ...]]
    """which, such as al bp dfa"""
    settings: OmitArgPrefixes[Config] = DEFAULTS
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """of the runs, else runs/compare-N"""
    resume: bool = False
    """go on with what is in --out"""


def compare(argv: Sequence[str]) -> None:
    """Train several rules alike: a table and a picture."""
    flags = _parse(Compare, "compare", argv)
    for rule in flags.rules:
        config.known("rules", rule, rules.ALL)
    if not flags.rules or len(set(flags.rules)) < len(flags.rules):
        raise ConfigError(f"rules={' '.join(flags.rules)}: name some rules, each once, such as al bp dfa")
    _make_devices(flags.settings.devices)
    folder = flags.out or runs.next_free("compare")
    done = {}
    for rule in flags.rules:
        settings = replace(flags.settings, rule=rule)
        done[rule] = runs.train(settings, folder / rule, resume=flags.resume, say=_say)
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
    """Draw a run: curves, t-SNE and class distances of its layers, alignment with backpropagation."""

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
    """Random search of a rule's settings as Bartunov et al. did, judged on validation; repeat it to go on with it."""

    rules: Positional[tuple[str, ...]]
    """which, such as dtp bp"""
    trials: Annotated[int, arg(metavar="N")] = 60
    """settings of each rule"""
    group: Annotated[int, arg(metavar="N")] = 10
    """so many in one program"""
    model: Annotated[str, arg(metavar="NAME")] = "mlp"
    """network"""
    data: Annotated[str, arg(metavar="NAME")] = "digits"
    """digits, a TFDS name, a folder, a .npz file"""
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
    runs.search(flags, flags.out or runs.next_free("search"), _say)


def list_names(argv: Sequence[str]) -> None:
    """List rules, networks, data sets and augmentations."""
    if argv:
        raise ConfigError(f"{argv[0]}: takes no arguments; leave it out")
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
    program = "jaxlocal"
    try:
        if name in ("-h", "--help"):
            _say(_help())
            return 0
        if name == "--version":
            _say(runs.__version__)
            return 0
        if name not in COMMANDS:
            raise ConfigError(f"there is no command {name!r}; {config.nearest(name, COMMANDS)}")
        program = f"jaxlocal {name}"
        _keep_compiled_programs()
        COMMANDS[name](rest)
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
                config=(FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        text = " ".join(re.sub(r"[─-╿]", " ", errors.getvalue()).split())
        raise ConfigError(text) from None


def _complain(program: str, error: Exception | str, code: int) -> int:
    print(f"{program}: {error}", file=sys.stderr)
    return code


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
        folder = Path(os.environ.get("JAXLOCAL_CACHE", Path.home() / ".cache" / "jaxlocal")) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def command() -> None:
    """`jaxlocal` in a shell."""
    sys.exit(main())


if __name__ == "__main__":
    command()
