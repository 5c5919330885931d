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
import optax
from jax import lax

import jaxlocal as jl
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Option, Outcome, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import Worker
from experiments.speed.batch import make_batch
from experiments.speed.shared import Batch, timed
from jaxlocal import flags

CLASSES = 10
WAYS = "bp", "al", "al, a pipeline on one device"
CALLS = 3  # of the program of several steps
COMPILED_WHOLE = 25  # the deepest network whose start is also compiled as one program, which takes minutes beyond


class Clocked:
    """A rule on a deep network, and the seconds that its parts take."""

    def __init__(self, way: str, depth: int, width: int, batch_size: int):
        jax.config.update("jax_enable_compilation_cache", False)
        net, tx = jl.models.mlp((width,) * depth, CLASSES), optax.adam(1e-3)
        rule = jl.rules.bp(net, tx) if way == "bp" else jl.rules.al(net, tx)
        self._rule, self._batch = rule, make_batch(batch_size, (width,), CLASSES)
        stages = (1,) * depth
        self._pipe = jl.pipelined(rule, jl.pipeline.mesh(component=1), stages=stages) if "pipeline" in way else None

    def start(self, whole: bool) -> float:
        """Seconds of the start: compiled as a whole, or one operation after the other."""
        init = jax.jit(self._rule.init) if whole else self._rule.init
        return _processor(lambda: init(jax.random.key(0), self._batch))

    def step(self, steps: int) -> tuple[float, float]:
        """Seconds until the first step is done, its compilation included, and those of each later step."""
        params = self._rule.init(jax.random.key(0), self._batch)
        state = self._pipe.place(params, self._batch) if self._pipe else params
        update = jax.jit(self._pipe.update if self._pipe else self._rule.update, donate_argnums=0)

        def run(count: int) -> None:
            nonlocal state
            for _ in range(count):
                state = update(state, self._batch)
            jax.block_until_ready(state)

        first = _processor(partial(run, 1))
        run(len(self._pipe.stages) if self._pipe else 1)  # the pipeline fills
        began = time.perf_counter()
        run(steps)
        return first, (time.perf_counter() - began) / steps

    def together(self, steps: int) -> float:
        """Seconds of a step, if this many steps are one compiled program, as in training."""

        def init(key: jax.Array, batch: Batch) -> Any:
            params = self._rule.init(key, batch)
            return self._pipe.place(params, batch) if self._pipe else params

        run = self._pipe.run if self._pipe else lambda params, batches: lax.scan(self._rule.step, params, batches)
        call = timed(run, init, self._batch, steps)
        return median(call() for _ in range(CALLS))


def _processor(call: Callable[[], object]) -> float:
    began = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - began


def measure(depth: int, way: str, task: Task) -> Row:
    """A line of the table."""
    made = Clocked, way, depth, task.options["width"], task.options["batch_size"]
    row: Row = {"layers": depth, "program": way}
    with Worker(*made) as worker:
        row["start, s"] = worker.ask("start", False)
        first, later = worker.ask("step", task.budget["steps"])
    with Worker(*made) as worker:
        together = worker.ask("together", task.budget["steps"])
    row["start as one program, s"] = None
    if depth <= COMPILED_WHOLE and way in ("bp", "al"):
        with Worker(*made) as worker:
            row["start as one program, s"] = worker.ask("start", True)
    return row | {"first step, s": first, "later steps, ms": 1e3 * later, "in one program, ms": 1e3 * together}


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
