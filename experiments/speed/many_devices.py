"""The time until a network is as accurate as backpropagation makes it, on 1 to 64 devices: a model, and its check.

Associated Learning has as many components as the largest number of devices. How many epochs a rule needs comes from its
trainings in `experiments.beyond.frontier`. The seconds of a batch are measured on one core and on two, and predicted
for more:

- the pipeline of Associated Learning over D devices takes (n + D - 1) / n · tick for each of n batches in an epoch,
  where tick = (the slowest stage) + (the slowest transfer);
- GPipe over D devices takes (M + D - 1) / M · step / D, with M micro-batches: transfers are free, layers divide
  perfectly, and small micro-batches cost no more; of several numbers of micro-batches the fastest counts;
- data-parallel backpropagation takes step / D and the time in which a ring adds up the gradients; a share of two
  examples is taken to be as efficient as a whole batch.

All take longer than that. How many times as long is measured on two cores, for each of them, and for each number of
micro-batches: the mean over the networks is taken to hold for all networks and numbers of devices. As a check each
network is predicted from the others. Without it the times are called ideal. What more devices would do to the memory
that they share is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

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

COMPONENTS = {"mnist": 4, "deep_16": 16, "deep_32": 32, "deep_64": 64}  # of the problems
FULL, QUICK = Budget(rounds=9, steps=60), Budget(rounds=3, steps=10)
PIPELINE, GPIPE, DATA_PARALLEL, BOTH_CORES = "al, pipeline", "bp, GPipe", "bp, data-parallel", "bp, both cores"
COLOURS = {PIPELINE: figures.BLUE, GPIPE: figures.ORANGE, DATA_PARALLEL: figures.RED, BOTH_CORES: "black"}
MICRO = {f"{GPIPE} of {micro}": micro for micro in (2, 4, 8, 16, 32)}  # numbers of micro-batches
MODELLED = PIPELINE, *MICRO, DATA_PARALLEL


def associated(name: str) -> str:
    """The training of Associated Learning that predicts by the mean over these components."""
    return f"al_{COMPONENTS[name]}{frontier.AVERAGED}"


def problem(name: str, contender: str) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """The rule of a contender, and a batch."""
    return frontier.stepping(frontier.PROBLEMS[name], contender)


def measure(name: str, task: Task) -> Iterator[Outcome]:
    """Time the components, and every program on one core and on two, in turn."""
    cores, steps, rounds = two_cores(), task.budget["steps"], task.budget["rounds"]
    al, bp = (partial(problem, name, rule) for rule in (associated(name), "bp"))
    link = measure_link(cores, rounds)
    found = busy(costs, al, cores=cores)
    components = over_cores([one.seconds for one in found])
    stages = jl.pipeline.balance(components, DEVICES)
    with ExitStack() as stack:

        def started(make: Any, rule: Problem, *arguments: Any, cores: Sequence[int] | None = cores) -> Any:
            return stack.enter_context(Worker(make, rule, steps, *arguments, cores=cores)).ask

        turns = {
            "al": started(sequential, al, cores=cores[:1]),
            "bp": started(sequential, bp, cores=cores[:1]),
            PIPELINE: started(pipeline, al, stages),
            **{name: started(backprop_pipeline, bp, gpipe, micro) for name, micro in MICRO.items()},
            DATA_PARALLEL: started(sequential, partial(split, bp)),
            BOTH_CORES: started(sequential, bp, cores=None),
        }
        seconds = take_turns(turns, rounds, warm_up=1)
    rows = [{"program": program, "ms a batch": records.milliseconds(own)} for program, own in seconds.items()]
    (x, _), splits = bp()[1], frontier.PROBLEMS[name].splits()
    settings = {
        "problem": name,
        "batch_size": len(x),
        "batches": len(splits.train[0]) // len(x),
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
    """The seconds of a batch on a number of devices, from a record, if nothing slows the programs down."""

    def __init__(self, record: Record):
        self.settings = record["settings"]
        self.seconds = [one / 1e3 for one in self.settings["component ms"]]
        self.step = _milliseconds(record)["bp"] / 1e3
        self.link = Link(**self.settings["link"])

    def batch(self, program: str, devices: int, batches: int) -> float:
        """Seconds of a batch in an epoch of `batches`."""
        if program == PIPELINE:
            stages = jl.pipeline.balance(self.seconds, devices)
            whole = tick(self.seconds, self.settings["message bytes"], stages, self.link)
            return pipelined_epoch(batches, devices, whole) / batches
        if program in MICRO:
            return gpipe_epoch(1, devices, MICRO[program], self.step)
        return data_parallel_batch(self.step, devices, self.settings["weight bytes"], self.link)

    def on_two(self, program: str) -> float:
        """Seconds of a batch on two devices, in a run as long as the measured one."""
        return self.batch(program, DEVICES, self.settings["steps"])


def slower(recorded: Iterable[Record]) -> dict[str, float]:
    """How many times as long as in the model each program takes on two cores: the mean over the records."""
    known = [(_milliseconds(record), Model(record)) for record in recorded]
    return {
        program: fmean(measured[program] / 1e3 / model.on_two(program) for measured, model in known)
        for program in MODELLED
    }


def checks(recorded: Recorded) -> Iterator[Row]:
    """What the model predicts for two cores from the other networks, and what was measured there."""
    found = recorded.records
    for name, record in found.items() if len(found) > 1 else ():
        model, measured = Model(record), {row["program"]: row["ms a batch"] for row in record["rows"]}
        for program, times in slower(other for other in found.values() if other is not record).items():
            predicted = 1e3 * times * model.on_two(program)
            yield {
                "problem": name,
                "program": program,
                "measured, ms a batch": measured[program],
                "predicted": f"{predicted:.3g}",
                "predicted / measured": f"{predicted / measured[program]['median']:.2f}",
                "ideal": f"{predicted / times:.3g}",
            }


def needed(trained: Mapping[str, Record], name: str, rule: str) -> Reached | None:
    """The epochs that a rule needs."""
    return reached(trained, name, associated(name) if rule == "al" else rule)


class Curve(NamedTuple):
    """The seconds until the accuracy is reached, by the number of devices."""

    measured: dict[int, float]
    model: dict[int, float]
    ideal: dict[int, float]  # if nothing slows the program down

    @property
    def seconds(self) -> dict[int, float]:
        """What was measured, and the model's where nothing was."""
        return self.model | self.measured


