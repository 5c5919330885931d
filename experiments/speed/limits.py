"""The limits of the machine: how fast it moves and multiplies numbers, and how much of both a step needs.

A step's least time is operations / rate + bytes / bandwidth if nothing overlaps, and the larger of the two if
everything overlaps. Operations are those of the matrix products and convolutions in the jaxpr of the hand-written
program, which computes nothing twice. Bytes are those of the state, which does not fit a cache: what changes is read
and written, what does not change is read, and an optimizer reads its gradient. With Adam these are 7 words for each
weight that learns. Activations are not counted.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

Tree = Any

BANDWIDTH_BYTES, GPU_BANDWIDTH_BYTES = 1 << 28, 1 << 31  # of the array that is multiplied in place: it fits no cache
RATE_SIZE, GPU_RATE_SIZE = 2048, 8192  # rows and columns of the matrices
REPEATS = 5


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiplications and additions of the matrix products and convolutions of one call."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_one(equation) for equation in jaxpr.eqns)


def _count_one(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        return 2 * equation.outvars[0].aval.size * kernel.size // kernel.shape[params["dimension_numbers"].rhs_spec[0]]
    inner = [_count(jaxpr) for jaxpr in _jaxprs(params.values())]
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * sum(inner)


def _jaxprs(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)


def bytes_moved(step: Callable[[Tree, Tree], Tree], state: Tree, batch: Tree, moments: Tree) -> int:
    """The fewest bytes that a step moves; `moments` are those of the optimizer, two for a gradient."""
    jaxpr = jax.make_jaxpr(step)(state, batch).jaxpr
    leaves = jax.tree.leaves(state)
    changed = [before is not after for before, after in zip(jaxpr.invars, jaxpr.outvars, strict=False)]
    moved = sum((1 + change) * _size(leaf) for leaf, change in zip(leaves, changed, strict=True))
    return moved + sum(map(_size, jax.tree.leaves(moments))) // 2


def _size(leaf: Any) -> int:
    """Bytes of an array of numbers; counts and random keys are not counted."""
    return leaf.size * leaf.dtype.itemsize if jnp.issubdtype(leaf.dtype, jnp.floating) else 0


def measure() -> dict[str, float]:
    """Bytes per second through memory and operations per second in a matrix product, the best of several."""

    @partial(jax.jit, donate_argnums=0)
    def scale(a: jax.Array) -> jax.Array:
        return a * 1.0001

    on_cpu = jax.default_backend() == "cpu"
    size, rows = (BANDWIDTH_BYTES, RATE_SIZE) if on_cpu else (GPU_BANDWIDTH_BYTES, GPU_RATE_SIZE)
    product = jax.jit(jnp.matmul)
    array = jnp.ones(size // 4)
    matrix = jax.random.normal(jax.random.key(0), (rows, rows))
    moving, multiplying = [], []
    for _ in range(1 + REPEATS):  # the first call compiles, and is never the best
        start = time.perf_counter()
        array = jax.block_until_ready(scale(array))
        middle = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        moving.append(middle - start)
        multiplying.append(time.perf_counter() - middle)
    return {"bandwidth": 2 * size / min(moving), "rate": 2 * rows**3 / min(multiplying)}
