"""Loggers: programs that show the curves of a run while it trains, such as TensorBoard or Weights & Biases.

with jl.loggers.opened(["wandb"], "runs/mine", {"lr": 1e-3}) as watch:
    jl.training.fit(rule, data, epochs=2, watch=watch)

A logger of your own is a class with the two methods of `Logger`, or a `watch` of your own.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from jaxlocal import checks, processes
from jaxlocal.hints import nearest
from jaxlocal.text import reason
from jaxlocal.training.loop import Watch
from jaxlocal.training.state import Metrics, Progress

PROJECT = "jaxlocal"  # the name under which wandb, trackio and MLflow collect the runs


class Logger(Protocol):
    """Shows the curves of one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show these values, by the names of their curves, at this step."""

    def close(self) -> None:
        """Called once, at the end of the training."""


Opener = Callable[[Path, Mapping[str, Any], int], Logger]  # the run's folder, what made it, and its first step


class _TensorBoard:
    def __init__(self, library: ModuleType, folder: Path, facts: Mapping[str, Any], first: int):
        self._board = library.SummaryWriter(str(folder / "tensorboard"), purge_step=first)
        self._board.add_text("made by", f"```json\n{json.dumps(facts, indent=2)}\n```", first)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


class _WandB:
    """Weights & Biases, and trackio, which has the same functions. A run that resumes is a new one there."""

    def __init__(self, library: ModuleType, folder: Path, facts: Mapping[str, Any], first: int):
        self._run = library.init(project=PROJECT, name=folder.name, config=dict(facts))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """MLflow, whose settings are flat and whose other facts are tags."""

    def __init__(self, library: ModuleType, folder: Path, facts: Mapping[str, Any], first: int):
        self._library = library
        library.set_experiment(PROJECT)
        library.start_run(run_name=folder.name, tags={name: json.dumps(value) for name, value in facts.items()})
        try:
            library.log_params(facts.get("settings", {}))
        except Exception:
            library.end_run()  # as long as a run is open, MLflow begins no other
            raise

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._library.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._library.end_run()


ALL: dict[str, tuple[str, Callable[..., Logger]]] = {  # the library that each of them needs, and what opens it
    "tensorboard": ("tensorboardX", _TensorBoard),
    "wandb": ("wandb", _WandB),
    "trackio": ("trackio", _WandB),
    "mlflow": ("mlflow", _MLflow),
}


def check(names: Sequence[str | Opener]) -> None:
    """There are such loggers, and their libraries are installed.

    Raises:
      ValueError: there is no logger of this name.
      ImportError: its library is not installed.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        example = [names] if isinstance(names, str) else ["tensorboard"]
        raise TypeError(f"log={names!r}: must be a list of names, such as {example}")
    for name in names:
        _opener(name)


@contextmanager
def opened(
    names: Sequence[str | Opener], folder: Path | str, facts: Mapping[str, Any] | None = None, first: int = 0
) -> Iterator[Watch]:
    """Loggers as a `watch` of `fit` and of a session, closed at the end of the `with`.

    They get the loss every few steps, and after each epoch what `fit` has measured; of several seeds the mean. A logger
    that fails is left out from there on, with a warning: the training goes on.

    Args:
      names: "tensorboard", "wandb", "trackio" or "mlflow"; or functions (folder, facts, first) -> Logger.
      folder: the folder of the run, whose name the run has in the loggers.
      facts: what made the curves, as JSON can hold it: settings, the command, the commit.
      first: the step at which the training begins or resumes.

    Example:
      >>> class Printed:
      ...     def log(self, step, values): print(step, sorted(values))
      ...     def close(self): print("closed")
      >>> rule = jl.rules.bp(jl.models.mlp(hidden=(8,)), optax.adam(1e-3))
      >>> with jl.loggers.opened([lambda *_: Printed()], "runs/mine") as watch:
      ...     result = jl.training.fit(rule, jl.data.digits(), epochs=1, watch=watch)
      25 ['loss']
      34 ['component 0/task', 'train/accuracy', 'train/loss', 'validation/accuracy', 'validation/loss']
      closed
    """
    check(names)
    folder = checks.path("folder", folder)
    loggers: list[tuple[str, Logger]] = []

    def start(label: str, name: str | Opener) -> None:
        loggers.append((label, _opener(name)(folder, facts or {}, first)))

    for name in names if processes.writes() else ():
        label = name if isinstance(name, str) else getattr(name, "__name__", "logger")
        _works(label, "start", partial(start, label, name))

    def watch(progress: Progress) -> bool:
        values = _of_epoch(progress.state.history[-1]) if progress.state else {"loss": progress.loss}
        for label, logger in tuple(loggers):
            if not _works(label, "log", partial(logger.log, progress.step, values)):
                loggers.remove((label, logger))
                _works(label, "end", logger.close)
        return False

    try:
        yield watch
    finally:
        for label, logger in loggers:
            _works(label, "end", logger.close)


def _opener(name: str | Opener) -> Opener:
    if callable(name):
        return name
    if name not in ALL:
        raise ValueError(f"log={name}: unknown name; {nearest(str(name), ALL)}")
    library, opener = ALL[name]
    try:
        return partial(opener, import_module(library))
    except ImportError:
        raise ImportError(f"log={name}: needs {library}; install it with pip install 'jaxlocal[{name}]'") from None


def _works(label: str, what: str, do: Callable[[], object]) -> bool:
    """Whether a logger could do this. What it raises becomes a warning: it may cost a curve, but not the training."""
    try:
        do()
        return True
    except Exception as error:  # of any library
        warnings.warn(f"{label} cannot {what} ({reason(error)}); the training goes on without it", stacklevel=2)
        return False


def _of_epoch(row: Metrics) -> dict[str, float]:
    """The values of an epoch by the names of their curves."""
    values = {f"{part}/{name}": row[part][name] for part in ("train", "validation") for name in row[part]}
    values |= {f"component {i}/{name}": value for i, terms in enumerate(row["terms"]) for name, value in terms.items()}
    return {name: float(np.mean(value)) for name, value in values.items()}