def curves(recorded: Recorded) -> dict[str, dict[str, Curve]]:
    """The curves by problem and program. A rule is left out if not all of its seeds arrive."""
    found, trained, slowdown = recorded.records, trainings(recorded), slower(recorded.records.values())
    drawn: dict[str, dict[str, Curve]] = {}
    for name, record in found.items():
        model, own, batches = Model(record), _milliseconds(record), record["settings"]["batches"]
        for program in (*MODELLED, BOTH_CORES):
            rule = program.split(",")[0]
            epochs = needed(trained, name, rule)
            if not (epochs and epochs.always):
                continue
            steps = fmean(epochs.arrived) * batches
            alone = {} if program == BOTH_CORES else {1: steps * own[rule] / 1e3}
            measured = alone | {DEVICES: steps * own[program] / 1e3}
            modelled = (DEVICES, *more(name)) if program in slowdown else ()
            ideal = {devices: steps * model.batch(program, devices, batches) for devices in modelled}
            predicted = {devices: slowdown[program] * one for devices, one in ideal.items()}
            drawn.setdefault(name, {})[program] = Curve(measured, predicted, ideal)
    return {name: programs | {GPIPE: _fastest_gpipe(programs)} for name, programs in drawn.items()}


def fastest(drawn: Mapping[str, Curve], devices: int) -> str:
    """The number of micro-batches, as the name of a program, with which GPipe is the fastest on so many devices."""
    return min(MICRO, key=lambda program: drawn[program].seconds[devices])


