"""A run and its folder: settings, metrics, checkpoints, pictures; killed at any moment, it can be gone on with."""

import fcntl
import itertools
import json
import os
import platform
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import plots
from jaxlocal import search as random_search
from jaxlocal.app import settings
from jaxlocal.app.settings import WHERE, Built, Config, ConfigError, build, flag
from jaxlocal.data import PARTS, floats
from jaxlocal.diagnostics import alignment, layer_outputs, parameter_counts
from jaxlocal.files import write_whole
from jaxlocal.network import squared_error
from jaxlocal.rule import Params
from jaxlocal.training import Progress, Result, Row, State, best_epoch, evaluate, fit, goodness
from jaxlocal.training.checkpoints import Checkpoints, Saved
from jaxlocal.version import __version__

Say = Callable[[str], None]
SHARE = 0.05  # of the time that may go into waiting for checkpoints


class RunError(Exception):
    """What a run cannot go on with, in one sentence: no mistake of the user's."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop by a signal; everything is saved, and `command` goes on with it."""

    def __init__(self, number: int, after: str, command: str):
        super().__init__(f"stopped after {after}; {command} goes on from there")
        self.number, self.after = number, after


class Measured(NamedTuple):
    """Loss and accuracy after an epoch, on each part of the data; lists over the seeds where there are several."""

    name: str  # "last", or "best"
    epoch: int
    parts: dict[str, dict[str, Any]]


class Summary(NamedTuple):
    """What a run came to."""

    folder: Path
    measured: tuple[Measured, ...]
    history: tuple[Row, ...]
    seconds: float


