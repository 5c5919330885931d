"""Runs in folders: train, load, measure and draw them. A run that was killed at any moment can be resumed."""

import os
import shlex
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import checks, loggers, plots, processes, training
from jaxlocal.app import settings, stages, text, trained
from jaxlocal.app.build import Built, Data, build, build_for, load_data, on_all_devices, reading, stand_in
from jaxlocal.app.folder import (
    Measured,
    Summary,
    folder_or_next,
    history,
    kept_encoding,
    kept_facts,
    kept_inputs,
    opened,
    resumed,
    write_summary,
)
from jaxlocal.app.prediction import Numbers, Prediction, predictions, prepared
from jaxlocal.app.provenance import FACTS, in_picture, made_by
from jaxlocal.app.rule_names import located, short
from jaxlocal.app.settings import Config, ConfigError, shown
from jaxlocal.data import SPLITS, Splits, floats
from jaxlocal.data.checking import are_classes
from jaxlocal.data.sets import has_columns, is_resized
from jaxlocal.data.text import is_text
from jaxlocal.diagnostics import alignment, layer_outputs, parameter_counts
from jaxlocal.loggers import Opener
from jaxlocal.rule import Params, Rule
from jaxlocal.training import Interrupted, Metrics, Result, Session, State, best_epoch, load_state
from jaxlocal.training.loop import sample
from jaxlocal.training.session import template

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Say = Callable[[str], None]


class Stopped(Exception):  # noqa: N818 - it is not an error
    """A signal stopped the work; everything is saved, and `command` resumes it."""

    def __init__(self, signal: int, after: str, command: str):
        super().__init__(f"stopped after {after}; resume with: {command}")
        self.signal, self.after = signal, after


def interrupted(after: str, folder: Path) -> Stopped:
    """Ctrl-C stopped a command that goes on when it is called again with this folder."""
    return Stopped(signal.SIGINT, after, f"the same command and --out {shlex.quote(str(folder))}")


