"""A session: one training run that lives in a folder, saves itself as it goes, and resumes where it stopped."""

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import checks, processes, text
from jaxlocal.data import Pairs, Splits, floats
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.checking import check_splits
from jaxlocal.files import write_whole
from jaxlocal.locks import lock
from jaxlocal.pipeline import Pipeline
from jaxlocal.rule import Params, Rule
from jaxlocal.training.account import DivergedError
from jaxlocal.training.checkpoints import Checkpoints, MismatchError, Saved
from jaxlocal.training.loop import Result, Watch, fit, plain_rule
from jaxlocal.training.signals import Received, received_signals
from jaxlocal.training.state import Metrics, Progress, State, best_epoch, goodness

SAVING = 0.05  # the largest part of the time that may go into saving


class Interrupted(Exception):  # noqa: N818 - it is not an error
    """A signal stopped the training; everything up to `step` is saved."""

    def __init__(self, signal: int, step: int):
        super().__init__(f"stopped after step {step}; everything is saved")
        self.signal, self.step = signal, step


class InUseError(RuntimeError):
    """Another process is training in the folder."""


class NotSavedError(RuntimeError):
    """The run cannot be saved, for a `reason` such as a full disk."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(f"the run in {folder} cannot be saved ({reason}); make room, and train it again to resume")
        self.reason = reason


class Session:
    """A training run in a folder: `fit` that writes down what it does, and resumes where it stopped.

    The folder holds `metrics.jsonl`, with one row for each epoch, and `checkpoints/`. A checkpoint is saved after an
    epoch unless saving would take more than 5 % of the time, and always at the end. A run that was killed at any
    moment, or stopped by Ctrl-C, SIGTERM, `until` or `watch`, resumes from its last checkpoint, and ends with the same
    parameters and metrics, bit for bit, as one that was never stopped.

    Several processes that have joined by `jaxlocal.distributed` train one run together: each of them opens the
    session, and process 0 alone reads and writes the folder.

    Args:
      folder: where the run lives; it is made if it does not exist. A run that is there already is resumed.
      rule: a rule, an ensemble of rules or a pipeline. A run may resume on other devices than it started on.
      data: the examples to train and validate on.
      settings: facts by which the run is recognised, such as its learning rate: a folder that holds a run with other
        settings is refused. They must be storable as JSON.
      keep: how many of the last checkpoints are kept, besides the best one on the validation set.
      annotate: returns further entries for a row of `metrics.jsonl`, such as the learning rate.

    Attributes:
      state: before `train` the checkpoint from which training resumes, or None if there is none; afterwards the state
        after the last step.
      seconds: the time spent in `train`, including what earlier processes spent up to their last checkpoint.

    Raises:
      MismatchError: the folder holds a run whose parameters have other shapes, or one with other `settings`. Another
        rule, network or data set with the same shapes is noticed only if its settings differ.
      InUseError: another process is training in the folder.
      OSError: the folder cannot be written to.

    Example:
      >>> import tempfile
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-2))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with jl.training.Session(folder, rule, jl.data.digits()) as session:
      ...         result = session.train(epochs=1)
      ...     with jl.training.Session(folder, rule, jl.data.digits()) as session:  # resumes
      ...         resumed_from = session.state.step
      ...         result = session.train(epochs=2)
      >>> resumed_from, result.state.step, len(result.state.history)
      (34, 68, 2)
    """

    def __init__(
        self,
        folder: Path | str,
        rule: Rule | Pipeline,
        data: Splits,
        *,
        settings: Mapping[str, Any] | None = None,
        keep: int = 2,
        annotate: Callable[[Metrics], Mapping[str, Any]] | None = None,
    ):
        # Two examples show what kind of data these are; `fit` checks all of them.
        check_splits(jax.tree.map(lambda leaf: leaf[:2] if np.ndim(leaf) else leaf, data), plain_rule(rule).net)
        self.folder = folder = checks.path("folder", folder)
        self.state: State | None = None
        self.seconds = 0.0
        self._rule, self._data, self._annotate = rule, data, annotate
        self._order: dict[str, int] | None = None  # what the order of the examples depends on, besides the data
        self._settings = None if settings is None else json.loads(_as_json("settings", settings))
        self._like = template(rule, data.train)
        self._unsaved_best: State | None = None
        self._saved_step, self._saved_at, self._cost = 0, time.monotonic(), 0.0
        self._held = ExitStack()
        processes.first(self._hold)
        try:
            self._checkpoints = self._held.enter_context(Checkpoints(folder / "checkpoints", keep))
            self._resume(self._checkpoints.latest(self._like))
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def train(
        self,
        *,
        epochs: int,
        batch_size: int = 32,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        patience: int | None = None,
        streamed: bool | None = None,
        watch: Watch | None = None,
        until: float = math.inf,
        progress: bool = False,
    ) -> Result:
        """Train from `state` on, and save: `jl.training.fit` with the same arguments.

        Args:
          epochs: the number of epochs in all, those before the run was resumed included.
          batch_size: the number of examples in a step.
          seed: the seed of the weights, the order of the examples and the augmentation.
          augmentation: how images are changed, from `jl.augmentation`.
          patience: stop when this number of epochs has brought no improvement on the validation set.
          streamed: whether the examples are read chunk by chunk rather than put on the device at the start.
          watch: called often with the progress, after an epoch's row is written; if it returns True, training stops.
          until: training stops as soon as `time.monotonic()` is beyond this.
          progress: whether to show the progress on stderr: a bar in a terminal, and elsewhere a line an epoch.

        Returns:
          What `fit` returns. `stopped` says whether training ended before the last epoch.

        Raises:
          Interrupted: SIGINT (Ctrl-C) or SIGTERM; everything up to the last step is saved.
          NotSavedError: the disk is full, for example.
          DivergedError: a loss is NaN, infinite or beyond 1e8; the best epoch before is saved.
          MismatchError: the run was begun with another batch_size or seed.
        """
        checks.function("watch", watch, "print")
        began, before = time.monotonic(), self.seconds
        self._keep_order({"batch_size": batch_size, "seed": seed})
        self._begin_metrics()
        with received_signals() as received:

            def follow(now: Progress) -> bool:
                self.seconds = before + time.monotonic() - began
                if now.state:
                    self._write_row(now.state)
                asked = bool(watch and watch(now)) or time.monotonic() > until
                return self._after_steps(now.state, received, asked)

            try:
                result = fit(
                    self._rule,
                    self._data,
                    epochs=epochs,
                    batch_size=batch_size,
                    seed=seed,
                    augmentation=augmentation,
                    patience=patience,
                    streamed=streamed,
                    start=self.state,
                    watch=follow,
                    progress=progress,
                )
            except DivergedError:
                if self._unsaved_best:
                    self._save(self._unsaved_best)
                    self._wait()
                raise
            self.seconds = before + time.monotonic() - began
            self.state = result.state
            if result.state.step > self._saved_step:
                self._save(result.state)
            self._wait()
        if received.number:
            raise Interrupted(received.number, result.state.step)
        return result

    def best(self) -> State | None:
        """The state after the best epoch on the validation set, or None if its checkpoint is damaged or there is none.

        There is none before the end of the first epoch.
        """
        return _as_state(self._checkpoints.best(self._like))

    def _hold(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"folder={self.folder}: is a file; name another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        if (held := lock(self.folder / ".session")) is None:
            raise InUseError(f"another process is training in {self.folder}; wait for it, or take another folder")
        self._held.enter_context(held)

    def _resume(self, saved: Saved | None) -> None:
        if saved is None:
            return
        if self._settings is not None and saved.facts.get("settings") != self._settings:
            raise MismatchError(
                f"the run in {self.folder} has other settings: {saved.facts.get('settings')}, not {self._settings}"
            )
        self.state, self.seconds = _as_state(saved), saved.facts.get("seconds", 0.0)
        self._order = saved.facts.get("order")  # checkpoints of older versions have none
        self._saved_step = saved.step

    def _keep_order(self, asked: dict[str, int]) -> None:
        """Refuse to resume with the examples in another order."""
        begun = self._order if self.state and self._order else asked
        for name, value in begun.items():
            if asked[name] != value:
                raise MismatchError(
                    f"{name}={asked[name]}: the run in {self.folder} was begun with {name}={value}; give the same, or "
                    "take another folder"
                )
        self._order = asked

    def _after_steps(self, state: State | None, received: Received, asked: bool) -> bool:
        """Save if it is time to; whether to stop. All processes must decide alike, for they compute together."""
        due = state is not None and time.monotonic() - self._saved_at > self._cost / SAVING
        received.number, stop, save = processes.largest(received.number, asked, due)
        if state:
            is_best = best_epoch(state.history) == state.history[-1]["epoch"]
            if is_best:  # the next steps overwrite the arrays of what is not saved now
                self._unsaved_best = state if save else state._replace(params=jax.tree.map(jnp.copy, state.params))
            if save:
                self._save(state)
        return bool(stop or received.number)

    def _save(self, state: State) -> None:
        began = time.monotonic()
        best = self._unsaved_best
        with self._writing():
            if best and best.step < state.step:
                self._write_checkpoint(best, goodness(best.history[-1]))
            is_best = best is not None and best.step == state.step
            self._write_checkpoint(state, goodness(state.history[-1]) if is_best else None)
        self._saved_step, self._unsaved_best = state.step, None
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began

    def _wait(self) -> None:
        """Until the checkpoints are on disk."""
        with self._writing():
            self._checkpoints.wait()

    def _write_checkpoint(self, state: State, score: float | None) -> None:
        facts: dict[str, Any] = {
            "step": state.step,
            "sums": state.sums,
            "history": state.history,
            "seconds": round(self.seconds, 2),
            "steps": state.steps,
            "order": self._order,
        }
        if self._settings is not None:
            facts["settings"] = self._settings
        self._checkpoints.save(state.step, state.params, json.loads(_as_json("facts", facts)), score)

    def _begin_metrics(self) -> None:
        """Write metrics.jsonl anew with the rows up to `state`; later epochs will be computed again."""
        lines = "".join(map(self._line, self.state.history if self.state else ()))
        with self._writing():
            processes.first(lambda: write_whole(self.folder / "metrics.jsonl", lines))

    def _write_row(self, state: State) -> None:
        line = self._line(state.history[-1])

        def write() -> None:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

        with self._writing():
            processes.first(write)

    def _line(self, row: Metrics) -> str:
        return _as_json("annotate", {**row, **(self._annotate(row) if self._annotate else {})}) + "\n"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever goes wrong in here becomes a `NotSavedError`: Orbax raises errors of many kinds for a bad disk."""
        try:
            yield
        except processes.LostError:
            raise
        except Exception as error:
            raise NotSavedError(self.folder, reason(error)) from error


