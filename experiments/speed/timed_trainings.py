"""Trainings that are timed until backpropagation's accuracy is reached, on one device and on two.

`experiments.speed.time_to_accuracy` multiplies the epochs of one program by the time that another one needs for a step.
Here both come from the same training. Each program learns as in `experiments.beyond.frontier`, or texts as in
`experiments.papers.al_text.deep`, with the same rate, seeds and order of the examples, and stops after the epoch that
reaches the goal. Only learning is timed: the examples are on the device before, and compiling and evaluating do not
count.

A device is a core. Every program has a process of its own, pinned to its cores, and the processes take turns, seed by
seed. The program of "both cores" is not pinned: there the compiler divides every operation over the cores.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import jax
import optax
from jax.sharding import Mesh

import jaxlocal as jl
from experiments.beyond import frontier
from experiments.lab import tables
from experiments.lab.experiment import Budget, CannotRun, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Record, Row
from experiments.lab.training import Steps
from experiments.lab.workers import Worker
from experiments.papers.al.shared import cosine_adam
from experiments.papers.al_text import deep
from experiments.papers.al_text.shared import RULES, SETS, sequences
from experiments.speed.backprop_pipeline import BackpropPipeline, State, balanced
from experiments.speed.backprop_schedule import SCHEDULES, Schedule
from experiments.speed.reached import goal_of, trainings
from experiments.speed.shared import DEVICES, Batch, costs, two_cores
from jaxlocal.data import floats
from jaxlocal.training.feed import Chunk, Order, ResidentFeed, keys, on_devices, take
from jaxlocal.training.learner import example_batch, learner_of


class Entered(NamedTuple):
    """What is trained on a problem: of each kind the fastest in `time_to_accuracy`."""

    bp: str  # the contender of `frontier`, or of `deep`, whose rate and epochs it has
    al: str
    schedule: str  # one of `SCHEDULES`
    micro: int  # micro-batches of this schedule


ENTERED = {
    "wide_512": Entered("bp_more_rates", "al_2_fast_bridges_256", "1F1B", 4),
    "wide_64": Entered("bp", "al_4_average", "1F1B", 2),
    "cifar": Entered("bp", "al_2_average", "1F1B", 16),
    "ag_news_10k": Entered("bp", "al", "1F1B", 2),
    "sst2": Entered("bp", "al", "GPipe", 2),
}
BUDGET = Budget(seeds=3)


class Plan(NamedTuple):
    """A training of `frontier` or, on texts, of `deep`: what learns from what, and for how long."""

    net: jl.Network
    tx: optax.GradientTransformation
    rule: jl.Rule
    splits: jl.data.Splits
    batch_size: int
    epochs: int

    @property
    def example(self) -> Batch:
        """A batch."""
        return example_batch(self.splits.train, self.batch_size, None)


def planned(name: str, contender: str, rate: float, epochs: int) -> Plan:
    """How a contender is trained on a problem."""
    if name in deep.NAMES:
        net, make, splits, size = deep.network(name), RULES[contender], sequences(name), SETS[name].batch_size
    else:
        problem = frontier.PROBLEMS[name]
        net, make, splits, size = problem.net, frontier.contenders(problem)[contender], problem.splits(), problem.batch
    steps = len(splits.train[0]) // size
    tx = cosine_adam(rate, Steps(steps, steps * epochs))
    return Plan(net, tx, make(net, tx), splits, size, epochs)


Make = Callable[[], Plan]


class Learner(Protocol):
    """What learns chunk by chunk, such as the learners of `jl.training`."""

    @property
    def mesh(self) -> Mesh | None:
        """Its devices, if it has several."""

    def chunk_length(self, steps: int, step_bytes: int, streamed: bool) -> int:
        """The number of steps in a chunk."""

    def begin(self, key: jax.Array, example: Batch) -> Any:
        """The state before the first step."""

    def learn(self, state: Any, chunk: Chunk, /) -> tuple[Any, Any]:
        """The state after a chunk, and the losses of its steps."""

    def plain(self, state: Any, /) -> jl.Params:
        """The rule's own parameters."""


