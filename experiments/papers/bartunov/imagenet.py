"""Training on ImageNet: top-1 and top-5 errors; and the paper's search, of whose 60 starts only the best continues.

The images are read as they are needed, because they do not fit into memory.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.lab import figures, records
from experiments.lab.experiment import Budget, CannotRun, Job, Outcome, Recorded, Task
from experiments.lab.records import Row
from experiments.lab.tables import accuracy
from experiments.lab.training import Steps, print_epoch
from experiments.papers.bartunov import shared
from experiments.papers.bartunov.shared import BATCH, Adam, Best, Setup, net_of, rule_of, turns
from jaxlocal.data import Pairs, Splits, floats
from jaxlocal.files import write_whole
from jaxlocal.plots import style
from jaxlocal.rule import Batch
from jaxlocal.search import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE, CLASSES = 224, 1000
START_EPOCHS = 10  # section 5.3: after these only the best of the 60 random settings continues
PIECE = 100  # the number of images that are evaluated at a time
STANDARDISED = jl.augmentation.standardise()
# The paper has no settings for DFA, which has those of FA here; the time of a step does not depend on them.
IMAGENET_LC = {
    "dtp_parallel": Best(Adam(0.000217, 0.9, 0.99, 1e-6), Adam(0.000234, 0.9, 0.999, 1e-6), 0.163359, 0.192835),
    "dtp_alternating": Best(Adam(0.000101, 0.9, 0.99, 1e-8), Adam(0.000064, 0.9, 0.999, 1e-8), 0.03706, 0.097217),
    "sdtp_parallel": Best(Adam(0.000011, 0.9, 0.999, 1e-6), Adam(0.000170, 0.9, 0.999, 1e-8), noise=0.168522),
    "fa": Best(Adam(0.000043, 0.9, 0.99, 1e-4)),
    "dfa": Best(Adam(0.000043, 0.9, 0.99, 1e-4)),
    "bp": Best(Adam(0.000024, 0.9, 0.999, 1e-8)),
    "bp_convnet": Best(Adam(0.000049, 0.9, 0.99, 1e-8)),
}
PAPER: Mapping[str, tuple[float, float] | None] = {  # Table 2: top-1 and top-5 test errors, in percent
    "dtp_parallel": (98.34, 94.56),
    "dtp_alternating": (99.36, 97.28),
    "sdtp_parallel": (99.28, 97.15),
    "fa": (93.08, 82.54),
    "dfa": None,
    "bp": (71.43, 49.07),
    "bp_convnet": (63.93, 40.17),
}


def setup_of(classes: int = CLASSES) -> Setup:
    """The networks and their settings."""
    local, shared_weights = (partial(net, classes) for net in (jl.models.imagenet_lc, jl.models.imagenet_conv))
    return Setup("imagenet2012", local, IMAGENET_LC, {}, None, shared_weights)


def train(method: str, task: Task) -> Iterator[Outcome]:
    """Train a method with its settings of Table 5, seed by seed."""
    splits = images(task)
    setup, steps = setup_of(splits.train[1].shape[1]), len(splits.train[0]) // BATCH
    rule = shared.make(setup, method, Steps(steps, steps * task.budget["epochs"]))
    done: list[Mapping[str, Any]] = []
    for seed in range(task.budget["seeds"]):
        session = trained(task, rule, splits, task.folder / f"seed-{seed}", task.budget["epochs"], seed)
        if session is None:
            return
        done.append(numbers(rule, session, splits))
        more = {"seeds": list(range(len(done))), "Table 5": str(setup.best[method])}
        budget = Budget(epochs=task.budget["epochs"], seeds=len(done))
        yield outcome(task, splits, row(method, done), more, budget)
    shutil.rmtree(task.folder)  # the checkpoints are large


def search(method: str, task: Task) -> Iterator[Outcome]:
    """Start with random settings of Table 4; after some epochs only the best one on the validation set continues."""
    splits, name = images(task), rule_of(method)
    net = net_of(setup_of(splits.train[1].shape[1]), method)()
    make = jl.search.maker(name, net, **turns(method, len(splits.train[0]) // BATCH))
    trials: list[Trial] = []
    for setting in jl.search.draw(jl.search.bartunov(name, table4=True), task.budget["trials"]):
        trial = started(task, make(setting), setting, splits, start(task, len(trials)))
        if trial is None:
            return
        trials.append(trial)
        forget_losers(task, trials)
    if all(trial.diverged for trial in trials):
        raise CannotRun(f"all {len(trials)} settings diverged; take more --trials, or scale the images")
    best = trials.index(jl.search.best(trials))
    rule = make(trials[best].setting)
    session = trained(task, rule, splits, start(task, best), task.budget["epochs"])
    if session is None:
        return
    found = row(method, [numbers(rule, session, splits)])
    found |= {"best": best, "trials": [{**trial.setting, "validation": trial.accuracy} for trial in trials]}
    more = {"seeds": [0], "ranges": "Table 4", "epochs of a start": START_EPOCHS}
    yield outcome(task, splits, found, more, task.budget)
    shutil.rmtree(task.folder)


def images(task: Task) -> Splits:
    """The images, decoded once, and mapped into memory."""
    try:
        return jl.data.load(task.options["data"], size=SIZE)
    except FileNotFoundError as missing:
        instead = "or name a folder by --data that has a folder of images for each class in train and in val"
        raise CannotRun(f"{missing}; {instead}") from missing


def trained(
    task: Task, rule: jl.Rule, splits: Splits, folder: Path, epochs: int, seed: int = 0
) -> jl.training.Session | None:
    """The session in a folder after so many epochs; None if the time is over before."""
    with jl.training.Session(folder, rule, splits, keep=1) as session:
        result = session.train(
            epochs=epochs,
            batch_size=BATCH,
            seed=seed,
            augmentation=STANDARDISED,
            watch=partial(print_epoch, f"{task.row} {folder.name}"),
            until=task.until,
        )
    return None if result.stopped else session


def start(task: Task, number: int) -> Path:
    """The folder of one of the random settings."""
    return task.folder / f"start-{number}"


def started(task: Task, rule: jl.Rule, setting: dict[str, float], splits: Splits, folder: Path) -> Trial | None:
    """A random setting's first epochs, unless its folder holds their result; None if the time is over before."""
    if (file := folder / "trial.json").exists():
        return Trial(**json.loads(file.read_text(encoding="utf-8")))
    try:
        session = trained(task, rule, splits, folder, min(START_EPOCHS, task.budget["epochs"]))
    except jl.training.DivergedError:
        trial = Trial(setting, (0.0,), None)
    else:
        if session is None or session.state is None:
            return None
        history = session.state.history
        loss = sum(loss for term in history[-1]["terms"] for loss in term.values())
        trial = Trial(setting, tuple(epoch["validation"]["accuracy"] for epoch in history), loss)
    write_whole(file, json.dumps(trial._asdict()))
    return trial


