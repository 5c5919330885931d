"""Bartunov et al., Figure 5: how much the methods depend on their settings; random ones on four networks.

The settings are drawn from the paper's Table 4, which is widened to include its Table 5; with `--table4` from exactly
Table 4. In each trial all methods have the same optimizer of the forward weights.
"""

import shutil
import time
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import jax

import jaxlocal as jl
from experiments.lab.experiment import Budget, Experiment, Job, Option, Outcome, Recorded, Task, spent
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.training import Prepare, images, shortened, unprepared
from experiments.papers.bartunov.shared import BATCH, prepared, rule_of, turns
from jaxlocal import flags
from jaxlocal.search import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (
    *("bp", "fa", "dfa", "dtp_parallel", "dtp_alternating"),
    *("sdtp_parallel", "sdtp_alternating", "ao_sdtp_parallel"),
)
FULL, QUICK = Budget(epochs=500, trials=60), Budget(epochs=1, trials=8)
WIDENED, EXACT = "Table 4, widened to hold Table 5", "Table 4"


class Panel(NamedTuple):
    """One of the figure's four, a network on a data set, or the same from other ranges."""

    title: str
    data: str
    net: str  # the name of the network in jl.models
    convnet: str | None = None  # of the method "bp_convnet"
    prepare: Prepare = unprepared
    full: Budget = FULL
    quick: Budget = QUICK
    table4: bool = False  # whether its settings are always drawn from exactly the ranges of Table 4

    @property
    def methods(self) -> tuple[str, ...]:
        return (*METHODS, *(["bp_convnet"] if self.convnet else []))

    def net_of(self, method: str) -> str:
        """The name of a method's network in jl.models."""
        return self.convnet if self.convnet and method == "bp_convnet" else self.net


PANELS = {  # by what the names of their rows begin with
    "": Panel("MNIST, fully connected", "mnist", "mnist_fc"),
    "table4_": Panel("MNIST, fully connected, the ranges of Table 4", "mnist", "mnist_fc", table4=True),
    "mnist_lc_": Panel("MNIST, locally connected", "mnist", "mnist_lc", "mnist_conv"),
    "cifar_fc_": Panel("CIFAR-10 (JPEG copies), fully connected", "cifar10", "cifar_fc", prepare=prepared),
    "cifar_lc_": Panel(
        "CIFAR-10 (JPEG copies), locally connected",
        *("cifar10", "cifar_lc", "cifar_conv", prepared),
        full=Budget(FULL | {"examples": 45_000}),
        quick=Budget(epochs=1, trials=4, examples=5_000),
    ),
}


def job(panel: Panel, method: str) -> Job:
    """A row: a method on the network of a panel."""
    quick = Budget(panel.quick)
    if method.endswith("_alternating"):
        quick["epochs"] += 1  # the first one trains the inverses alone
    return Job(panel.full, quick, partial(run, panel, method))


def run(panel: Panel, method: str, task: Task) -> Iterator[Outcome]:
    """Train a method with all settings; trials that the task's folder holds are not trained again."""
    resumed, began = task.folder.exists(), time.perf_counter()
    table4 = panel.table4 or bool(task.options["table4"])
    trials = search(panel, method, table4, task)
    seconds = None if resumed else round(time.perf_counter() - began, 1)
    accuracies = [trial.accuracy for trial in trials]
    row = {
        "method": method,
        "best validation %": f"{100 * max(accuracies):.2f}",
        "median validation %": f"{100 * median(accuracies):.2f}",
        "diverged": sum(trial.diverged for trial in trials),
        "seconds": seconds,
        "trials": [{**trial.setting, "validation": trial.accuracy, "loss": trial.loss} for trial in trials],
    }
    settings = {
        "seeds": [0],
        "data": panel.data,
        "net": panel.net_of(method),
        "batch_size": BATCH,
        **{name: number for name, number in task.budget.items() if name != "trials"},
        "ranges": EXACT if table4 else WIDENED,
    }
    yield Outcome([row], settings, task.budget, f"{task.row}: best validation {100 * max(accuracies):.2f} %")
    shutil.rmtree(task.folder)  # otherwise `--again` would find it


