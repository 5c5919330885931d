"""The order in which XLA computes: a message is handed on only after the component below has learned."""

import jax
import jax.numpy as jnp

from jaxlocal.network import Tree


def after(learned: Tree, message: Tree) -> Tree:
    """The same message, but available only once the learned weights are computed.

    XLA would go forward through all components first, and keep all their activations in memory. An optimization
    barrier does not prevent that, because XLA removes barriers before it chooses the order. A question about the new
    weights does: the message depends on its answer. It asks whether the first number of an array is NaN; if one is,
    the message becomes NaN. The optimizer's new state is not asked about: it is computed with the weights, and each
    question is more for XLA to compile.
    """
    firsts = [leaf.ravel()[0] for leaf in jax.tree.leaves(learned) if leaf.size]
    numbers = [leaf for leaf in firsts if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not numbers:
        return message
    known = ~jnp.any(jnp.stack([jnp.isnan(leaf) for leaf in numbers]))

    def when_known(leaf: jax.Array) -> jax.Array:
        other = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
        return jnp.where(known, leaf, jnp.full((), other, leaf.dtype))

    return jax.tree.map(when_known, message)