def load_state(folder: Path | str, rule: Rule | Pipeline, train: Pairs, *, best: bool = False) -> State | None:
    """The last state, or the best one on the validation set, of a run in a folder, which is not changed.

    Args:
      folder: the folder of a session. Another process may be training there.
      rule: the rule of the run, or a pipeline of it.
      train: the training set of the run, or one whose examples have the same shapes.
      best: read the checkpoint of the best epoch, not the last checkpoint.

    Returns:
      The state, or None if the folder has no such checkpoint that is sound.
    """
    like = template(rule, train)
    with Checkpoints(checks.path("folder", folder) / "checkpoints", read_only=True) as checkpoints:
        return _as_state(checkpoints.best(like) if best else checkpoints.latest(like))


def template(rule: Rule | Pipeline, train: Pairs) -> Params:
    """The shapes of a rule's parameters for examples like these."""
    plain, (x, y) = plain_rule(rule), train
    key = jax.random.key(0)
    keys = jax.random.split(key, plain.placement.members) if plain.placement.members else key
    return jax.eval_shape(plain.init, keys, floats((np.asarray(x[:2]), np.asarray(y[:2]))))


def reason(error: BaseException) -> str:
    """What went wrong, in the operating system's words if they can be found in an error or its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if number := re.search(r"os_error_code='(\d+)'", str(cause)):
            return os.strerror(int(number[1]))
        cause = cause.__cause__ or cause.__context__
    return text.reason(error)


def _as_json(name: str, value: Mapping[str, Any]) -> str:
    """The value as JSON; arrays and NumPy's numbers become lists and numbers."""

    def plain(entry: Any) -> Any:
        if hasattr(entry, "tolist"):
            return entry.tolist()
        raise TypeError(f"{name}: cannot store {checks.show(entry)}; give numbers, texts, and lists and dicts of them")

    return json.dumps(value, default=plain)


def _as_state(saved: Saved | None) -> State | None:
    if saved is None:
        return None
    sums = tuple({name: np.asarray(value, np.float64) for name, value in term.items()} for term in saved.facts["sums"])
    steps = saved.facts.get("steps", 0)  # checkpoints of older versions have none
    return State(saved.params, saved.facts["step"], sums, tuple(saved.facts["history"]), steps)
