"""Rows in order of their cost, for a machine that is at hand for minutes only.

`python -m experiments.lab.minutes --minutes 30 bartunov_table1 dkp_table1` takes the trainings of these experiments
that are not recorded yet. It begins some of them: each is trained for two epochs, of which the second is timed. Then it
trains those that fit into the time, rows with a paper's number first, and among them those that need least; and so on
with the next ones. On an accelerator all seeds of a row are one program. A row is recorded as soon as it has ended. The
same command continues with the others.

Several processes can share the rows; each of them takes a part, from `--part 1/4` to `--part 4/4`. On one GPU they need
XLA_PYTHON_CLIENT_PREALLOCATE=false in the environment, or the first of them takes most of its memory.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax

from experiments.lab import records, report
from experiments.lab.experiment import CannotRun, Task
from experiments.lab.main import as_task, is_recorded, run_row
from experiments.lab.training import Case
from jaxlocal import flags
from jaxlocal.hints import nearest
from jaxlocal.training import DivergedError
from jaxlocal.training.session import Interrupted

Result = TypeVar("Result")
PRICING = 0.3  # the share of the remaining time in which rows are begun, before some of them are trained to the end


class Priced(NamedTuple):
    """A row with the seconds that it still needs."""

    task: Task
    case: Case
    seconds: float

    @property
    def name(self) -> str:
        """The name of its record."""
        return f"{self.task.experiment.name}/{self.task.row}"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what fits into the minutes."""
    parser = _parser()
    args = parser.parse_args(argv)
    _keep_programs(args.work)
    records.code()  # now, because the code may be edited while it runs
    began = time.monotonic()
    until = began + 60 * args.minutes
    wanted = [report.BY_NAME[name] for name in dict.fromkeys(args.experiments)]
    trainings = [
        (experiment, row, case)
        for experiment in wanted
        for row, case in experiment.rows.items()
        if isinstance(case, Case) and (case.quick or not args.quick)
    ]
    part, parts = args.part
    waiting = [
        (task, case)
        for experiment, row, case in trainings[part - 1 :: parts]
        if not is_recorded(task := as_task(experiment, row, args, until))
    ]
    begun: list[Priced] = []
    failed: list[str] = []
    try:
        while waiting and time.monotonic() < until:
            begun += _priced(waiting, until, failed)
            begun = _run(sorted(begun, key=_order), until, failed)
        # None of them fits, but what is trained now need not be trained later.
        begun = [row for row in begun if time.monotonic() >= until or not _train(row, failed)]
    except Interrupted as stop:
        parser.exit(128 + stop.signal, f"{stop}; the same command resumes\n")
    print(f"not recorded: {len(begun)} rows that have begun, and {len(waiting)} others; the same command resumes")
    if failed:
        parser.exit(1, f"{parser.prog}: not trained: {', '.join(failed)}\n")


def _priced(waiting: list[tuple[Task, Case]], until: float, failed: list[str]) -> list[Priced]:
    """Take rows from the front and begin them, for a part of the time; each with the seconds that it still needs."""
    priced: list[Priced] = []
    enough = time.monotonic() + PRICING * (until - time.monotonic())
    while waiting and time.monotonic() < enough:
        task, case = waiting.pop(0)
        beginning = task._replace(until=min(task.until, enough))
        seconds = _attempt(partial(case.price, beginning), task, failed)
        if seconds is not None:
            priced.append(Priced(task, case, seconds))
            print(f"{priced[-1].name} needs {_in_words(seconds)}", flush=True)
    return priced


def _order(row: Priced) -> tuple[bool, float]:
    """Rows with a paper's number first, and among them those that need least."""
    return row.case.paper is None, row.seconds


def _run(rows: Sequence[Priced], until: float, failed: list[str]) -> list[Priced]:
    """Train the rows in this order, as far as they fit into the time; returns the others."""
    left: list[Priced] = []
    for row in rows:
        fits = time.monotonic() + row.seconds <= until
        if not (fits and _train(row, failed)):
            left.append(row)
    return left


def _train(row: Priced, failed: list[str]) -> bool:
    """Train a row until its end or that of the time; whether there is nothing left to do."""
    return _attempt(partial(run_row, row.task), row.task, failed) is not False


def _attempt(step: Callable[[], Result], task: Task, failed: list[str]) -> Result | None:
    """What the step returns; a row that cannot be trained is named, and does not stop the others."""
    try:
        return step()
    except (CannotRun, FileNotFoundError, DivergedError) as error:
        print(f"{task.experiment.name}/{task.row}: {error}", file=sys.stderr, flush=True)
        failed.append(task.row)
        return None


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:.1f} more minutes" if seconds < float("inf") else "more time than there was to see"


def _keep_programs(work: Path) -> None:
    """Compiled programs are kept between the first epochs of a row, the rest of it, and the next command."""
    jax.config.update("jax_compilation_cache_dir", str(work / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _parser() -> flags.Parser:
    parser = flags.Parser("python -m experiments.lab.minutes", description=__doc__)
    add = parser.add_argument
    add("experiments", nargs="+", type=_name, metavar="EXPERIMENT", help=f"of {', '.join(_with_trainings())}")
    add("--minutes", type=flags.positive, required=True, metavar="M", help="the time that there is")
    add("--part", type=_part, default=(1, 1), metavar="I/N", help="only every N-th row, from the I-th on")
    add("--quick", action="store_true", help="the shorter budgets; rows that take too long even then are left out")
    for name, words in (("epochs", "the number of passes over the data"), ("seeds", "train the seeds 0 to N-1")):
        add(f"--{name}", type=flags.whole, metavar="N", help=f"{words} (default: by the row)")
    add("--out", type=flags.folder, metavar="FOLDER", help="record here, not in experiments/records")
    add("--work", type=flags.folder, default=records.WORK, metavar="FOLDER", help="for files such as checkpoints")
    parser.set_defaults(again=False)
    return parser


def _with_trainings() -> list[str]:
    """The names of the experiments that train rows."""
    rows = {name: experiment.rows.values() for name, experiment in report.BY_NAME.items()}
    return [name for name, cases in rows.items() if any(isinstance(case, Case) for case in cases)]


def _part(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise argparse.ArgumentTypeError(f"{text!r} is no part such as 2/4, the second of four")


def _name(text: str) -> str:
    if text in _with_trainings():
        return text
    hint = nearest(text, _with_trainings())
    raise argparse.ArgumentTypeError(f"there is no experiment {text!r} with trainings; {hint}")


if __name__ == "__main__":
    main()
