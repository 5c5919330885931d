"""The settings that Associated Learning's authors left open, searched for it and for backpropagation alike.

Both rules have the same number of random settings, each trained for the same time and judged on the validation set
alone: rate, activation and initial weights for both; the ratio of the rates, the bridges' hidden layer and the width of
the targets' codes for AL; and dropout for BP, which would otherwise have less to choose from. The best setting of each
is `TUNED` in `experiments.papers.al.shared`.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from statistics import median
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.lab import figures, tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.training import Steps, attempt, images
from experiments.papers.al.shared import ACTIVATIONS, INITS, NARROW, Setting, mlp, tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPONENTS, BATCH = 2, 64
DATA = "mnist"
SHARED = {"activation": tuple(ACTIVATIONS), "init": tuple(INITS)}
CHOICES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "bp": {**SHARED, "dropout": (0.0, 0.1, 0.3)},
    "al": {**SHARED, "ratio": (1, 2, 4), "bridge": (0, 1, 5), "width": (64, 256, 1024)},
}
RATES = 2e-4, 1e-2
FULL, QUICK = Budget(epochs=20, trials=60), Budget(epochs=3, trials=16)
SHOWN = 3  # trials of either rule in the table
COLOURS = {"bp": figures.ORANGE, "al": figures.BLUE}


def drawn(rule: str, trial: int) -> Setting:
    """The setting of a trial, which depends on the rule and the trial's number alone."""
    rng = np.random.default_rng([0, trial])
    rate = float(f"{np.exp(rng.uniform(*np.log(RATES))):.3g}")
    return Setting(rate, **{name: values[int(rng.integers(len(values)))] for name, values in CHOICES[rule].items()})


def run(rule: str, task: Task) -> Iterator[Outcome]:
    """Train the trials that the present code has not trained yet; there is an outcome after each of them."""
    epochs, splits = task.budget["epochs"], images(DATA)
    settings = {"seeds": [0], "data": DATA, "batch_size": BATCH, "epochs": epochs, "chosen from": CHOICES[rule]}
    settings |= {"rate": list(RATES)}
    rows = task.begun(settings)
    for trial in range(len(rows), task.budget["trials"]):
        rows.append(train(rule, trial, epochs, splits))
        yield Outcome(rows, settings, Budget(epochs=epochs, trials=len(rows)), tables.text(rows[-1:]))


def train(rule: str, trial: int, epochs: int, splits: jl.data.Splits) -> Row:
    """One trial."""
    setting = drawn(rule, trial)
    steps = len(splits.train[0]) // BATCH
    made = tuned(rule, mlp(NARROW, COMPONENTS), setting, Steps(steps, epochs * steps))
    trained, seconds = attempt(made, splits, epochs=epochs, batch_size=BATCH)
    accuracy = 100 * float(jnp.asarray(trained.state.history[-1]["validation"]["accuracy"])) if trained else 0.0
    settings = {name: value for name, value in setting._asdict().items() if value is not None}
    return {"trial": trial, **settings, "validation %": round(accuracy, 2), "seconds": seconds}


def best(rows: Sequence[Row]) -> Row:
    """The trial with the highest validation accuracy."""
    return max(rows, key=itemgetter("validation %"))


def best_trials(recorded: Recorded) -> Iterator[Row]:
    """The table: the best trials of either rule, and the median of all of them."""
    empty = dict.fromkeys(Setting._fields)
    for rule in recorded.experiment.rows:
        record = recorded.records.get(rule)
        if record is None:
            yield {"rule, trial": rule, **empty, "validation %": None, "seconds": "not run"}
            continue
        trials = record["rows"]
        for row in sorted(trials, key=itemgetter("validation %"), reverse=True)[:SHOWN]:
            settings = {name: row.get(name) for name in Setting._fields}
            reached = {"validation %": f"{row['validation %']:.2f}", "seconds": row["seconds"]}
            yield {"rule, trial": f"{rule}, {row['trial']}", **settings, **reached}
        middle = f"{median(row['validation %'] for row in trials):.2f}"
        yield {"rule, trial": f"{rule}, median of {len(trials)}", **empty, "validation %": middle, "seconds": None}


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figure, once both rules are recorded."""
    searched = {rule: record["rows"] for rule, record in recorded.records.items()}
    return {"beyond_tuning": picture(searched)} if searched.keys() == CHOICES.keys() else {}


def picture(searched: Mapping[str, Sequence[Row]]) -> "Figure":
    """Validation error against the rate, and against AL's other settings; a dot is a trial."""
    from matplotlib.ticker import NullFormatter

    settings_of_al = "activation", "init", "ratio", "bridge", "width"
    shown = {"rate": searched, **{name: {"al": searched["al"]} for name in settings_of_al}}
    figure, panels = figures.panels(3, 2, size=(11, 6), sharey=True)
    for (name, rules), axes in zip(shown.items(), panels, strict=True):
        for rule, rows in rules.items():
            ordered = sorted(rows, key=itemgetter(name))
            values = [row[name] if name == "rate" else str(row[name]) for row in ordered]
            axes.scatter(values, [100 - row["validation %"] for row in ordered], color=COLOURS[rule], label=rule)
        axes.set(title=name, yscale="log")
    panels[0].set_xscale("log")
    panels[0].xaxis.set_minor_formatter(NullFormatter())
    panels[0].legend(frameon=False)
    figure.supylabel("validation error, %")
    figure.suptitle("Random settings on MNIST: backpropagation and Associated Learning under the same budget")
    return figure


EXPERIMENT = Experiment(
    module="beyond.tuning",
    name="beyond_tuning",
    title="Associated Learning: the settings that its authors left open",
    rows={rule: Job(FULL, QUICK, partial(run, rule)) for rule in CHOICES},
    note=(
        f"MNIST, {COMPONENTS} layers of {NARROW} units, batch {BATCH}, Adam whose rate falls to zero by a cosine. Each "
        f"rule had as many trials, drawn at random, with rates from {RATES[0]:g} to {RATES[1]:g} and one seed; "
        "accuracies are on the validation set. *ratio* is the rate of encoders and decoders in multiples of the other "
        "rate, *bridge* the width of a bridge's hidden layer in multiples of the code's, or 0 for no hidden layer, and "
        "*width* that of the codes."
    ),
    tables=(best_trials,),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
