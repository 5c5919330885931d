"""Bartunov et al., Figure 5: how much the methods depend on their settings; random ones on MNIST, fully connected.

The settings are drawn from the paper's Table 4, made as wide as its Table 5; trial by trial, all methods have the same
optimizer of the forward weights.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab import study
from experiments.papers.bartunov.table1 import BATCH
from jaxlocal import flags
from jaxlocal.data import Splits
from jaxlocal.search import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "bartunov_figure5"
TITLE = "Bartunov et al., Figure 5: accuracies under random settings"
TARGET_PROP = "dtp_parallel", "dtp_alternating", "sdtp_parallel", "sdtp_alternating", "ao_sdtp_parallel"
METHODS = ("bp", "fa", "dfa", *TARGET_PROP)
QUICK_METHODS = tuple(method for method in METHODS if not method.endswith("_alternating"))
DATA = "mnist"
NOTE = (
    "Accuracies are those after the last epoch on the validation set; the paper's are the best of 500 epochs on the "
    "test set. A trial that diverged counts as 0 %. The search space is the paper's Table 4, widened to where the best "
    f"settings of its Table 5 lie. The batch size ({BATCH}) is ours. `--quick` leaves the alternating methods out, for "
    "their first epoch trains the inverses alone."
)


class Budget(NamedTuple):
    """How long, and how many settings."""

    epochs: int
    settings: int


FULL, QUICK = Budget(500, 60), Budget(1, 8)


def main(argv: Sequence[str] | None = None) -> None:
    """Search for the methods that are not recorded yet, record each, print the table, and draw the figure."""
    parser = flags.Parser(f"python -m experiments.{results.module(NAME)}", description=f"{__doc__} {NOTE}")
    add = parser.add_argument
    add("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=f"search for these only: {' '.join(METHODS)}")
    add("--quick", action="store_true", help=f"{QUICK.settings} settings of {QUICK.epochs} epoch, for two cores")
    add("--settings", type=flags.whole, metavar="N", help=f"settings of each method (default: {FULL.settings})")
    add("--epochs", type=flags.whole, metavar="N", help=f"passes over the data (default: {FULL.epochs})")
    add("--group", type=flags.whole, metavar="N", help="settings that one program trains (default: 1 on a CPU, or 10)")
    add("--again", action="store_true", help="search for what is recorded already, too")
    add("--out", type=flags.folder, metavar="FOLDER", help="record here, not in experiments/records")
    add("--work", type=flags.folder, default=study.WORK, metavar="FOLDER", help="for what is found on the way")
    args = parser.parse_args(argv)
    results.code()  # of now: the code may be edited while it runs
    budget = QUICK if args.quick else FULL
    budget = Budget(args.epochs or budget.epochs, args.settings or budget.settings)
    group = args.group or (1 if jax.default_backend() == "cpu" else 10)  # two cores gain nothing by more
    for method in args.methods or (QUICK_METHODS if args.quick else METHODS):
        there = read(method, args.out)
        if not args.again and there and study.reaches(_spent(there), budget):
            print(f"{method}: recorded before; --again searches anew", flush=True)
            continue
        try:
            splits = study.images(DATA)
        except FileNotFoundError as error:
            parser.error(str(error))
        # What other code has found so far is left alone.
        folder = args.work / NAME / f"{method}-{budget.epochs}-{results.code()['source']}"
        resumed, began = folder.exists(), time.perf_counter()
        trials = find(method, splits, budget, group, folder)
        seconds = None if resumed else round(time.perf_counter() - began, 1)
        _record(method, trials, budget.epochs, seconds, args.out)
        shutil.rmtree(folder)  # else `--again` would find it
        print(f"{method}: recorded", flush=True)
    print(f"\n{results.table(list(rows(args.out)))}\n\n{NOTE}")
    results.draw(picture(args.out), NAME, args.out)


def find(method: str, splits: Splits, budget: Budget, group: int, folder: Path) -> list[Trial]:
    """The trials of a method; those that the folder holds are not trained again."""
    rule = method.removesuffix("_parallel").removesuffix("_alternating")
    turns = {"alternate": len(splits.train[0]) // BATCH} if method.endswith("_alternating") else {}
    make = jl.search.maker(rule, jl.models.mnist_fc(), **turns)
    settings = jl.search.draw(jl.search.bartunov(rule), budget.settings)

    def report(done: int, epoch: int, best: float) -> None:
        print(f"  {method}, {done} settings done, epoch {epoch}: best validation {100 * best:.2f} %", flush=True)

    return jl.search.search(
        make, settings, splits, epochs=budget.epochs, batch_size=BATCH, group=group, folder=folder, report=report
    )


def read(method: str, out: Path | None = None) -> dict[str, Any] | None:
    """A method's record."""
    return results.found(f"{NAME}/{method}", out)


def rows(out: Path | None = None) -> Iterator[results.Row]:
    """The table: what the records have, without every single trial."""
    for method in METHODS:
        record = read(method, out)
        if record is None:
            columns = "best validation %", "median validation %", "diverged", "settings", "epochs", "seconds"
            yield {"method": method, **dict.fromkeys(columns), "best validation %": "not run"}
            continue
        row = dict(record["rows"][0])
        del row["trials"]
        seconds = row.pop("seconds")
        yield {**row, **_spent(record)._asdict(), "seconds": seconds}


def picture(out: Path | None = None) -> "Figure":
    """A histogram for each method that has a record."""
    trials = {method: record["rows"][0]["trials"] for method in METHODS if (record := read(method, out))}
    found = {method: [Trial({}, (one["validation"],), one["loss"]) for one in some] for method, some in trials.items()}
    return jl.search.histograms(found)


def _record(method: str, trials: Sequence[Trial], epochs: int, seconds: float | None, out: Path | None) -> None:
    accuracies = [trial.accuracy for trial in trials]
    row = {
        "method": method,
        "best validation %": f"{100 * max(accuracies):.2f}",
        "median validation %": f"{100 * median(accuracies):.2f}",
        "diverged": sum(trial.diverged for trial in trials),
        "seconds": seconds,
        "trials": [{**trial.setting, "validation": trial.accuracy, "loss": trial.loss} for trial in trials],
    }
    command = (
        f"python -m experiments.{results.module(NAME)} --methods {method} --settings {len(trials)} --epochs {epochs}"
    )
    settings = {"seeds": [0], "data": DATA, "net": "mnist_fc", "batch_size": BATCH, "epochs": epochs}
    name = f"{NAME}/{method}"
    results.record(name, [row], command, settings, note=NOTE, out=results.place(name, out))


def _spent(record: Mapping[str, Any]) -> Budget:
    return Budget(record["settings"]["epochs"], len(record["rows"][0]["trials"]))


if __name__ == "__main__":
    main()
