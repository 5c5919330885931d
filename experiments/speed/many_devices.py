"""The time until a network is as accurate as backpropagation makes it, on 1 to 64 devices: a model, and its check.

Associated Learning has as many components as the largest number of devices. How many epochs a rule needs comes from its
trainings in `experiments.beyond.frontier`. The seconds of a batch are measured on one core and on two. For more devices
the model adds up what one of them does (`experiments.speed.device_work`), which is timed on a core while the other core
does the same, and what the devices send each other:

- the pipeline of Associated Learning over D devices takes n + D - 1 ticks for n batches; a tick is the step of the
  slowest stage and the messages to the next one;
- GPipe over D devices takes the passes of M micro-batches through the slowest stage and those of one through each of
  the others, M + D - 2 exchanges of messages up and as many down, and the step of the optimizer; of several numbers of
  micro-batches the fastest counts. An eager 1F1B idles as much and meets as often, and would take as long;
- data-parallel backpropagation takes the step on its share of the examples, and adds up the gradients around a ring:
  2 (D - 1) / D of the time of two cores.

What is left of the time on two cores counts as waiting: so much in each batch, and so much more whenever the devices
meet, to exchange messages or to add up an array of gradients. It is less than nothing where the pieces, timed alone,
took longer than in the whole program. A message counts as the largest between any two layers or components; where these
are unlike, that of a cut may be smaller. A line through all networks of narrow layers says how
much. It is taken to hold for all of these networks, and for all numbers of devices. As a check each of them is
predicted from the others. For another network its own times on two cores say how much, so that there is no check.

What more devices would do to the memory that they share is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from scipy.stats import theilslopes

import jaxlocal as jl
from experiments.beyond import frontier
from experiments.lab import figures, records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Record, Row
from experiments.lab.workers import Worker, at_once, take_turns
from experiments.speed import device_work
from experiments.speed.backprop_pipeline import backprop_pipeline, micro_batch
from experiments.speed.backprop_schedule import gpipe
from experiments.speed.backprop_stage import layer_costs, layer_shapes
from experiments.speed.device_work import Divided, al_stage, bp_passes, bp_share, bp_update, mean_of
from experiments.speed.link import measure_link
from experiments.speed.reached import Reached, reached, trainings
from experiments.speed.scaling_model import Link
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
from jaxlocal.pipeline import stages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROW = {"mnist": 4, "deep_16": 16, "deep_32": 32, "deep_64": 64}  # components; the layers have 256 units
COMPONENTS = {**NARROW, "cifar": 4}
WIDTHS = {"cifar": 128}  # units of the codes; with those of the default not all seeds arrive
FULL, QUICK = Budget(rounds=9, steps=60), Budget(rounds=3, steps=10)
PIPELINE, GPIPE, DATA_PARALLEL, BOTH_CORES = "al, pipeline", "bp, GPipe", "bp, data-parallel", "bp, both cores"
COLOURS = {PIPELINE: figures.BLUE, GPIPE: figures.ORANGE, DATA_PARALLEL: figures.RED, BOTH_CORES: "black"}
MICRO = {f"{GPIPE} of {micro}": micro for micro in (2, 4, 8, 16, 32)}  # numbers of micro-batches
MODELLED = PIPELINE, *MICRO, DATA_PARALLEL
ADDITION = "bp, gradients added up"


def associated(name: str) -> str:
    """The training of Associated Learning in these components; it predicts by the mean over them."""
    return f"al_{COMPONENTS[name]}{f'{frontier.WIDTH}{WIDTHS[name]}' if name in WIDTHS else frontier.AVERAGED}"


def problem(name: str, contender: str) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """The rule of a contender, and a batch."""
    return frontier.stepping(frontier.PROBLEMS[name], contender)


def divided(name: str, make: Problem, each: Sequence[float]) -> Divided:
    """The problem with its components, or layers, of these costs, divided over two devices and over more."""
    return Divided(make, [jl.pipeline.balance(each, devices) for devices in (DEVICES, *more(name))])


def measure(name: str, task: Task) -> Iterator[Outcome]:
    """Time what one device does, and every program on one core and on two, in turn."""
    cores, steps, rounds = two_cores(), task.budget["steps"], task.budget["rounds"]
    al, bp = (partial(problem, name, rule) for rule in (associated(name), "bp"))
    link = measure_link(cores, rounds)
    found = busy(costs, al, cores=cores)
    of_al = divided(name, al, over_cores([one.seconds for one in found]))
    of_bp = divided(name, bp, layer_costs(bp()[0].net, micro_batch(bp()[1], 1)))
    with ExitStack() as stack:

        def started(make: Any, *arguments: Any, cores: Sequence[int] | None = cores) -> Worker:
            return stack.enter_context(Worker(make, *arguments, cores=cores))

        programs = {
            "al": started(sequential, al, steps, cores=cores[:1]),
            "bp": started(sequential, bp, steps, cores=cores[:1]),
            PIPELINE: started(pipeline, al, steps, of_al.cuts[0]),
            **{one: started(backprop_pipeline, bp, steps, gpipe, micro, of_bp.cuts[0]) for one, micro in MICRO.items()},
            DATA_PARALLEL: started(sequential, partial(split, bp), steps),
            BOTH_CORES: started(sequential, bp, steps, cores=None),
            ADDITION: started(device_work.addition, bp),
        }
        on_each = [started(device_work.work, of_al, of_bp, [*MICRO.values()], cores=[core]) for core in cores]
        turns: dict[str, Any] = {program: worker.ask for program, worker in programs.items()}
        seconds = take_turns(turns | {"work": partial(_slower_core, on_each)}, rounds, warm_up=1)
    pieces = seconds.pop("work")
    seconds |= {piece: [one[piece] for one in pieces] for piece in pieces[0]}
    rows = [{"program": program, "ms a batch": records.milliseconds(own)} for program, own in seconds.items()]
    (x, _), splits = bp()[1], frontier.PROBLEMS[name].splits()
    settings = {
        "problem": name,
        "batch_size": len(x),
        "batches": len(splits.train[0]) // len(x),
        "stages of al": [list(cut) for cut in of_al.cuts],
        "stages of bp": [list(cut) for cut in of_bp.cuts],
        "link": link._asdict(),
        "message bytes": max(found[0].message),
    }
    yield Outcome(rows, settings | message_sizes(al, bp) | task.budget, task.budget, tables.text(rows))


def _slower_core(workers: Sequence[Worker]) -> dict[str, float]:
    """The seconds of each piece of work on the slower core, where all cores do the same."""
    found = at_once(workers)
    return {piece: max(one[piece] for one in found) for piece in found[0]}


def message_sizes(al: Problem, bp: Problem) -> dict[str, int]:
    """What the devices send each other: how many arrays, and how many bytes."""
    (rule, batch), (backprop, _) = al(), bp()
    components = jax.eval_shape(rule.init, jax.random.key(0), batch).components
    message = jax.eval_shape(stages.steps(rule)[0], components[0], batch)[1]
    weights, reads = layer_shapes(backprop.net, micro_batch(batch, 1))
    return {
        "message arrays": len(jax.tree.leaves(message)),
        "activation bytes": max(read.size * read.dtype.itemsize for read in reads[1:]),
        "gradient arrays": len(jax.tree.leaves(weights)),
    }


class Model:
    """The seconds of a batch on a number of devices, from a record.

    Args:
      record: a record of this experiment.
    """

    def __init__(self, record: Record):
        self.settings = record["settings"]
        self.seconds = {row["program"]: row["ms a batch"]["median"] / 1e3 for row in record["rows"]}
        self.link = Link(**self.settings["link"])

    def computing(self, program: str, devices: int, batches: int) -> float:
        """The seconds of a batch, in an epoch of `batches`, if messages took no time and no device had to wait."""
        if program == PIPELINE:
            return self.meetings(program, devices, batches) * self.seconds[al_stage(devices)]
        if program in MICRO:
            passes = bp_passes(devices, MICRO[program])
            slowest, mean = self.seconds[passes], self.seconds[mean_of(passes)]
            others = (devices * mean - slowest) / MICRO[program]
            return slowest + others + self.seconds[bp_update(devices)]
        return self.seconds[bp_share(devices)]

    def messages(self, program: str, devices: int, batches: int) -> float:
        """The seconds of a batch that go into messages."""
        if program == DATA_PARALLEL:
            return 2 * (devices - 1) / devices * self.seconds[ADDITION]  # around the ring, as a multiple of two devices
        settings, link = self.settings, self.link
        if program == PIPELINE:  # the arrays of a message, and the note of the losses
            each = settings["message arrays"] * link.latency + link.seconds(settings["message bytes"])
        else:
            each = link.seconds(settings["activation bytes"] / MICRO[program])
        return self.meetings(program, devices, batches) * each

    def meetings(self, program: str, devices: int, batches: int) -> float:
        """How often the devices meet in a batch: to exchange messages or, for data-parallel, to add up an array."""
        if program == PIPELINE:
            return jl.pipeline.Schedule(batches, devices).ticks / batches
        return gpipe(devices, MICRO[program]).exchanges if program in MICRO else self.settings["gradient arrays"]

    def batch(self, program: str, devices: int, batches: int, wait: "Wait") -> float:
        """The seconds of a batch, if the devices wait for each other so long."""
        computed, messages = (part(program, devices, batches) for part in (self.computing, self.messages))
        return computed + messages + wait.batch + wait.meeting * self.meetings(program, devices, batches)

    def waited(self, program: str) -> tuple[float, float]:
        """How often two devices meet in a batch, and for how long they wait: what it takes beyond work and messages."""
        batches = self.settings["steps"]  # those of the timed program, which ends with a drain, too
        beyond = self.seconds[program] - self.batch(program, DEVICES, batches, NO_WAIT)
        return self.meetings(program, DEVICES, batches), beyond


class Wait(NamedTuple):
    """For how many seconds devices wait for each other, as far as it is not noise; see the module."""

    batch: float  # in each batch
    meeting: float  # and so much more whenever they meet


NO_WAIT = Wait(0.0, 0.0)


def waits(recorded: Iterable[Record]) -> dict[str, Wait]:
    """How long devices wait, by program; all numbers of micro-batches are alike.

    Each point of the line is a small difference of two timings, of which some are disturbed. So it is the line of Theil
    and Sen, whose slope is the median of those between two points. If all meet as often, all waiting is at meetings.
    """
    models = [Model(record) for record in recorded]
    found: dict[str, Wait] = {}
    for programs in (PIPELINE,), tuple(MICRO), (DATA_PARALLEL,):
        often, waited = zip(*(model.waited(program) for model in models for program in programs), strict=True)
        if len(set(often)) > 1:
            line = theilslopes(waited, often, method="joint")
            wait = Wait(float(line.intercept), float(line.slope))
        else:
            wait = Wait(0.0, median(waited) / often[0])
        found |= dict.fromkeys(programs, wait)
    return found


def waits_of(name: str, recorded: Recorded) -> dict[str, Wait]:
    """How long devices wait with a network."""
    alike = NARROW if name in NARROW else [name]
    return waits(record for other, record in recorded.records.items() if other in alike)


def checks(recorded: Recorded) -> Iterator[Row]:
    """What the model predicts for two cores from the other narrow networks, and what was measured there."""
    found = {name: record for name, record in recorded.records.items() if name in NARROW}
    for name, record in found.items() if len(found) > 1 else ():
        model, measured = Model(record), {row["program"]: row["ms a batch"] for row in record["rows"]}
        steps, others = record["settings"]["steps"], [other for other in found.values() if other is not record]
        for program, wait in waits(others).items():
            predicted = model.batch(program, DEVICES, steps, wait)
            yield {
                "problem": name,
                "program": program,
                "measured, ms a batch": measured[program],
                "predicted": f"{1e3 * predicted:.3g}",
                "predicted / measured": f"{predicted / model.seconds[program]:.2f}",
                "without waiting": f"{1e3 * model.batch(program, DEVICES, steps, NO_WAIT):.3g}",
            }


def needed(trained: Mapping[str, Record], name: str, rule: str) -> Reached | None:
    """The epochs that a rule needs."""
    return reached(trained, name, associated(name) if rule == "al" else rule)


class Curve(NamedTuple):
    """The seconds until the accuracy is reached, by the number of devices."""

    measured: dict[int, float]
    model: dict[int, float]
    computing: dict[int, float]  # the model's, if messages took no time and no device had to wait

    @property
    def seconds(self) -> dict[int, float]:
        """What was measured, and the model's where nothing was."""
        return self.model | self.measured


