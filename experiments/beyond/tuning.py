"""The settings that Associated Learning's authors left open, searched for it and for backpropagation alike.

Random settings, as many for either rule, each trained as long, judged on the validation set alone: rate, activation and
initial weights for both; ratio of the rates, hidden layer of the bridges and width of the targets' codes for AL; and
dropout for BP, so that it has something more to choose, too. The best of each is `TUNED` in `experiments.associated`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab import study
from experiments.papers.al import shared as associated
from experiments.papers.al.shared import ACTIVATIONS, INITS, Setting
from jaxlocal import flags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "beyond_tuning"
TITLE = "Associated Learning: the settings that its authors left open"
WIDTH, COMPONENTS, BATCH = 256, 2, 64
SHARED = {"activation": tuple(ACTIVATIONS), "init": tuple(INITS)}
CHOICES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "bp": {**SHARED, "dropout": (0.0, 0.1, 0.3)},
    "al": {**SHARED, "ratio": (1, 2, 4), "bridge": (0, 1, 5), "width": (64, 256, 1024)},
}
RATES = 2e-4, 1e-2
FULL, QUICK = (60, 20), (16, 3)  # trials of either rule, and epochs of each
SHOWN = 3  # trials of either rule in the table
NOTE = (
    f"MNIST, {COMPONENTS} layers of {WIDTH} units, batch {BATCH}, Adam whose rate falls to zero by a cosine. "
    "Accuracies are on the validation set."
)


def drawn(rule: str, trial: int) -> Setting:
    """The setting of a trial: it depends on the rule and the trial's number alone."""
    rng = np.random.default_rng([0, trial])
    rate = float(f"{np.exp(rng.uniform(*np.log(RATES))):.3g}")
    return Setting(rate, **{name: values[int(rng.integers(len(values)))] for name, values in CHOICES[rule].items()})


def main(argv: Sequence[str] | None = None) -> None:
    """Search for both rules, record every trial, and draw them."""
    parser = flags.Parser(f"python -m experiments.{results.module(NAME)}", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} trials of {QUICK[1]} epochs, for two cores")
    parser.add_argument("--trials", type=flags.whole, metavar="N", help=f"settings of either rule (default: {FULL[0]})")
    parser.add_argument("--epochs", type=flags.whole, metavar="N", help=f"of each trial (default: {FULL[1]})")
    parser.add_argument("--again", action="store_true", help="search anew, even if it is recorded")
    parser.add_argument("--out", type=flags.folder, metavar="FOLDER", help="record here, not in experiments/records")
    args = parser.parse_args(argv)
    results.code()  # of now: the code may be edited while it runs
    trials, epochs = QUICK if args.quick else FULL
    trials, epochs = args.trials or trials, args.epochs or epochs
    for rule in CHOICES:
        name = f"{NAME}/{rule}"
        path, there = results.place(name, args.out), results.found(name, args.out)
        settings = {"seeds": [0], "data": "mnist", "batch_size": BATCH, "epochs": epochs, "chosen from": CHOICES[rule]}
        settings |= {"rate": list(RATES)}
        if not args.again and there and study.reaches(_spent(there), (epochs, trials)):
            print(f"{rule}: recorded before; --again searches anew")
            continue
        made = [] if args.again else results.begun(path, settings)
        for trial in range(len(made), trials):
            made.append(train(rule, trial, epochs, study.images("mnist")))
            print(results.table(made[-1:]), flush=True)
            command = f"{parser.prog} --trials {trials} --epochs {epochs}"
            results.record(name, made, command, settings, note=NOTE, out=path)
    print(f"\n{results.table(list(rows(args.out)))}\n\n{NOTE}")
    searched = {rule: results.load(results.place(f"{NAME}/{rule}", args.out))["rows"] for rule in CHOICES}
    results.draw(picture(searched), NAME, args.out)


def rows(out: Path | None = None) -> Iterator[results.Row]:
    """The table: of either rule the best trials, and what all of them came to."""
    for rule in CHOICES:
        record = results.found(f"{NAME}/{rule}", out)
        if record is None:
            yield {"rule, trial": rule, **dict.fromkeys([*Setting._fields, "validation %"]), "seconds": "not run"}
            continue
        made = record["rows"]
        for row in sorted(made, key=itemgetter("validation %"), reverse=True)[:SHOWN]:
            told = {name: row.get(name) for name in Setting._fields}
            reached = {"validation %": f"{row['validation %']:.2f}", "seconds": row["seconds"]}
            yield {"rule, trial": f"{rule}, {row['trial']}", **told, **reached}
        middle = f"{median(row['validation %'] for row in made):.2f}"
        empty = dict.fromkeys(Setting._fields)
        yield {"rule, trial": f"{rule}, median of {len(made)}", **empty, "validation %": middle, "seconds": None}


def _spent(record: Mapping[str, Any]) -> tuple[int, int]:
    return record["settings"]["epochs"], len(record["rows"])


def train(rule: str, trial: int, epochs: int, splits: jl.data.Splits) -> results.Row:
    """One trial."""
    setting = drawn(rule, trial)
    steps = study.Steps(len(splits.train[0]) // BATCH, epochs * (len(splits.train[0]) // BATCH))
    net = associated.mlp(WIDTH, COMPONENTS)
    made = associated.tuned(rule, net, setting, steps)
    began = time.perf_counter()
    told = {name: value for name, value in setting._asdict().items() if value is not None}
    try:
        history = jl.training.fit(made, splits, epochs=epochs, batch_size=BATCH).state.history
        accuracy = 100 * float(jnp.asarray(history[-1]["validation"]["accuracy"]))
    except jl.training.DivergedError:
        accuracy = 0.0
    seconds = round(time.perf_counter() - began, 1)
    return {"trial": trial, **told, "validation %": round(accuracy, 2), "seconds": seconds}


def best(rows: Sequence[results.Row]) -> results.Row:
    """The trial of the highest validation accuracy."""
    return max(rows, key=lambda row: row["validation %"])


def picture(searched: Mapping[str, Sequence[results.Row]]) -> "Figure":
    """Validation error against the rate, a dot a trial; what AL's other settings do to it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    alone = "activation", "init", "ratio", "bridge", "width"
    panels = {"rate": searched, **{name: {"al": searched["al"]} for name in alone}}
    colours = {"bp": "#ffa90e", "al": "#3f90da"}
    figure = Figure(figsize=(11, 6), layout="constrained")
    for (name, shown), axes in zip(panels.items(), figure.subplots(2, 3, sharey=True).flat, strict=True):
        for rule, rows in shown.items():
            ordered = sorted(rows, key=itemgetter(name))
            values = [row[name] if name == "rate" else str(row[name]) for row in ordered]
            axes.scatter(values, [100 - row["validation %"] for row in ordered], color=colours[rule], label=rule)
        axes.set(title=name, yscale="log")
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    figure.axes[0].set_xscale("log")
    figure.axes[0].xaxis.set_minor_formatter(NullFormatter())
    figure.axes[0].legend(frameon=False)
    figure.supylabel("validation error, %")
    figure.suptitle("Random settings on MNIST: backpropagation and Associated Learning under the same budget")
    return figure


if __name__ == "__main__":
    main()