@dataclass(frozen=True)
class BackpropLearner:
    """A pipeline of backpropagation, which learns from an epoch at a time."""

    rule: jl.Rule
    pipe: BackpropPipeline
    example: Batch

    @property
    def mesh(self) -> Mesh:
        """The devices of the pipeline."""
        return self.pipe.mesh

    def chunk_length(self, steps: int, step_bytes: int, streamed: bool) -> int:
        """A whole epoch."""
        return steps

    def begin(self, key: jax.Array, example: Batch) -> State:
        """The state before the first step."""
        return self.pipe.init(key, example)

    def learn(self, state: State, chunk: Chunk, /) -> tuple[State, jax.Array]:
        """The state after a chunk, and the losses of its steps."""
        return self._flow(state, chunk.examples, chunk.rows)

    def plain(self, state: State, /) -> jl.Params:
        """The parameters of `jl.rules.bp`."""
        (component,) = self._params.components
        weights = {**component.weights, "forward": self.pipe.weights(state, self.example)}
        return self._params.replace(components=(component.replace(weights=weights),))

    @cached_property
    def _params(self) -> Any:
        return jax.jit(self.rule.init)(jax.random.key(0), self.example)

    @cached_property
    def _flow(self) -> Callable[..., tuple[State, jax.Array]]:
        def flow(state: State, examples: Batch, rows: jax.Array) -> tuple[State, jax.Array]:
            return self.pipe.run(state, floats(take(examples, rows)))

        return jax.jit(flow, donate_argnums=0)


class Training:
    """A program that trains again and again, each time from another seed, until the goal is reached."""

    def __init__(self, plan: Plan, learner: Learner, goal: float):
        self._plan, self._learner, self._goal = plan, learner, goal
        self._train, self._validation = (
            on_devices(pair, learner.mesh) for pair in (plan.splits.train, plan.splits.validation)
        )
        self._until_the_goal(seed=0, epochs=1)  # compiles everything

    def __call__(self, seed: int) -> Row:
        """The seconds of learning, and the validation accuracy after each epoch."""
        return self._until_the_goal(seed, self._plan.epochs)

    def _until_the_goal(self, seed: int, epochs: int) -> Row:
        learner, (init_key, order_key) = self._learner, keys(seed, members=0)
        order = Order(order_key, 0, len(self._train[0]), self._plan.batch_size)
        bytes_of_step = sum(leaf[: order.batch_size].nbytes for leaf in self._train)
        feed = ResidentFeed(self._train, order, learner.chunk_length(order.steps, bytes_of_step, streamed=False))
        state = jax.block_until_ready(learner.begin(init_key, self._plan.example))
        seconds, history = 0.0, [0.0]  # the accuracy after no, one, two … epochs; before the first it is not measured
        while len(history) <= epochs and history[-1] < self._goal:
            began = time.perf_counter()
            for chunk in feed.chunks(len(history) - 1, 0):
                state, losses = learner.learn(state, chunk)
            jax.block_until_ready((state, losses))
            seconds += time.perf_counter() - began
            evaluated = jl.training.evaluate(self._plan.rule, learner.plain(state), self._validation)
            history.append(float(f"{evaluated['accuracy']:.6g}"))
        return {"seed": seed, "seconds": float(f"{seconds:.4g}"), "history": history[1:]}


def by_rule(make: Make, goal: float) -> Training:
    """The rule itself."""
    plan = make()
    return Training(plan, learner_of(plan.rule), goal)


def by_split_batches(make: Make, goal: float) -> Training:
    """The rule with each batch split over the devices."""
    plan = make()
    return Training(plan, learner_of(jl.data_parallel(plan.rule, jl.pipeline.mesh(data=DEVICES))), goal)


def by_pipeline(make: Make, goal: float, stages: Sequence[int]) -> Training:
    """The rule as a pipeline over the devices."""
    plan = make()
    pipe = jl.pipelined(plan.rule, jl.pipeline.mesh(component=DEVICES), stages=stages)
    return Training(plan, learner_of(pipe), goal)


def by_micro_batches(make: Make, goal: float, schedule: Schedule, micro: int) -> Training:
    """Backpropagation as a pipeline over the devices."""
    plan, mesh = make(), jl.pipeline.mesh(stage=DEVICES)
    sizes = balanced(plan.net, plan.example, mesh.size, micro)
    pipe = BackpropPipeline(plan.net, plan.tx, mesh, sizes, schedule(mesh.size, micro))
    return Training(plan, BackpropLearner(plan.rule, pipe, plan.example), goal)


def programs(name: str, trained: Mapping[str, Record], cores: Sequence[int]) -> dict[str, Worker]:
    """A process for each program of a problem, by its name; the last one is the pipeline of Associated Learning."""
    entered, goal = ENTERED[name], goal_of(trained, name)
    bp, al = (_training(name, contender, trained) for contender in (entered.bp, entered.al))
    with Worker(_costs, al, cores=cores[:1]) as worker:
        stages = jl.pipeline.balance(worker.ask().seconds, DEVICES)
    schedule, micro = entered.schedule, entered.micro
    shown = {contender: frontier.shown_as(contender) for contender in (entered.bp, entered.al)}
    return {
        shown[entered.bp]: Worker(by_rule, bp, goal, cores=cores[:1]),
        f"{shown[entered.bp]}, both cores": Worker(by_rule, bp, goal),
        f"{shown[entered.bp]}, data-parallel": Worker(by_split_batches, bp, goal, cores=cores),
        f"{shown[entered.bp]}, {schedule} of {micro}": Worker(
            by_micro_batches, bp, goal, SCHEDULES[schedule], micro, cores=cores
        ),
        f"{shown[entered.al]}, pipeline": Worker(by_pipeline, al, goal, stages, cores=cores),
    }


