"""The main program of every experiment: it trains or measures the rows, records each, and prints the tables.

Without flags a row gets its full budget, which is the paper's where there is a paper. A record is replaced only by one
of at least the same budget, or with `--again`. A row that was stopped resumes when the same command is given again.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from experiments.lab import figures, records, tables
from experiments.lab.experiment import COUNTED, Budget, CannotRun, Entry, Experiment, Option, Outcome, Task, spent
from jaxlocal import flags
from jaxlocal.hints import nearest
from jaxlocal.training import DivergedError
from jaxlocal.training.session import Interrupted


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> None:
    """Run the rows that are not recorded yet, record each, print the tables, and draw the figures."""
    parser = _parser(experiment)
    args = parser.parse_args(argv)
    records.code()  # now, because the code may be edited while it runs
    until = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    failed = []
    for row in _wanted(experiment, args, parser):
        try:
            finished = run_row(as_task(experiment, row, args, until))
        except (CannotRun, FileNotFoundError, DivergedError) as error:
            print(f"{experiment.command}: {row}: {error}", file=sys.stderr, flush=True)
            failed.append(row)
            continue
        except Interrupted as stop:
            parser.exit(128 + stop.signal, f"{row}: {stop}; the same command resumes\n")
        if not finished:
            print(f"{row}: the {args.minutes:g} minutes are over; the same command resumes")
            break
    _show(experiment, args)
    if failed:
        done = "measured" if experiment.is_timing else "trained"
        parser.exit(1, f"{experiment.command}: not {done}: {', '.join(failed)}\n")


def _wanted(experiment: Experiment, args: argparse.Namespace, parser: flags.Parser) -> list[str]:
    """The rows to run, in the experiment's order."""
    short = [row for row, entry in experiment.rows.items() if entry.quick]
    asked = getattr(args, "rows", None)
    wanted = asked or (short if args.quick else list(experiment.rows))
    for row in wanted:
        counted = experiment.rows[row].full
        if asked and (other := [name for name in experiment.counted if getattr(args, name) and name not in counted]):
            parser.error(f"argument {_flag(other[0])}: the budget of {row} does not count it; choose others by --rows")
        if args.quick and row not in short and not all(getattr(args, name) for name in counted):
            needed = " and ".join(_flag(name) for name in counted)
            parser.error(f"argument --quick: {row} has no shorter budget; give {needed}")
    if experiment.rows and not wanted:
        print("no row has a shorter budget; choose one by --rows, and give its budget")
    return [row for row in experiment.rows if row in wanted]


def as_task(experiment: Experiment, row: str, args: argparse.Namespace, until: float) -> Task:
    """The row with the budget and the options that the flags say."""
    entry = experiment.rows[row]
    budget = (args.quick and entry.quick) or entry.full
    budget = Budget({name: getattr(args, name, None) or number for name, number in budget.items()})
    name = f"{experiment.name}/{row}"
    return Task(
        experiment=experiment,
        row=row,
        budget=budget,
        options={
            name: _chosen(option, getattr(args, name, None), args.quick) for name, option in experiment.options.items()
        },
        folder=records.work_folder(args.work, name, budget, records.code()["source"]),
        until=until,
        out=args.out,
        again=args.again,
    )


def _chosen(option: Option, value: Any, quick: bool) -> Any:
    if value is not None:
        return value
    return option.quick if quick and option.quick is not None else option.default


def run_row(task: Task) -> bool:
    """Run a row unless it is recorded; False if the time was over before it was finished."""
    experiment, row = task.experiment, task.row
    if not (task.again or experiment.is_timing) and is_recorded(task):
        print(f"{row}: already recorded; --again repeats it", flush=True)
        return True
    reached = Budget()
    for outcome in experiment.rows[row].run(task):
        reached = outcome.budget
        _record(task, outcome)
        print(outcome.message, flush=True)
        if time.monotonic() > task.until and not reached.covers(task.budget):  # else the row clears its folder
            break
    return reached.covers(task.budget)


def is_recorded(task: Task) -> bool:
    """Whether the row has a record of at least this budget."""
    record = task.experiment.record(task.row, task.out)
    if record is None:
        return False
    ended = "diverged at" in record["rows"][0]  # after one seed has diverged, no other is trained
    wanted = Budget({name: value for name, value in task.budget.items() if not (ended and name == "seeds")})
    return spent(record, wanted).covers(wanted)


