"""The command line: `train`, `eval`, `predict`, `export`, `compare`, `search`, `rank`, `plot`, `list` and `cite`.

JAX takes a second to import. So it is imported where it is first needed, after a command has read its flags.
"""

import contextlib
import inspect
import io
import logging
import os
import shlex
import signal
import sys
import warnings
from argparse import HelpFormatter, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import absl.logging

import jaxlocal as jl
from jaxlocal import app, distributed, flags
from jaxlocal.app import settings
from jaxlocal.app.settings import OF_TEXTS, Config, ConfigError, nothing_to_resume, shown
from jaxlocal.files import cache_folder, of_user
from jaxlocal.hints import nearest
from jaxlocal.version import __version__

SEARCH = Config(epochs=10)  # the defaults of a search, and the settings that it does not draw
MOST_TRIALS, MOST_SEEDS = 10**5, 10**3
SEARCH_FLAGS = (
    *("model", "data", "label", *OF_TEXTS, "epochs", "batch_size", "optimizer", "schedule"),
    *("rule_args", "model_args", "seed"),
)


def train(argv: Sequence[str]) -> None:
    """Train a network by a learning rule, and leave a run's folder."""
    parser = _parser("train")
    _add_run_flags(parser, "of the run, else runs/RULE-DATA-N")
    settings.add_flags(parser, Config())
    read, config = _joined(argv, lambda: _with_config(parser.parse_args(argv), "config.yaml"))
    app.train(config, read.out, resume=read.resume, log=read.log, say=_say)


def evaluate(argv: Sequence[str]) -> None:
    """Measure a run on the training, validation and test sets."""
    parser = _parser("eval", "RUN ")
    _add_run(parser, RUN_OR_NAME)
    parser.add_argument("--data", metavar="NAME", help="another data set")
    read = _parsed(parser, argv)
    _start_jax()
    from jaxlocal.app import text

    _say(text.table({str(read.run): app.evaluate(read.run, best=read.best, data=read.data)}))


def predict(argv: Sequence[str]) -> None:
    """Name the class of texts, images or rows of tables, with its probability, by a run."""
    parser = _parser("predict", "RUN [TEXT …] ")
    _add_run(parser, RUN_OR_NAME)
    parser.add_argument(
        "inputs",
        metavar="TEXT",
        nargs="*",
        help="texts or, for other runs, files: images, .npz, tables; else each line of stdin is one",
    )
    flags.add_switch(parser, "--json", "a line of JSON for each, with all probabilities")
    read = _parsed(parser, argv)
    if not read.inputs and (sys.stdin is None or sys.stdin.isatty()):
        raise ConfigError("TEXT: is missing; name a text or a file, or pipe lines into the command")
    _start_jax()
    from jaxlocal.app import text

    _check_no_file(read.run, read.inputs)
    for predicted in app.predict(read.run, read.inputs or _lines(sys.stdin), best=read.best):
        _say(text.prediction(predicted, as_json=read.json))


def export(argv: Sequence[str]) -> None:
    """Write a run as a program that predicts without this library, and its weights."""
    parser = _parser("export", "RUN ")
    _add_run(parser, RUN_OR_NAME)
    parser.add_argument("--out", type=flags.folder, metavar="DIR", help="of the files, else RUN/export")
    read = _parsed(parser, argv)
    _start_jax()
    out = app.export(read.run, read.out, best=read.best)
    from jaxlocal.app.exporting import FILES

    for path in filter(Path.exists, map(out.joinpath, FILES)):
        _say(str(path))


def compare(argv: Sequence[str]) -> None:
    """Train several rules on the same data and seeds: a table and a picture."""
    parser = _parser("compare", "RULE … ")
    _add_rules(parser, "rules such as al bp, FILE.py:NAME or 'al lr=0.01'")
    _add_run_flags(parser, "of the runs, else runs/compare-N")
    settings.add_flags(parser, Config(), [name for name in settings.TYPES if name != "rule"])
    read, config = _joined(argv, lambda: _with_config(parser.parse_intermixed_args(argv), "compare.yaml"))
    app.compare(read.rules, config, read.out, resume=read.resume, log=read.log, say=_say)


