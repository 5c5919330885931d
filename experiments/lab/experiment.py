"""An experiment: rows that are trained or measured with a budget, and the tables and figures made of their records.

`experiments.lab.main` runs any experiment. Most rows are a `Case` of `experiments.lab.training`: a rule trained on a
data set. Other rows are a `Job` with a function of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from experiments.lab import records
from experiments.lab.records import Record, Row
from experiments.lab.tables import accuracy, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a budget can count, with the help text of its flag.
COUNTED = {
    "epochs": "the number of passes over the data",
    "seeds": "train the seeds 0 to N-1",
    "trials": "the number of random settings",
    "examples": "the number of training examples",
    "batch_size": "the number of examples in a step",
    "images": "the number of images",
    "rounds": "how often each program takes its turn",
    "steps": "the number of steps in a turn",
}

Paper = tuple[float, float | None]  # a paper's test accuracy in percent, and its standard deviation


class CannotRun(Exception):  # noqa: N818 - it describes the row
    """A row that cannot be trained or measured here, for the reason given."""


class Budget(dict[str, int]):
    """How much is trained or measured, such as `Budget(epochs=200, seeds=3)`; the names are those of `COUNTED`."""

    def covers(self, other: Mapping[str, int]) -> bool:
        """Whether it is at least as large in everything that the other one counts."""
        return all(self.get(name, 0) >= number for name, number in other.items())


def spent(record: Record, names: Iterable[str]) -> Budget:
    """The budget that a record was made with, as far as it counts what the names say."""
    settings, rows = record["settings"], record["rows"]
    counted = {name: value for name, value in settings.items() if isinstance(value, int)}
    counted |= {"seeds": len(settings.get("seeds", ())), "trials": len(rows[0].get("trials", rows))}
    return Budget({name: counted.get(name, 0) for name in names})


class Outcome(NamedTuple):
    """What a row has led to so far; a row with several seeds or trials has an outcome after each of them."""

    rows: Sequence[Row]
    settings: Mapping[str, Any]  # everything that the rows depend on
    budget: Budget  # what these rows took
    message: str  # shown to the user
    note: str = ""  # what a reader must know in addition to the note of the experiment


class Task(NamedTuple):
    """A row to be trained or measured."""

    experiment: Experiment
    row: str
    budget: Budget
    options: Mapping[str, Any]  # by the names of the experiment's options
    folder: Path  # for what is too large for a record; it may not exist yet
    until: float  # stop as soon as time.monotonic() is beyond this
    out: Path | None  # the folder of the records, or None for experiments/records
    again: bool  # whether existing records are ignored

    def begun(self, settings: Mapping[str, Any]) -> list[Row]:
        """The rows of the existing record that the present code made with these settings; seeds are not compared."""
        record = None if self.again else records.found(f"{self.experiment.name}/{self.row}", self.out)
        return records.continued(record, settings)


class Entry(Protocol):
    """A row of an experiment."""

    @property
    def full(self) -> Budget:
        """The budget without flags: the paper's, where there is a paper."""

    @property
    def quick(self) -> Budget | None:
        """The budget with `--quick`; None if even a short run would take too long."""

    @property
    def paper(self) -> Paper | None:
        """The number of the paper."""

    @property
    def paper_train(self) -> Paper | None:
        """Its number on the training set."""

    @property
    def lacks(self) -> str:
        """What is missing to run the row, if it is not recorded: "no time", or "no data"."""

    def run(self, task: Task) -> Iterator[Outcome]:
        """Train or measure the row. Each outcome replaces the one before it in the record."""


class Job(NamedTuple):
    """A row with a function of its own."""

    full: Budget
    quick: Budget | None
    run: Callable[[Task], Iterator[Outcome]]
    paper: Paper | None = None
    paper_train: Paper | None = None
    lacks: str = "no time"


class Option(NamedTuple):
    """A flag of an experiment in addition to those that all experiments have."""

    help: str
    type: Callable[[str], Any]
    default: Any = None
    quick: Any = None  # the default with `--quick`, if it is another one
    choices: Sequence[Any] | None = None
    many: bool = False  # whether the flag takes several values


class Recorded(NamedTuple):
    """The records of an experiment's rows, and where they are."""

    experiment: Experiment
    records: Mapping[str, Record]  # by row, where there is one
    out: Path | None
    work: Path

    def rows(self) -> dict[str, Row]:
        """The first line of each record, but for rows that have diverged."""
        lines = {row: record["rows"][0] for row, record in self.records.items()}
        return {row: line for row, line in lines.items() if "diverged at" not in line}


def comparison(recorded: Recorded) -> Iterator[Row]:
    """Each row with the paper's accuracies, ours, and the budget that ours took.

    The best epoch is that on the validation set; older records do not have its test accuracy.
    """
    entries, counts, found = recorded.experiment.rows, recorded.experiment.counted, recorded.rows()
    with_train = any(entry.paper_train for entry in entries.values())
    with_best = any("best" in ours for ours in found.values())
    for row, entry in entries.items():
        ours = found.get(row, {})
        test, best = ours.get("test"), ours.get("best")
        had = spent(recorded.records[row], entry.full) if ours else Budget()
        without = "diverged" if row in recorded.records else f"not run: {entry.lacks}"
        yield {
            "row": row,
            "paper's test %": accuracy(entry.paper),
            "test %": percent(test) if test else without,
            "difference": f"{100 * test['mean'] - entry.paper[0]:+.2f}" if test and entry.paper else "",
            **({"best epoch's test %": percent(best["test"]) if best else ""} if with_best else {}),
            **({"paper's train %": accuracy(entry.paper_train)} if with_train else {}),
            "train %": percent(ours["train"]) if ours else "",
            **{name: f"{had.get(name, 0)} of {entry.full[name]}" if name in entry.full else "" for name in counts},
            "minutes": f"{ours['seconds'] / 60:.1f}" if ours else "",
        }


class Experiment(NamedTuple):
    """A table or a figure. To add one, write a module with its settings and add it to `experiments.lab.report`."""

    module: str  # below `experiments`, as `python -m` takes it
    name: str  # of the folder of its records
    title: str
    note: str  # what a reader must know before comparing the numbers
    rows: Mapping[str, Entry]
    source: str = "ours"
    tables: Sequence[Callable[[Recorded], Iterable[Row]]] = (comparison,)
    draw: Callable[[Recorded], Mapping[str, Figure]] | None = None
    drawn_too: Callable[[Recorded], Mapping[str, Record]] | None = None  # records of others that its figures show
    options: Mapping[str, Option] = {}
    is_timing: bool = False  # timings depend on the machine: they are made at each call, even if there is a record

    @property
    def command(self) -> str:
        """What runs it."""
        return f"python -m experiments.{self.module}"

    @property
    def counted(self) -> list[str]:
        """What the full budgets of its rows count."""
        return list(dict.fromkeys(name for entry in self.rows.values() for name in entry.full))

    def record(self, row: str, out: Path | None = None) -> Record | None:
        """The record of a row."""
        return records.found(f"{self.name}/{row}", out)

    def recorded(self, out: Path | None = None, work: Path = records.WORK) -> Recorded:
        """All records of its rows."""
        found = {row: self.record(row, out) for row in self.rows}
        return Recorded(self, {row: record for row, record in found.items() if record}, out, work)