def forget_losers(task: Task, trials: Sequence[Trial]) -> None:
    """Remove the checkpoints of all starts but the best so far, because they are large."""
    best = max(trials, key=lambda trial: trial.accuracy)
    for number, trial in enumerate(trials):
        if trial is not best:
            shutil.rmtree(start(task, number) / "checkpoints", ignore_errors=True)


def numbers(rule: jl.Rule, session: jl.training.Session, splits: Splits) -> Mapping[str, Any]:
    """What is recorded of a run."""
    assert session.state
    top1, top5 = top_accuracies(rule, session.state.params, splits.test)
    return {"test": top1, "top5": top5, "seconds": session.seconds, "history": list(session.state.history)}


def row(method: str, done: Sequence[Mapping[str, Any]]) -> Row:
    """The row of all seeds, with the accuracies on the test set by the first class and by the first five."""
    return {
        "method": method,
        **{name: records.over_seeds([one[name] for one in done]) for name in ("test", "top5")},
        "seconds": round(sum(one["seconds"] for one in done), 1),
        "history": [one["history"] for one in done],
    }


def outcome(task: Task, splits: Splits, found: Row, more: Mapping[str, Any], budget: Budget) -> Outcome:
    """What a row has led to, with the settings that all rows have."""
    settings = {
        "data": task.options["data"],
        "images": len(splits.train[0]),
        "image size": SIZE,
        "classes": splits.train[1].shape[1],
        "batch_size": BATCH,
        "epochs": budget["epochs"],
    }
    message = f"{task.row}: top-1 error {error(found['test'])} %, top-5 error {error(found['top5'])} %"
    return Outcome([found], {**settings, **more}, budget, message)