def _training(name: str, contender: str, trained: Mapping[str, Record]) -> Make:
    """The training that has been recorded."""
    record = trained.get(f"{name}_{contender}")
    if not record:
        raise CannotRun(f"repeats the training {name}_{contender}, which has no record: run that one first")
    (row,) = record["rows"]
    rate = row["rate"] if "rate" in row else row["runs"][0]["rate"]
    return partial(planned, name, contender, rate, record["settings"]["epochs"])


def _costs(make: Make) -> Callable[[], jl.pipeline.Costs]:
    plan = make()
    return costs(lambda: (plan.rule, plan.example))


def measure(name: str, task: Task) -> Iterator[Outcome]:
    """Train every program of a problem from each seed, in turn."""
    trained = trainings(task.experiment.recorded(task.out))
    with ExitStack() as stack:
        started = programs(name, trained, two_cores())
        workers = {program: stack.enter_context(worker) for program, worker in started.items()}
        runs: dict[str, list[Row]] = {program: [] for program in workers}
        for seed in range(task.budget["seeds"]):
            for program, worker in workers.items():
                run = worker.ask("__call__", seed)
                runs[program].append(run)
                print(f"  {name}: {program}: {run['seconds']:g} s, {len(run['history'])} epochs", flush=True)
    rows = [{"program": program, "runs": own} for program, own in runs.items()]
    settings = {"problem": name, "goal": goal_of(trained, name), "seeds": list(range(task.budget["seeds"]))}
    yield Outcome(rows, settings, task.budget, f"{name}: done")


def table(recorded: Recorded) -> Iterator[Row]:
    """The seconds of every program, and how many times as long it takes as the pipeline of Associated Learning.

    A training that does not reach the goal counts with all its epochs, so that its seconds are too few: `over` marks
    them, and `under` what is divided by them.
    """
    for name, record in recorded.records.items():
        goal, al = record["settings"]["goal"], record["rows"][-1]["runs"]
        for row in record["rows"]:
            runs = row["runs"]
            arrive, al_arrives = (all(_arrives(run, goal) for run in own) for own in (runs, al))
            seconds, epoch = ([one(run) for run in runs] for one in (_seconds, _of_an_epoch))
            bound = "" if arrive == al_arrives else "under " if arrive else "over "
            yield {
                "problem": name,
                "program": row["program"],
                "epochs": ", ".join(f"{_over(_arrives(run, goal))}{len(run['history'])}" for run in runs),
                "seconds": f"{_over(arrive)}{tables.spread(seconds)}",
                "times al": bound + _times(seconds, list(map(_seconds, al))),
                "an epoch, times al": _times(epoch, list(map(_of_an_epoch, al))),
            }


def _arrives(run: Row, goal: float) -> bool:
    """Whether a training reaches the goal."""
    return bool(run["history"][-1] >= goal)


def _over(arrives: bool) -> str:
    return "" if arrives else "over "


def _seconds(run: Row) -> float:
    return float(run["seconds"])


def _of_an_epoch(run: Row) -> float:
    return _seconds(run) / len(run["history"])


def _times(seconds: Sequence[float], others: Sequence[float]) -> str:
    """The ratio of the means, and the range of the ratios seed by seed."""
    ratios = [one / other for one, other in zip(seconds, others, strict=True)]
    return f"{fmean(seconds) / fmean(others):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


EXPERIMENT = Experiment(
    module="speed.timed_trainings",
    name="timed_trainings",
    title="Trainings that are timed until backpropagation's accuracy is reached",
    rows={name: Job(BUDGET, None, partial(measure, name)) for name in ENTERED},
    note=(
        "Seconds of learning, without compiling and evaluating, until the validation accuracy is at least that of the "
        "worst of backpropagation's runs at their end: mean over the seeds ± sample standard deviation. A training "
        "that does not reach it counts with all its epochs, and is marked by `over`. A device is a pinned core. The "
        "rates and the number of epochs are those of the trainings in `beyond_frontier`, and on texts in "
        "`al_text_deep`."
    ),
    tables=(table,),
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
