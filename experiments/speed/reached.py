"""How many epochs a rule needs to be as accurate as backpropagation, from the records of its trainings."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from experiments.beyond import frontier
from experiments.lab.experiment import Recorded
from experiments.lab.records import Record
from experiments.papers.al_text import deep


def trainings(recorded: Recorded) -> Mapping[str, Record]:
    """The records of the trainings; a measurement in another folder needs those of the project."""
    experiments = frontier.EXPERIMENT, deep.EXPERIMENT
    ours = [experiment.recorded() for experiment in experiments]
    others = [experiment.recorded(recorded.out) for experiment in experiments]
    return {row: record for found in (*ours, *others) for row, record in found.records.items()}


class Reached(NamedTuple):
    """How a contender gets to an accuracy."""

    goal: float  # the validation accuracy
    epochs: tuple[float | None, ...]  # of each seed, the first epoch with that accuracy; None: it does not get there

    @property
    def arrived(self) -> list[float]:
        """The epochs of the seeds that get there."""
        return [value for value in self.epochs if value is not None]

    @property
    def always(self) -> bool:
        """Whether all seeds get there."""
        return None not in self.epochs

    @property
    def words(self) -> str:
        """The mean over the seeds that get there, and how many they are if others do not."""
        of = "" if self.always else f", {len(self.arrived)} of {len(self.epochs)} seeds"
        return f"{fmean(self.arrived):.3g}{of}" if self.arrived else "not reached"


def goal_of(recorded: Mapping[str, Record], name: str) -> float | None:
    """The validation accuracy that all runs of backpropagation have at their end; None if it is not trained."""
    return min((history[-1] for history in _histories(recorded.get(f"{name}_bp"))), default=None)


def reached(recorded: Mapping[str, Record], name: str, contender: str, goal: float | None = None) -> Reached | None:
    """The epochs that a contender needs, from the records of its trainings; None if it is not trained.

    The goal is that of backpropagation, if no other is given. If the contender is trained for other lengths of time,
    too, it is the training in which most of the seeds arrive, and of several such the fastest one.
    """
    goal = goal or goal_of(recorded, name)
    lengths = [_histories(recorded.get(f"{name}_{contender}{end}")) for end in ("", *frontier.LENGTHS)]
    trained = [_reached(goal, own) for own in lengths if goal and own]
    return max(trained, key=lambda one: (len(one.arrived), -fmean(one.arrived or [0])), default=None)


def _reached(goal: float, runs: Sequence[Sequence[float]]) -> Reached:
    epochs = [next((epoch for epoch, value in enumerate(own, 1) if value >= goal), None) for own in runs]
    return Reached(goal, tuple(epochs))


def _histories(record: Record | None) -> Sequence[Sequence[float]]:
    """The validation accuracy of each seed after each epoch; nothing if there is no training."""
    if record is None:
        return []
    (row,) = record["rows"]
    if "runs" in row:  # a record of `frontier`
        return [run["history"] for run in row["runs"]]
    return list(zip(*(epoch["validation"]["accuracy"] for epoch in row["history"]), strict=True))
