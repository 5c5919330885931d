"""Tables of papers: each row a rule on a data set, trained seed by seed, recorded by itself, resumed where it stopped.

A study is a table; `python -m experiments.NAME` trains its rows with the paper's budget, `--quick` those that two cores
can train with a budget that they can afford. Every row has a record of its own, `results/STUDY/ROW.json`; only one of
as many epochs and seeds takes its place, or one made by `--again`. On an accelerator all seeds are one program, on a
CPU they take turns.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxlocal as jl
from experiments.lab import records as results
from jaxlocal import flags
from jaxlocal.data import Splits
from jaxlocal.files import write_whole
from jaxlocal.rule import Params, Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORK = results.ROOT / "runs" / "experiments"
COPIES = "CIFAR-10 from JPEG copies of its images: no number is exactly comparable."
NOTES = {"cifar10": COPIES}


class Budget(NamedTuple):
    """How long, and how often."""

    epochs: int
    seeds: int


class Steps(NamedTuple):
    """The length of a run in batches: what schedules depend on."""

    epoch: int
    total: int


class Trained(NamedTuple):
    """One seed's run at its end."""

    rule: Rule
    params: Params
    splits: Splits
    augmentation: jl.augmentation.Augmentation | None
    seed: int
    folder: Path  # for what is too large for a record


Draw = Callable[[Mapping[str, results.Row]], Mapping[str, "Figure"]]  # of the recorded rows


class Case(NamedTuple):
    """A row of a table: what is trained on which data, for how long, and what the paper reports of it."""

    data: str
    rule: Callable[[Steps], Rule]
    told: Mapping[str, str]  # net, optimizer and the like, for a reader
    full: Budget  # the paper's
    quick: Budget | None = None  # for two cores; None where they take too long
    paper: tuple[float, float | None] | None = None  # test accuracy in percent, and its spread
    batch_size: int = 32
    prepare: Callable[[Splits], jl.augmentation.Augmentation | None] = lambda splits: None
    size: int | None = None  # the images are made this small
    examples: int | None = None  # so many of the training set; all by default


class Study(NamedTuple):
    """A table of a paper."""

    name: str  # of its module
    title: str
    source: str
    cases: Mapping[str, Case]
    note: str  # what a reader must know before comparing
    measure: Callable[[Trained], Mapping[str, Any]] | None = None  # numbers beside the accuracies
    draw: Draw | None = None


def main(study: Study, argv: Sequence[str] | None = None) -> None:
    """Train the rows that are not recorded yet, record each, draw the figures, and print the table."""
    parser = _parser(study)
    args = parser.parse_args(argv)
    results.code()  # of now: the code may be edited while it runs
    short = [row for row, case in study.cases.items() if case.quick]
    wanted = args.rows or (short if args.quick else list(study.cases))
    if args.quick and not (args.epochs and args.seeds) and (long := [row for row in wanted if row not in short]):
        parser.error(f"argument --quick: {', '.join(long)} has no budget for two cores; give --epochs and --seeds")
    until = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    failed = []
    for row in [row for row in study.cases if row in wanted]:
        case = study.cases[row]
        budget = asked(args, case.full, case.quick or case.full)
        if not args.again and covers(read(study, row, args.out), budget):
            print(f"{row}: recorded before; --again trains it anew", flush=True)
            continue
        try:
            finished = _Row(study, row, budget, args, until).train()
        except (FileNotFoundError, jl.training.DivergedError) as error:
            print(f"{parser.prog}: {row}: {error}", file=sys.stderr, flush=True)
            failed.append(row)
            continue
        if not finished:
            print(f"{row}: the {args.minutes} minutes are over; the same command goes on from here")
            break
    if not wanted:
        print("no row has a budget for two cores; --rows, --epochs and --seeds choose one")
    rows = recorded(study, args.out)
    if rows:
        print(f"\n{results.table(list(rows.values()))}\n\n{study.note}")
        for name, figure in (study.draw(rows) if study.draw else {}).items():
            results.draw(figure, name, args.out)
    if failed:
        parser.exit(1, f"{parser.prog}: not trained: {', '.join(failed)}\n")


def add_budget(parser: flags.Parser, quick: str) -> None:
    """The flags that say how long, and where to."""
    add = parser.add_argument
    add("--quick", action="store_true", help=quick)
    add("--epochs", type=flags.whole, metavar="N", help="passes over the data (default: the paper's)")
    add("--seeds", type=flags.whole, metavar="N", help="run seeds 0 to N-1 (default: as many as there)")
    add("--again", action="store_true", help="train what is recorded already, too")
    add("--out", type=flags.folder, metavar="FOLDER", help="record here, not in experiments/records")