def search(argv: Sequence[str]) -> None:
    """Search the settings of rules at random, as Bartunov et al. did; with --out the same command resumes."""
    parser = _parser("search", "RULE … ")
    _add_rules(parser)
    add = parser.add_argument
    add(
        "--trials",
        type=flags.whole_to(MOST_TRIALS),
        default=60,
        metavar="N",
        help="settings of each rule (default: 60)",
    )
    add("--group", type=flags.whole, default=10, metavar="N", help="settings per compiled program (default: 10)")
    add("--out", type=of_user, metavar="DIR", help="of the search, else runs/search-N")
    ends = ("LOW", "HIGH")
    add("--lr", nargs=2, type=float, metavar=ends, dest="rates", help="range of the learning rate")
    add("--helper-lr", nargs=2, type=float, metavar=ends, dest="helper_rates", help="of feedback, inverses, …")
    settings.add_flags(parser, SEARCH, SEARCH_FLAGS)
    read = _parsed(parser, argv)
    config = settings.from_flags(read, SEARCH)
    _start_jax()
    app.search(
        read.rules,
        config,
        read.out,
        trials=read.trials,
        group=read.group,
        lr=read.rates,
        helper_lr=read.helper_rates,
        say=_say,
    )


def rank(argv: Sequence[str]) -> None:
    """Rank rules by the same search and seeds for each; with --out the same command resumes."""
    parser = _parser("rank", "[RULE …] ")
    _add_rules(parser)
    add = parser.add_argument
    add(
        "--workload", default="digits", metavar="NAME", help="digits, mnist, fashion_mnist or cifar10 (default: digits)"
    )
    add("--trials", type=flags.whole_to(MOST_TRIALS), default=8, metavar="N", help="settings of each rule (default: 8)")
    add("--seeds", type=flags.whole_to(MOST_SEEDS), default=5, metavar="N", help="trainings of the best (default: 5)")
    add("--out", type=of_user, metavar="DIR", help="of the ranking, else runs/rank-WORKLOAD-N")
    read = parser.parse_intermixed_args(argv)
    _start_jax()
    app.rank(read.rules, read.workload, read.out, trials=read.trials, seeds=read.seeds, say=_say)


def plot(argv: Sequence[str]) -> None:
    """Draw a run: curves, and t-SNE, class distances and alignment of its layers."""
    parser = _parser("plot", "RUN ")
    _add_run(parser)
    parser.add_argument(
        "--examples",
        type=flags.whole,
        default=1000,
        metavar="N",
        help="of the test set, for the layers (default: 1000)",
    )
    read = _parsed(parser, argv)
    _start_jax()
    for path in app.draw(read.run, best=read.best, examples=read.examples):
        _say(str(path))


def list_names(argv: Sequence[str]) -> None:
    """List the rules, networks, data sets, augmentations and trained networks."""
    _parser("list").parse_args(argv)
    from jaxlocal.app.build import AUGMENTATIONS, OPTIMIZERS
    from jaxlocal.app.trained import NAMES

    described: dict[str, Mapping[str, Any]] = {
        "rules": jl.rules.ALL,
        "networks": jl.models.ALL,
        "augmentations, which --augment takes with their defaults": AUGMENTATIONS,
    }
    for kind, functions in described.items():
        _say(f"{kind}:")
        width = max(map(len, functions))
        for name, function in functions.items():
            _say(f"  {name:{width}}  {(inspect.getdoc(function) or '').splitlines()[0]}")
    _say(f"optimizers: {', '.join(OPTIMIZERS)}")
    _say(f"data sets: {', '.join(jl.data.NAMES)}")
    _say(f"trained networks: {', '.join(NAMES)}")


def cite(argv: Sequence[str]) -> None:
    """Print the papers of rules in BibTeX."""
    parser = _parser("cite", "RULE … ")
    _add_rules(parser, "rules, such as al bp dfa")
    read = _parsed(parser, argv)
    from jaxlocal.app.rule_names import is_own

    for name in filter(is_own, read.rules):
        raise ConfigError(f"RULE={name}: is in a file of your own, and its papers are not known here; leave it out")
    _say(jl.cite(*read.rules))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "compare": compare,
    "search": search,
    "rank": rank,
    "plot": plot,
    "list": list_names,
    "cite": cite,
}


