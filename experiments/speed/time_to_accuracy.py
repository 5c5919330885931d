"""The time until a network is as accurate as backpropagation makes it, on one device and on two.

Two measurements are put together. How many epochs a rule needs comes from `experiments.beyond.frontier`, and for texts
from `experiments.papers.al_text.deep`: the first after which the validation accuracy is at least that of the worst of
backpropagation's runs at their end, so that every run of backpropagation reaches it. The seconds of a batch are
measured here. Associated Learning in the pipeline is equal to Associated Learning in sequence, and backpropagation over
several devices to backpropagation on one, but for rounding; so the epochs of a rule are those of all programs that
execute it.

A device is a core. Every program has a process of its own, pinned to its cores, and the processes take turns. The
programs of "both cores" are not pinned to devices: there the compiler divides every operation over the cores.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import jaxlocal as jl
from experiments.beyond import frontier
from experiments.lab import figures, records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Record, Row
from experiments.lab.workers import Worker, take_turns
from experiments.papers.al_text import deep
from experiments.papers.al_text.shared import sequences
from experiments.speed.backprop_pipeline import backprop_pipeline, balanced
from experiments.speed.backprop_schedule import SCHEDULES, Schedule
from experiments.speed.reached import Reached, goal_of, reached, trainings
from experiments.speed.shared import (
    DEVICES,
    Batch,
    Finds,
    Problem,
    costs,
    megabytes,
    pipeline,
    sequential,
    split,
    timed,
    two_cores,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBLEMS = "wide_512", "wide_64", "cifar_512", "cifar", *deep.NAMES
EITHER = "wide_512", "wide_64"  # the same network and data
FULL, QUICK = Budget(rounds=9, steps=20), Budget(rounds=3, steps=5)
LEAN = (
    "al_2",
    "al_2_fast_bridges_64",
    "al_2_fast_bridges_256",
    "al_4",
    "al_4_width_128",
    "al_4_width_256",
)  # of `frontier`
BATCHES = "batches in an epoch"  # as a setting of the records
MICRO = 2, 4, 8, 16, 32  # numbers of micro-batches
FEWEST = 4  # examples in a micro-batch
WAYS = tuple(f"bp, {words}" for words in SCHEDULES)  # each of which has several programs


class Program(NamedTuple):
    """A line of the table."""

    name: str
    contender: str  # whose trainings say how many epochs it needs
    devices: int
    cores: Sequence[int] | None  # None: all cores, without pinning
    make: Callable[..., Callable[[], float]]  # of the number of steps, and of what to find
    facts: Row  # what is known without a measurement: the stages, and the bubble

    def worker(self, steps: int, find: Finds = timed) -> Worker:
        """Times the program in a process of its own, or finds something else."""
        return Worker(partial(self.make, steps=steps, find=find), cores=self.cores)


class Contest(NamedTuple):
    """What backpropagation and kinds of Associated Learning learn, each under a name."""

    title: str
    step: Callable[[str], tuple[jl.Rule, Batch]]  # the rule of a contender, and a batch
    lean: Sequence[str]  # Associated Learning with lean codes
    paper: Sequence[str]  # with the paper's, which is timed in the pipeline only
    splits: Callable[[], jl.data.Splits]


def contest(name: str) -> Contest:
    """Those of `frontier`, and of texts."""
    if name in deep.NAMES:
        title = f"{deep.TITLES[name]}, two LSTM layers"
        return Contest(title, partial(deep.stepping, name), ["al"], [], partial(sequences, name))
    learned = frontier.PROBLEMS[name]
    programs = {one.removesuffix(frontier.AVERAGED): one for one in frontier.contenders(learned)}  # any prediction
    lean = [programs[name] for name in LEAN if name in programs]
    paper = ["al_paper"] if learned.paper else []
    return Contest(learned.title, partial(frontier.stepping, learned), lean, paper, learned.splits)


def problem(name: str, contender: str) -> tuple[jl.Rule, Batch]:
    """The rule of a contender, and a batch."""
    return contest(name).step(contender)


def programs(name: str, cores: Sequence[int]) -> list[Program]:
    """All programs of a problem; the first is backpropagation on one device."""
    entered, bp = contest(name), partial(problem, name, "bp")
    found = [
        *_on_one_device("bp", bp, cores),
        Program("bp, data-parallel", "bp", DEVICES, cores, partial(sequential, partial(split, bp)), {}),
        *(
            _micro_batches(words, schedule, micro, bp, cores)
            for words, schedule in SCHEDULES.items()
            for micro in micro_batches(len(bp()[1][0]))
        ),
    ]
    for contender in (*entered.lean, *entered.paper):
        rule = partial(problem, name, contender)
        with Worker(costs, rule, cores=cores[:1]) as worker:
            stages = jl.pipeline.balance(worker.ask().seconds, DEVICES)
        known = {"stages": "+".join(map(str, stages))}
        make = partial(pipeline, rule, stages=stages)
        found.append(Program(f"{contender}, pipeline", contender, DEVICES, cores, make, known))
        if contender in entered.lean:
            found += _on_one_device(contender, rule, cores)
    return found


def _on_one_device(contender: str, rule: Problem, cores: Sequence[int]) -> list[Program]:
    """The rule itself on one core, and as one program on both."""
    make = partial(sequential, rule)
    return [
        Program(contender, contender, 1, cores[:1], make, {}),
        Program(f"{contender}, both cores", contender, 1, None, make, {}),
    ]


def micro_batches(batch: int) -> list[int]:
    """The numbers of micro-batches to try; each has several examples."""
    return [micro for micro in MICRO if batch // micro >= FEWEST]


def _micro_batches(words: str, schedule: Schedule, micro: int, bp: Problem, cores: Sequence[int]) -> Program:
    """Pipelined backpropagation."""
    rule, batch = bp()
    stages = balanced(rule.net, batch, DEVICES, micro)
    known = {"stages": "+".join(map(str, stages)), "bubble": schedule(DEVICES, micro).bubble()}
    make = partial(backprop_pipeline, bp, schedule=schedule, micro=micro, stages=stages)
    return Program(f"bp, {words} of {micro}", "bp", DEVICES, cores, make, known)


def measure(name: str, task: Task) -> Iterator[Outcome]:
    """Find the memory of every program of a problem, and time them in turn."""
    made, memory = programs(name, two_cores()), {}
    for program in made:
        with program.worker(1, megabytes) as worker:
            memory[program.name] = worker.ask()
    with ExitStack() as stack:
        workers = {program.name: stack.enter_context(program.worker(task.budget["steps"])) for program in made}
        seconds = take_turns({name: worker.ask for name, worker in workers.items()}, task.budget["rounds"], warm_up=1)
    size, examples = len(problem(name, "bp")[1][0]), len(contest(name).splits().train[0])
    rows = []
    for program in made:
        own = seconds[program.name]
        rows.append(
            {
                "program": program.name,
                "contender": program.contender,
                "devices": program.devices,
                "ms a batch": records.milliseconds(own),
                "p05, p95 ms": [float(f"{1e3 * value:.4g}") for value in np.percentile(own, [5, 95])],
                "examples a second": round(size / median(own)),
                "MB": memory[program.name],
                **program.facts,
            }
        )
    settings = {"problem": name, "batch_size": size, BATCHES: examples // size} | task.budget
    yield Outcome(rows, settings, task.budget, tables.text([_timing(row) for row in rows]))


def _timing(row: Row) -> Row:
    return {name: row[name] for name in ("program", "devices", "ms a batch", "examples a second")}


def table(recorded: Recorded) -> Iterator[Row]:
    """The seconds until the accuracy is reached, of every program; of several for one way the fastest."""
    trained = trainings(recorded)
    for name in PROBLEMS:
        record = recorded.records.get(name)
        if not record:
            yield {"problem": name, "program": "not run"} | dict.fromkeys(COLUMNS)
            continue
        lines = lines_of(record, name, trained)
        alone = {line["program"]: line["ms a batch"]["median"] for line in lines if line["devices"] == 1}
        for line in lines:
            ms, devices = line["ms a batch"]["median"], line["devices"]
            of_rule = alone.get(line["program"].rpartition(", ")[0])  # the same rule's program on one device
            allowed = _allowed(line, record)
            yield {
                "problem": name,
                "program": line["program"],
                "devices": devices,
                "ms a batch": line["ms a batch"],
                "p05 to p95": " to ".join(f"{float(f'{value:.3g}'):g}" for value in line["p05, p95 ms"]),
                "examples a second": line["examples a second"],
                "speed, times bp": alone["bp"] / ms,
                "efficiency": of_rule / (devices * ms) if of_rule and devices > 1 else None,
                "schedule allows": allowed,
                "bubble": None if allowed is None else 1 - allowed,
                "MB a device": line["MB"],
                **_until(reached(trained, name, line["contender"]), line, record),
            }


COLUMNS = (
    *("devices", "ms a batch", "p05 to p95", "examples a second", "speed, times bp"),
    *("efficiency", "schedule allows", "bubble", "MB a device", "epochs", "seconds"),
)


def _allowed(line: Row, record: Record) -> float | None:
    """The efficiency that the schedule of a pipeline allows, if all stages take equally long."""
    if line["program"].endswith(", pipeline"):
        return jl.pipeline.Schedule(record["settings"]["steps"], line["devices"]).utilisation
    return 1 - line["bubble"] if line.get("bubble") else None


def advantage(recorded: Recorded) -> Iterator[Row]:
    """How many times as long each program of backpropagation takes as the fastest pipeline of Associated Learning.

    The seconds are means over the seeds, and only programs in which all seeds arrive are compared. In the last line
    each program has the faster of two sizes of the batch, and the goal is the higher of the two.
    """
    trained = trainings(recorded)
    problems = [(name,) for name in recorded.records]
    for names in (*problems, *([EITHER] if set(EITHER) <= recorded.records.keys() else [])):
        goal = max(goal_of(trained, name) or 0 for name in names)
        pipelines: list[tuple[float, str, str]] = []
        others: dict[str, float] = {}
        for name in names:
            record = recorded.records[name]
            for line in lines_of(record, name, trained):
                needed = reached(trained, name, line["contender"], goal)
                if not (needed and needed.always):
                    continue
                seconds = fmean(_seconds(needed, line, record))
                if ", pipeline" in line["program"]:
                    pipelines.append((seconds, line["program"].replace(", pipeline", ""), name))
                elif way := line.get("way"):
                    others[way] = min(seconds, others.get(way, seconds))
        if pipelines:
            fastest, pipeline, name = min(pipelines)
            of = f", {name}" if len(names) > 1 else ""
            ratios = {way: f"{value / fastest:.2f}" for way, value in others.items()}
            yield {"problem": " or ".join(names), "pipeline": pipeline + of, **ratios}


def _seconds(needed: Reached, line: Row, record: Record) -> list[float]:
    """The seconds of each seed that arrives."""
    epoch = record["settings"][BATCHES] * line["ms a batch"]["median"] / 1e3
    return [value * epoch for value in needed.arrived]


def _until(needed: Reached | None, line: Row, record: Record) -> Row:
    """The epochs and the seconds until the accuracy is reached, over the seeds that reach it."""
    if needed is None:
        return {"epochs": "not run", "seconds": None}
    seconds = _seconds(needed, line, record)
    if not seconds:
        return {"epochs": needed.words, "seconds": None}
    return {"epochs": needed.words, "seconds": tables.spread(seconds)}


def lines_of(record: Record, name: str, trained: Mapping[str, Record]) -> list[Row]:
    """The programs of a problem that are shown.

    Those of Associated Learning predict by the mean over the components, if there is such a training. Those of
    backpropagation say in which way they execute it, and have a second line for a training with more rates to choose
    from.
    """
    lines = []
    for row in best(record["rows"]):
        averaged, more = (row["contender"] + end for end in (frontier.AVERAGED, frontier.MORE))
        one = averaged if f"{name}_{averaged}" in trained else row["contender"]
        way = {"way": _way(row["program"])} if one == "bp" else {}
        for contender in (one, more) if f"{name}_{more}" in trained else (one,):
            program = row["program"].replace(row["contender"], frontier.shown_as(contender), 1)
            lines.append({**row, **way, "program": program, "contender": contender})
    return lines


def _way(program: str) -> str:
    """The name without what is not the same for all problems, such as the number of micro-batches."""
    return next((way for way in WAYS if program.startswith(way)), program)


def best(rows: Sequence[Row]) -> list[Row]:
    """The rows, but of each way to use two devices for backpropagation only the fastest."""
    kept = [row for row in rows if not row["program"].startswith(WAYS)]
    for way in WAYS:
        own = [row for row in rows if row["program"].startswith(way)]
        kept += sorted(own, key=lambda row: row["ms a batch"]["median"])[:1]
    return sorted(kept, key=lambda row: (row["devices"], row["contender"] != "bp"))


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figures: the seconds until the accuracy is reached, a panel for each problem; texts have one of their own."""
    trained = trainings(recorded)
    shown = {name: recorded.records[name] for name in PROBLEMS if name in recorded.records and f"{name}_bp" in trained}
    texts = {name: record for name, record in shown.items() if name in deep.NAMES}
    others = {name: record for name, record in shown.items() if name not in deep.NAMES}
    figures_of = {"time_to_accuracy": others, "time_to_accuracy_texts": texts}
    return {name: picture(some, trained) for name, some in figures_of.items() if some}


