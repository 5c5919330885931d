"""What one device says of many: components, the pipeline on a single device, and the epochs that follow from them.

At each depth the components of Associated Learning are timed one by one. Its sequence, its pipeline on one device, and
backpropagation through the same layers are timed in turns. The share of the limit is the least time of a step over the
measured one. That least time is the larger of two: operations / rate, and bytes / bandwidth. Operations are those of
the matrix products. Bytes are 7 words for each number that Adam trains. Rate and bandwidth are measured in the same
process; the rate has the precision that the programs have.

The epochs on many devices are predicted with `scaling_model` from the components' seconds and a link that is assumed,
not measured. Nothing here ran on more than one device.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from statistics import median

import jax

import jaxlocal as jl
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Option, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import take_turns
from experiments.speed import limits
from experiments.speed.batch import make_batch
from experiments.speed.scaling_model import Link, gpipe_epoch, pipelined_epoch, tick
from experiments.speed.shared import ADAM, Batch, Problem, Timed, costs, pipeline, sequential
from jaxlocal import flags

CLASSES = 10
DEPTHS = 4, 8, 16, 32, 64
SHALLOW = 16  # up to this depth the paper's codes are timed, too, and at this depth layers that compute in bfloat16
WORDS = 7 / 3  # words moved for each number of the state, which has three for each weight: see `limits`


def problem(rule: str, depth: int, width: int, batch_size: int) -> tuple[jl.Rule, Batch]:
    """A rule on `depth` dense layers, and a batch."""
    net, batch = jl.models.mlp((width,) * depth, CLASSES), make_batch(batch_size, (width,), CLASSES)
    if rule == "al, paper's codes":
        return jl.rules.al(net, ADAM, codes=jl.codes.paper), batch
    return jl.rules.ALL[rule](net, ADAM), batch


def in_bfloat16(made: Problem) -> tuple[jl.Rule, Batch]:
    """The same with layers that compute in bfloat16."""
    rule, batch = made()
    return jl.mixed_precision(rule), batch


def least_seconds(made: Problem, machine: Mapping[str, float]) -> float:
    """The time of a step by the roofline: that of its operations, or of the bytes of its state."""
    rule, batch = made()
    state = jax.eval_shape(rule.init, jax.random.key(0), batch)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if leaf.ndim]
    operations = limits.operations(rule.update, state, batch)
    return max(operations / machine["rate"], WORDS * sum(sizes) / machine["bandwidth"])


def run(depth: int, task: Task) -> Iterator[Outcome]:
    """Time everything of a depth."""
    options, steps = task.options, task.budget["steps"]
    make = partial(problem, depth=depth, width=options["width"], batch_size=options["batch_size"])
    al, bp = partial(make, "al"), partial(make, "bp")
    timed: dict[str, tuple[Problem, Timed]] = {
        "bp": (bp, sequential(bp, steps)),
        "al": (al, sequential(al, steps)),
        "al, pipeline on one device": (al, pipeline(al, steps, devices=1)),
    }
    if depth <= SHALLOW:
        paper = partial(make, "al, paper's codes")
        timed["al, paper's codes"] = paper, sequential(paper, steps)
    if depth == SHALLOW:
        half = {f"{name}, bfloat16": partial(in_bfloat16, made) for name, made in (("bp", bp), ("al", al))}
        timed |= {name: (made, sequential(made, steps)) for name, made in half.items()}
    found = take_turns({name: call for name, (_, call) in timed.items()}, task.budget["rounds"], warm_up=1)
    components, machine = costs(al)(), limits.measure()
    rows = [
        {
            "depth": depth,
            "program": name,
            "ms a batch": records.milliseconds(found[name]),
            "times bp": records.spread([own / one for own, one in zip(found[name], found["bp"], strict=True)]),
            "share of the limit": least_seconds(made, machine) / median(found[name]),
        }
        for name, (made, _) in timed.items()
    ]
    settings = {
        **options,
        **task.budget,
        "depth": depth,
        "optimizer": "adam",
        "machine": machine,
        "components ms": [1e3 * value for value in components.seconds],
        "message bytes": list(components.message),
        "predicted": list(predictions(components, median(found["bp"]), depth, task)),
    }
    rows = [records.rounded(row) for row in rows]
    yield Outcome(rows, settings, task.budget, tables.text(rows))


def predictions(components: jl.pipeline.Costs, bp: float, depth: int, task: Task) -> Iterator[Row]:
    """The seconds of an epoch on 2, 4, 8, … devices, beside GPipe's, for which everything is taken as perfect."""
    options = task.options
    link = Link(1e9 * options["bandwidth"], options["latency"] / 1e6)
    for devices in (2**power for power in range(1, depth.bit_length())):
        stages = jl.pipeline.balance(components.seconds, devices)
        one = tick(components.seconds, components.message, stages, link)
        micro = min(4 * devices, options["batch_size"])
        yield records.rounded(
            {
                "devices": devices,
                "pipeline s": pipelined_epoch(options["batches"], devices, one),
                "GPipe s": gpipe_epoch(options["batches"], devices, micro, bp),
                "bp on one device s": options["batches"] * bp,
            }
        )


def lines(recorded: Recorded) -> Iterator[Row]:
    """The programs of all depths."""
    for record in recorded.records.values():
        yield from record["rows"]


def predicted(recorded: Recorded) -> Iterator[Row]:
    """The predicted epochs of all depths."""
    for record in recorded.records.values():
        yield from ({"depth": record["settings"]["depth"], **row} for row in record["settings"]["predicted"])


EXPERIMENT = Experiment(
    module="speed.one_device",
    name="one_device",
    title="Components and pipelines on one device, and what they predict",
    rows={f"depth_{depth}": Job(Budget(rounds=5, steps=100), None, partial(run, depth)) for depth in DEPTHS},
    note=(
        "Median (least to most) over the rounds; the programs take turns. Epochs on several devices are predicted from "
        "the components' seconds and an assumed link; bandwidth in GB/s, latency in µs. Nothing ran on more than one "
        "device."
    ),
    tables=(lines, predicted),
    options={
        "width": Option("units of the dense layers", flags.whole, 1024),
        "batch_size": Option("the number of examples in a step", flags.whole, 512),
        "batches": Option("the number of batches in the predicted epoch", flags.whole, 100),
        "bandwidth": Option("of the assumed link, in GB/s", flags.positive, 450.0),
        "latency": Option("of the assumed link, in µs", flags.positive, 10.0),
    },
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
