"""Rows of accuracies: a rule trained on a data set from one or more seeds, each seed resumed where it stopped.

On an accelerator all seeds are trained at once in one program, unless the row says otherwise; on a CPU, where that
gains nothing, one after another.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxlocal as jl
from experiments.lab import records
from experiments.lab.experiment import Budget, CannotRun, Outcome, Paper, Task
from experiments.lab.tables import percent
from jaxlocal.data import Splits
from jaxlocal.files import write_whole
from jaxlocal.text import measurement

Prepare = Callable[[Splits], jl.augmentation.Augmentation | None]
NOT_HERE = {"cifar100", "~/tiny-imagenet-200"}  # the machines on which the records are made lack these data sets
NOTES = {"cifar10": "CIFAR-10 from JPEG copies of its images: no number is exactly comparable."}  # by data set


class Steps(NamedTuple):
    """The length of a run in steps, on which schedules depend."""

    epoch: int
    total: int


class Trained(NamedTuple):
    """The run of one seed at its end."""

    rule: jl.Rule
    params: jl.Params
    splits: Splits
    augmentation: jl.augmentation.Augmentation | None
    seed: int
    folder: Path  # for what is too large for a record


def unprepared(splits: Splits) -> None:
    """The images as they are."""


class Case(NamedTuple):
    """A row: which rule is trained on which data and for how long, and what the paper reports."""

    data: str
    rule: Callable[[Steps], jl.Rule]
    settings: Mapping[str, str]  # the network, the optimizer and the like, in words
    full: Budget  # the paper's epochs and seeds
    quick: Budget | None = None  # None if even a short run takes too long on a small machine
    paper: Paper | None = None
    batch_size: int = 32
    prepare: Prepare = unprepared
    size: int | None = None  # the height and width that images are reduced to
    examples: int | None = None  # the number of training examples, unless the budget counts them; by default all
    measure: Callable[[Trained], Mapping[str, Any]] | None = None  # numbers in addition to the accuracies
    paper_train: Paper | None = None
    load: Callable[[], Splits] | None = None  # of the data, if they are no images
    test_curve: bool = False  # whether the test accuracy after each epoch is recorded, for a figure
    printed: str = ""  # where the paper's number stands, if not in the table of the experiment
    apart: bool = False  # seeds one by one on accelerators, too: together they would make one grouped convolution

    @property
    def lacks(self) -> str:
        """What is missing to run the row."""
        return "no data" if self.data in NOT_HERE else "no time"

    def run(self, task: Task) -> Iterator[Outcome]:
        """Train every seed; there is an outcome after each of them, or after all if they are trained at once.

        A seed that diverges ends the row.
        """
        training = _Training(self, task)
        done: list[dict[str, Any]] = []
        for group in self._groups(task.budget["seeds"]):
            try:
                trained = training.train(group)
            except jl.training.DivergedError as error:
                yield self._diverged(task, group, str(error))
                break
            if trained is None:
                return
            done += trained
            yield self._outcome(task, done)
        for folder in task.folder.glob("seeds-*"):  # otherwise `--again` would find them
            shutil.rmtree(folder)

    def price(self, task: Task) -> float:
        """The seconds that the row still needs, found by training two epochs of it, from which `run` resumes.

        It is infinite if the two epochs take longer than the time that the task has.
        """
        training = _Training(self, task)
        groups = [group for group in self._groups(task.budget["seeds"]) if not training.is_trained(group)]
        if not groups:
            return 0.0
        seconds, epochs = training.begin(groups[0])
        left = task.budget["epochs"] * len(groups) - epochs
        return left * seconds if left else 0.0

    def _groups(self, seeds: int) -> list[list[int]]:
        """The seeds that are trained at once."""
        alone = self.apart or jax.default_backend() == "cpu"
        return [[seed] for seed in range(seeds)] if alone else [list(range(seeds))]

    def _outcome(self, task: Task, done: Sequence[Mapping[str, Any]]) -> Outcome:
        paper = self.paper and {
            "test": self.paper[0] / 100,
            "std": self.paper[1] and self.paper[1] / 100,
            "source": self.printed or task.experiment.source,
        }
        seconds = sum(one["seconds"] for one in done)
        row = records.row(task.row, [one["accuracies"] for one in done], seconds, paper)
        row |= {
            "full": dict(self.full),
            "best": _best([one["best"] for one in done]),
            "measured": [one["measured"] for one in done],
            "history": merged([one["history"] for one in done]),
        }
        settings = self._settings(task, [one["seed"] for one in done])
        settings["reported"] = "accuracy after the last epoch, and after the best one on the validation set"
        message = f"{task.row}: test {percent(row['test'])} % of {len(done)} seeds ({seconds:.0f} s)"
        budget = Budget({**task.budget, "seeds": len(done)})
        return Outcome([row], settings, budget, message, NOTES.get(self.data, ""))

    def _diverged(self, task: Task, group: Sequence[int], where: str) -> Outcome:
        """The end of a row: no accuracies, but where it diverged."""
        settings = self._settings(task, list(range(group[-1] + 1)))
        row = {"rule": task.row, "diverged at": f"seed {group[0]}: {where}"}
        return Outcome([row], settings, task.budget, f"{task.row}: {where}", NOTES.get(self.data, ""))

    def trained_on(self, task: Task) -> int | None:
        """The number of training examples; None if it is all of them."""
        return task.budget.get("examples", self.examples)

    def _settings(self, task: Task, seeds: list[int]) -> dict[str, Any]:
        return {
            "seeds": seeds,
            "data": self.data,
            **{name: value for name, value in (("size", self.size), ("examples", self.trained_on(task))) if value},
            **self.settings,
            "batch_size": self.batch_size,
            "epochs": task.budget["epochs"],
        }


class _Training:
    """The training of a case with a number of epochs."""

    def __init__(self, case: Case, task: Task):
        self._case, self._task = case, task
        splits = case.load() if case.load else images(case.data, case.size)
        self._splits = shortened(splits, case.trained_on(task))
        self._augmentation = case.prepare(self._splits)
        steps = len(self._splits.train[0]) // case.batch_size
        self._rule = case.rule(Steps(steps, steps * task.budget["epochs"]))

    def train(self, seeds: Sequence[int]) -> list[dict[str, Any]] | None:
        """Each seed's numbers, from the folder if it was trained before; None if the time is over before the end."""
        if self.is_trained(seeds):
            return json.loads(self._file(seeds).read_text(encoding="utf-8"))
        with self._session(seeds) as session:
            result = self._go_on(session, seeds)
            if result.stopped:
                return None
            if (best := session.best()) is None:
                folder = session.folder
                raise CannotRun(f"the checkpoint of its best epoch is damaged; remove {folder} and train it again")
        trained = self._numbers(self._of(seeds), result, best, seeds, session.seconds / len(seeds))
        write_whole(self._file(seeds), json.dumps(trained))
        shutil.rmtree(session.folder / "checkpoints")  # they are large
        return trained

    def is_trained(self, seeds: Sequence[int]) -> bool:
        """Whether these seeds have been trained to their end."""
        return self._file(seeds).exists()

    def begin(self, seeds: Sequence[int]) -> tuple[float, int]:
        """Train two epochs more; the seconds of the last, infinite if there was no time, and the epochs in all."""
        ends = [time.perf_counter()]

        def after_two(progress: jl.training.Progress) -> bool:
            if progress.state:
                ends.append(time.perf_counter())
            return len(ends) == 3

        with self._session(seeds) as session:
            result = self._go_on(session, seeds, after_two)
        return ends[-1] - ends[-2] if len(ends) > 1 else float("inf"), len(result.state.history)

    def _file(self, seeds: Sequence[int]) -> Path:
        """Where the numbers of these seeds are, once they are trained."""
        return self._task.folder / f"seeds-{seeds[0]}-{seeds[-1] + 1}" / "trained.json"

    def _of(self, seeds: Sequence[int]) -> jl.Rule:
        return jl.ensemble(self._rule, len(seeds)) if len(seeds) > 1 else self._rule

    def _session(self, seeds: Sequence[int]) -> jl.training.Session:
        return jl.training.Session(self._file(seeds).parent, self._of(seeds), self._splits, keep=1)

    def _go_on(
        self,
        session: jl.training.Session,
        seeds: Sequence[int],
        stop: Callable[[jl.training.Progress], bool] = lambda progress: False,
    ) -> jl.training.Result:
        """Train from the session's last checkpoint, until the end or the time or `stop` says so."""

        def watch(progress: jl.training.Progress) -> bool:
            print_epoch(f"{self._task.row} seed {', '.join(map(str, seeds))}", progress)
            if progress.state and self._case.test_curve:
                self._test(seeds, progress.state)
            return stop(progress)

        return session.train(
            epochs=self._task.budget["epochs"],
            batch_size=self._case.batch_size,
            seed=seeds[0],
            augmentation=self._augmentation,
            watch=watch,
            until=self._task.until,
        )

    def _test(self, seeds: Sequence[int], state: jl.training.State) -> None:
        """Write down the test accuracy after an epoch; nothing is chosen by it."""
        tested = jl.training.evaluate(self._of(seeds), state.params, self._splits.test, self._augmentation)
        line = {"epoch": state.history[-1]["epoch"], "accuracy": tested["accuracy"]}
        with self._test_curve(seeds).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _history(self, seeds: Sequence[int], history: Sequence[jl.training.Metrics]) -> list[jl.training.Metrics]:
        """The history, with the test accuracies that were written down."""
        if not self._case.test_curve:
            return list(history)
        lines = map(json.loads, self._test_curve(seeds).read_text(encoding="utf-8").splitlines())
        tested = {line["epoch"]: {"accuracy": line["accuracy"]} for line in lines}  # after a resumption some come twice
        return [{**row, "test": tested[row["epoch"]]} for row in history]

    def _test_curve(self, seeds: Sequence[int]) -> Path:
        return self._file(seeds).with_name("test.jsonl")

    def _numbers(
        self,
        rule: jl.Rule,
        result: jl.training.Result,
        best: jl.training.State,
        seeds: Sequence[int],
        seconds: float,
    ) -> list[dict[str, Any]]:
        measured = [jl.training.evaluate(rule, result.params, split, self._augmentation) for split in self._splits]
        at_best = jl.training.evaluate(rule, best.params, self._splits.test, self._augmentation)
        history, numbers = self._history(seeds, result.state.history), []
        for place, seed in enumerate(seeds):
            params = jax.tree.map(lambda leaf, at=place: leaf[at], result.params) if len(seeds) > 1 else result.params
            trained = Trained(self._rule, params, self._splits, self._augmentation, seed, self._task.folder)
            accuracies = [_of_member(split["accuracy"], place) for split in measured]
            numbers.append(
                {
                    "seed": seed,
                    "seconds": seconds,
                    "accuracies": dict(zip(records.SPLITS, accuracies, strict=True)),
                    "best": {
                        "epoch": best.history[-1]["epoch"],
                        "test": _of_member(at_best["accuracy"], place),
                    },
                    "history": [_member(row, place) for row in history],
                    "measured": dict(self._case.measure(trained)) if self._case.measure else {},
                }
            )
        return numbers


