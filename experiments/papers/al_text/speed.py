"""The time of a batch of texts on two devices: Associated Learning in its pipeline, and backpropagation.

As in `experiments.speed.pipeline_speed` a device is a core, each program has a process pinned to its cores, and the
processes take turns. Backpropagation is not timed as a pipeline of micro-batches: the one of `experiments.speed` hands
on arrays, and no masks.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp

import jaxlocal as jl
from experiments.lab import tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Task
from experiments.lab.main import main
from experiments.lab.workers import Worker
from experiments.papers.al_text.classification import FEATURES, RULES
from experiments.speed.pipeline_speed import Case, Program, measure
from experiments.speed.shared import ADAM, DEVICES, RATE, Batch, costs, pipeline, sequential, two_cores

BATCH, LENGTH, VOCABULARY, CLASSES = 32, 64, 10_000, 4  # those of AG News
DEPTH = 6
NETS: dict[str, Callable[[], jl.Network]] = {
    "transformer": partial(jl.models.transformer_classifier, VOCABULARY, CLASSES, features=FEATURES, depth=DEPTH),
    "lstm": partial(jl.models.lstm_classifier, VOCABULARY, CLASSES, features=FEATURES, hidden=(FEATURES,) * DEPTH),
}


def problem(net: str, rule: str) -> tuple[jl.Rule, Batch]:
    """The rule on the network, and a batch of full length."""
    ids = jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 1, VOCABULARY)
    labels = jax.nn.one_hot(jnp.arange(BATCH) % CLASSES, CLASSES)
    return RULES[rule](NETS[net](), ADAM), (ids, labels)


def split(net: str) -> tuple[jl.Rule, Batch]:
    """Backpropagation with each batch split over all devices of the process."""
    rule, batch = problem(net, "bp")
    return jl.data_parallel(rule, jl.pipeline.mesh(data=len(jax.devices()))), batch


def programs(net: str, task: Task, cores: Sequence[int]) -> list[Program]:
    """Associated Learning on one device and on two, and backpropagation on one and on two."""
    steps, lean, bp = task.budget["steps"], partial(problem, net, "al"), partial(problem, net, "bp")
    with Worker(costs, lean, cores=cores[:1]) as worker:
        stages = jl.pipeline.balance(worker.ask().seconds, DEVICES)
    return [
        Program("al", 1, sequential, (lean, steps)),
        Program("al, pipeline", DEVICES, pipeline, (lean, steps, stages), bubble=0.0),
        Program("bp", 1, sequential, (bp, steps)),
        Program("bp, data-parallel", DEVICES, sequential, (partial(split, net), steps)),
    ]


def run(net: str, task: Task) -> Iterator[Outcome]:
    """Measure the programs of a network."""
    rows = measure(Case(net, BATCH, partial(programs, net)), task, two_cores())
    settings = {
        "net": f"{net}_classifier, {DEPTH} blocks of {FEATURES} features",
        "texts": f"{LENGTH} tokens, {VOCABULARY} words",
        "batch_size": BATCH,
        "optimizer": f"adam({RATE})",
    } | task.budget
    yield Outcome(rows, settings, task.budget, tables.text(rows))


EXPERIMENT = Experiment(
    module="papers.al_text.speed",
    name="al_text_speed",
    title="The time of a batch of texts on two devices",
    rows={net: Job(Budget(rounds=5, steps=50), Budget(rounds=2, steps=4), partial(run, net)) for net in NETS},
    note=(
        "A device is a pinned core. ms per batch and speedup: median (least to most) over the rounds; a speedup is "
        "against `al` on one device in the same round. The pipeline's time includes the drain."
    ),
    tables=(),
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
