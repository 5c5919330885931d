"""Associated Learning in the pipeline is Associated Learning: the same seeds in sequence and over four devices.

Both train an MLP of four components on MNIST by `jl.training.fit`; their parameters are compared number by number.
Where there are fewer than four devices, a process of its own makes four out of the cores of the CPU.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab import study
from experiments.lab.study import Budget
from experiments.speed.pipeline_speed import Worker
from jaxlocal import flags

NAME = "beyond_pipeline"
RECORD = f"{NAME}/al"
TITLE = "Associated Learning: the pipeline trains the same network as the sequence"
FULL, QUICK = Budget(20, 10), Budget(2, 3)
DATA = "mnist"
DEVICES = 4
HIDDEN = (128,) * DEVICES
BATCH = 64
RATE = 1e-3
NOTE = (
    "Largest difference: over all weights. Bit-identical: weights, optimizer states, random keys and counts. Seconds "
    "are those of `fit`, evaluation and, for the first seed of a process, compilation included; four devices on fewer "
    "cores tell nothing about speed: `experiments.pipeline_speed` does."
)


def rows(out: Path | None = None) -> list[results.Row]:
    """The table: a row a seed."""
    record = results.found(RECORD, out)
    return record["rows"] if record else [{"seed": "not run"}]


def comparisons(data: str, epochs: int, seeds: Sequence[int]) -> Callable[[], results.Row]:
    """What compares the next of the seeds at each call."""
    splits = study.images(data)
    rule = jl.rules.al(jl.models.mlp(HIDDEN), optax.adam(RATE))
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=DEVICES))
    learners: dict[str, jl.Rule | jl.pipeline.Pipeline] = {"sequential": rule, "pipeline": pipe}

    def compare(seed: int) -> results.Row:
        row: results.Row = {"seed": seed}
        trained = []
        for name, learner in learners.items():
            began = time.perf_counter()
            fitted = jl.training.fit(learner, splits, epochs=epochs, batch_size=BATCH, seed=seed)
            params = jax.device_get(jax.tree.map(_numbers, fitted.params))
            seconds = time.perf_counter() - began
            accuracy = jl.training.evaluate(rule, fitted.params, splits.test)["accuracy"]
            assert isinstance(accuracy, float)
            row |= {f"{name}, test %": f"{100 * accuracy:.2f}", f"{name}, s": round(seconds, 1)}
            trained.append(params)
        return row | _difference(*trained)

    return partial(next, map(compare, seeds))


def _numbers(leaf: jax.Array) -> jax.Array:
    """A random key as its numbers; other arrays as they are."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _difference(sequential: jl.Params, pipeline: jl.Params) -> results.Row:
    """How far the weights are apart, and whether all that the two runs have come to is the same, bit by bit."""

    def pairs(of: Callable[[jl.Params], Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(jax.tree.leaves(of(sequential)), jax.tree.leaves(of(pipeline)), strict=True)

    weights = pairs(lambda params: [component.weights for component in params.components])
    return {
        "largest difference": max(float(np.abs(a - b).max()) for a, b in weights),
        "bit-identical": all(a.tobytes() == b.tobytes() for a, b in pairs(lambda params: params)),
    }


@contextmanager
def _at_turns(own_process: bool, *arguments: Any) -> Iterator[Callable[[], results.Row]]:
    """`comparisons`, in a process that has the devices."""
    if not own_process:
        yield comparisons(*arguments)
        return
    cores = sorted(os.sched_getaffinity(0))
    with Worker([cores[device % len(cores)] for device in range(DEVICES)], comparisons, *arguments) as worker:

        def turn() -> results.Row:
            worker.begin()
            return worker.end()

        yield turn


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the seeds that are not recorded yet, record each, and draw the AL paper's Table 1."""
    parser = flags.Parser(f"python -m experiments.{results.module(NAME)}", description=f"{__doc__} {NOTE}")
    study.add_budget(parser, quick=f"{QUICK.epochs} epochs and {QUICK.seeds} seeds, what two cores can do")
    args = parser.parse_args(argv)
    results.code()  # of now: the code may be edited while it runs
    budget = study.asked(args, FULL, QUICK)
    path = results.place(RECORD, args.out)
    there = None if args.again else results.found(RECORD, args.out)
    if study.covers(there, budget):
        print("recorded before; --again trains anew")
    else:
        forced = len(jax.devices()) < DEVICES
        if forced and not hasattr(os, "sched_getaffinity"):
            parser.error(f"needs {DEVICES} devices, or Linux to make them out of the CPU's cores")
        try:
            jl.data.load(DATA)
        except FileNotFoundError as error:
            parser.error(str(error))
        settings = {
            "data": DATA,
            "net": f"mlp({HIDDEN})",
            "optimizer": f"adam({RATE})",
            "batch_size": BATCH,
            "epochs": budget.epochs,
            "devices": f"{DEVICES}, " + ("of the CPU's cores" if forced else jax.devices()[0].device_kind),
        }
        # What this very code has done of it is not done again.
        made = results.begun(path, settings | {"seeds": there["settings"]["seeds"]}) if there else []
        with _at_turns(forced, DATA, budget.epochs, range(len(made), budget.seeds)) as turn:
            while len(made) < budget.seeds:
                made.append(turn())
                print(results.table(made[-1:]), flush=True)
                command = f"{parser.prog} --epochs {budget.epochs} --seeds {len(made)}"
                done = settings | {"seeds": list(range(len(made)))}
                results.record(RECORD, made, command, done, note=NOTE, out=path)
    print(f"\n{results.table(rows(args.out))}\n\n{NOTE}")
    timetable = jl.pipeline.Schedule(batches=5, stages=3)
    title = "The AL paper's Table 1: batches by number"
    results.draw(jl.plots.schedule(timetable, title), "al_table1", args.out)


if __name__ == "__main__":
    main()
