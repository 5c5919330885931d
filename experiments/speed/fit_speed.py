"""What training by `fit` costs beside the steps themselves: an epoch of it against a bare scan of `rule.update`.

Both in turn, in one process; the scan is given its batches ready-made, `fit` shuffles, gathers and reports.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab import records as results
from jaxlocal import flags
from jaxlocal.training import RuleLearner, feed

MOST = 1.03  # of the bare scan
CASES: dict[str, tuple[Callable[[], jl.Network], tuple[int, ...], int]] = {
    "bp": (lambda: jl.models.mlp((256, 256)), (28, 28, 1), 64),
    "al": (lambda: jl.models.mlp((256, 256)), (28, 28, 1), 64),
    "dfa": (jl.models.conv2, (32, 32, 3), 64),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and record."""
    parser = flags.Parser("python -m experiments.speed.fit_speed", description=__doc__)
    parser.add_argument("--repeats", type=flags.whole, default=9, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--steps", type=flags.whole, default=100, metavar="N", help="an epoch (default: %(default)s)")
    parser.add_argument("--out", type=flags.file, metavar="FILE", help="record here, not in experiments/records")
    args = parser.parse_args(argv)
    results.code()  # of now: the code may be edited while it runs
    rows = [measure(rule, args) for rule in CASES]
    print(results.table(rows))
    command = f"{parser.prog} --repeats {args.repeats} --steps {args.steps}"
    settings = {"steps": args.steps, "repeats": args.repeats, "data": "random images, in bytes"}
    path = results.record("fit_speed", rows, command, settings, out=args.out or results.RESULTS / "speed" / "fit.json")
    print(f"recorded in {path}")


def measure(name: str, args: Any) -> dict[str, Any]:
    """One rule: milliseconds a step, both ways, and their ratio."""
    make, shape, batch_size = CASES[name]
    rule = jl.rules.ALL[name](make(), optax.adam(1e-3))
    rng = np.random.default_rng(0)
    count = args.steps * batch_size
    x = rng.integers(0, 256, (count, *shape), np.uint8)
    y = np.eye(10, dtype=np.uint8)[rng.integers(10, size=count)]
    learner = RuleLearner(rule)
    init_key, order_key = feed.keys(0, 0)
    length = learner.chunk_length(args.steps, step_bytes=0, streamed=False)
    examples = feed.on_devices((x, y), None)
    chunks = feed.ResidentFeed(examples, feed.Order(order_key, 0, count, batch_size), length).chunks
    batches = tuple(jnp.asarray(leaf).reshape(-1, batch_size, *leaf.shape[1:]) for leaf in jl.data.floats((x, y)))

    @partial(jax.jit, donate_argnums=0)
    def scan(params: jl.Params, batches: Any) -> jl.Params:
        return jax.lax.scan(lambda params, batch: (rule.update(params, batch), None), params, batches)[0]

    def epoch(params: jl.Params, number: int) -> jl.Params:
        for chunk in chunks(number, 0):
            params, terms = learner.learn(params, chunk)
            jax.tree.map(np.asarray, terms)
        return params

    example = jl.data.floats((x[:batch_size], y[:batch_size]))
    bare, fitted = (learner.begin(init_key, example) for _ in range(2))
    times: dict[str, list[float]] = {"scan": [], "fit": []}
    for repeat in range(args.repeats + 1):  # the first one compiles
        start = time.perf_counter()
        bare = jax.block_until_ready(scan(bare, batches))
        middle = time.perf_counter()
        fitted = jax.block_until_ready(epoch(fitted, repeat))
        times["scan"].append(middle - start)
        times["fit"].append(time.perf_counter() - middle)
    milliseconds = {way: [1000 * value / args.steps for value in values[1:]] for way, values in times.items()}
    ratios = [fit / scan for fit, scan in zip(milliseconds["fit"], milliseconds["scan"], strict=True)]
    return {
        "case": name,
        "batch": batch_size,
        **{f"{way}, ms a step": results.spread(values) for way, values in milliseconds.items()},
        "ratio": results.spread(ratios),
        "target": f"≤ {MOST}",
        "outcome": "met" if statistics.median(ratios) <= MOST else "missed",
    }


if __name__ == "__main__":
    main()