def picture(shown: Mapping[str, Record], trained: Mapping[str, Record]) -> "Figure":
    """A bar for each program that arrives, with the sample standard deviation over the seeds."""
    lines_in = {name: lines_of(record, name, trained)[::-1] for name, record in shown.items()}
    most = max(map(len, lines_in.values()))
    figure, panels = figures.grid(len(shown), columns=2, cell=(5.6, 0.8 + 0.17 * most))
    for (name, record), axes in zip(shown.items(), panels, strict=True):
        lines = lines_in[name]
        for place, line in enumerate(lines):
            needed = reached(trained, name, line["contender"])
            if needed is None or not needed.always:
                words = f"{len(needed.arrived)} of {len(needed.epochs)} seeds arrive" if needed else "not run"
                across = axes.get_yaxis_transform()
                axes.text(0.02, place, words, transform=across, va="center", fontsize=8, color="0.4")
                continue
            seconds = _seconds(needed, line, record)
            colour = figures.ORANGE if "way" in line else figures.BLUE
            error = stdev(seconds) if len(seconds) > 1 else 0
            axes.barh(place, fmean(seconds), xerr=error, color=colour, alpha=1 if line["devices"] > 1 else 0.5)
        axes.set_yticks(range(len(lines)), [line["program"] for line in lines], fontsize=8)
        axes.set(title=contest(name).title, xlabel="seconds", ylim=(-0.6, len(lines) - 0.4))
    figure.suptitle("Seconds until the accuracy of backpropagation is reached; pale: one device, full: two devices")
    return figure


EXPERIMENT = Experiment(
    module="speed.time_to_accuracy",
    name="time_to_accuracy",
    title="The time until backpropagation's accuracy is reached, on one device and on two",
    rows={name: Job(FULL, QUICK, partial(measure, name)) for name in PROBLEMS},
    note=(
        f"A device is a pinned core; of GPipe and 1F1B the fastest of {', '.join(map(str, MICRO))} micro-batches is "
        f"shown, but of none with fewer than {FEWEST} examples. Epochs are those until the validation accuracy is at "
        "least that of the worst of backpropagation's runs at their end: mean over the seeds ± sample standard "
        "deviation. Memory is what the program of a batch needs on a device, as XLA counts it."
    ),
    tables=(table, advantage),
    draw=draw,
    drawn_too=trainings,
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
