"""How much memory a device needs, on 1 to 64 devices: Associated Learning in its pipeline, and backpropagation.

Associated Learning has as many components as the largest number of devices. XLA counts what the compiled program of one
batch needs on a device at its worst moment: weights, optimizer states, the batch, and everything in between. Nothing is
timed, so that two cores can stand for all devices.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax

import jaxlocal as jl
from experiments.beyond.shared import PROBLEMS
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import Worker
from experiments.speed.backprop_pipeline import backprop_memory
from experiments.speed.backprop_schedule import gpipe, one_forward_one_backward
from experiments.speed.batch import make_batch
from experiments.speed.shared import ADAM, Batch, cores_of, megabytes, pipeline, sequential, split

COMPONENTS = {"mnist": 8, "deep_16": 16, "deep_32": 32, "deep_64": 64, "wide_64": 4, "wide_512": 4, "cifar": 8}
DEVICES = 1, 2, 4, 8, 16, 32, 64
MICRO = 16  # micro-batches


def problem(name: str, make: Callable[..., jl.Rule]) -> tuple[jl.Rule, Batch]:
    """A rule on the network of a problem, and a batch."""
    learned = PROBLEMS[name]
    x, y = learned.splits().train
    return make(learned.net, ADAM), make_batch(learned.batch, x.shape[1:], y.shape[-1])


def memories(name: str) -> Callable[[], dict[str, float]]:
    """The megabytes of every program, on each of all devices."""
    al = partial(problem, name, partial(jl.rules.al, components=COMPONENTS[name]))
    bp = partial(problem, name, jl.rules.bp)
    if len(jax.devices()) == 1:
        finds = {"al": sequential(al, 1, find=megabytes), "bp": sequential(bp, 1, find=megabytes)}
    else:
        finds = {
            "al, pipeline": pipeline(al, 1, find=megabytes),
            f"bp, GPipe of {MICRO}": backprop_memory(bp, gpipe, MICRO),
            f"bp, 1F1B of {MICRO}": backprop_memory(bp, one_forward_one_backward, MICRO),
            "bp, data-parallel": sequential(partial(split, bp), 1, find=megabytes),
        }
    return lambda: {program: find() for program, find in finds.items()}


def run(name: str, task: Task) -> Iterator[Outcome]:
    """Count every program of a problem."""
    rows: list[Row] = []
    for devices in DEVICES[: 1 + DEVICES.index(COMPONENTS[name])]:
        with Worker(memories, name, cores=cores_of(devices)) as worker:
            found = worker.ask()
        rows += [records.rounded({"program": one, "devices": devices, "MB": found[one]}, 3) for one in found]
        print(f"  {name}: {devices} of {COMPONENTS[name]} devices done", flush=True)
    learned = PROBLEMS[name]
    settings = {"net": learned.words, "components": COMPONENTS[name], "batch_size": learned.batch, "micro": MICRO}
    yield Outcome(rows, settings, task.budget, tables.text(rows))


def table(recorded: Recorded) -> Iterator[Row]:
    """A line for each program of each problem, and a column for each number of devices."""
    for name in filter(recorded.records.__contains__, COMPONENTS):
        rows = recorded.records[name]["rows"]
        for program in dict.fromkeys(row["program"] for row in rows):
            found = {row["devices"]: row["MB"] for row in rows if row["program"] == program}
            yield {"problem": name, "program": program} | {str(devices): found.get(devices) for devices in DEVICES}


EXPERIMENT = Experiment(
    module="speed.device_memory",
    name="device_memory",
    title="The memory of a device, on 1 to 64 devices",
    rows={name: Job(Budget(), Budget(), partial(run, name)) for name in COMPONENTS},
    note=(
        "Megabytes that a batch needs on each device, as XLA counts them, for each number of devices. Associated "
        "Learning has lean codes and as many components as the largest number of devices; all have Adam."
    ),
    tables=(table,),
)

if __name__ == "__main__":
    main(EXPERIMENT)