def _record(task: Task, outcome: Outcome) -> None:
    """Write an outcome down, unless the existing record took more, or a timing has other settings than the default."""
    experiment = task.experiment
    if experiment.is_timing and not task.out and _given(task):
        return
    there = experiment.record(task.row, task.out)
    finished = outcome.budget.covers(task.budget)
    if there and not (finished and task.again) and not outcome.budget.covers(spent(there, outcome.budget)):
        if finished:
            print(f"{task.row}: not recorded, because the record took more; --again replaces it")
        return
    path = records.write(
        f"{experiment.name}/{task.row}",
        outcome.rows,
        _command(task, outcome.budget),
        outcome.settings,
        note=" ".join(filter(None, (experiment.note, outcome.note))),
        out=task.out,
    )
    if experiment.is_timing:
        print(f"recorded in {path}")


def _given(task: Task) -> dict[str, Any]:
    """The options that differ from their defaults."""
    options = task.experiment.options
    return {name: value for name, value in task.options.items() if value != options[name].default}


def _command(task: Task, budget: Budget) -> str:
    """The command that makes the record again, whatever the default budget will be by then."""
    words = [task.experiment.command, *(["--rows", task.row] if len(task.experiment.rows) > 1 else [])]
    for name, value in [*budget.items(), *_given(task).items()]:
        values = value if isinstance(value, list | tuple) else [] if value is True else [value]
        words += [_flag(name), *map(str, values)]
    return " ".join(words)


def _show(experiment: Experiment, args: argparse.Namespace) -> None:
    """Print the tables and draw the figures of what is recorded."""
    recorded = experiment.recorded(args.out, args.work)
    for rows in filter(None, (list(table(recorded)) for table in experiment.tables)):
        print(f"\n{tables.text(rows)}")
    print(f"\n{experiment.note}")
    try:
        drawn = experiment.draw(recorded) if experiment.draw else {}
    except FileNotFoundError as error:  # some figures show examples of the data
        drawn = {}
        print(f"{experiment.command}: not drawn: {error}", file=sys.stderr, flush=True)
    for name, figure in drawn.items():
        print(f"drawn: {figures.save(figure, name, recorded)}", flush=True)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parser(experiment: Experiment) -> flags.Parser:
    parser = flags.Parser(experiment.command, description=f"{experiment.title}. {experiment.note}")
    add = parser.add_argument
    rows = experiment.rows
    if len(rows) > 1:
        only = f"run these rows only: {' '.join(rows)}"
        add("--rows", nargs="+", type=partial(_row, rows), metavar="ROW", help=only)
    add("--quick", action="store_true", help="a shorter budget; rows that take too long even then are left out")
    for name in experiment.counted:
        add(_flag(name), type=flags.whole, metavar="N", help=f"{COUNTED[name]} (default: {_numbers(rows, name)})")
    for name, option in experiment.options.items():
        _add_option(add, name, option)
    add("--again", action="store_true", help="run rows that are already recorded, too")
    add("--minutes", type=flags.positive, metavar="M", help="stop after M minutes; the same command resumes")
    add("--out", type=flags.folder, metavar="FOLDER", help="record here, not in experiments/records")
    add("--work", type=flags.folder, default=records.WORK, metavar="FOLDER", help="for files such as checkpoints")
    return parser


def _row(rows: Mapping[str, Entry], name: str) -> str:
    if name in rows:
        return name
    raise argparse.ArgumentTypeError(f"there is no row {name!r}; {nearest(name, rows)}")


def _numbers(rows: Mapping[str, Entry], name: str) -> str:
    """The full budgets of the rows: one number, or the least and the most."""
    numbers = sorted({entry.full[name] for entry in rows.values() if name in entry.full})
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}, by the row"


def _add_option(add: Callable[..., Any], name: str, option: Option) -> None:
    if option.type is bool:
        add(_flag(name), action="store_true", default=None, help=option.help)
        return
    default = " ".join(map(str, option.default)) if option.many else option.default
    add(
        _flag(name),
        type=option.type,
        nargs="+" if option.many else None,
        choices=option.choices,
        metavar="N" if option.choices is None else name.upper(),
        help=option.help + (f" (default: {default})" if option.default is not None else ""),
    )
