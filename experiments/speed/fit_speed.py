"""What training by `fit` costs in addition to the steps: an epoch of it against a bare scan of `rule.update`.

Both take turns in one process. The scan gets its batches ready-made; `fit` shuffles, gathers and reports.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import take_turns
from jaxlocal.training import RuleLearner, feed

CASES: dict[str, tuple[Callable[[], jl.Network], tuple[int, ...], int]] = {  # network, shape of an image, batch size
    "bp": (lambda: jl.models.mlp((256, 256)), (28, 28, 1), 64),
    "al": (lambda: jl.models.mlp((256, 256)), (28, 28, 1), 64),
    "dfa": (jl.models.conv2, (32, 32, 3), 64),
}


def run(task: Task) -> Iterator[Outcome]:
    """Measure every rule."""
    rows = [measure(rule, **task.budget) for rule in CASES]
    settings = task.budget | {"data": "random images, in bytes"}
    yield Outcome(rows, settings, task.budget, tables.text(rows))


def measure(name: str, rounds: int, steps: int) -> Row:
    """One rule: milliseconds for each step in both ways, and their ratio."""
    make, shape, batch_size = CASES[name]
    rule = jl.rules.ALL[name](make(), optax.adam(1e-3))
    data = random_images(steps * batch_size, shape)
    turns = {"scan": scanning(rule, data, batch_size), "fit": fitting(rule, data, batch_size)}
    seconds = take_turns(turns, rounds, warm_up=1)  # the first round compiles
    milliseconds = {way: [1e3 * value / steps for value in values] for way, values in seconds.items()}
    ratios = [fit / scan for fit, scan in zip(seconds["fit"], seconds["scan"], strict=True)]
    return {
        "case": name,
        "batch": batch_size,
        **{f"{way}, ms a step": records.spread(values) for way, values in milliseconds.items()},
        "ratio": records.spread(ratios),
    }


def random_images(number: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels in bytes."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (number, *shape), np.uint8)
    return x, np.eye(10, dtype=np.uint8)[rng.integers(10, size=number)]


def scanning(rule: jl.Rule, data: tuple[np.ndarray, np.ndarray], batch_size: int) -> Callable[[], float]:
    """A function that times an epoch of the bare scan."""
    batches = tuple(jnp.asarray(leaf).reshape(-1, batch_size, *leaf.shape[1:]) for leaf in jl.data.floats(data))
    params = jax.jit(rule.init)(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batches))

    @partial(jax.jit, donate_argnums=0)
    def scan(params: jl.Params, batches: Any) -> jl.Params:
        return jax.lax.scan(lambda params, batch: (rule.update(params, batch), None), params, batches)[0]

    def epoch() -> float:
        nonlocal params
        began = time.perf_counter()
        params = jax.block_until_ready(scan(params, batches))
        return time.perf_counter() - began

    return epoch


def fitting(rule: jl.Rule, data: tuple[np.ndarray, np.ndarray], batch_size: int) -> Callable[[], float]:
    """A function that times an epoch as `fit` trains it."""
    x, y = data
    learner, (init_key, order_key) = RuleLearner(rule), feed.keys(0, 0)
    length = learner.chunk_length(len(x) // batch_size, step_bytes=0, streamed=False)
    order = feed.Order(order_key, 0, len(x), batch_size)
    chunks = feed.ResidentFeed(feed.on_devices(data, None), order, length).chunks
    params = learner.begin(init_key, jl.data.floats((x[:batch_size], y[:batch_size])))
    epochs = count()

    def epoch() -> float:
        nonlocal params
        began = time.perf_counter()
        for chunk in chunks(next(epochs), 0):
            params, terms = learner.learn(params, chunk)
            jax.tree.map(np.asarray, terms)
        jax.block_until_ready(params)
        return time.perf_counter() - began

    return epoch


EXPERIMENT = Experiment(
    module="speed.fit_speed",
    name="speed",
    title="What fit costs in addition to the steps",
    rows={"fit": Job(Budget(rounds=9, steps=100), Budget(rounds=2, steps=25), run)},
    note="Median (least to most) over the rounds.",
    tables=(),
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
