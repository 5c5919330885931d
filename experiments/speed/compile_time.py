"""How long deep networks of alike layers take to compile, and how long a step then takes.

No number is from a process that has compiled the same before, and there is no compilation cache. Processor time of all
threads is counted, which other work on the machine disturbs less than wall time.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import jaxlocal as jl
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Option, Outcome, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import Worker
from experiments.speed.batch import make_batch
from experiments.speed.shared import DEVICES, timed, two_cores
from jaxlocal import flags

CLASSES = 10
ONE_DEVICE, ONE_EACH = "al, a pipeline on one device", "al, a device for each layer"
WAYS = "bp", "al", ONE_DEVICE, ONE_EACH
CALLS = 3  # of the program of several steps
COMPILED_WHOLE = 25  # the deepest network whose start is also compiled as one program, which takes minutes beyond


class Clocked:
    """A rule on a deep network, and the seconds that its parts take."""

    def __init__(self, way: str, depth: int, width: int, batch_size: int):
        jax.config.update("jax_enable_compilation_cache", False)
        net, tx = jl.models.mlp((width,) * depth, CLASSES), optax.adam(1e-3)
        self._batch = make_batch(batch_size, (width,), CLASSES)
        self._made: Any = jl.rules.bp(net, tx) if way == "bp" else jl.rules.al(net, tx)
        self._waiting = 1  # the number of steps before all stages of a pipeline learn
        if devices := {ONE_DEVICE: 1, ONE_EACH: depth}.get(way):
            self._made = jl.pipelined(self._made, jl.pipeline.mesh(component=devices), stages=(1,) * depth)
            self._waiting = depth

    def start(self, whole: bool) -> float:
        """Seconds of the start: compiled as a whole, or one operation after the other."""
        init = jax.jit(self._made.init) if whole else self._made.init
        return _processor(lambda: init(jax.random.key(0), self._batch))

    def step(self, steps: int) -> tuple[float, float]:
        """Seconds until the first step is done, its compilation included, and those of each later step."""
        begun = self._made.init(jax.random.key(0), self._batch)
        state = jax.tree.map(jnp.copy, begun)  # a rule may return an array twice
        update = jax.jit(self._made.update, donate_argnums=0)

        def run(count: int) -> None:
            nonlocal state
            for _ in range(count):
                state = update(state, self._batch)
            jax.block_until_ready(state)

        first = _processor(partial(run, 1))
        run(self._waiting)
        began = time.perf_counter()
        run(steps)
        return first, (time.perf_counter() - began) / steps

    def together(self, steps: int) -> float:
        """Seconds of a step, if this many steps are one compiled program, as in training."""
        made = self._made
        run = made.run if isinstance(made, jl.pipeline.Pipeline) else partial(lax.scan, made.step)
        call = timed(run, made.init, self._batch, steps)
        return median(call() for _ in range(CALLS))


def _processor(call: Callable[[], object]) -> float:
    began = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - began


def measure(depth: int, way: str, task: Task) -> Row:
    """A line of the table."""
    made = Clocked, way, depth, task.options["width"], task.options["batch_size"]
    several = way == ONE_EACH  # whose devices share two cores here, so that only what is compiled is measured
    cores = [two_cores()[device % DEVICES] for device in range(depth)] if several else None
    row: Row = {"layers": depth, "program": way}
    with Worker(*made, cores=cores) as worker:
        row["start, s"] = worker.ask("start", False)
        first, later = worker.ask("step", 1 if several else task.budget["steps"])
    row |= {"start as one program, s": None, "first step, s": first}
    row |= {"later steps, ms": None if several else 1e3 * later, "in one program, ms": None}
    if not several:
        with Worker(*made) as worker:
            row["in one program, ms"] = 1e3 * worker.ask("together", task.budget["steps"])
    if depth <= COMPILED_WHOLE and way in ("bp", "al"):
        with Worker(*made) as worker:
            row["start as one program, s"] = worker.ask("start", True)
    return row


def run(task: Task) -> Iterator[Outcome]:
    """Measure every depth and way."""
    rows = [records.rounded(measure(depth, way, task), 3) for depth in task.options["depths"] for way in WAYS]
    yield Outcome(rows, dict(task.options) | task.budget, task.budget, tables.text(rows))


EXPERIMENT = Experiment(
    module="speed.compile_time",
    name="speed",
    title="How long deep networks take to compile",
    rows={"compile": Job(Budget(steps=50), Budget(steps=5), run)},
    note=(
        "Seconds of processor time: of the start, one operation after the other and as one compiled program, and of "
        "the first step, compilation included. Later steps: milliseconds of wall time, a call for each and all of them "
        "in one program."
    ),
    tables=(),
    options={
        "depths": Option("numbers of layers", flags.whole, [10, 25, 50, 100], [2, 3], many=True),
        "width": Option("units of each layer", flags.whole, 64, 8),
        "batch_size": Option("the number of examples in a step", flags.whole, 16),
    },
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