def curves(recorded: Recorded) -> dict[str, dict[str, Curve]]:
    """The curves by problem and program. A rule is left out if not all of its seeds arrive."""
    trained = trainings(recorded)
    drawn: dict[str, dict[str, Curve]] = {}
    for name, record in recorded.records.items():
        model, batches, wait = Model(record), record["settings"]["batches"], waits_of(name, recorded)
        for program in (*MODELLED, BOTH_CORES):
            rule = program.split(",")[0]
            epochs = needed(trained, name, rule)
            if not (epochs and epochs.always):
                continue
            steps = fmean(epochs.arrived) * batches
            alone = {} if program == BOTH_CORES else {1: steps * model.seconds[rule]}
            measured = alone | {DEVICES: steps * model.seconds[program]}
            counts = (DEVICES, *more(name)) if program in wait else ()
            predicted = {count: steps * model.batch(program, count, batches, wait[program]) for count in counts}
            computing = {count: steps * model.computing(program, count, batches) for count in counts}
            drawn.setdefault(name, {})[program] = Curve(measured, predicted, computing)
    return {name: programs | {GPIPE: _fastest_gpipe(programs)} for name, programs in drawn.items()}


def fastest(drawn: Mapping[str, Curve], devices: int) -> str:
    """The number of micro-batches, as the name of a program, with which GPipe is the fastest on so many devices."""
    return min(MICRO, key=lambda program: drawn[program].seconds[devices])


