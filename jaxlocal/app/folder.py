"""The folder of a run: who may write there, and what it holds.

`config.yaml` has the settings, `metrics.jsonl` a row for each epoch, `checkpoints/` the parameters, `curves.png` the
learning curves, and `summary.json` the final measurements. A run that learns texts has `tokenizer.json` and `text.json`
as well, and a run of a table has the names of its columns in `table.json`.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax

from jaxlocal import checks, processes
from jaxlocal.app import settings
from jaxlocal.app.build import reading
from jaxlocal.app.provenance import FACTS, made_by
from jaxlocal.app.settings import PLACEMENT, Config, ConfigError, flag, nothing_to_resume
from jaxlocal.data import Encoding
from jaxlocal.data.tables import is_table
from jaxlocal.data.text import is_text
from jaxlocal.files import of_user, write_whole
from jaxlocal.locks import lock
from jaxlocal.training import Metrics

TABLE = "table.json"  # the names of the columns that a run of a table was trained on


class Measured(NamedTuple):
    """Loss and accuracy after one epoch, on each part of the data; each number is a list if there are several seeds."""

    name: str  # "last" or "best"
    epoch: int
    parts: dict[str, dict[str, Any]]


class Summary(NamedTuple):
    """The outcome of a run."""

    folder: Path
    measured: tuple[Measured, ...]
    history: tuple[Metrics, ...]
    seconds: float


@contextmanager
def opened(
    folder: Path, config: Config, resume: bool, encoding: Encoding | None = None, inputs: Sequence[str] = ()
) -> Iterator[None]:
    """Hold the folder for this run alone: a new run begins there, or the run that it holds is resumed.

    A new run keeps its settings and, if it learns texts, their encoding or, if it learns a table, the names of its
    columns of inputs.

    Raises:
      ConfigError: the folder is in use, cannot be written to, or holds anything but a run with these settings; or there
        is no run to resume.
    """
    with ExitStack() as held:
        processes.first(lambda: _begin(held, folder, config, resume, encoding, inputs))
        yield


def _begin(
    held: ExitStack, folder: Path, config: Config, resume: bool, encoding: Encoding | None, inputs: Sequence[str]
) -> None:
    held.enter_context(_locked(folder))
    if resume:
        check_same(folder, config)
    elif (folder / "config.yaml").exists():
        raise ConfigError(f"--out={folder}: holds a run; resume it with --resume, or name another folder")
    elif other := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        raise ConfigError(f"--out={folder}: holds other files ({other[0]} …); name an empty or a new folder")
    else:
        if encoding:
            encoding.save(folder)
        if inputs:
            write_whole(folder / TABLE, json.dumps({"inputs": inputs}, indent=2) + "\n")
        settings.write(config, folder / "config.yaml")


def keeps_encoding(folder: Path) -> bool:
    """Whether a run has kept how it encodes texts, which a run that learns texts does."""
    return (folder / "text.json").exists()


def kept_encoding(folder: Path, config: Config) -> Encoding | None:
    """How a run has encoded its texts; None if its data are no texts.

    Raises:
      ConfigError: the files that keep it are damaged or missing.
    """
    file = of_user(config.data)
    if not keeps_encoding(folder):
        with reading(config.data):  # of a table that is gone, `build` says so
            if (is_table(file) and not file.exists()) or not is_text(config.data):
                return None
    try:
        return Encoding.load(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def kept_inputs(folder: Path) -> tuple[str, ...]:
    """The columns of the table that a run was trained on; none if its data are no table, or if it did not keep them.

    Raises:
      ConfigError: the file that keeps them is damaged.
    """
    try:
        inputs = json.loads((folder / TABLE).read_text(encoding="utf-8"))["inputs"]
        if not (isinstance(inputs, list) and inputs and all(isinstance(column, str) for column in inputs)):
            raise ValueError("no names")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError):
        raise ConfigError(f"{folder / TABLE} is damaged; restore it, or train another run") from None
    return tuple(inputs)


def resumed(folder: Path, config: Config) -> tuple[Encoding | None, tuple[str, ...]]:
    """How the run that is resumed with these settings has encoded its texts, and the columns of its table.

    Raises:
      ConfigError: there is no run with these settings, or what it has kept of its data is damaged.
    """
    check_same(folder, config)
    return kept_encoding(folder, config), kept_inputs(folder)


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Hold the folder of several runs or trials for one command alone; it is made if it does not exist.

    Raises:
      ConfigError: the folder is in use, cannot be written to, or is that of a single run.
    """
    if (folder / "config.yaml").exists():
        raise ConfigError(f"--out={folder}: holds a run of jaxlocal train; name another folder")
    with _locked(folder):
        yield


def folder_or_next(folder: Path | str | None, name: str) -> Path:
    """The folder if it is given, or else the next free one, which is made."""
    return _next_free(name) if folder is None else checks.path("folder", folder)


def _next_free(name: str) -> Path:
    """Make the folder runs/NAME-N with the first N that is free, so that no other process gets the same one."""
    number = 1
    while True:
        folder = Path("runs") / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(f"runs: cannot be written to ({error.strerror}); name a folder with --out") from None


def history(folder: Path) -> list[Metrics]:
    """The rows of a run's metrics.jsonl up to the first one that is incomplete or damaged."""
    rows: list[Metrics] = []
    with suppress(FileNotFoundError):
        for line in (folder / "metrics.jsonl").read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not (isinstance(row, dict) and row.keys() >= {"epoch", "step", "train", "validation"}):
                break
            rows.append(row)
    return rows


def kept_facts(folder: Path) -> dict[str, Any]:
    """The facts that summary.json has of how the run was made; none if there is no such file that can be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return {name: kept[name] for name in FACTS}
    return {}


def write_summary(summary: Summary, config: Config) -> None:
    """Write summary.json: the measurements, and the settings, versions and device that they come from."""
    content = {
        "measured": [measured._asdict() for measured in summary.measured],
        "seconds": round(summary.seconds, 2),
        **made_by(config),
        "device": jax.devices()[0].device_kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_whole(summary.folder / "summary.json", json.dumps(content, indent=2) + "\n")


def _locked(folder: Path) -> IO[str]:
    """The lock of a process that writes into the folder, which is made if it does not exist."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        locked = lock(folder / ".lock")
    if locked is None:
        raise ConfigError(f"--out={folder}: another process is training there; name another folder")
    return locked


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one sentence, with the name of the flag, that a folder cannot be written to."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--out={folder}: cannot be written to ({error.strerror}); name another folder") from None


def check_same(folder: Path, config: Config, file: str = "config.yaml") -> None:
    """A run resumes with the settings it began with, apart from where it runs, and how long if its rate is constant."""
    if not (folder / file).exists():
        raise nothing_to_resume(folder)
    saved = settings.read(folder / file)
    free = (*PLACEMENT, "epochs", "patience") if saved.schedule == "constant" else PLACEMENT
    for name, value in asdict(saved).items():
        if name not in free and getattr(config, name) != value:
            asked, has = (" ".join(one) if isinstance(one, tuple) else one for one in (getattr(config, name), value))
            reason = f", on which the rates of --schedule {saved.schedule} depend" if name == "epochs" else ""
            raise ConfigError(
                f"{flag(name)}={asked}: the run in {folder} has {'none' if has in (None, '') else has}{reason}; leave "
                "out the flag, or name another folder"
            )