def print_epoch(run: str, progress: jl.training.Progress) -> None:
    """Print the validation accuracy if an epoch has ended; of an ensemble, its mean and deviation."""
    if progress.state:
        row = progress.state.history[-1]
        print(f"  {run} epoch {row['epoch']}: validation {measurement(row['validation'])}", flush=True)


def attempt(rule: jl.Rule, splits: Splits, **settings: Any) -> tuple[jl.training.Result | None, float]:
    """A training with these settings of `fit`, and its seconds; None if it diverges, as some of a search may."""
    began = time.perf_counter()
    try:
        result = jl.training.fit(rule, splits, **settings)
    except jl.training.DivergedError:
        result = None
    return result, round(time.perf_counter() - began, 1)


@cache
def images(name: str, size: int | None = None) -> Splits:
    """A data set as it is stored, put on the device once."""
    return jax.tree.map(jnp.asarray, jl.data.load(name, size=size))


def shortened(splits: Splits, examples: int | None) -> Splits:
    """The data with the first so many training examples; with None all of them.

    Raises:
      CannotRun: there are not so many.
    """
    x, y = splits.train
    if examples and examples > len(x):
        raise CannotRun(f"it asks for {examples} training examples, and there are {len(x)}; give fewer")
    return splits._replace(train=(x[:examples], y[:examples]))


def merged(histories: Sequence[Sequence[jl.training.Metrics]]) -> list[jl.training.Metrics]:
    """The epochs of several seeds, as `fit` reports those of an ensemble: each number a list over the seeds."""
    rows = [jax.tree.map(lambda *leaves: list(leaves), *rows) for rows in zip(*histories, strict=True)]
    return [{**row, "epoch": row["epoch"][0]} for row in rows]


def _best(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The best epoch of each seed on the validation set, and the test accuracy after it.

    Seeds that are trained at once share the epoch that is best for their mean.
    """
    return {"epochs": [one["epoch"] for one in epochs], "test": records.over_seeds([one["test"] for one in epochs])}


def _of_member(value: Any, place: int) -> float:
    """One member's number; those of an ensemble are lists over its members."""
    return float(f"{value[place] if isinstance(value, list) else value:.6g}")


def _member(row: jl.training.Metrics, place: int) -> jl.training.Metrics:
    """One member's numbers of an epoch."""
    return {
        "epoch": row["epoch"],
        "terms": [{name: _of_member(value, place) for name, value in term.items()} for term in row["terms"]],
        **{
            split: {name: _of_member(v, place) for name, v in row[split].items()}
            for split in records.SPLITS
            if split in row
        },
    }