def _fastest_gpipe(drawn: Mapping[str, Curve]) -> Curve:
    """GPipe with the fastest number of micro-batches on each number of devices."""
    chosen = {devices: drawn[fastest(drawn, devices)] for devices in drawn[DATA_PARALLEL].seconds}
    return Curve(
        {devices: own.measured[devices] for devices, own in chosen.items() if devices in own.measured},
        {devices: own.model[devices] for devices, own in chosen.items() if devices in own.model},
        {devices: own.ideal[devices] for devices, own in chosen.items() if devices in own.ideal},
    )


def more(name: str) -> list[int]:
    """The numbers of devices that the model is asked for: 4, 8, … up to one for each component."""
    return [2**power for power in range(2, COMPONENTS[name].bit_length())]


def table(recorded: Recorded) -> Iterator[Row]:
    """The seconds until the accuracy is reached, against devices."""
    trained = trainings(recorded)
    for name, drawn in curves(recorded).items():
        epochs = {f"epochs of {rule}": own.words for rule in ("al", "bp") if (own := needed(trained, name, rule))}
        for devices in (1, DEVICES, *more(name)):
            known = devices <= DEVICES
            line: Row = {"problem": name, "devices": devices, "seconds are": "measured" if known else "the model's"}
            for program in COLOURS:
                seconds = drawn[program].seconds if program in drawn else {}
                line[program] = f"{seconds[devices]:.3g}" if devices in seconds else None
            line["micro-batches"] = MICRO[fastest(drawn, devices)] if devices > 1 else None
            for program in (GPIPE, DATA_PARALLEL):
                line[f"{program}, ideal"] = None if known else f"{drawn[program].ideal[devices]:.3g}"
            yield line | epochs


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figure: seconds against devices, a panel for each problem."""
    drawn = curves(recorded)
    return {"many_devices": picture(drawn)} if drawn else {}


def picture(drawn: Mapping[str, Mapping[str, Curve]]) -> "Figure":
    """Large dots for what was measured, broken lines for the model, and dotted ones for backpropagation's ideals."""
    figure, panels = figures.grid(len(drawn), columns=2, cell=(4.6, 3.6))
    for (name, programs), axes in zip(drawn.items(), panels, strict=True):
        for program, colour in COLOURS.items():
            if program not in programs:
                continue
            measured, model, ideal = programs[program]
            axes.plot(list(measured), list(measured.values()), "o", color=colour, label=program)
            axes.plot(list(model), list(model.values()), ".--", color=colour, lw=1.4)
            if program != PIPELINE:
                axes.plot(list(ideal), list(ideal.values()), ":", color=colour, lw=1)
        _scales(axes, [1, DEVICES, *more(name)])
        axes.set(title=frontier.PROBLEMS[name].title, xlabel="devices", ylabel="seconds")
    panels[0].legend(frameon=False)
    words = "large dots: measured; broken lines: the model; dotted ones: its ideal"
    figure.suptitle(f"Seconds until the accuracy of backpropagation is reached\n{words}")
    return figure


def _scales(axes: Any, devices: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(devices, [str(one) for one in devices])


EXPERIMENT = Experiment(
    module="speed.many_devices",
    name="many_devices",
    title="The time until backpropagation's accuracy is reached, on up to 64 devices",
    rows={name: Job(FULL, QUICK, partial(measure, name)) for name in COMPONENTS},
    note=(
        "A device is a pinned core, up to two; the times of more are the model's. Associated Learning has as many "
        "components as the largest number of devices, and lean codes. GPipe has the fastest number of micro-batches. "
        "`ideal` is the model without the slowdown that was measured on two cores."
    ),
    tables=(table, checks),
    draw=draw,
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
