"""Where Associated Learning loses accuracy: what the codes of each component still tell about the class.

The rows are trainings of `experiments.beyond.frontier`, with the rates that it found. After the training, the bridge of
every component predicts the code of each test image. This code is read in two ways: as the class whose own code is
nearest, and as the class that the decoders make of it. In the highest component the second is the rule's prediction.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.beyond.shared import PROBLEMS, SHORT, Problem
from experiments.lab.experiment import Experiment, Recorded, comparison
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.training import Case, Steps, Trained
from experiments.papers.al.shared import COSINE, cosine_adam
from jaxlocal.parts import block_groups
from jaxlocal.rule import Batch, Component

# The rates that the frontier found, by problem and number of components.
RATES = {
    ("mnist", 8): 8e-3,
    ("fashion", 1): 5e-4,
    ("fashion", 8): 4e-3,
    ("cifar", 4): 4e-3,
    ("cifar", 8): 4e-3,
    ("wide_64", 4): 4e-3,
    ("resnet", 1): 4e-3,
    ("resnet", 4): 4e-3,
}
IMAGES = 1000  # how many are measured at once
CODES = jl.codes.lean
WIDTH = 64  # the units of its codes
COLUMNS = "nearest code, %", "decoded, %", "wrong units, %"


class Reading(NamedTuple):
    """How well the codes of a component are read."""

    nearest: jax.Array  # the share of the images whose class has the nearest code
    decoded: jax.Array  # the share of the images whose class the decoders give
    wrong: jax.Array  # the share of units on the other side of 0.5 than in the code of the class


def make(problem: Problem, count: int, rate: float, steps: Steps) -> jl.Rule:
    """The rule of the frontier's row."""
    return jl.rules.al(problem.net, cosine_adam(rate, steps), components=count, average=False)


def measure(count: int, trained: Trained) -> Mapping[str, Sequence[float]]:
    """The readings of each component, over the whole test set."""
    x, y = jl.data.floats(trained.splits.test)
    batches = [(x[at : at + IMAGES], y[at : at + IMAGES]) for at in range(0, len(x), IMAGES)]
    found = np.mean([read(trained.rule, trained.params, count, batch) for batch in batches], axis=0, dtype=float)
    return {name: found[:, place].round(4).tolist() for place, name in enumerate(Reading._fields)}


def read(rule: jl.Rule, params: jl.Params, count: int, batch: Batch) -> list[Reading]:
    """The readings of each component, over the images of a batch."""
    x, y = batch
    label = jnp.argmax(y, axis=-1)
    outputs = jl.diagnostics.activations(rule, params, x)
    codes = jnp.eye(y.shape[-1])  # of each class
    readings = []
    for i, blocks in enumerate(block_groups(count, len(rule.net.blocks))):
        weights = params.components[i].weights
        codes = _apply(jl.codes.spread(WIDTH), weights["encoder"], codes)
        predicted = _apply(CODES.bridge(WIDTH), weights["bridge"], outputs[blocks[-1]])
        distances = jnp.sum(jnp.square(predicted[:, None] - codes[None]), axis=-1)  # (image, class)
        decoded = _decode(params.components[: i + 1], predicted, y.shape[-1])
        readings.append(
            Reading(
                jnp.mean(jnp.argmin(distances, axis=-1) == label),
                jnp.mean(jnp.argmax(decoded, axis=-1) == label),
                jnp.mean((predicted > 0.5) != (codes[label] > 0.5)),
            )
        )
    return readings


def _decode(components: Sequence[Component], code: jax.Array, classes: int) -> jax.Array:
    """The scores that the decoders make of a code of the highest of these components."""
    lowest, *above = components
    for component in reversed(above):
        code = _apply(CODES.decoder(WIDTH), component.weights["decoder"], code)
    return _apply(jl.codes.linear(classes), lowest.weights["decoder"], code)


def _apply(coder: nn.Module, weights: Any, x: jax.Array) -> jax.Array:
    return jnp.asarray(coder.apply({"params": weights}, x))


def table(recorded: Recorded) -> Iterator[Row]:
    """The readings of each component in percent: the mean over the seeds, with the range."""
    found = recorded.rows()
    for row in recorded.experiment.rows:
        if row not in found:
            yield {"row": row, "component": "not run", **dict.fromkeys(COLUMNS)}
            continue
        measured = found[row]["measured"]
        readings = 100 * np.array([[one[name] for name in Reading._fields] for one in measured])
        for component in range(readings.shape[-1]):
            cells = map(_range, readings[:, :, component].T)  # over the seeds
            yield {"row": row, "component": component, **dict(zip(COLUMNS, cells, strict=True))}


def _range(values: np.ndarray) -> str:
    """The values' mean and range."""
    return f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})"


EXPERIMENT = Experiment(
    module="beyond.codes",
    name="beyond_codes",
    title="What the codes tell about the class",
    rows={
        f"{name}_al_{count}": Case(
            (problem := PROBLEMS[name]).data,
            partial(make, problem, count, rate),
            {"net": problem.words, "components": str(count), "optimizer": f"adam({rate:g}), {COSINE.words}"},
            SHORT,
            SHORT,
            batch_size=problem.batch,
            size=problem.size,
            examples=problem.examples,
            measure=partial(measure, count),
        )
        for (name, count), rate in RATES.items()
    },
    note=(
        "The trainings of these rows of the frontier, once more. After the training, the bridge of each component "
        "predicts the code of each test image. *nearest code* is the share of the images whose class has the nearest "
        "code. *decoded* is the share whose class the decoders make of it; in the last component this is the test "
        "accuracy. *wrong units* is the share of the units that are on the other side of 0.5 than in the code of the "
        "image's class. Each number is the mean over the seeds, with the range. [Lean codes, "
        "measured](lean-measured.md#which-component-loses) says what follows from them."
    ),
    tables=(table, comparison),
)

if __name__ == "__main__":
    main(EXPERIMENT)