def _fastest_gpipe(drawn: Mapping[str, Curve]) -> Curve:
    """GPipe with the fastest number of micro-batches on each number of devices; for computing alone another one."""
    chosen = {devices: drawn[fastest(drawn, devices)] for devices in drawn[DATA_PARALLEL].seconds}
    return Curve(
        {devices: own.measured[devices] for devices, own in chosen.items() if devices in own.measured},
        {devices: own.model[devices] for devices, own in chosen.items() if devices in own.model},
        {devices: min(drawn[one].computing[devices] for one in MICRO) for devices in drawn[DATA_PARALLEL].model},
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
            for program in (PIPELINE, GPIPE, DATA_PARALLEL):
                computing = drawn[program].computing if program in drawn and not known else {}
                line[f"{program}, computing"] = f"{computing[devices]:.3g}" if computing else None
            yield line | epochs


def gain(recorded: Recorded) -> Iterator[Row]:
    """How many times as long backpropagation takes as the pipeline with a device for each component."""
    for name, drawn in curves(recorded).items():
        if PIPELINE not in drawn:
            continue
        devices, al, split = COMPONENTS[name], drawn[PIPELINE], drawn[GPIPE]
        best = min(split.seconds, key=lambda count: split.seconds[count])
        alone, both = drawn[DATA_PARALLEL].seconds[1], drawn[BOTH_CORES].seconds[DEVICES]
        yield {
            "network": frontier.PROBLEMS[name].title,
            "devices of al": devices,
            "al, seconds": f"{al.seconds[devices]:.3g}",
            "bp, one device": f"{alone / al.seconds[devices]:.1f}",
            "bp, both cores": f"{both / al.seconds[devices]:.1f}",
            "bp, GPipe at its best": f"{split.seconds[best] / al.seconds[devices]:.1f} on {best}",
            "bp, GPipe computing alone": f"{min(split.computing.values()) / al.computing[devices]:.1f}",
        }


def efficiency(recorded: Recorded) -> Iterator[Row]:
    """Throughput, and how well the devices are used, beside what the schedules allow if all stages are alike."""
    for name, record in recorded.records.items():
        model, settings, wait = Model(record), record["settings"], waits_of(name, recorded)
        for devices in (DEVICES, *more(name)):
            seconds = _of_a_batch(model, devices, wait)
            gpipe_of = min(MICRO, key=lambda program: seconds[program])
            batches = settings["steps" if devices == DEVICES else "batches"]  # of the timed program, or of an epoch
            allowed = {
                PIPELINE: jl.pipeline.Schedule(batches, devices).utilisation,
                GPIPE: 1 - gpipe(devices, MICRO[gpipe_of]).bubble(),
            }
            line: Row = {"problem": name, "devices": devices}
            for words, program in ((PIPELINE, PIPELINE), (GPIPE, gpipe_of), (DATA_PARALLEL, DATA_PARALLEL)):
                alone = model.seconds[program.split(",")[0]]
                line[f"{words}, examples a second"] = round(settings["batch_size"] / seconds[program])
                line[f"{words}, efficiency"] = f"{alone / (devices * seconds[program]):.3f}"
                if words in allowed:
                    line[f"{words}, schedule allows"] = f"{allowed[words]:.3f}"
            yield line


def _of_a_batch(model: Model, devices: int, wait: Mapping[str, Wait]) -> dict[str, float]:
    """The seconds of a batch of each program: as measured on two devices, and the model's on more."""
    if devices == DEVICES:
        return model.seconds
    batches = model.settings["batches"]
    return {program: model.batch(program, devices, batches, wait[program]) for program in MODELLED}


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figure: seconds against devices, a panel for each problem."""
    drawn = curves(recorded)
    return {"many_devices": picture(drawn)} if drawn else {}


def picture(drawn: Mapping[str, Mapping[str, Curve]]) -> "Figure":
    """Large dots for what was measured, broken lines for the model, and dotted ones for its computing alone."""
    figure, panels = figures.grid(len(drawn), columns=2, cell=(4.6, 3.6))
    for (name, programs), axes in zip(drawn.items(), panels, strict=True):
        for program, colour in COLOURS.items():
            if program not in programs:
                continue
            measured, model, computing = programs[program]
            axes.plot(list(measured), list(measured.values()), "o", color=colour, label=program)
            axes.plot(list(model), list(model.values()), ".--", color=colour, lw=1.4)
            axes.plot(list(computing), list(computing.values()), ":", color=colour, lw=1)
        _scales(axes, [1, DEVICES, *more(name)])
        axes.set(title=frontier.PROBLEMS[name].title, xlabel="devices", ylabel="seconds")
    panels[0].legend(frameon=False)
    words = "large dots: measured; broken lines: the model; dotted ones: without messages and waiting"
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
        "components as the largest number of devices, and lean codes; on `cifar` they have 128 units. GPipe has the "
        "fastest number of micro-batches. `computing` is the model if messages took no time and no device had to wait."
    ),
    tables=(table, checks, efficiency),
    draw=draw,
    drawn_too=trainings,
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
