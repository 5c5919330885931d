"""Local rules in the pipeline on two cores, beside backpropagation on the same cores.

A device is a core. Every program has a process of its own, pinned to its cores, and the processes take turns, so that a
drift of the machine affects all of them alike. A speedup is the median of the ratios of neighbouring turns.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jaxlocal as jl
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import Worker, take_turns
from experiments.speed.backprop_pipeline import backprop_pipeline
from experiments.speed.backprop_schedule import gpipe, one_forward_one_backward
from experiments.speed.batch import make_batch
from experiments.speed.shared import (
    ADAM,
    DEVICES,
    RATE,
    Batch,
    Problem,
    Timed,
    costs,
    pipeline,
    sequential,
    split,
    two_cores,
)

LOCAL = (
    "al",
    "drtp",
    "dgl",
    "predsim",
    "ff",
)  # the forward-only rules but scpl, whose projections of images are too large
MICRO = 8  # the number of micro-batches of backpropagation


class Case(NamedTuple):
    """A network, the shape of its input, and the batch size."""

    words: str
    net: Callable[[], jl.Network]
    shape: tuple[int, ...]
    batch_size: int


class Program(NamedTuple):
    """A line of the table."""

    rule: str
    words: str
    make: Callable[..., Timed]
    arguments: tuple[Any, ...]
    cores: Sequence[int] | None  # None: one program on all cores


CASES: Mapping[str, Case] = {
    "dense": Case("four dense layers of 1024 units", partial(jl.models.mlp, (1024,) * 4), (784,), 128),
    "cnn": Case("vanilla CNN, 32 x 32", jl.models.vanilla_cnn, (32, 32, 3), 32),
}


def problem(case: str, rule: str) -> tuple[jl.Rule, Batch]:
    """A rule with its defaults, and a batch."""
    _, net, shape, batch_size = CASES[case]
    return jl.rules.ALL[rule](net(), ADAM), make_batch(batch_size, shape, 10)


def programs(case: str, steps: int, cores: Sequence[int]) -> Iterator[Program]:
    """All programs of a case; the first is backpropagation on one core."""
    bp = partial(problem, case, "bp")
    yield Program("bp", "one core", sequential, (bp, steps), cores[:1])
    yield Program("bp", "one program, two cores", sequential, (bp, steps), None)
    yield Program("bp", "data-parallel, two cores", sequential, (partial(split, bp), steps), cores)
    for words, schedule in (("GPipe", gpipe), ("1F1B", one_forward_one_backward)):
        yield Program("bp", f"{words}, two cores", backprop_pipeline, (bp, steps, schedule, MICRO), cores)
    for rule in LOCAL:
        local: Problem = partial(problem, case, rule)
        with Worker(costs, local, cores=cores[:1]) as worker:
            stages = jl.pipeline.balance(worker.ask().seconds, DEVICES)
        yield Program(rule, "one core", sequential, (local, steps), cores[:1])
        cut = "+".join(map(str, stages))
        yield Program(rule, f"pipeline {cut}, two cores", pipeline, (local, steps, stages), cores)


def run(case: str, task: Task) -> Iterator[Outcome]:
    """Time all programs of a case, in turns."""
    made = list(programs(case, task.budget["steps"], two_cores()))
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(one.make, *one.arguments, cores=one.cores)) for one in made]
        turns = {place: worker.ask for place, worker in enumerate(workers)}
        seconds = take_turns(turns, task.budget["rounds"], warm_up=1)
    rows = [line(program, seconds[place], seconds[0]) for place, program in enumerate(made)]
    settings = {"case": CASES[case].words, "batch_size": CASES[case].batch_size, "optimizer": f"adam({RATE})"}
    yield Outcome(rows, settings | task.budget | {"micro": MICRO}, task.budget, tables.text(rows))


def line(program: Program, seconds: Sequence[float], baseline: Sequence[float]) -> Row:
    """A line of the table, from the seconds in each round."""
    return {
        "rule": program.rule,
        "program": program.words,
        "ms per batch": records.milliseconds(seconds),
        "speedup": records.spread([theirs / own for own, theirs in zip(seconds, baseline, strict=True)]),
    }


def lines(recorded: Recorded) -> Iterator[Row]:
    """The lines of all cases."""
    for case, record in recorded.records.items():
        for row in record["rows"]:
            yield {"network": CASES[case].words, "batch": CASES[case].batch_size, **row}


EXPERIMENT = Experiment(
    module="speed.local_rules",
    name="local_rules",
    title="Local rules in the pipeline beside backpropagation on two cores",
    rows={case: Job(Budget(rounds=5, steps=50), Budget(rounds=2, steps=4), partial(run, case)) for case in CASES},
    note=(
        "A device is a pinned core. ms per batch and speedup: median (least to most) over the rounds; a speedup is "
        "against backpropagation on one core in the same round. The pipelines' time includes the drain."
    ),
    tables=(lines,),
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