TOGETHER = "train", "compare", "list", "cite"  # commands that several processes may run


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code: 0, 2 for a mistake of the user, 128 + N for signal N, 1 for the rest."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    program = "jaxlocal" if name not in COMMANDS else f"jaxlocal {name}"
    try:
        if name in ("-h", "--help"):
            _say(_help())
        elif name == "--version":
            _say(__version__)
        elif name in COMMANDS:
            _check_alone(name)
            with _plain_warnings(program):
                COMMANDS[name](list(map(_with_dashes, rest)))
        else:
            raise ConfigError(f"unknown command {name!r}; {nearest(name, COMMANDS)}")
    except SystemExit as stop:  # the parser has printed the help or an error
        return int(stop.code or 0)
    except ConfigError as error:
        return _complain(program, error, 2)
    except KeyboardInterrupt:
        return _complain(program, "stopped", 128 + signal.SIGINT)
    except BrokenPipeError:  # nobody reads our output any longer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ImportError as error:
        if "pip install" not in str(error):  # or else it names a library that the user can install
            raise
        return _complain(program, error, 2)
    except OSError as error:
        if _is_of_this_process(error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        may_not = isinstance(error, PermissionError)
        remedy = "change its permissions, or name another place" if may_not else "make room, or write to another place"
        return _complain(program, f"{where}{error.strerror or error}; {remedy}", 1)
    except app.Stopped as stop:
        code = _complain(program, stop, 128 + stop.signal)
        distributed.leave()
        return code
    except jl.training.checkpoints.MismatchError as error:
        return _complain(program, f"{error}; give config.yaml the settings that the run was trained with", 2)
    except (jl.training.NotSavedError, jl.training.DivergedError) as error:
        return _complain(program, error, 1)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or _is_of_this_process(error):
            raise
        return _complain(program, f"the memory is too small ({shown(error)}); take a smaller batch or network", 2)
    return 0


# Flags that several commands have.


def _parser(name: str, arguments: str = "") -> flags.Parser:
    return flags.Parser(
        f"jaxlocal {name}",
        usage=f"jaxlocal {name} {arguments}[FLAGS]",
        description=inspect.getdoc(COMMANDS[name]),
        formatter_class=partial(HelpFormatter, max_help_position=26),  # so that most flags take one line
    )


def _add_run_flags(parser: flags.Parser, folder: str) -> None:
    """The flags of commands that train in a folder."""
    parser.add_argument("--out", type=of_user, metavar="DIR", help=folder)
    flags.add_switch(parser, "--resume", "resume the training in --out")
    parser.add_argument("--config", type=of_user, metavar="FILE", help="YAML settings; flags override it")
    parser.add_argument("--log", nargs="+", default=(), metavar="NAME", help="tensorboard, wandb, trackio or mlflow")


RUN_OR_NAME = "folder of the run, or a trained network's name"


def _add_run(parser: flags.Parser, help: str = "folder of the run") -> None:
    """The flags of commands that read a run."""
    parser.add_argument("run", type=of_user, metavar="RUN", nargs="?", help=help)
    flags.add_switch(parser, "--best", "the best epoch on validation, not the last one")


def _add_rules(parser: flags.Parser, help: str = "rules, such as al bp, or FILE.py:NAME") -> None:
    parser.add_argument("rules", metavar="RULE", nargs="*", help=help)


def _parsed(parser: flags.Parser, argv: Sequence[str]) -> Namespace:
    """The arguments of a command that takes rules or a run, which may stand between the flags."""
    read = parser.parse_intermixed_args(argv)
    if "run" in read and read.run is None:
        raise ConfigError("RUN: is missing; name the folder of a run")
    if "rules" in read:
        from jaxlocal.app.rule_names import check_rules

        check_rules(read.rules)
    return read


def _with_config(read: Namespace, saved: str) -> tuple[Namespace, Config]:
    """The arguments, and the settings: the flags, over those in --config or else those of the run that is resumed."""
    file = read.config
    if read.resume:
        if not read.out:
            raise ConfigError("--resume: needs the folder to resume; name it with --out")
        if not (read.out / saved).exists():
            raise nothing_to_resume(read.out)
        file = file or read.out / saved
    config = settings.from_flags(read, settings.read(file) if file else Config())
    settings.check(config)  # now, because JAX starts with the number of devices
    return read, config


def _with_dashes(word: str) -> str:
    """The word; a flag may also be written with underscores, as in a file of settings. A text has spaces."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") and " " not in name else word


def _help() -> str:
    commands = "\n".join(f"  {name:8} {inspect.getdoc(command)}" for name, command in COMMANDS.items())
    return (
        "Local and biologically motivated learning rules.\n\n"
        "jaxlocal COMMAND …\n\n"
        f"{commands}\n\n"
        "jaxlocal COMMAND --help explains the flags of a command."
    )


# The terminal and the process.


def _joined(argv: Sequence[str], read: Callable[[], tuple[Namespace, Config]]) -> tuple[Namespace, Config]:
    """What the flags say. In several processes, which join here, it is what they say in process 0."""
    if (place := _place()) is None:
        arguments, config = read()
        _start_jax(config.devices)
        return arguments, config
    try:
        distributed.initialize()
        _start_jax()
    except ValueError as error:
        raise _OwnError(str(error)) from None
    from jaxlocal import processes

    unlike = f"{shlex.join(argv)}: process 0 has other arguments; start all by the same command{place.hint}"
    processes.check_same(lambda: argv, ConfigError(unlike))
    arguments, config = processes.first(read)
    # Unless a flag says so, the number of devices is that of these processes, and not of those that began the run.
    return arguments, config if "devices" in arguments else replace(config, devices=1)


def _place() -> distributed.Place | None:
    """Which of several processes this one is; None if it is alone."""
    try:
        return distributed.place()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_alone(name: str) -> None:
    """Refuse to run in several processes what would do the same work in each of them."""
    if (place := _place()) and name not in TOGETHER:
        count = place.processes or "several"
        raise ConfigError(f"{count} processes were started, but it needs one; start a single one{place.hint}")


class _OwnError(ConfigError):
    """A mistake that this process has found, and the others may not know of."""


def _number() -> int | None:
    """The number of this process; None if it is alone, or cannot know its number."""
    try:
        place = distributed.place()
    except ValueError:
        return None
    return place and place.process


def _prints() -> bool:
    """Whether this process, if it is one of several, is the one that prints."""
    return not _number()


def _is_of_this_process(error: Exception) -> bool:
    """Whether this is one of several processes, and the others may not have the error: then it ends at once."""
    if _number() is None:
        return False
    from jaxlocal import processes

    return processes.several() and not processes.is_of_all(error)


def _check_no_file(run: Path, inputs: Sequence[str]) -> None:
    """Refuse a file as a text; a line of stdin is a text even if it is the name of a file."""
    from jaxlocal.app.folder import keeps_encoding

    if keeps_encoding(run) and (files := list(filter(os.path.isfile, inputs))):
        raise ConfigError(
            f"TEXT={settings.shown(files[0])}: is a file, and this run takes texts; give the texts themselves, or pipe "
            "them into the command, one a line"
        )


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of stdin, without their ends: at least one."""
    line = None
    try:
        for line in file:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"stdin: is not UTF-8 ({error.reason}); convert it first") from None
    if line is None:
        raise ConfigError("stdin: is empty; pipe texts or names of files into the command, one a line")


