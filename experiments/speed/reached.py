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
    """How a contender gets to the accuracy of backpropagation."""

    goal: float  # the validation accuracy of the worst of backpropagation's runs
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


def reached(recorded: Mapping[str, Record], name: str, contender: str) -> Reached | None:
    """The epochs that a contender needs, from the records of its trainings; None if it is not trained.

    If it is trained for twice the time, too, it is the training in which more of the seeds arrive, or the faster one.
    """
    found = [_reached(recorded, name, own) for own in (contender, contender + frontier.LONGER)]
    trained = [one for one in found if one]
    return max(trained, key=lambda one: (len(one.arrived), -fmean(one.arrived or [0])), default=None)


def _reached(recorded: Mapping[str, Record], name: str, contender: str) -> Reached | None:
    bp, own = (_histories(recorded.get(f"{name}_{one}")) for one in ("bp", contender))
    if not (bp and own):
        return None
    goal = min(history[-1] for history in bp)
    epochs = [next((epoch for epoch, value in enumerate(history, 1) if value >= goal), None) for history in own]
    return Reached(goal, tuple(epochs))


def _histories(record: Record | None) -> Sequence[Sequence[float]]:
    """The validation accuracy of each seed after each epoch; nothing if there is no training."""
    if record is None:
        return []
    (row,) = record["rows"]
    if "runs" in row:  # a record of `frontier`
        return [run["history"] for run in row["runs"]]
    return list(zip(*(epoch["validation"]["accuracy"] for epoch in row["history"]), strict=True))