def search(panel: Panel, method: str, table4: bool, task: Task) -> list[Trial]:
    """The trials of a method."""
    splits, rule = images(panel.data), rule_of(method)
    splits = shortened(splits, task.budget.get("examples"))
    steps = len(splits.train[0]) // BATCH

    def report(done: int, epoch: int, best: float) -> None:
        print(f"  {task.row}, {done} settings done, epoch {epoch}: best validation {100 * best:.2f} %", flush=True)

    return jl.search.search(
        jl.search.maker(rule, getattr(jl.models, panel.net_of(method))(), **turns(method, steps)),
        jl.search.draw(jl.search.bartunov(rule, table4=table4), task.budget["trials"]),
        splits,
        epochs=task.budget["epochs"],
        batch_size=BATCH,
        augmentation=panel.prepare(splits),
        group=task.options["group"] or (1 if jax.default_backend() == "cpu" else 10),
        folder=task.folder / ("table4" if table4 else "widened"),
        report=report,
    )


def summary(recorded: Recorded) -> Iterator[Row]:
    """The table: the records without every single trial; the median below the best shows how sensitive a method is."""
    for name, entry in recorded.experiment.rows.items():
        line: Row = {"row": name, "best validation %": f"not run: {entry.lacks}"}
        blank = (*("median validation %", "median below best", "diverged", "ranges"), *FULL, "examples", "seconds")
        line |= dict.fromkeys(blank)
        if record := recorded.records.get(name):
            (row,) = record["rows"]
            accuracies = [100 * trial["validation"] for trial in row["trials"]]
            line |= {column: value for column, value in row.items() if column in line}
            line["median below best"] = f"{max(accuracies) - median(accuracies):.2f}"
            line["ranges"] = record["settings"].get("ranges", WIDENED)  # older records have no other ranges
            line |= spent(record, entry.full)
        yield line


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """A figure for each panel, with a histogram for each method that has a record."""
    rows, drawn = recorded.rows(), {}
    for prefix, panel in PANELS.items():
        found = {
            method: [Trial({}, (trial["validation"],), trial["loss"]) for trial in rows[prefix + method]["trials"]]
            for method in panel.methods
            if prefix + method in rows
        }
        if found:
            name = "bartunov_figure5" + (f"_{prefix.removesuffix('_')}" if prefix else "")
            drawn[name] = jl.search.histograms(found)
            drawn[name].suptitle(panel.title)
    return drawn


EXPERIMENT = Experiment(
    module="papers.bartunov.figure5",
    name="bartunov_figure5",
    title="Bartunov et al., Figure 5: accuracies under random settings",
    source="Bartunov et al. 2018, Figure 5",
    rows={prefix + method: job(panel, method) for prefix, panel in PANELS.items() for method in panel.methods},
    note=(
        "Accuracies are those after the last epoch on the validation set; the paper's are the best of 500 epochs on "
        "the test set. A trial that diverged counts as 0 %. Rows without a prefix are MNIST, fully connected; those "
        "that begin with `table4` are the same from exactly the ranges of Table 4; the other three panels follow. In "
        "a trial all methods have the same settings for their forward weights; the paper searched for each on its "
        "own. Rates are drawn with all orders of magnitude equally likely, which is ours. The ranges are those of "
        "Table 4, widened to hold Table 5, whose best settings lie partly outside; `--table4` draws all rows from "
        "exactly those of Table 4. The table says which ranges a record has, and `--again` replaces one. The methods "
        "are those of Table 5 and AO-SDTP, for our copy of the paper is without its pictures. CIFAR-10 comes from "
        f"JPEG copies, and is prepared as for Table 1. The batch size ({BATCH}) is ours. With `--quick` the "
        "alternating methods have one epoch more, because their first trains the inverses alone, and the last panel "
        "has the first 5,000 training images and half as many settings. `examples` counts its images; all other "
        "panels have all of theirs."
    ),
    tables=(summary,),
    draw=draw,
    options={
        "table4": Option("draw from exactly the ranges of Table 4", bool),
        "group": Option(
            "the number of settings that one program trains (default: 1 on a CPU, otherwise 10)", flags.whole
        ),
    },
)

if __name__ == "__main__":
    main(EXPERIMENT)
