"""Every rule of the library on every workload of `jl.ranking`, under one protocol."""

from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING

import jaxlocal as jl
from experiments.lab import records
from experiments.lab.experiment import Budget, CannotRun, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Record, Row
from experiments.lab.tables import percent
from jaxlocal.ranking import WORKLOADS, Entry
from jaxlocal.search import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRIALS, SEEDS = 8, 5


@cache
def examples(workload: str) -> jl.data.Splits:
    """The data of a workload, loaded once."""
    try:
        return WORKLOADS[workload].load()
    except (FileNotFoundError, ValueError) as error:
        raise CannotRun(str(error)) from None


def run(workload: str, rule: str, task: Task) -> Iterator[Outcome]:
    """One rule on one workload; what is finished of it is kept in the task's folder."""
    epochs, trials, seeds = (task.budget[name] for name in ("epochs", "trials", "seeds"))
    learned = WORKLOADS[workload]._replace(epochs=epochs)
    data = examples(workload)
    say = partial(print, flush=True)
    reached = jl.ranking.enter(rule, learned, trials=trials, seeds=seeds, data=data, folder=task.folder, say=say)
    settings = {
        "workload": learned.words,
        "epochs": epochs,
        "batch_size": learned.batch_size,
        "seeds": list(range(1, seeds + 1)),
        "searched": {name: list(values.values) for name, values in jl.ranking.space(rule).items()},
    }
    by_seed = [{split: of_seed[seed] for split, of_seed in reached.accuracies.items()} for seed in range(seeds)]
    row = records.row(rule, by_seed, reached.seconds)
    row |= {"setting": reached.setting, "trials": [trial._asdict() for trial in reached.trials]}
    message = f"{task.row}: test {percent(row['test'])} %"
    yield Outcome([row], settings, Budget(epochs=epochs, trials=trials, seeds=seeds), message)


def entry(record: Record) -> Entry:
    """What a record holds, as `jl.ranking` takes it."""
    row = record["rows"][0]
    accuracies = {split: row[split]["per_seed"] for split in records.SPLITS}
    trials = [Trial(**trial) for trial in row["trials"]]
    return Entry(row["rule"], row["setting"], accuracies, trials, row["seconds"])


def entries(recorded: Recorded, workload: str) -> dict[str, Entry]:
    """The rules that are recorded on a workload, by name."""
    found = [entry(record) for row, record in recorded.records.items() if row.startswith(f"{workload}_")]
    return {one.rule: one for one in found}


def standings(recorded: Recorded, workload: str) -> list[Row]:
    """The rules that are recorded on a workload, the best one first."""
    return list(jl.ranking.standings(list(entries(recorded, workload).values())))


def overview(recorded: Recorded) -> Iterator[Row]:
    """The test accuracy of each rule on each workload, and its place there."""
    cells = {
        workload: {
            line["rule"]: f"{line['test']} ({place})" for place, line in enumerate(standings(recorded, workload), 1)
        }
        for workload in WORKLOADS
    }
    for rule in jl.rules.ALL:
        yield {"rule": rule, **{workload: of_rules.get(rule, "") for workload, of_rules in cells.items()}}


def draw(recorded: Recorded) -> "dict[str, Figure]":
    """The differences from backpropagation, a figure for each workload."""
    found = {workload: list(entries(recorded, workload).values()) for workload in WORKLOADS}
    return {
        f"rank_{workload}": jl.plots.differences(against, f"Test accuracy on {workload}, minus that of bp", "points")
        for workload, ranked in found.items()
        if (against := jl.ranking.differences(ranked))
    }


WORDS = " ".join(f"`{name}`: {learned.words}; {learned.epochs} epochs." for name, learned in WORKLOADS.items())

EXPERIMENT = Experiment(
    module="beyond.rank",
    name="rank",
    title="Every rule under one protocol",
    note=(
        f"For each rule {TRIALS} settings are drawn at random and trained with seed 0; the one that is best on the "
        f"validation set is trained again with the seeds 1 to {SEEDS}, and then measured on the test set. All rules "
        "get the same rates for the forward weights, drawn from 0.0001 to 0.01. Adam, whose rates fall to zero by a "
        f"cosine. {WORDS} The number in brackets is the rule's place. CIFAR-10 is from JPEG copies. "
        "[Ranking](ranking.md) says what follows from the numbers."
    ),
    rows={
        f"{workload}_{rule}": Job(budget, budget, partial(run, workload, rule))
        for workload, learned in WORKLOADS.items()
        for rule in jl.rules.ALL
        for budget in [Budget(epochs=learned.epochs, trials=TRIALS, seeds=SEEDS)]
    },
    tables=(overview,),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
