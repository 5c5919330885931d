"""Bartunov et al., Figure 5: how much the methods depend on their settings; random ones on MNIST, fully connected.

The settings are drawn from the paper's Table 4, which is widened to include its Table 5. In each trial all methods have
the same optimizer of the forward weights.
"""

import shutil
import time
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import jax

import jaxlocal as jl
from experiments.lab.experiment import Budget, Experiment, Job, Option, Outcome, Recorded, Task, spent
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.training import images
from experiments.papers.bartunov.shared import BATCH
from jaxlocal import flags
from jaxlocal.search import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (
    *("bp", "fa", "dfa", "dtp_parallel", "dtp_alternating"),
    *("sdtp_parallel", "sdtp_alternating", "ao_sdtp_parallel"),
)
FULL, QUICK = Budget(epochs=500, trials=60), Budget(epochs=1, trials=8)
DATA = "mnist"


def run(method: str, task: Task) -> Iterator[Outcome]:
    """Train a method with all settings; trials that the task's folder holds are not trained again."""
    resumed, began = task.folder.exists(), time.perf_counter()
    trials = search(method, task)
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
    epochs = task.budget["epochs"]
    settings = {"seeds": [0], "data": DATA, "net": "mnist_fc", "batch_size": BATCH, "epochs": epochs}
    yield Outcome([row], settings, task.budget, f"{method}: best validation {100 * max(accuracies):.2f} %")
    shutil.rmtree(task.folder)  # otherwise `--again` would find it


def search(method: str, task: Task) -> list[Trial]:
    """The trials of a method."""
    splits = images(DATA)
    rule = method.removesuffix("_parallel").removesuffix("_alternating")
    alternation = {"alternate": len(splits.train[0]) // BATCH} if method.endswith("_alternating") else {}

    def report(done: int, epoch: int, best: float) -> None:
        print(f"  {method}, {done} settings done, epoch {epoch}: best validation {100 * best:.2f} %", flush=True)

    return jl.search.search(
        jl.search.maker(rule, jl.models.mnist_fc(), **alternation),
        jl.search.draw(jl.search.bartunov(rule), task.budget["trials"]),
        splits,
        epochs=task.budget["epochs"],
        batch_size=BATCH,
        group=task.options["group"] or (1 if jax.default_backend() == "cpu" else 10),
        folder=task.folder,
        report=report,
    )


def summary(recorded: Recorded) -> Iterator[Row]:
    """The table: the records without every single trial."""
    for method in recorded.experiment.rows:
        columns = "best validation %", "median validation %", "diverged", "epochs", "trials", "seconds"
        line: Row = {"method": method, **dict.fromkeys(columns), "best validation %": "not run"}
        if record := recorded.records.get(method):
            measured = {name: value for name, value in record["rows"][0].items() if name in columns}
            line |= measured | spent(record, FULL)
        yield line


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """A histogram for each method that has a record."""
    found = {
        method: [Trial({}, (trial["validation"],), trial["loss"]) for trial in row["trials"]]
        for method, row in recorded.rows().items()
    }
    return {"bartunov_figure5": jl.search.histograms(found)} if found else {}


EXPERIMENT = Experiment(
    module="papers.bartunov.figure5",
    name="bartunov_figure5",
    title="Bartunov et al., Figure 5: accuracies under random settings",
    source="Bartunov et al. 2018, Figure 5",
    rows={
        method: Job(FULL, None if method.endswith("_alternating") else QUICK, partial(run, method))
        for method in METHODS
    },
    note=(
        "Accuracies are those after the last epoch on the validation set; the paper's are the best of 500 epochs on "
        "the test set. A trial that diverged counts as 0 %. The search space is the paper's Table 4, widened to "
        f"include the best settings of its Table 5. The batch size ({BATCH}) is ours. `--quick` leaves the alternating "
        "methods out, because their first epoch trains the inverses alone."
    ),
    tables=(summary,),
    draw=draw,
    options={
        "group": Option(
            "the number of settings that one program trains (default: 1 on a CPU, otherwise 10)", flags.whole
        )
    },
)

if __name__ == "__main__":
    main(EXPERIMENT)