def train(
    config: Config,
    folder: Path | str | None = None,
    *,
    resume: bool = False,
    log: Sequence[str | Opener] = (),
    say: Say = print,
) -> Summary:
    """Train with these settings, and leave a folder: config.yaml, metrics.jsonl, checkpoints, curves.png, summary.json.

    Args:
      config: the settings.
      folder: the run's folder; by default runs/RULE-DATA-N with the first N that is free.
      resume: whether to resume the run in the folder.
      log: the loggers that show the curves, such as ["tensorboard", "wandb"]; see `jl.loggers`.
      say: called with each line of the report.

    Returns:
      The outcome of the run.

    Raises:
      ConfigError: the settings or the folder are wrong; nothing was trained.
      Stopped: Ctrl-C or SIGTERM; everything up to the last step is saved.
      NotSavedError: the disk is full, for example.
      DivergedError: a loss is NaN, infinite or too large.

    Example:
      >>> import tempfile
      >>> from jaxlocal.app import Config, train
      >>> config = Config(rule="dfa", lr=1e-2, epochs=2, model_args=("hidden=[16]",))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     summary = train(config, f"{folder}/run", say=lambda line: None)
      >>> summary.measured[0].parts["test"]["accuracy"] > 0.5
      True
    """
    say = say if processes.writes() else silence
    settings.check(config)
    config = on_all_devices(replace(config, rule=located(config.rule)))
    known = processes.first(lambda: resumed(checks.path("folder", folder), config)) if resume else ()
    built = processes.together(lambda: build(config, *known))
    unlike = f"--data={config.data}: holds other examples for process 0; give all processes the same"
    processes.check_same(lambda: sample(built.data), ConfigError(unlike))
    processes.first(lambda: _check_loggers(log))
    name = f"{short(config.rule)}-{Path(config.data.removesuffix('.gz')).stem}"
    folder = processes.first(lambda: folder_or_next(folder, name))
    with opened(folder, config, resume, built.encoding, built.inputs):
        built, expected = stages.cut(config, built)
        with Session(folder, built.rule, built.data, annotate=lambda row: {"lr": built.lr(row["step"] - 1)}) as session:
            start, spent = session.state, session.seconds
            check_epochs(config, folder, len(start.history) if start else 0)
            processes.first(lambda: settings.write(config, folder / "config.yaml"))
            say(_heading(config, built, folder))
            if built.encoding:
                say(text.encoding(built.encoding))
            if expected:
                say(expected)
            if resume:
                say(text.resuming(start and start.step, len(built.data.train[0]) // config.batch_size))
            result = _train(config, built, session, log)
            measured = _measure(built, session, result.state)
            summary = Summary(folder, measured, result.state.history, session.seconds)
            processes.first(lambda: _leave(summary, config))
            if not start or result.state.step > start.step:
                say(text.timing(result, start, session.seconds - spent))
            say(text.table({"": summary}))
            return summary


class Loaded(NamedTuple):
    """A trained network: `rule.predict(params, x)` are its scores."""

    rule: Rule
    params: Params
    data: Splits


def load(folder: Path | str, *, best: bool = False) -> Loaded:
    """The rule, the parameters and the data of a run that `jaxlocal train` has left in a folder.

    If the run's `--augment` changes images in prediction, too (mean, standardise), `predict` does so. A run on several
    devices is loaded to one. A run with several seeds is an ensemble, whose scores have the seeds on their first axis.

    Args:
      folder: the folder of the run.
      best: whether to take the best checkpoint on the validation set instead of the last one.

    Returns:
      (rule, params, data).

    Raises:
      ConfigError: the folder holds no run, or one that is damaged; or its data set is not there any more.

    Example:
      >>> import tempfile
      >>> from jaxlocal.app import Config, train
      >>> config = Config(rule="dfa", lr=1e-2, epochs=2, model_args=("hidden=[16]",))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     summary = train(config, folder, say=lambda line: None)
      ...     rule, params, data = jl.load(folder)
      >>> rule.predict(params, data.test[0][:5]).shape
      (5, 10)
    """
    _, built, state = restored(checks.path("folder", folder), best)
    return Loaded(prepared(built.plain, built.augmentation), state.params, built.data)


def evaluate(folder: Path | str, *, best: bool = False, data: str | PathLike[str] | None = None) -> Summary:
    """Loss and accuracy of a run's last or best checkpoint, on the run's own data or on another data set.

    In place of the folder it takes the name of a trained network that comes with the library.
    """
    learned = learned_by(folder, best, own_data=data is None)
    built = learned.built
    if data is None and _comes_with_the_library(folder):
        data = learned.config.data
    if data is not None:
        built = built._replace(data=_other_data(learned.config, built, os.fspath(data)))
    measured = _measure_parts(built, "best" if best else "last", learned.params, learned.made_by["epoch"])
    return Summary(Path(folder), (measured,), learned.history, 0.0)


def _other_data(config: Config, built: Built, data: str) -> Splits:
    """Data other than those of the run, if they are alike in kind, shape and classes."""
    like = f"take a data set like {config.data}"
    with reading(data):
        texts = is_text(data)
    if texts != bool(built.encoding):
        kinds = ("texts", "no texts") if texts else ("no texts", "texts")
        raise ConfigError(f"--data={data}: holds {kinds[0]}, but the run was trained on {kinds[1]}; {like}")
    given = load_data(_with_other_data(config, data), built.encoding, built.inputs)
    if built.classes and (others := set(given.classes) - set(built.classes)):
        raise ConfigError(
            f"--data={data}: has the classes {shown(', '.join(given.classes))}, but the run was trained on "
            f"{shown(', '.join(built.classes))}; "
            + (f"leave out {shown(', '.join(sorted(others)))}" if others < set(given.classes) else like)
        )
    other = _with_all_classes(built, data, given)
    for ours, theirs in zip(built.data.train, other.train, strict=True):
        if ours.shape[1:] != theirs.shape[1:]:
            raise ConfigError(
                f"--data={data}: has examples or targets of shape {theirs.shape[1:]}, but the run was trained on "
                f"{ours.shape[1:]}; {like}"
            )
    if built.plain.net.loss.of_classes and not all(are_classes(y) for _, y in other):
        raise ConfigError(f"--data={data}: holds real numbers as targets, but the run was trained on classes; {like}")
    return other


def _with_other_data(config: Config, data: str) -> Config:
    """The settings of a run for other data, without those that these data do not take."""
    return replace(
        config,
        data=data,
        validation=None,
        label=config.label if has_columns(data) else Config().label,
        image_size=config.image_size if is_resized(data) else None,
    )


def _with_all_classes(built: Built, data: str, given: Data) -> Splits:
    """Other data, whose targets have a column for each class of a run, also if these data have fewer classes."""
    count, width = given.splits.train[1].shape[-1], built.data.train[1].shape[-1]
    if given.splits.train[1].dtype != np.uint8 or count > width:
        return given.splits
    if count < width and given.classes and not built.classes:
        raise ConfigError(
            f"--data={data}: has {count} classes and the run {width}, and it is not known which of them these are; "
            "take data with all of them"
        )
    both_named = built.classes and given.classes
    columns = list(map(built.classes.index, given.classes)) if both_named else list(range(count))
    if columns == list(range(width)):
        return given.splits
    return Splits(*((x, np.eye(width, dtype=np.uint8)[columns][y.argmax(-1)]) for x, y in given.splits))


def predict(
    folder: Path | str, inputs: Iterable[str | PathLike[str]], *, best: bool = False
) -> Iterator[Prediction | Numbers]:
    """The class of each input, and its probability, by a run's last or best checkpoint; or the predicted numbers.

    A run that has learned texts needs neither them nor their file, and a network of the library no data. Other runs
    need their data set.

    Args:
      folder: the folder of the run, or the name of a trained network that comes with the library.
      inputs: texts; or, if the run was trained on numbers, files: images, .npz files with an array x, and tables.
      best: whether to take the best checkpoint instead of the last one.

    Returns:
      The prediction for each text, for each image, and for each row of a .npz file or of a table.
    """
    if isinstance(inputs, str | PathLike):
        raise TypeError(f"inputs={checks.show(inputs)}: must be a list of texts or of files, such as [{str(inputs)!r}]")
    learned = learned_by(folder, best, own_data=False)
    return predictions(learned.config, learned.built, learned.params, (os.fspath(one) for one in inputs))


def draw(folder: Path | str, *, best: bool = False, examples: int = 1000) -> Iterator[Path]:
    """Draw a run into its folder: its curves, and of its first seed the alignment, class distances and t-SNE.

    Args:
      folder: the folder of the run.
      best: whether to draw the best checkpoint instead of the last one.
      examples: the number of examples of the test set that the layers are shown.

    Yields:
      The path of each picture, after it is drawn.
    """
    folder = checks.path("folder", folder)
    checks.positive_int("examples", examples)
    if examples < 2:
        raise ConfigError(f"--examples={examples}: must be at least 2")
    config, built, state = restored(folder, best)
    params = state.params
    try:
        curves = plots.curves(history(folder))
    except ValueError:
        raise ConfigError(
            f"{str(folder)!r}: metrics.jsonl holds no epoch that can be read; write it anew by jaxlocal train --resume "
            f"--out {shlex.quote(str(folder))}"
        ) from None
    if config.seeds > 1:
        params = jax.tree.map(lambda leaf: leaf[0], params)
        built = build_for(replace(config, seeds=1), Data(built.data, built.encoding, built.classes, built.inputs))

    def save(name: str, figure: "Figure") -> Path:
        figure.savefig(folder / f"{name}.png", dpi=120, metadata=in_picture(config))
        return folder / f"{name}.png"

    yield save("curves", curves)
    images, labels = (np.asarray(leaf[:examples]) for leaf in built.data.test)
    x, y = map(jnp.asarray, floats((images, labels)))
    x = built.augmentation.test(x) if built.augmentation else x
    yield save("alignment", plots.alignment({short(config.rule): alignment(built.plain, params, (x, y))}))
    if not built.plain.net.loss.of_classes:
        return
    panels = layer_outputs(built.plain, params, x)
    try:
        distances, tsne = plots.distances(panels, y), plots.tsne(panels, y)
    except ValueError as error:
        all_of_them = len(y) == len(built.data.test[1])
        raise ConfigError(f"{'the test set' if all_of_them else f'--examples={examples}'}: {error}") from None
    yield save("distances", distances)
    yield save("tsne", tsne)


def check_epochs(config: Config, folder: Path, done: int) -> None:
    """A run that is resumed may train for longer than it has, but not for fewer epochs than it has done."""
    if config.epochs < done:
        raise ConfigError(
            f"--epochs={config.epochs}: the run in {folder} has {done} already; leave out the flag, or take more"
        )


def _heading(config: Config, built: Built, folder: Path) -> str:
    params = template(built.rule, built.data.train)
    return text.heading(config, parameter_counts(built.plain, params), len(params.components), folder)


def silence(line: str) -> None:
    """Say nothing, as all processes do but one."""


def _leave(summary: Summary, config: Config) -> None:
    """Write curves.png and summary.json."""
    plots.curves(summary.history).savefig(summary.folder / "curves.png", dpi=120, metadata=in_picture(config))
    write_summary(summary, config)


def _check_loggers(log: Sequence[str | Opener]) -> None:
    try:
        loggers.check(log)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"--{error}") from None


def _train(config: Config, built: Built, session: Session, log: Sequence[str | Opener]) -> Result:
    """Train in the session, with a progress bar and loggers."""
    first = session.state.step if session.state else 0
    with loggers.opened(log, session.folder, made_by(config), first) as watch:
        try:
            return session.train(
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=config.seed,
                augmentation=built.augmentation,
                patience=config.patience,
                watch=watch,
                progress=True,
            )
        except Interrupted as stop:
            command = f"jaxlocal train --out {shlex.quote(str(session.folder))} --resume{text.log_flag(log)}"
            raise Stopped(stop.signal, f"step {stop.step}", command) from None


class Learned(NamedTuple):
    """What predicts."""

    config: Config
    built: Built
    params: Params
    made_by: dict[str, Any]  # the number of epochs, the command, the commit, the settings and the versions
    history: tuple[Metrics, ...]  # of the run


def learned_by(run: Path | str, best: bool, own_data: bool) -> Learned:
    """What a run has learned, or a network that comes with the library.

    Args:
      run: the folder of the run, or the name of the network.
      best: whether to read the best checkpoint of the run instead of the last one.
      own_data: whether the run's own data are needed, as in `restored`. Those of the network are never read.
    """
    folder = checks.path("folder", run)
    if _comes_with_the_library(run):
        if best:
            raise ConfigError(f"--best: the network {str(run)!r} has no other epoch than its last; leave it out")
        config, built, params, record = trained.read(str(run))
        facts = {name: record[name] for name in FACTS}
        return Learned(config, built, params, {"epoch": config.epochs, **facts}, ())
    config, built, state = restored(folder, best, own_data)
    facts = kept_facts(folder) or made_by(config)  # a run that has not ended has written down none
    return Learned(config, built, state.params, {"epoch": len(state.history), **facts}, state.history)


def _comes_with_the_library(run: Path | str) -> bool:
    """Whether this is the name of a trained network; a run in a folder of that name comes first."""
    return str(run) in trained.NAMES and not (Path(run) / "config.yaml").exists()


def restored(folder: Path, best: bool, own_data: bool = True) -> tuple[Config, Built, State]:
    """The settings of a run, what they stand for on one device, and the run's last or best state.

    Args:
      folder: the folder of the run.
      best: whether to read the best checkpoint instead of the last one.
      own_data: whether the run's own data are needed. If they are not, those of a run that learned texts may be gone.
    """
    path = folder / "config.yaml"
    if not path.exists():
        remedy = "name a folder that jaxlocal train has made"
        if (folder / "checkpoints").is_dir():
            remedy = "jl.training.load_state reads what a Session of yours has left there"
        raise ConfigError(f"{str(folder)!r} holds no run; {remedy}")
    config = replace(settings.read(path), devices=1, pipeline=False, split=1)
    encoding, inputs = kept_encoding(folder, config), kept_inputs(folder)
    try:
        if encoding and not own_data:
            built = build_for(replace(config, batch_size=2), stand_in(encoding))
        else:
            # A run that has kept no names of columns does not get those of today's file.
            built = build(config, encoding, inputs)._replace(inputs=inputs)
    except ConfigError as error:  # it is not by a flag that the setting was given
        raise ConfigError(f"{path}: {str(error).removeprefix('--')}") from None
    state = load_state(folder, built.rule, built.data.train, best=best)
    if state is None:
        remedy = "leave out --best" if best else "train the run with --resume"
        raise ConfigError(f"{str(folder)!r} has no {'best ' * best}checkpoint that can be read; {remedy}")
    return config, built, state


def _measure(built: Built, session: Session, last: State) -> tuple[Measured, ...]:
    """The measurements after the last epoch, and after the best one on the validation set if that is another."""
    measured = [_measure_parts(built, "last", last.params, len(last.history))]
    if best_epoch(last.history) != last.history[-1]["epoch"] and (best := session.best()):
        measured.append(_measure_parts(built, "best", best.params, len(best.history)))
    return tuple(measured)


def _measure_parts(built: Built, name: str, params: Params, epoch: int) -> Measured:
    parts = {
        part: training.evaluate(built.plain, params, pair, built.augmentation)
        for part, pair in zip(SPLITS, built.data, strict=True)
    }
    return Measured(name, epoch, parts)
