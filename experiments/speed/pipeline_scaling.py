"""How the pipeline of Associated Learning scales with the number of devices: a model, checked here, and its picture.

A component's step, the bytes of its message, a step of backpropagation through the same blocks, and the link between
two cores are measured. The seconds of an epoch of n batches are predicted:

- Associated Learning in sequence: n · step;
- its pipeline over D devices: (n + D - 1) · tick, where tick = (the slowest stage) + (the slowest transfer) + (the
  rest), because here transfers do not overlap with computing; a transfer of m bytes takes latency + m / bandwidth;
- backpropagation in sequence: n · step;
- backpropagation as in GPipe over K devices with M micro-batches: n · (M + K - 1) / M · work / K, where the work on a
  batch is what makes this exact for two cores; only the picture has it. Layers are taken as perfectly divided, and
  messages as a share of the work.

Devices that share a memory slow each other down. Therefore stages and components are measured while every other core
does the same work, and the stages take their turns with the programs that they predict. A tick waits for the slowest
stage, so the core on which it is slowest counts. The components, from which the epochs are predicted, do not take
turns; of each the mean over the cores counts. The rest is what a tick takes beyond its stage and its transfer: a tick
begins on all devices when the last one has finished, so chance delays may add up. It is measured once, as the
difference between the pipeline on two cores and the model without it, for the network of fewest components. Deeper
networks check it, on two cores alone. The model leaves out that unlike components are packed into the same arrays.

The row `devices` checks the model on as many cores as the machine has: one network on 1, 2, 4, 8, … of them, where the
rest of a tick is measured on two. Beside it are the other ways to use the same cores for backpropagation.

In the picture a network of l components has l devices: O(n · l) in sequence, O(n + l) in the pipeline.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import optax

import jaxlocal as jl
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, CannotRun, Experiment, Job, Option, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import Worker, at_once, available_cores, take_turns
from experiments.speed import scaling_picture
from experiments.speed.backprop_pipeline import backprop_pipeline
from experiments.speed.backprop_schedule import gpipe
from experiments.speed.batch import make_batch
from experiments.speed.link import measure_link
from experiments.speed.scaling_model import Link, measured_tick, pipelined_epoch, tick, transfer
from experiments.speed.shared import (
    DEVICES,
    RATE,
    Batch,
    Problem,
    Timed,
    busy,
    costs,
    over_cores,
    pipeline,
    sequential,
    split,
    stage_costs,
    two_cores,
)
from jaxlocal import flags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 10


def associated(depth: int, width: int, batch_size: int) -> tuple[jl.Rule, Batch]:
    """Associated Learning with `depth` components, which are alike except for the first."""
    rule = jl.rules.al(jl.models.mlp((width,) * depth, CLASSES), optax.adam(RATE))
    return rule, make_batch(batch_size, (width,), CLASSES)


def backpropagation(depth: int, width: int, batch_size: int) -> tuple[jl.Rule, Batch]:
    """Backpropagation through the same blocks."""
    rule = jl.rules.bp(jl.models.mlp((width,) * depth, CLASSES), optax.adam(RATE))
    return rule, make_batch(batch_size, (width,), CLASSES)


class Measured(NamedTuple):
    """What is measured of a network of this depth."""

    depth: int
    costs: list[jl.pipeline.Costs]  # of the components, on each core
    stages: Sequence[int]  # of the pipeline on two cores, as numbers of components
    rounds: dict[str, list[float]]  # the seconds of a batch, of each program and of the slowest stage

    @property
    def components(self) -> list[float]:
        """The seconds of each component, over the cores."""
        return over_cores([one.seconds for one in self.costs])

    @property
    def message(self) -> Sequence[int]:
        """The bytes of each component's message."""
        return self.costs[0].message

    def tick(self, link: Link, rest: float = 0.0) -> float:
        """Seconds of a tick of the two stages, as the model has it."""
        return self.seconds("stage") + transfer(self.message, self.stages, link) + rest

    def seconds(self, program: str) -> float:
        """The median seconds of a batch."""
        return median(self.rounds[program])

    def rest(self, link: Link, steps: int) -> float:
        """Seconds that a tick of the pipeline takes beyond the model without a rest."""
        return max(measured_tick(self.seconds("pipeline"), steps, DEVICES) - self.tick(link), 0.0)