def train(
    config: Config, folder: Path | None = None, *, resume: bool = False, tensorboard: bool = False, say: Say = print
) -> Summary:
    """Train as the settings say, and leave a folder: config.yaml, metrics.jsonl, checkpoints, curves.png, summary.json.

    Args:
      config: the settings.
      folder: where; by default the next free runs/RULE-DATA-N.
      resume: go on with the run in the folder, if there is one.
      tensorboard: write TensorBoard's logs into the folder, too.
      say: what to do with each line of the report.

    Returns:
      What it came to.

    Raises:
      ConfigError: the settings or the folder cannot be; nothing was trained.
      Interrupted: Ctrl-C or SIGTERM; everything up to the last step is saved.
      RunError: nothing can be saved any more.
      DivergedError: a loss is no number.
    """
    built = build(config)
    board = _board() if tensorboard else None
    folder = folder or next_free(f"{config.rule}-{Path(config.data).stem}")
    with (
        _opened(folder, config, resume) as goes_on,
        _interruptible() as caught,
        Checkpoints(folder / "checkpoints") as checkpoints,
    ):
        like = template(config, built)
        start = last_state(checkpoints, like) if goes_on else None
        done = len(start.history) if start else 0
        if config.epochs < done:
            raise ConfigError(
                f"--epochs={config.epochs}: the run in {folder} has {done} behind it; leave the flag out, or take more"
            )
        settings.write(config, folder / "config.yaml")
        say(_heading(config, built, like, folder))
        if goes_on:
            say(_where(start, len(built.data.train[0]) // config.batch_size))
        record = _Record(folder, built, checkpoints, caught, start, config, board)
        began = time.perf_counter()
        try:
            result = fit(
                built.rule,
                built.data,
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=config.seed,
                augmentation=built.augmentation,
                patience=config.patience,
                start=start,
                watch=record.watch,
            )
        finally:
            record.bar.close()
        seconds = time.perf_counter() - began
        record.finish(result)
        if caught.number:
            command = f"jaxlocal train --out {shlex.quote(str(folder))} --resume"
            raise Interrupted(caught.number, f"step {result.state.step}", command)
        measured = _measure(built, result, checkpoints, like)
        _plot(folder, result.state.history)
        summary = Summary(folder, measured, result.state.history, seconds)
        _write_summary(summary, config)
        if record.trained:
            say(_timing(result, seconds, len(result.state.history) - done, record.trained))
        say(table({"": summary}))
        return summary


def template(config: Config, built: Built) -> Params:
    """The shapes of the parameters."""
    x, y = floats(tuple(np.asarray(leaf[:2]) for leaf in built.data.train))  # type: ignore[arg-type]
    key = jax.random.key(0)
    keys = jax.random.split(key, config.seeds) if config.seeds > 1 else key
    return jax.eval_shape(built.plain.init, keys, (x, y))


def restored(folder: Path, *, best: bool = False, data: str | None = None) -> Summary:
    """The accuracies of a run's last or best checkpoint, on its own or on another data set."""
    config, built, saved = _opened_to_read(folder, best)
    if data is not None:
        others = settings.examples(replace(config, data=data))
        for own, other in zip(built.data.train, others.train, strict=True):
            if own.shape[1:] != other.shape[1:]:
                raise ConfigError(
                    f"--data={data}: has examples or targets of shape {other.shape[1:]}, but the run "
                    f"{own.shape[1:]}; take a set like {config.data}"
                )
        built = built._replace(data=others)
    measured = _on_all_parts(built, "best" if best else "last", saved)
    return Summary(folder, (measured,), tuple(saved.facts["history"]), 0.0)


def draw(folder: Path, *, best: bool = False, examples: int = 1000) -> Iterator[Path]:
    """The pictures of a run, into its folder: curves, and of its first seed t-SNE, class distances and alignment."""
    config, built, saved = _opened_to_read(folder, best)
    params, rows = saved.params, history(folder)
    if not rows:
        raise ConfigError(f"{str(folder)!r} has no epoch in metrics.jsonl; go on with it by train --resume")
    if config.seeds > 1:
        params = jax.tree.map(lambda leaf: leaf[0], params)
        built = build(replace(config, seeds=1, devices=1, pipeline=False))

    def save(name: str, figure: Any) -> Path:
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        return path

    yield save("curves", plots.curves(rows))
    x, y = floats(tuple(np.asarray(leaf[:examples]) for leaf in built.data.test))  # type: ignore[arg-type]
    x = built.augmentation.test(jnp.asarray(x)) if built.augmentation else jnp.asarray(x)
    y = jnp.asarray(y)
    yield save("alignment", plots.alignment({config.rule: alignment(built.plain, params, (x, y))}))
    if built.plain.net.loss is squared_error:
        return
    panels = layer_outputs(built.plain, params, x)
    try:
        pictures = {"distances": plots.distances(panels, y), "tsne": plots.tsne(panels, y)}
    except ValueError as error:
        raise ConfigError(f"--examples={examples}: {error}") from None
    for name, figure in pictures.items():
        yield save(name, figure)


def _opened_to_read(folder: Path, best: bool) -> tuple[Config, Built, Saved]:
    """The settings of a run, what they stand for, and its last or best checkpoint."""
    path = folder / "config.yaml"
    if not path.exists():
        raise ConfigError(f"{str(folder)!r} holds no run; name a folder that jaxlocal train has left")
    config = replace(settings.read(path), devices=1, pipeline=False)
    built = build(config)
    like = template(config, built)
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        saved = checkpoints.best(like) if best else checkpoints.latest(like)
    if saved is None:
        remedy = "leave out --best" if best else "train it by --resume"
        raise ConfigError(f"{str(folder)!r} has no sound {'best ' * best}checkpoint; {remedy}")
    return config, built, saved


def history(folder: Path) -> list[Row]:
    """The rows of a run's metrics.jsonl; the last one may be half written."""
    rows = []
    with suppress(FileNotFoundError, json.JSONDecodeError):
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            rows.append(json.loads(line))
    return rows


def table(summaries: dict[str, Summary]) -> str:
    """Accuracy in per cent (or the loss, where there are no classes) of runs by name; mean ± std over the seeds."""
    lines = [["", *PARTS]]
    for name, summary in summaries.items():
        for measured in summary.measured:
            label = f"{name} {measured.name} (epoch {measured.epoch})".strip()
            lines.append([label, *(_shown(measured.parts[part]) for part in PARTS)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def _shown(numbers: dict[str, Any]) -> str:
    measure, scale, unit = ("accuracy", 100, " %") if "accuracy" in numbers else ("loss", 1, "")
    values = scale * np.atleast_1d(numbers[measure])
    text = f"{np.mean(values):.2f}" if scale > 1 else f"{np.mean(values):.4g}"
    return (f"{text} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else text) + unit


class _Record:
    """Writes down what `fit` tells of."""

    def __init__(
        self,
        folder: Path,
        built: Built,
        checkpoints: Checkpoints,
        caught: "_Caught",
        start: State | None,
        config: Config,
        board: Any,
    ):
        from tqdm import tqdm

        self._folder, self._built, self._checkpoints, self._caught = folder, built, checkpoints, caught
        self._first = start.step if start else 0
        rows = list(start.history) if start else []
        self._metrics = folder / "metrics.jsonl"
        # What came after the checkpoint comes again.
        write_whole(self._metrics, "".join(self._line(row) for row in rows))
        self._board = board and board(str(folder / "tensorboard"), purge_step=self._first)
        self._best: State | None = None  # that is not saved yet
        self._step = self._saved = self._first
        self._saved_at, self._cost = time.monotonic(), 0.0
        self._shown: dict[str, str] = {}
        self.bar = tqdm(
            total=config.epochs * (len(built.data.train[0]) // config.batch_size),
            initial=self._first,
            unit="batch",
            disable=None,  # where nobody watches
            dynamic_ncols=True,
            leave=False,
        )

    @property
    def trained(self) -> int:
        """Steps since the start of this process."""
        return self._step - self._first

    def watch(self, progress: Progress) -> bool:
        """Show the progress, write the row and, now and then, a checkpoint; True stops the run."""
        self._step = progress.step
        self._shown["loss"] = f"{progress.loss:.4g}"
        if progress.state:
            state, row = progress.state, progress.state.history[-1]
            self._shown["validation"] = _shown(row["validation"])
            with self._writing():
                self._append(row)
            if best_epoch(state.history) == row["epoch"]:
                self._best = state._replace(params=jax.tree.map(jnp.copy, state.params))
            if time.monotonic() - self._saved_at > self._cost / SHARE:
                self._save(state)
        self.bar.set_description(f"epoch {-(-progress.step // progress.steps)}", refresh=False)
        self.bar.set_postfix(self._shown, refresh=False)
        self.bar.update(progress.step - self.bar.n)
        return bool(self._caught.number)

    def finish(self, result: Result) -> None:
        """The last checkpoint, and all of them written."""
        self._step = result.state.step
        self._save(result.state)
        with self._writing():
            self._checkpoints.wait()
        if self._board:
            self._board.close()

    def _append(self, row: Row) -> None:
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(self._line(row))
            file.flush()
            os.fsync(file.fileno())
        if self._board:
            for name, value in _scalars(row):
                self._board.add_scalar(name, value, row["step"])

    def _save(self, state: State) -> None:
        if state.step == self._saved:
            return
        began = time.monotonic()
        with self._writing():
            if self._best and self._best.step < state.step:
                save_state(self._checkpoints, self._best, score=goodness(self._best.history[-1]))
            is_best = self._best is not None and self._best.step == state.step
            save_state(self._checkpoints, state, score=goodness(state.history[-1]) if is_best else None)
        self._best, self._saved = None, state.step
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What goes wrong with a disk, Orbax wraps in errors of many kinds."""
        try:
            yield
        except Exception as error:
            raise RunError(
                f"--out={self._folder}: the run cannot be saved any more ({_reason(error)}); make room, and go on by "
                f"jaxlocal train --out {self._folder} --resume"
            ) from error

    def _line(self, row: Row) -> str:
        return json.dumps({**row, "lr": self._built.lr(row["step"] - 1)}) + "\n"


class _Caught:
    """The signal that asked the run to stop, if one did."""

    number = 0


@contextmanager
def _interruptible() -> Iterator[_Caught]:
    """Ctrl-C or SIGTERM lets the steps under way finish; a second one ends the process at once."""
    caught = _Caught()

    def note(number: int, frame: Any) -> None:
        caught.number = number
        signal.signal(number, signal.SIG_DFL)  # an exception would wait for the steps, too
        # Not by print: the signal may have come in the middle of one.
        os.write(2, b"\n" * os.isatty(2) + b"stopping after these steps; once more ends at once\n")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    here = threading.current_thread() is threading.main_thread()
    try:
        if here:
            for number in before:
                signal.signal(number, note)
        yield caught
    finally:
        if here:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _opened(folder: Path, config: Config, resume: bool) -> Iterator[bool]:
    """The folder, for this process alone; whether there is a run to go on with."""
    with _lock(folder) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--out={folder}: another process is training into it; name another folder") from None
        there = (folder / "config.yaml").exists()
        if there and not resume:
            raise ConfigError(f"--out={folder}: holds a run; go on with it by --resume, or name another folder")
        if there:
            _check_same(settings.read(folder / "config.yaml"), config, folder)
        elif other := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            raise ConfigError(f"--out={folder}: holds other things ({other[0]} …); name an empty folder, or a new one")
        else:
            settings.write(config, folder / "config.yaml")
        yield there


def _lock(folder: Path) -> Any:
    """The file that tells who writes into the folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"--out={folder}: cannot be written to ({error.strerror}); name another folder") from None


def _check_same(saved: Config, config: Config, folder: Path) -> None:
    """A run is gone on with as it began; only where it is computed, and how long with a constant rate, may change."""
    free = (*WHERE, "epochs", "patience") if saved.schedule == "constant" else WHERE
    for name, value in asdict(saved).items():
        if name not in free and getattr(config, name) != value:
            asked, has = (" ".join(one) if isinstance(one, tuple) else one for one in (getattr(config, name), value))
            raise ConfigError(
                f"{flag(name)}={asked}: the run in {folder} has {has or 'none'}; leave the flag out, or name another "
                "folder"
            )


def next_free(name: str) -> Path:
    """The folder runs/NAME-N of the first free N, made here so that no other process gets the same."""
    for number in itertools.count(1):
        folder = Path("runs") / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"runs: cannot be written to ({error.strerror}); name a folder by --out") from None
        return folder
    raise AssertionError


def search(flags: Any, say: Say) -> None:
    """Search the settings of each rule; a table and the winner's test accuracy for each, one picture for all."""
    from tqdm import tqdm

    same = ("model", "data", "epochs", "batch_size", "model_args", "seed")
    chosen = Config(**{name: getattr(flags, name) for name in same})
    settings.check_numbers(chosen)
    for name in ("trials", "group"):
        if (number := getattr(flags, name)) < 1:
            raise ConfigError(f"{flag(name)}={number}: must be at least 1")
    net, data = settings.network_and_data(chosen)
    budget = {"epochs": flags.epochs, "batch_size": flags.batch_size, "seed": flags.seed}
    fixed = settings.arguments("rule-args", flags.rule_args)
    folder = flags.out or next_free("search")
    _lock(folder).close()
    found = {}
    for rule in flags.rules:
        make = random_search.maker(rule, net, **fixed)
        drawn = random_search.draw(random_search.bartunov(rule), flags.trials, flags.seed)
        with tqdm(total=flags.trials * flags.epochs, unit="epoch", desc=rule, disable=None, leave=False) as bar:

            def report(done: int, epoch: int, best: float, bar: Any = bar) -> None:
                bar.set_postfix(best=f"{best:.4f}", refresh=False)
                bar.update(done * flags.epochs + epoch * min(flags.group, flags.trials - done) - bar.n)

            try:
                trials = random_search.search(
                    make, drawn, data, **budget, group=flags.group, folder=folder / rule, report=report
                )
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{rule}: {error}") from None
            except KeyboardInterrupt:
                command = f"the same command with --out {shlex.quote(str(folder))}"
                raise Interrupted(signal.SIGINT, f"the last group of {rule} that is done", command) from None
        found[rule] = trials
        say(f"{rule} on {flags.data}, {flags.trials} settings of {flags.epochs} epochs → {folder / rule}")
        say(random_search.table(trials))
        if all(trial.diverged for trial in trials):
            say("all of them diverged\n")
            continue
        on_test = random_search.on_test(make, random_search.best(trials).setting, data, **budget)
        say(f"test accuracy of the best, trained anew: {on_test:.2%}\n")
    random_search.histograms(found).savefig(folder / "histograms.png", dpi=120)
    say(f"picture: {folder / 'histograms.png'}")


def save_state(checkpoints: Checkpoints, state: State, score: float | None = None) -> None:
    """Save all that `fit` needs to go on."""
    facts = {
        "step": state.step,
        "sums": jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), list(state.sums)),
        "history": list(state.history),
    }
    checkpoints.save(state.step, state.params, facts, score)


def last_state(checkpoints: Checkpoints, like: Params) -> State | None:
    """Where `fit` goes on, if anything was saved; `like` has the shapes of the parameters."""
    saved = checkpoints.latest(like)
    if saved is None:
        return None
    facts = saved.facts
    sums = tuple({name: np.asarray(value, np.float64) for name, value in term.items()} for term in facts["sums"])
    return State(saved.params, facts["step"], sums, tuple(facts["history"]))


def _heading(config: Config, built: Built, like: Params, folder: Path) -> str:
    counts = parameter_counts(built.plain, like)
    runs = max(1, config.seeds)
    weights = (counts.effective + counts.affiliated) // runs
    share = counts.effective / (counts.effective + counts.affiliated)
    devices = f", {config.devices} devices" if config.devices > 1 else ""
    seeds = f", {runs} seeds" if runs > 1 else ""
    return (
        f"{config.rule} on {config.data}: {config.model}, {_count(len(like.components), 'component')}, {weights:,} "
        f"weights ({share:.0%} predict){seeds}{devices} → {folder}"
    )


def _where(start: State | None, steps: int) -> str:
    if start is None:
        return "there is no checkpoint to go on from: it begins anew"
    epoch, batch = divmod(start.step, steps)
    return f"going on after epoch {epoch}" + (f" and {_count(batch, 'batch', 'batches')}" if batch else "")


def _timing(result: Result, seconds: float, epochs: int, steps: int) -> str:
    first = result.seconds_to_first_step
    ended = " (stopped early)" if result.stopped else ""
    rate = steps / max(seconds - first, 1e-9)
    return (
        f"{_count(epochs, 'epoch')}{ended} in {seconds:.1f} s, of it {first:.1f} s to the first step, {rate:,.0f} "
        "steps/s with evaluation"
    )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _measure(built: Built, result: Result, checkpoints: Checkpoints, like: Params) -> tuple[Measured, ...]:
    """After the last epoch, and after the best one on validation if that is another."""
    rows = result.state.history
    last = Saved(result.state.step, result.params, {"history": rows})
    found = [_on_all_parts(built, "last", last)]
    if best_epoch(rows) != rows[-1]["epoch"] and (best := checkpoints.best(like)):
        found.append(_on_all_parts(built, "best", best))
    return tuple(found)


def _on_all_parts(built: Built, name: str, saved: Saved) -> Measured:
    parts = zip(PARTS, built.data, strict=True)
    measured = {part: evaluate(built.plain, saved.params, pair, built.augmentation) for part, pair in parts}
    return Measured(name, len(saved.facts["history"]), measured)


def _plot(folder: Path, rows: tuple[Row, ...]) -> None:
    plots.curves(rows).savefig(folder / "curves.png", dpi=120)


def _write_summary(summary: Summary, config: Config) -> None:
    content = {
        "measured": [measured._asdict() for measured in summary.measured],
        "seconds": round(summary.seconds, 2),
        "settings": asdict(config),
        "versions": {"jaxlocal": __version__, "jax": jax.__version__, "python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_whole(summary.folder / "summary.json", json.dumps(content, indent=2) + "\n")


def _board() -> Any:
    """What writes TensorBoard's logs."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ConfigError("--tensorboard: needs tensorboardX; bring it by pip install tensorboardX") from None
    return SummaryWriter


def _scalars(row: Row) -> Iterator[tuple[str, float]]:
    """What TensorBoard is told; of several seeds the means."""
    for part in ("train", "validation"):
        for name, value in row[part].items():
            yield f"{part}/{name}", float(np.mean(value))
    for component, terms in enumerate(row["terms"]):
        for name, value in terms.items():
            yield f"component {component}/{name}", float(np.mean(value))


def _reason(error: BaseException) -> str:
    """The system's own words, if they are to be found behind the error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if number := re.search(r"os_error_code='(\d+)'", str(cause)):
            return os.strerror(int(number[1]))
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split())[:200] or type(error).__name__