def _say(line: str) -> None:
    if _prints():
        print(line, flush=True)


def _complain(program: str, error: Exception | str, code: int) -> int:
    """Print an error. If there are several processes and all have it, one of them does."""
    if _prints() or isinstance(error, _OwnError):
        where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        print(f"{program}: {flags.one_line(error)}{where}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _plain_warnings(program: str) -> Iterator[None]:
    """Print a warning as one line."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"{program}: {message}", file=sys.stderr)
        yield


def _start_jax(devices: int = 1) -> None:
    """Start JAX. The CPU becomes this many devices, unless the environment or JAX has settled how many there are."""
    import jax

    _keep_compiled_programs()
    if devices > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", devices)
    try:
        jax.devices()
    except RuntimeError as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        where = f"JAX_PLATFORMS={platforms}: " if platforms else ""
        raise ConfigError(f"{where}JAX cannot start ({error}); unset it, or take JAX_PLATFORMS=cpu") from None


def _keep_compiled_programs() -> None:
    """Keep compiled programs in the cache, from which later processes load them."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError, RuntimeError):  # the folder cannot be made, or there is no home
            folder = cache_folder("compiled")
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                jax.config.update("jax_compilation_cache_dir", str(folder))
                jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _cannot_be_raised(caught: Any) -> None:
    """Say nothing of an exception where nobody can catch it, but let Ctrl-C end the process there, too."""
    if issubclass(caught.exc_type, KeyboardInterrupt):
        os.write(2, b"jaxlocal: stopped\n")
        os._exit(128 + signal.SIGINT)


def command() -> None:
    """`jaxlocal` in a shell."""
    # The threads of Orbax log what also reaches us as an exception, and raise it again where nobody can catch it.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _cannot_be_raised
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # some terminals have no → or ±
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Without a byte-order mark. In some locales Python would let wrong bytes pass.
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    code = main()
    if code > 128:  # XLA may still be computing, and crashes if Python shuts down under it
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