def errors(recorded: Recorded) -> Iterator[Row]:
    """The table: test errors, the paper's and ours."""
    for name, entry in trainings():
        paper, record = PAPER[name.partition("/")[2]], recorded.records.get(name)
        ours = record["rows"][0] if record else {}
        yield {
            "row": name,
            "paper's top-1 error %": f"{paper[0]:.2f}" if paper else "",
            "top-1 error %": error(ours["test"]) if ours else f"not run: {entry.lacks}",
            "paper's top-5 error %": f"{paper[1]:.2f}" if paper else "",
            "top-5 error %": error(ours["top5"]) if ours else "",
            "epochs": record and record["settings"]["epochs"],
            "seeds or starts": record and len(ours.get("trials", record["settings"]["seeds"])),
        }


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """Figure 3: top-1 errors against epochs, on the images that are held out from training."""
    from matplotlib import colormaps

    histories = {name: line["history"] for name, line in recorded.rows().items() if "history" in line}
    if not histories:
        return {}
    figure, (axes,) = figures.panels(size=(6.5, 4.2))
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    for (name, seeds), colour in zip(histories.items(), colours, strict=False):
        wrong = np.array([[100 * (1 - epoch["validation"]["accuracy"]) for epoch in seed] for seed in seeds]).T
        style.mean_and_band(axes, range(1, 1 + len(wrong)), wrong, color=colour, label=name)
    axes.set(xlabel="epoch", ylabel="top-1 error, %", title="ImageNet, validation set")
    figures.whole_epochs(axes)
    axes.legend(frameon=False)
    return {"bartunov_figure3": figure}


def error(accuracies: Mapping[str, Any]) -> str:
    """The error in percent."""
    return accuracy((100 * (1 - accuracies["mean"]), accuracies["std"] and 100 * accuracies["std"]))


def top_accuracies(rule: jl.Rule, params: jl.Params, pairs: Pairs) -> tuple[float, float]:
    """The parts of the examples whose class has the highest score, and one of the five highest."""
    x, y = pairs
    found = np.zeros(2)
    for begin in range(0, len(x), PIECE):
        rows = np.minimum(np.arange(begin, begin + PIECE), len(x) - 1)  # all pieces have one shape, and one program
        found += np.asarray(_hits(rule, params, (x[rows], y[rows]), len(x) - begin))
    top1, top5 = (found / len(x)).tolist()
    return top1, top5


@partial(jax.jit, static_argnums=0)
def _hits(rule: jl.Rule, params: jl.Params, pairs: Batch, count: jax.Array | int) -> jax.Array:
    """The two numbers of right answers among the first `count` examples."""
    x, y = floats(pairs)
    _, classes = jax.lax.top_k(rule.predict(params, STANDARDISED.test(x)), 5)
    right = (classes == jnp.argmax(y, 1, keepdims=True)) & (jnp.arange(len(x)) < count)[:, None]
    return jnp.stack([jnp.sum(right[:, 0]), jnp.sum(right)])


def trainings() -> Iterator[tuple[str, Job]]:
    """The rows by name. They have no shorter budget, because there are no images here."""
    for method, errors in PAPER.items():
        paper = (round(100 - errors[0], 2), None) if errors else None
        yield f"train/{method}", Job(Budget(epochs=500, seeds=1), None, partial(train, method), paper, lacks="no data")
    for method, errors in PAPER.items():
        if errors:  # the paper searched no settings of the others
            budget = Budget(epochs=500, trials=60)
            yield f"search/{method}", Job(budget, None, partial(search, method), lacks="no data")
