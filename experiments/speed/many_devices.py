"""The time until a network is as accurate as backpropagation makes it, on 1 to 32 devices: a model, and its check.

Associated Learning has as many components as the largest number of devices. How many epochs a rule needs comes from its
trainings in `experiments.beyond.frontier`. The seconds of a batch are measured on one core and on two, and predicted
for more:

- the pipeline of Associated Learning over D devices takes (n + D - 1) / n · tick for each of n batches in an epoch,
  where tick = (the slowest stage) + (the slowest transfer). In the pipeline the components of a stage take longer than
  alone: as many times as long as in the network with the fewest components on two cores;
- GPipe over D devices takes (M + D - 1) / M · step / D, with M micro-batches: transfers are free, layers divide
  perfectly, and small micro-batches cost no more, all in its favour;
- data-parallel backpropagation takes step / D and the time in which a ring adds up the gradients; a share of one or two
  examples is taken to be as efficient as a whole batch, in its favour, too.

The deeper networks on two cores check the model. What more devices would do to the memory that they share is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import jaxlocal as jl
from experiments.beyond import frontier
from experiments.lab import figures, records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Record, Row
from experiments.lab.workers import Worker, take_turns
from experiments.speed.backprop_pipeline import backprop_pipeline
from experiments.speed.backprop_schedule import gpipe
from experiments.speed.link import measure_link
from experiments.speed.reached import Reached, reached, trainings
from experiments.speed.scaling_model import (
    Link,
    data_parallel_batch,
    gpipe_epoch,
    measured_tick,
    pipelined_epoch,
    tick,
)
from experiments.speed.shared import (
    DEVICES,
    Problem,
    busy,
    costs,
    over_cores,
    pipeline,
    sequential,
    split,
    two_cores,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPONENTS = {"mnist": 4, "deep_16": 16, "deep_32": 32}  # of the problems
FULL, QUICK = Budget(rounds=9, steps=60), Budget(rounds=3, steps=10)
MICRO = 8
PIPELINE, GPIPE, DATA_PARALLEL = "al, pipeline", "bp, GPipe", "bp, data-parallel"
COLOURS = {PIPELINE: figures.BLUE, GPIPE: figures.ORANGE, DATA_PARALLEL: figures.RED}


def contenders(name: str) -> list[str]:
    """Trainings of Associated Learning in these components: their steps are the same, their first weights are not."""
    return [f"al_{COMPONENTS[name]}{ending}" for ending in (frontier.AVERAGED, frontier.CENTRED)]


def problem(name: str, contender: str) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """The rule of a contender, and a batch."""
    return frontier.stepping(frontier.PROBLEMS[name], contender)


def measure(name: str, task: Task) -> Iterator[Outcome]:
    """Time the components, and every program on one core and on two, in turn."""
    cores, steps, rounds = two_cores(), task.budget["steps"], task.budget["rounds"]
    al, bp = (partial(problem, name, rule) for rule in (contenders(name)[0], "bp"))
    link = measure_link(cores, rounds)
    found = busy(costs, al, cores=cores)
    components = over_cores([one.seconds for one in found])
    stages = jl.pipeline.balance(components, DEVICES)
    with ExitStack() as stack:

        def started(make: Any, rule: Problem, *arguments: Any, devices: int = DEVICES) -> Any:
            return stack.enter_context(Worker(make, rule, steps, *arguments, cores=cores[:devices])).ask

        turns = {
            "al": started(sequential, al, devices=1),
            "bp": started(sequential, bp, devices=1),
            PIPELINE: started(pipeline, al, stages),
            GPIPE: started(backprop_pipeline, bp, gpipe, MICRO),
            DATA_PARALLEL: started(sequential, partial(split, bp)),
        }
        seconds = take_turns(turns, rounds, warm_up=1)
    rows = [{"program": program, "ms a batch": records.milliseconds(own)} for program, own in seconds.items()]
    (x, _), splits = bp()[1], frontier.PROBLEMS[name].splits()
    settings = {
        "problem": name,
        "batch_size": len(x),
        "batches": len(splits.train[0]) // len(x),
        "micro": MICRO,
        "stages": list(stages),
        "component ms": [float(f"{1e3 * one:.4g}") for one in components],
        "message bytes": list(found[0].message),
        "weight bytes": weight_bytes(bp),
        "link": link._asdict(),
    }
    yield Outcome(rows, settings | task.budget, task.budget, tables.text(rows))


def weight_bytes(bp: Problem) -> int:
    """The bytes of the weights, and of their gradients."""
    rule, batch = bp()
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    weights = jax.tree.leaves([component.weights for component in params.components])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in weights)


def _milliseconds(record: Record) -> dict[str, float]:
    return {row["program"]: row["ms a batch"]["median"] for row in record["rows"]}


class Model:
    """The seconds of a batch on a number of devices, from a record.

    In the pipeline the components take `slower` times as long as alone.
    """

    def __init__(self, record: Record, slower: float = 1.0):
        self.settings = record["settings"]
        self.seconds = [slower * one / 1e3 for one in self.settings["component ms"]]
        self.step = _milliseconds(record)["bp"] / 1e3
        self.link = Link(**self.settings["link"])

    def tick(self, devices: int) -> float:
        """Seconds of a tick of the pipeline."""
        stages = jl.pipeline.balance(self.seconds, devices)
        return tick(self.seconds, self.settings["message bytes"], stages, self.link)

    def batch(self, program: str, devices: int, batches: int) -> float:
        """Seconds of a batch in an epoch of `batches`."""
        if program == PIPELINE:
            return pipelined_epoch(batches, devices, self.tick(devices)) / batches
        if program == GPIPE:
            return gpipe_epoch(1, devices, self.settings["micro"], self.step)
        return data_parallel_batch(self.step, devices, self.settings["weight bytes"], self.link)


def slower(recorded: Mapping[str, Record]) -> float:
    """How many times as long as alone the components take on two cores, in the network with the fewest of them."""
    record = recorded[next(name for name in COMPONENTS if name in recorded)]
    measured = measured_tick(_milliseconds(record)[PIPELINE] / 1e3, record["settings"]["steps"], DEVICES)
    one, two = (Model(record, times).tick(DEVICES) for times in (1, 2))
    return 1 + (measured - one) / (two - one)


def checks(recorded: Recorded) -> Iterator[Row]:
    """What the model predicts for two cores, and what was measured there."""
    found = recorded.records
    for name, record in found.items():
        model, measured = Model(record, slower(found)), {row["program"]: row for row in record["rows"]}
        for program in COLOURS:
            predicted = 1e3 * model.batch(program, DEVICES, record["settings"]["steps"])
            yield {
                "problem": name,
                "program": program,
                "measured, ms a batch": measured[program]["ms a batch"],
                "predicted": f"{predicted:.3g}",
                "share": f"{predicted / measured[program]['ms a batch']['median']:.2f}",
            }


def needed(trained: Mapping[str, Record], name: str, rule: str) -> Reached | None:
    """The epochs that a rule needs."""
    return reached(trained, name, *(contenders(name) if rule == "al" else [rule]))


def seconds(recorded: Recorded) -> dict[str, dict[str, dict[int, float]]]:
    """The seconds until the accuracy is reached, by problem, program and devices; those of one and two are measured.

    A rule of which not all seeds arrive is left out.
    """
    found, trained = recorded.records, trainings(recorded)
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for name, record in found.items():
        model, own, batches = Model(record, slower(found)), _milliseconds(record), record["settings"]["batches"]
        for program in COLOURS:
            rule = program.split(",")[0]
            epochs = needed(trained, name, rule)
            if not (epochs and epochs.always):
                continue
            batch = {1: own[rule] / 1e3, DEVICES: own[program] / 1e3}
            batch |= {devices: model.batch(program, devices, batches) for devices in more(name)}
            all_batches = fmean(epochs.arrived) * batches
            curves.setdefault(name, {})[program] = {devices: all_batches * one for devices, one in batch.items()}
    return curves


def more(name: str) -> list[int]:
    """The numbers of devices that the model is asked for: 4, 8, … up to one for each component."""
    return [2**power for power in range(2, COMPONENTS[name].bit_length())]


def table(recorded: Recorded) -> Iterator[Row]:
    """The seconds until the accuracy is reached, against devices."""
    trained = trainings(recorded)
    for name, curves in seconds(recorded).items():
        epochs = {f"epochs of {rule}": own.words for rule in ("al", "bp") if (own := needed(trained, name, rule))}
        for devices in (1, DEVICES, *more(name)):
            shown = {program: f"{curves[program][devices]:.3g}" if program in curves else None for program in COLOURS}
            known = "measured" if devices <= DEVICES else "model"
            yield {"problem": name, "devices": devices, "seconds are": known, **shown, **epochs}


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figure: seconds against devices, a panel for each problem."""
    found = seconds(recorded)
    return {"many_devices": picture(found)} if found else {}


