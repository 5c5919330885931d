"""What XLA's CPU compiler is asked to do, and an optimizer's step in one pass over the weights.

Adam must read four words a weight and write three. XLA makes three loops of it, and reads the moments and the gradient
again in each; besides, all weights are copied at the start of a step, even if they are donated, and gradients are made
long before they are used. The settings help: they change where numbers are kept and when they are made, not the
numbers.
"""

import os
from functools import cache, partial

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxlocal.network import Tree

SETTINGS = (
    "--xla_cpu_copy_insertion_use_region_analysis=true",  # donated weights are not copied before they are overwritten
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",  # each gradient is used before the next is made
    "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true",  # what reads the same is computed in one pass
)


def configure() -> None:
    """Put the settings into XLA_FLAGS, which XLA reads at the first computation; what is there already stays."""
    given = os.environ.get("XLA_FLAGS", "")
    new = (setting for setting in SETTINGS if setting.split("=")[0] not in given)
    os.environ["XLA_FLAGS"] = " ".join([given, *new]).strip()


def one_pass(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, written so that XLA moves each word of its state once.

    The moves are computed from what the new state is computed from, rather than from the new state: then all read the
    same words, and the compiler puts them in one loop. The numbers are those of `tx`. Where the compiler does not do so
    (see `fuses`), `tx` is used as it is.

    Example:
      >>> from jaxlocal.compiler import one_pass
      >>> tx = one_pass(optax.sgd(0.5, momentum=0.9))
      >>> moves, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)), jnp.ones(3))
      >>> moves.tolist()
      [-0.5, -0.5, -0.5]
    """

    def update(grads: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return (partial(_update_apart, tx) if fuses() else tx.update)(grads, state, params)

    return optax.GradientTransformation(tx.init, update)


def _update_apart(tx: optax.GradientTransformation, grads: Tree, state: Tree, params: Tree | None) -> tuple[Tree, Tree]:
    """`tx.update`, the moves and the state each computed by themselves."""
    _, new_state = tx.update(grads, state, params)
    moves, _ = tx.update(*lax.optimization_barrier((grads, state)), params)  # hides that it is the same again
    return moves, new_state


@cache
def fuses() -> bool:
    """Whether the compiler puts Adam's three results into one loop: it is asked, with a small one."""
    if jax.default_backend() != "cpu":
        return False
    tx = optax.adam(1e-3)

    def step(weight: jax.Array, state: Tree, grad: jax.Array) -> tuple[jax.Array, Tree]:
        move, state = _update_apart(tx, grad, state, weight)
        return weight + move, state

    weight = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 counts with floats
        program = jax.jit(step).lower(weight, jax.eval_shape(tx.init, weight), weight).compile().as_text()
    return "f32[64,64]{1,0}, f32[64,64]{1,0}, f32[64,64]{1,0}) fusion(" in (program or "")