def measure(depth: int, task: Task, cores: Sequence[int]) -> Measured:
    """The components, the stages and the whole programs of a network of this depth."""
    options, steps = task.options, task.budget["steps"]
    al = partial(associated, depth, options["width"], options["batch_size"])
    bp = partial(backpropagation, depth, options["width"], options["batch_size"])
    measured = busy(costs, al, cores=cores)
    stages = jl.pipeline.balance(over_cores([one.seconds for one in measured]), DEVICES)
    programs: dict[str, tuple[Callable[..., Timed], Problem, Sequence[int]]] = {
        "bp": (sequential, bp, cores[:1]),
        "al": (sequential, al, cores[:1]),
        "pipeline": (partial(pipeline, stages=stages), al, cores),
        "GPipe": (partial(backprop_pipeline, schedule=gpipe, micro=options["micro"]), bp, cores),
    }
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(make, problem, steps, cores=own))
            for name, (make, problem, own) in programs.items()
        }
        alone = [stack.enter_context(Worker(stage_costs, al, stages, cores=[core])) for core in cores]
        turns = {name: worker.ask for name, worker in workers.items()}
        found = take_turns(turns | {"stage": lambda: max(map(max, at_once(alone)))}, task.budget["rounds"])
    return Measured(depth, measured, stages, found)


def predict(measured: Measured, link: Link, link_here: Link, rest: float, task: Task) -> Row:
    """The epochs of a network with a device for each component and `link`, and what `link_here` says of two cores."""
    options, steps, depth = task.options, task.budget["steps"], measured.depth
    batches = options["batches"]
    seconds, message = measured.components, measured.message
    predicted = pipelined_epoch(steps, DEVICES, measured.tick(link_here, rest)) / steps
    one_each = tick(seconds, message, (1,) * depth, link) + rest
    numbers = {
        "depth": depth,
        "component ms": records.milliseconds(seconds),
        "message bytes": max(message),
        "bp ms": records.milliseconds(measured.rounds["bp"]),
        "al ms": records.milliseconds(measured.rounds["al"]),
        "epoch, bp s": batches * measured.seconds("bp"),
        "epoch, al s": batches * measured.seconds("al"),
        "epoch, pipeline s": pipelined_epoch(batches, depth, one_each),
        "two devices: stages": "+".join(map(str, measured.stages)),
        "two devices: predicted ms": 1e3 * predicted,
        "two devices: measured ms": records.milliseconds(measured.rounds["pipeline"]),
        "two devices: ratio": predicted / measured.seconds("pipeline"),
        "GPipe on two devices: measured ms": records.milliseconds(measured.rounds["GPipe"]),
    }
    return records.rounded(numbers)


def run(task: Task) -> Iterator[Outcome]:
    """Measure every depth."""
    cores, depths = two_cores(), sorted(set(task.options["depths"]))
    _check_depth(depths[0])
    link_here = measure_link(cores, task.budget["rounds"])  # what is measured here is checked against this link
    print(f"link between two cores: {link_here.bandwidth / 1e9:.3g} GB/s, {1e6 * link_here.latency:.3g} µs")
    bandwidth, latency = task.options["bandwidth"], task.options["latency"]
    link = Link(
        1e9 * bandwidth if bandwidth else link_here.bandwidth,
        latency / 1e6 if latency else link_here.latency,
    )
    rows: list[Row] = []
    rest = 0.0
    for depth in depths:
        measured = measure(depth, task, cores)
        if not rows:
            rest = measured.rest(link_here, task.budget["steps"])
            print(f"rest of a tick: {1e3 * rest:.3g} ms")
        rows.append(predict(measured, link, link_here, rest, task))
        print(f"{tables.text(rows[-1:])}\n", flush=True)
    settings = (
        dict(task.options)
        | task.budget
        | {
            "depths": depths,
            "optimizer": f"adam({RATE})",
            "bandwidth": link.bandwidth / 1e9,
            "latency": 1e6 * link.latency,
            "rest": 1e3 * rest,
        }
    )
    yield Outcome(rows, settings, task.budget, "")


