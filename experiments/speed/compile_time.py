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
from experiments.speed.shared import cores_of, timed
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
        self._warm_up = 1  # steps, until all stages of a pipeline learn
        if devices := {ONE_DEVICE: 1, ONE_EACH: depth}.get(way):
            self._made = jl.pipelined(self._made, jl.pipeline.mesh(component=devices), stages=(1,) * depth)
            self._warm_up = depth

    def start(self, whole: bool) -> float:
        """Seconds of the start: compiled as a whole, or one operation after the other."""
        init = jax.jit(self._made.init) if whole else self._made.init
        return _processor(lambda: init(jax.random.key(0), self._batch))

    def first_step(self) -> float:
        """Seconds until the first step is done, its compilation included."""
        begun = self._made.init(jax.random.key(0), self._batch)
        self._state = jax.tree.map(jnp.copy, begun)  # a rule may return an array twice
        self._update = jax.jit(self._made.update, donate_argnums=0)
        return _processor(partial(self._run, 1))

    def later_step(self, steps: int) -> float:
        """Seconds of each of these steps after the first one."""
        self._run(self._warm_up)
        began = time.perf_counter()
        self._run(steps)
        return (time.perf_counter() - began) / steps

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            self._state = self._update(self._state, self._batch)
        jax.block_until_ready(self._state)

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
    steps, whole, later, together = task.budget["steps"], None, None, None
    share = way == ONE_EACH  # its devices share two cores, so that the times of later steps would say nothing
    with Worker(*made, cores=cores_of(depth) if share else None) as worker:
        start, first = worker.ask("start", False), worker.ask("first_step")
        if not share:
            later = 1e3 * worker.ask("later_step", steps)
    if not share:
        with Worker(*made) as worker:
            together = 1e3 * worker.ask("together", steps)
    if depth <= COMPILED_WHOLE and way in ("bp", "al"):
        with Worker(*made) as worker:
            whole = worker.ask("start", True)
    return {
        "layers": depth,
        "program": way,
        "start, s": start,
        "start as one program, s": whole,
        "first step, s": first,
        "later steps, ms": later,
        "in one program, ms": together,
    }


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