def asked(args: argparse.Namespace, full: Budget, quick: Budget) -> Budget:
    """The budget that the flags say."""
    budget = quick if args.quick else full
    return Budget(args.epochs or budget.epochs, args.seeds or budget.seeds)


def recorded(study: Study, out: Path | None = None) -> dict[str, results.Row]:
    """The rows that have a record."""
    records = {row: read(study, row, out) for row in study.cases}
    return {row: record["rows"][0] for row, record in records.items() if record}


def read(study: Study, row: str, out: Path | None = None) -> dict[str, Any] | None:
    """A row's record."""
    return results.found(f"{study.name}/{row}", out)


def covers(record: Mapping[str, Any] | None, budget: Budget) -> bool:
    """Whether a record is of as many epochs and as many seeds, or more."""
    return record is not None and reaches(spent(record), budget)


def reaches(budget: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a budget is as large as another in all that it counts."""
    return all(one >= least for one, least in zip(budget, other, strict=True))


def spent(record: Mapping[str, Any]) -> Budget:
    """The budget of a record."""
    return Budget(record["settings"]["epochs"], len(record["settings"]["seeds"]))


def merged(histories: Sequence[Sequence[jl.training.Metrics]]) -> list[jl.training.Metrics]:
    """The epochs of several seeds, as `fit` reports those of an ensemble: each number a list over the seeds."""

    def lists(*leaves: Any) -> Any:
        return list(leaves)

    rows = [jax.tree.map(lists, *rows) for rows in zip(*histories, strict=True)]
    return [{**row, "epoch": row["epoch"][0]} for row in rows]


def work_folder(study: Study, row: str, work: Path, epochs: int, source: str) -> Path:
    """Where a row's training leaves what is too large for a record."""
    return work / study.name / row / f"{epochs}-{source}"


class _Row:
    """The training of one row: what is done of it, and what is to do."""

    def __init__(self, study: Study, row: str, budget: Budget, args: argparse.Namespace, until: float):
        self._study, self._row, self._budget, self._until = study, row, budget, until
        self._out, self._again = args.out, args.again
        self._case = study.cases[row]
        # Other code, or another budget, has a folder of its own.
        self._folder = work_folder(study, row, args.work, budget.epochs, results.code()["source"])
        splits = images(self._case.data, self._case.size)
        x, y = splits.train
        self._splits = splits._replace(train=(x[: self._case.examples], y[: self._case.examples]))
        self._augmentation = self._case.prepare(self._splits)
        steps = len(self._splits.train[0]) // self._case.batch_size
        self._rule = self._case.rule(Steps(steps, steps * budget.epochs))

    def train(self) -> bool:
        """Train every seed, and record what there is after each; False if the time is over before."""
        seeds = range(self._budget.seeds)
        at_once = jax.default_backend() != "cpu"  # on a CPU, an ensemble gains nothing
        done: list[dict[str, Any]] = []
        for group in [seeds] if at_once else [range(seed, seed + 1) for seed in seeds]:
            outcome = self._outcome(group)
            if outcome is None:
                return False
            done += outcome
            self._record(done)
        for folder in self._folder.glob("seeds-*"):  # else `--again` would find them
            shutil.rmtree(folder)
        return True

    def _settings(self, seeds: Sequence[int]) -> dict[str, Any]:
        return {
            "seeds": list(seeds),
            "data": self._case.data,
            **{name: value for name in ("size", "examples") if (value := getattr(self._case, name))},
            **self._case.told,
            "batch_size": self._case.batch_size,
            "epochs": self._budget.epochs,
            "reported": "accuracy after the last epoch; curves on the validation set",
        }

    def _outcome(self, seeds: range) -> list[dict[str, Any]] | None:
        """What comes of these seeds, each by itself; from the work folder, if this very code left it there."""
        folder = self._folder / f"seeds-{seeds.start}-{seeds.stop}"
        made = {"source": results.code()["source"], "settings": self._settings(seeds)}
        if (kept := _load(folder / "outcome.json")) and kept["made"] == made:
            return kept["seeds"]
        if _load(folder / "made.json") != made:
            folder = _emptied(folder)
            write_whole(folder / "made.json", json.dumps(made))
        outcome = self._fit(seeds, folder)
        if outcome is not None:
            write_whole(folder / "outcome.json", json.dumps({"made": made, "seeds": outcome}))
            _emptied(folder / "checkpoints")  # they are large
        return outcome

    def _fit(self, seeds: range, folder: Path) -> list[dict[str, Any]] | None:
        many = len(seeds) > 1
        rule = jl.ensemble(self._rule, len(seeds)) if many else self._rule

        def watch(progress: jl.training.Progress) -> None:
            if progress.state:
                accuracy = jnp.mean(jnp.asarray(progress.state.history[-1]["validation"]["accuracy"]))
                epoch = progress.state.history[-1]["epoch"]
                whose = ", ".join(map(str, seeds))
                print(f"  {self._row} seed {whose} epoch {epoch}: validation {100 * accuracy:.2f} %", flush=True)

        with jl.training.Session(folder, rule, self._splits, keep=1) as session:
            result = session.train(
                epochs=self._budget.epochs,
                batch_size=self._case.batch_size,
                seed=seeds.start,
                augmentation=self._augmentation,
                watch=watch,
                until=self._until,
            )
        if result.stopped:
            return None
        seconds = session.seconds
        measured = [jl.training.evaluate(rule, result.params, split, self._augmentation) for split in self._splits]
        outcomes = []
        for place, seed in enumerate(seeds):
            one = partial(jax.tree.map, lambda leaf, place=place: leaf[place]) if many else lambda tree: tree
            accuracies = [_of_member(split["accuracy"], place) for split in measured]
            trained = Trained(self._rule, one(result.params), self._splits, self._augmentation, seed, self._folder)
            outcomes.append(
                {
                    "seed": seed,
                    "seconds": seconds / len(seeds),
                    "accuracies": dict(zip(results.SPLITS, accuracies, strict=True)),
                    "history": [_member(row, place) for row in result.state.history],
                    "measured": dict(self._study.measure(trained)) if self._study.measure else {},
                }
            )
        return outcomes

    def _record(self, done: Sequence[Mapping[str, Any]]) -> None:
        """Write what is done so far, unless what is recorded took more epochs or seeds."""
        case = self._case
        paper = case.paper and {
            "test": case.paper[0] / 100,
            "std": case.paper[1] and case.paper[1] / 100,
            "source": self._study.source,
        }
        seconds = sum(one["seconds"] for one in done)
        row = results.row(self._row, [one["accuracies"] for one in done], seconds, paper)
        row |= {
            "full": case.full._asdict(),
            "measured": [one["measured"] for one in done],
            "history": merged([one["history"] for one in done]),
        }
        seeds = [one["seed"] for one in done]
        there = read(self._study, self._row, self._out)
        finished = len(seeds) == self._budget.seeds
        replaces = finished and self._again
        if there and not replaces and not reaches(Budget(self._budget.epochs, len(seeds)), spent(there)):
            if finished:
                print(f"{self._row}: has a record of {spent(there)}; --again puts this one in its place")
            return
        command = (
            f"python -m experiments.{results.module(self._study.name)} --rows {self._row} "
            f"--epochs {self._budget.epochs} --seeds {len(seeds)}"
        )
        note = " ".join(filter(None, (self._study.note, NOTES.get(case.data))))
        name = f"{self._study.name}/{self._row}"
        out = results.place(name, self._out)
        results.record(name, [row], command, self._settings(seeds), note=note, out=out)
        print(f"{self._row}: test {results.percent(row['test'])} % of {len(seeds)} ({seconds:.0f} s)", flush=True)


def _parser(study: Study) -> flags.Parser:
    def row(name: str) -> str:
        if name in study.cases:
            return name
        near = get_close_matches(name, study.cases, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"the rows are {', '.join(study.cases)}"
        raise argparse.ArgumentTypeError(f"there is no row {name!r}; {hint}")

    parser = flags.Parser(
        f"python -m experiments.{results.module(study.name)}", description=f"{study.title}. {study.note}"
    )
    parser.add_argument("--rows", nargs="+", type=row, metavar="ROW", help=f"train these only: {' '.join(study.cases)}")
    add_budget(parser, quick="what two cores can train, and as long as they can")
    parser.add_argument("--minutes", type=flags.positive, metavar="M", help="stop then; the same command goes on")
    parser.add_argument(
        "--work", type=flags.folder, default=WORK, metavar="FOLDER", help="for checkpoints (default: runs/experiments)"
    )
    return parser


@cache
def images(name: str, size: int | None = None) -> Splits:
    """An image set in bytes, on the device once."""
    return jax.tree.map(jnp.asarray, jl.data.load(name, size=size))


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _of_member(value: Any, place: int) -> float:
    """What is reported of an ensemble are lists over its members."""
    return float(f"{value[place] if isinstance(value, list) else value:.6g}")


def _member(row: jl.training.Metrics, place: int) -> jl.training.Metrics:
    """One member's numbers of an epoch."""
    return {
        "epoch": row["epoch"],
        "terms": [{name: _of_member(value, place) for name, value in term.items()} for term in row["terms"]],
        **{split: {name: _of_member(v, place) for name, v in row[split].items()} for split in ("train", "validation")},
    }