def picture(found: Mapping[str, Mapping[str, Mapping[int, float]]]) -> "Figure":
    """Full lines between what was measured, and broken ones to what the model predicts."""
    figure, panels = figures.panels(len(found), size=(4.2 * len(found), 3.8))
    for (name, curves), axes in zip(found.items(), panels, strict=True):
        for program, values in curves.items():
            colour, devices = COLOURS[program], np.array(list(values))
            height = np.array(list(values.values()))
            axes.plot(devices[:2], height[:2], "o-", color=colour, label=program)
            axes.plot(devices[1:], height[1:], ".--", color=colour, lw=1)
        _scales(axes, [1, DEVICES, *more(name)])
        axes.set(title=frontier.PROBLEMS[name].title, xlabel="devices", ylabel="seconds")
    panels[0].legend(frameon=False)
    figure.suptitle("Seconds until the accuracy of backpropagation is reached; broken: by the model")
    return figure


def _scales(axes: Any, devices: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(devices, [str(one) for one in devices])


EXPERIMENT = Experiment(
    module="speed.many_devices",
    name="many_devices",
    title="The time until backpropagation's accuracy is reached, on up to 32 devices",
    rows={name: Job(FULL, QUICK, partial(measure, name)) for name in COMPONENTS},
    note=(
        "A device is a pinned core, up to two; more are the model's. Associated Learning has a component for each "
        f"layer, with the encoders `jl.codes.centred`. GPipe has {MICRO} micro-batches, which the model takes to be as "
        "efficient as whole batches."
    ),
    tables=(table, checks),
    draw=draw,
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
