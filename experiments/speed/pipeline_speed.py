"""How much faster the pipeline is on two devices than the sequential rule on one: ratios within one run.

A device is a core. Every program has a process of its own, pinned to its cores before JAX starts any thread. The
processes take turns, so that a drift of the machine affects all of them alike, and a speedup is the median of the
ratios of neighbouring turns. Each pipeline is compared with a ceiling: two independent sequential programs at once, one
on each core, which share nothing but the memory. Backpropagation is timed on the same two devices as pipelines of
micro-batches, by the timetables of GPipe and of 1F1B.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jaxlocal as jl
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Option, Outcome, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import Worker, take_turns, together
from experiments.speed.backprop_pipeline import backprop_pipeline
from experiments.speed.backprop_schedule import gpipe, one_forward_one_backward
from experiments.speed.batch import make_batch
from experiments.speed.shared import ADAM, DEVICES, RATE, Batch, Problem, Timed, costs, pipeline, sequential, two_cores
from jaxlocal import flags

MICRO = 8  # the number of micro-batches of backpropagation
CEILING = "two sequential at once (ceiling)"


class Program(NamedTuple):
    """A line of the table; the first of each case is the sequential one."""

    name: str
    devices: int
    make: Callable[..., Timed]
    arguments: tuple[Any, ...]
    bubble: float | None = None


class Case(NamedTuple):
    """A network with a batch size, and the programs that are compared."""

    name: str
    batch_size: int
    programs: Callable[[Task, Sequence[int]], list[Program]]  # of the task and the cores


def equal_components(width: int, batch_size: int) -> tuple[jl.Rule, Batch]:
    """Associated Learning with two components of exactly the same shapes."""
    net = jl.models.mlp((width, width), classes=width)
    return jl.rules.al(net, ADAM, codes=jl.codes.paper), make_batch(batch_size, (width,), width)


def cnn(codes: jl.codes.Codes, image: int, batch_size: int) -> tuple[jl.Rule, Batch]:
    """Associated Learning of the vanilla CNN in the paper's four components."""
    rule = jl.rules.al(jl.models.vanilla_cnn(), ADAM, components=4, codes=codes)
    return rule, make_batch(batch_size, (image, image, 3), 10)


def backpropagation(width: int, batch_size: int) -> tuple[jl.Rule, Batch]:
    """Backpropagation through four dense layers of the same shape."""
    return jl.rules.bp(jl.models.mlp((width,) * 3, classes=width), ADAM), make_batch(batch_size, (width,), width)


def of_equal_components(batch_size: int, task: Task, cores: Sequence[int]) -> list[Program]:
    """The pipeline of two equal components on one device and on two."""
    problem, steps = partial(equal_components, task.options["width"], batch_size), task.budget["steps"]
    two = Program("pipeline, two devices", DEVICES, pipeline, (problem, steps))
    return [*_on_one_device(problem, steps), two]


def of_cnn(codes: jl.codes.Codes, batch_size: int, task: Task, cores: Sequence[int]) -> list[Program]:
    """The pipeline of the vanilla CNN; its components are cut into two stages by what they cost on this machine."""
    problem, steps = partial(cnn, codes, task.options["image"], batch_size), task.budget["steps"]
    with Worker(costs, problem, cores=cores[:1]) as worker:
        seconds = worker.ask().seconds
    stages = jl.pipeline.balance(seconds, DEVICES)
    print(f"vanilla CNN: components of {', '.join(f'{1e3 * one:.1f}' for one in seconds)} ms, stages of {stages}")
    two = Program(f"pipeline {stages}", DEVICES, pipeline, (problem, steps, stages))
    return [*_on_one_device(problem, steps), two]


def of_backpropagation(batch_size: int, task: Task, cores: Sequence[int]) -> list[Program]:
    """Backpropagation on one device, and as pipelines of micro-batches on two."""
    problem, steps = partial(backpropagation, task.options["width"], batch_size), task.budget["steps"]
    programs = [Program("sequential", 1, sequential, (problem, steps))]
    for name, schedule in (("GPipe", gpipe), ("1F1B", one_forward_one_backward)):
        bubble = schedule(DEVICES, MICRO).bubble()
        arguments = problem, steps, schedule, MICRO
        programs.append(Program(f"{name}, {MICRO} micro-batches", DEVICES, backprop_pipeline, arguments, bubble))
    return programs


def _on_one_device(problem: Problem, steps: int) -> list[Program]:
    return [Program("sequential", 1, sequential, (problem, steps)), Program("pipeline", 1, pipeline, (problem, steps))]


CASES = {
    "equal-512": Case("two equal components, paper's codes", 512, partial(of_equal_components, 512)),
    "equal-32": Case("two equal components, paper's codes", 32, partial(of_equal_components, 32)),
    "cnn-32": Case("vanilla CNN, lean codes", 32, partial(of_cnn, jl.codes.lean, 32)),
    "cnn-paper-32": Case("vanilla CNN, paper's codes", 32, partial(of_cnn, jl.codes.paper, 32)),
    "gpipe-512": Case("backpropagation", 512, partial(of_backpropagation, 512)),
}


def measure(case: Case, task: Task, cores: Sequence[int]) -> list[Row]:
    """The lines of a case: all its programs and the ceiling take turns."""
    programs = case.programs(task, cores)
    first = programs[0]
    with ExitStack() as stack:

        def start(cores: Sequence[int], program: Program) -> Worker:
            return stack.enter_context(Worker(program.make, *program.arguments, cores=cores))

        workers = {program: [start(cores[: program.devices], program)] for program in programs}
        ceiling = Program(CEILING, DEVICES, first.make, first.arguments)
        workers[ceiling] = [*workers[first], start(cores[1:], first)]
        turns = {program: partial(together, running) for program, running in workers.items()}
        seconds = take_turns(turns, task.budget["rounds"])
    return [line(case, program, own, seconds[first]) for program, own in seconds.items()]


def line(case: Case, program: Program, seconds: Sequence[float], sequential: Sequence[float]) -> Row:
    """A line of the table, from the seconds in each round."""
    return {
        "case": case.name,
        "batch": case.batch_size,
        "program": program.name,
        "devices": program.devices,
        "ms per batch": records.milliseconds(seconds),
        "speedup": records.spread([theirs / own for own, theirs in zip(seconds, sequential, strict=True)]),
        "bubble": program.bubble,
    }


def run(task: Task) -> Iterator[Outcome]:
    """Measure the cases."""
    cores = two_cores()
    rows: list[Row] = []
    for name in task.options["cases"]:
        rows += measure(CASES[name], task, cores)
    settings = dict(task.options) | task.budget | {"optimizer": f"adam({RATE})", "micro": MICRO}
    yield Outcome(rows, settings, task.budget, tables.text(rows))


EXPERIMENT = Experiment(
    module="speed.pipeline_speed",
    name="pipeline",
    title="How much faster the pipeline is on two devices",
    rows={"speed": Job(Budget(rounds=5, steps=100), Budget(rounds=2, steps=4), run)},
    note=(
        "A device is a pinned core. ms per batch and speedup: median (least to most) over the rounds; a speedup is "
        "against the sequential program of the same case in the same round. The pipelines' time includes the drain."
    ),
    tables=(),
    options={
        "cases": Option("the cases to measure", str, list(CASES), choices=list(CASES), many=True),
        "width": Option("units of the dense layers", flags.whole, 1024),
        "image": Option("height and width of the images", flags.whole, 32),
    },
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