def run_devices(task: Task) -> Iterator[Outcome]:
    """Measure the deepest network on 1, 2, 4, 8, … cores, and what the model says of it."""
    options, steps, rounds = task.options, task.budget["steps"], task.budget["rounds"]
    depth, two, cores = max(options["depths"]), two_cores(), available_cores()
    _check_depth(depth)
    counts = [2**power for power in range(len(cores).bit_length()) if 2**power <= min(depth, len(cores))]
    al = partial(associated, depth, options["width"], options["batch_size"])
    bp = partial(backpropagation, depth, options["width"], options["batch_size"])
    link = measure_link(two, rounds)
    measured = busy(costs, al, cores=cores[: counts[-1]])
    seconds, message = over_cores([one.seconds for one in measured]), measured[0].message
    cuts = {count: jl.pipeline.balance(seconds, count) for count in counts}
    programs: dict[tuple[str, int], Worker] = {}
    for count, stages in cuts.items():
        own, micro = cores[:count], min(4 * count, options["batch_size"])
        programs["al", count] = Worker(pipeline, al, steps, stages, cores=own)
        if count > 1:
            programs["data-parallel", count] = Worker(sequential, partial(split, bp), steps, cores=own)
            programs["GPipe", count] = Worker(backprop_pipeline, bp, steps, gpipe, micro, cores=own)
    programs["bp", 1] = Worker(sequential, bp, steps, cores=cores[:1])
    programs["all", len(cores)] = Worker(sequential, bp, steps)
    with ExitStack() as stack:
        turns = {key: stack.enter_context(worker).ask for key, worker in programs.items()}
        found = take_turns(turns, rounds, warm_up=1)
    ticks = {count: tick(seconds, message, stages, link) for count, stages in cuts.items()}
    rest = max(measured_tick(median(found["al", 2]), steps, 2) - ticks[2], 0.0)
    rows = []
    for count, stages in cuts.items():
        predicted = pipelined_epoch(steps, count, ticks[count] + rest * (count > 1)) / steps
        rows.append(
            {
                "devices": count,
                "stages": "+".join(map(str, stages)),
                "pipeline ms": records.milliseconds(found["al", count]),
                "predicted ms": 1e3 * predicted,
                "predicted / measured": predicted / median(found["al", count]),
                "bp, one core ms": records.milliseconds(found["bp", 1]),
                **{
                    f"bp, {way} ms": records.milliseconds(found[way, count]) if count > 1 else None
                    for way in ("data-parallel", "GPipe")
                },
                "bp, one program on all cores ms": records.milliseconds(found["all", len(cores)]),
            }
        )
    rows = [records.rounded(row) for row in rows]
    known = {"depth": depth, "components ms": [1e3 * value for value in seconds], "rest": 1e3 * rest}
    settings = {**options, **task.budget, **known, "optimizer": f"adam({RATE})", "link": link._asdict()}
    yield Outcome(rows, settings, task.budget, tables.text(rows))


def _check_depth(depth: int) -> None:
    if depth < DEVICES:
        raise CannotRun(f"--depths: {depth} component cannot be cut into {DEVICES} stages; take more components")


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The picture of the record."""
    record = recorded.records.get("scaling")
    return {"scaling": scaling_picture.draw(record)} if record else {}


EXPERIMENT = Experiment(
    module="speed.pipeline_scaling",
    name="pipeline",
    title="How the pipeline scales with the number of devices",
    rows={
        "scaling": Job(Budget(rounds=5, steps=100), Budget(rounds=2, steps=10), run),
        "devices": Job(Budget(rounds=5, steps=100), None, run_devices),
    },
    note=(
        "A device is a pinned core. component ms: median (least to most) of the components, measured while the other "
        "core does the same; other spreads are of rounds. Epochs are predicted for depth devices. bandwidth in "
        "GB/s, latency in µs, the rest of a tick in ms: it makes the first depth exact, and the other depths check it."
    ),
    tables=(),
    draw=draw,
    options={
        "depths": Option("numbers of components", flags.whole, [2, 4, 8, 16], [2, 4], many=True),
        "width": Option("units of the dense layers", flags.whole, 1024),
        "batch_size": Option("the number of examples in a step", flags.whole, 64),
        "batches": Option("n, the number of batches in an epoch; by default that of MNIST", flags.whole, 937),
        "micro": Option("micro-batches of GPipe", flags.whole, 8),
        "bandwidth": Option("of the link, in GB/s; by default as measured between two cores", flags.positive),
        "latency": Option("of the link, in µs; by default as measured between two cores", flags.positive),
    },
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
