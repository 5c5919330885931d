"""What every rule costs: operations, weights, words moved and memory of a step, as multiples of backpropagation's.

XLA counts; nothing is timed (`jl.diagnostics.costs`). Associated Learning has several lines: lean codes, one for each
component of the network or fewer components, once for each class, and the paper's codes.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxlocal as jl
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row

CLASSES = 10


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """A batch of numbers."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Net(NamedTuple):
    """A network, and the batches that are counted."""

    net: jl.Network
    words: str
    x: jax.ShapeDtypeStruct  # a batch


NETS = {
    "mlp": Net(jl.models.mlp((1024,) * 4), "4 layers of 1024 units, 784 inputs, batch 64", floats(64, 784)),
    "cnn": Net(jl.models.vanilla_cnn(), "vanilla_cnn, 32 by 32 pixels, batch 32", floats(32, 32, 32, 3)),
    "resnet": Net(jl.models.resnet(8), "resnet(8), 32 by 32 pixels, batch 32", floats(32, 32, 32, 3)),
    "lstm": Net(
        jl.models.lstm_classifier(vocabulary=10_000, classes=CLASSES, features=128, hidden=(128, 128)),
        "10,000 words, two LSTMs of 128 units in each direction, texts of 64 words, batch 32",
        jax.ShapeDtypeStruct((32, 64), jnp.int32),
    ),
}
al = jl.rules.al
RULES: Mapping[str, Callable[..., jl.Rule]] = {
    **{name: make for name, make in jl.rules.ALL.items() if name not in ("al", "bp")},
    "al": al,
    "al, 2 components": partial(al, components=2),
    "al, by class": partial(al, by_class=True),
    "al, hidden layer in the bridge": partial(al, bridge=jl.codes.pooled(jl.codes.hidden_layer)),
    "al, low rank": partial(al, bridge=jl.codes.pooled(jl.codes.low_rank)),
    "al, paper's codes": partial(al, codes=jl.codes.paper),
    "al, paper's codes, by class": partial(al, codes=jl.codes.paper, by_class=True),
}


def run(name: str, task: Task) -> Iterator[Outcome]:
    """Count every rule on a network."""
    net, words, x = NETS[name]
    batch: Any = x, floats(x.shape[0], CLASSES)
    rows: list[Row] = []
    for rule, make in RULES.items():
        try:
            times = jl.diagnostics.costs(make(net, optax.adam(1e-3)), batch).times_backprop()
        except ValueError as error:  # such as target propagation through layers that have no inverse
            print(f"{rule}: {error}")
            continue
        rows.append({"rule, setting": rule} | records.rounded(times._asdict()))
    settings = {"net": words, "optimizer": "adam, of all roles"}
    yield Outcome(rows, settings, task.budget, tables.text(rows))


def table(recorded: Recorded) -> Iterator[Row]:
    """All networks."""
    for name in NETS:
        record = recorded.records.get(name)
        for row in record["rows"] if record else ():
            yield {"network": name, **row}


def of_al(recorded: Recorded) -> Iterator[Row]:
    """Associated Learning alone, in a few settings."""
    shown = "al", "al, 2 components", "al, paper's codes"
    return (row for row in table(recorded) if row["rule, setting"] in shown)


EXPERIMENT = Experiment(
    module="speed.costs",
    name="costs",
    title="What the rules cost",
    rows={name: Job(Budget(), Budget(), partial(run, name)) for name in NETS},
    note="Multiples of backpropagation through the same blocks, counted by XLA.",
    tables=(table,),
)

if __name__ == "__main__":
    main(EXPERIMENT)
