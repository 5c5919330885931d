"""An optimizer's step in one pass over the weights.

For each weight, Adam must read four numbers and write three. XLA makes several loops of it, which read the moments and
the gradient again.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxlocal.network import Tree


def one_pass(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, written so that XLA reads and writes each number of its state once.

    Usually an optimizer computes the moves from its new state. Here they are computed from the old state, as the new
    state is: both read the same numbers, so the compiler can put them into one loop. The results are those of `tx`, bit
    for bit. Where the compiler does not use one loop (see `fuses`), `tx` is used as it is.

    Example:
      >>> tx = jl.compiler.one_pass(optax.sgd(0.5, momentum=0.9))
      >>> moves, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)), jnp.ones(3))
      >>> moves.tolist()
      [-0.5, -0.5, -0.5]
    """

    def update(grads: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return (partial(_update_apart, tx) if fuses() else tx.update)(grads, state, params)

    return optax.GradientTransformation(tx.init, update)


def _update_apart(tx: optax.GradientTransformation, grads: Tree, state: Tree, params: Tree | None) -> tuple[Tree, Tree]:
    """`tx.update`, with the moves and the new state computed independently of each other."""
    _, new_state = tx.update(grads, state, params)
    # Without the barrier the compiler would see that this is the same computation and do it only once.
    moves, _ = tx.update(*lax.optimization_barrier((grads, state)), params)
    return moves, new_state


@cache
def fuses() -> bool:
    """Whether the compiler updates the weight and Adam's two moments in one loop. It compiles a small step to find out.

    One loop accesses seven numbers for each weight; several loops access nine or more.
    """
    if jax.default_backend() != "cpu":
        return False
    tx, size = optax.adam(1e-3), 64

    def step(weight: jax.Array, state: Tree, grad: jax.Array) -> tuple[jax.Array, Tree]:
        move, state = _update_apart(tx, grad, state, weight)
        return weight + move, state

    weight = jax.ShapeDtypeStruct((size, size), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies its int32 counts by floats
        program = jax.jit(step).lower(weight, jax.eval_shape(tx.init, weight), weight).compile()
    costs = program.cost_analysis() or {}
    return bool(costs.get("bytes accessed", np.inf) < 8 * size * size * weight.dtype.itemsize)
