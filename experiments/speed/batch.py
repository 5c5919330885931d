"""A batch of random examples. This module does not import jaxlocal, which sets flags of XLA's compiler."""

import jax
import jax.numpy as jnp


def make_batch(size: int, shape: tuple[int, ...], classes: int) -> tuple[jax.Array, jax.Array]:
    """Random examples, the same number of each class: the time of a step does not depend on their values."""
    return jax.random.uniform(jax.random.key(1), (size, *shape)), jax.nn.one_hot(jnp.arange(size) % classes, classes)
