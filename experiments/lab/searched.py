"""A row whose rate is chosen on the validation set before its seeds are trained."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from experiments.lab.experiment import Budget, Outcome, Paper, Task
from experiments.lab.records import Row
from experiments.lab.training import Case
from jaxlocal.files import write_whole

RATES = 3e-4, 1e-3, 3e-3, 1e-2
SHARE = 3  # the whole training is this many times as long as that with each of the rates


class Searched(NamedTuple):
    """A row that chooses among rates: each is tried for a part of the epochs, and the best one is trained."""

    cases: Mapping[float, Case]  # by rate; they differ in nothing else

    @property
    def case(self) -> Case:
        """The row with the first of the rates."""
        return next(iter(self.cases.values()))

    @property
    def full(self) -> Budget:
        return self.case.full

    @property
    def quick(self) -> Budget | None:
        return self.case.quick

    @property
    def paper(self) -> Paper | None:
        return self.case.paper

    @property
    def paper_train(self) -> Paper | None:
        return self.case.paper_train

    @property
    def lacks(self) -> str:
        return self.case.lacks

    def run(self, task: Task) -> Iterator[Outcome]:
        """Try the rates, then train the seeds with the best; the trials are kept in the record."""
        epochs = epochs_of_a_trial(task.budget["epochs"])
        file = task.folder / "trials.json"
        trials = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        for rate in list(self.cases)[len(trials) :]:
            trial = _tried(self.cases[rate], rate, epochs, task)
            if trial is None:
                return
            trials.append(trial)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(trials))
        rate = best_rate(trials)
        for outcome in self.cases[rate].run(task):
            rows = [row | {"rate": rate, "trials": trials} for row in outcome.rows]
            settings = {**outcome.settings, "rates": list(self.cases), "epochs for each rate": epochs}
            yield outcome._replace(rows=rows, settings=settings)
            if outcome.budget.covers(task.budget):
                file.unlink()  # otherwise `--again` would find it


def epochs_of_a_trial(epochs: int) -> int:
    """The epochs with each of the rates, where the whole training has so many."""
    return max(1, epochs // SHARE)


def best_rate(trials: Sequence[Row]) -> float:
    """The rate of the trial with the best validation accuracy."""
    rate: float = max(trials, key=itemgetter("validation"))["rate"]
    return rate


def searched(make: Callable[[float], Mapping[str, Case]], rates: Sequence[float] = RATES) -> dict[str, Searched]:
    """The rows that `make` gives for a rate; each of them chooses among the same rates."""
    made = {rate: make(rate) for rate in rates}
    return {row: Searched({rate: cases[row] for rate, cases in made.items()}) for row in made[rates[0]]}


def rates_in_words(rates: Sequence[float] = RATES) -> str:
    """The search, as a sentence."""
    return (
        f"Each row has chosen its rate among {', '.join(f'{rate:g}' for rate in rates)} on the validation set, after a "
        "third of the epochs; the trials are in its record."
    )


def _tried(case: Case, rate: float, epochs: int, task: Task) -> Row | None:
    """The validation accuracy of one seed after the epochs, 0 if it diverged; None if the time was over before."""
    budget = Budget({**task.budget, "epochs": epochs, "seeds": 1})
    trial = task._replace(budget=budget, folder=task.folder / f"rate-{rate:g}")
    validation = None
    for outcome in case._replace(measure=None).run(trial):
        (row,) = outcome.rows
        validation = 0.0 if "diverged at" in row else row["validation"]["mean"]
    if validation is None:
        return None
    print(f"{task.row}: rate {rate:g}: {100 * validation:.2f} % on the validation set", flush=True)
    return {"rate": rate, "validation": validation}
