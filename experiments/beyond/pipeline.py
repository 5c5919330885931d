"""Associated Learning in the pipeline is Associated Learning: the same seeds in sequence and over four devices.

Both train an MLP of four components on MNIST by `jl.training.fit`, and their parameters are compared number by number.
On a machine with fewer than four devices, a separate process uses the cores of the CPU as four devices.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab import tables
from experiments.lab.experiment import Budget, CannotRun, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.training import images
from experiments.lab.workers import Worker, available_cores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL, QUICK = Budget(epochs=20, seeds=10), Budget(epochs=2, seeds=3)
DATA = "mnist"
DEVICES = 4
HIDDEN = (128,) * DEVICES
BATCH = 64
RATE = 1e-3


def comparing(data: str, epochs: int) -> Callable[[int], Row]:
    """A function that trains a seed in both ways and compares the results."""
    splits = images(data)
    rule = jl.rules.al(jl.models.mlp(HIDDEN), optax.adam(RATE))
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=DEVICES))
    trained_by: dict[str, jl.Rule | jl.pipeline.Pipeline] = {"sequential": rule, "pipeline": pipe}

    def compare(seed: int) -> Row:
        row: Row = {"seed": seed}
        trained = []
        for name, learner in trained_by.items():
            began = time.perf_counter()
            fitted = jl.training.fit(learner, splits, epochs=epochs, batch_size=BATCH, seed=seed)
            params = jax.device_get(jax.tree.map(_numbers, fitted.params))
            seconds = time.perf_counter() - began
            accuracy = jl.training.evaluate(rule, fitted.params, splits.test)["accuracy"]
            assert isinstance(accuracy, float)
            row |= {f"{name}, test %": f"{100 * accuracy:.2f}", f"{name}, s": round(seconds, 1)}
            trained.append(params)
        return row | difference(*trained)

    return compare


def _numbers(leaf: jax.Array) -> jax.Array:
    """The numbers of a random key; other arrays as they are."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def difference(sequential: jl.Params, pipeline: jl.Params) -> Row:
    """The largest difference of two weights, and whether all parameters of the two runs are the same, bit by bit."""

    def pairs(of: Callable[[jl.Params], Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(jax.tree.leaves(of(sequential)), jax.tree.leaves(of(pipeline)), strict=True)

    weights = pairs(lambda params: [component.weights for component in params.components])
    return {
        "largest difference": max(float(np.abs(a - b).max()) for a, b in weights),
        "bit-identical": all(a.tobytes() == b.tobytes() for a, b in pairs(lambda params: params)),
    }


@contextmanager
def _on_four_devices(forced: bool, epochs: int) -> Iterator[Callable[[int], Row]]:
    """`comparing`, in a process that has four devices if this one has not."""
    if not forced:
        yield comparing(DATA, epochs)
        return
    cores = available_cores()
    with Worker(comparing, DATA, epochs, cores=[cores[device % len(cores)] for device in range(DEVICES)]) as worker:
        yield lambda seed: worker.ask("__call__", seed)


def run(task: Task) -> Iterator[Outcome]:
    """Compare the seeds that the present code has not compared yet; there is an outcome after each of them."""
    forced = len(jax.devices()) < DEVICES
    if forced and not hasattr(os, "sched_getaffinity"):
        raise CannotRun(f"needs {DEVICES} devices, or Linux, which can use the cores of the CPU as devices")
    jl.data.load(DATA)  # so that missing data are noticed here, not in another process
    epochs = task.budget["epochs"]
    settings = {
        "data": DATA,
        "net": f"mlp({HIDDEN})",
        "optimizer": f"adam({RATE})",
        "batch_size": BATCH,
        "epochs": epochs,
        "devices": f"{DEVICES}, " + ("of the CPU's cores" if forced else jax.devices()[0].device_kind),
    }
    rows = task.begun(settings)
    with _on_four_devices(forced, epochs) as compare:
        for seed in range(len(rows), task.budget["seeds"]):
            rows.append(compare(seed))
            seeds = list(range(seed + 1))
            budget = Budget(epochs=epochs, seeds=len(seeds))
            yield Outcome(rows, settings | {"seeds": seeds}, budget, tables.text(rows[-1:]))


def compared(recorded: Recorded) -> list[Row]:
    """The table: a line for each seed."""
    record = recorded.records.get("al")
    return record["rows"] if record else [{"seed": "not run"}]


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The AL paper's Table 1."""
    timetable = jl.pipeline.Schedule(batches=5, stages=3)
    return {"al_table1": jl.plots.schedule(timetable, "The AL paper's Table 1: batches by number")}


EXPERIMENT = Experiment(
    module="beyond.pipeline",
    name="beyond_pipeline",
    title="Associated Learning: the pipeline trains the same network as the sequence",
    rows={"al": Job(FULL, QUICK, run)},
    note=(
        "Four dense layers of 128 units learn MNIST, each a component of `al` and, in the pipeline, on a device of its "
        "own. Largest difference: over all weights. Bit-identical: weights, optimizer states, random keys and counts. "
        "Seconds are those of `fit`, including the evaluation and, for the first seed of a process, the compilation; "
        "four devices on fewer cores say nothing about speed: `experiments.speed.pipeline_speed` does."
    ),
    tables=(compared,),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
