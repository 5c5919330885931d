"""Pooling whose gradient is fast on CPUs, where XLA's own takes longer than the convolution below it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """`flax.linen.max_pool` over adjacent windows of size × size: x (B, H, W, C) to (B, H // size, W // size, C).

    It has reverse-mode derivatives only, which is all that learning rules need. As everywhere in JAX, the gradient goes
    to the first maximum in a window, row by row.

    Example:
      >>> jl.layers.max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    if x.ndim != 4:
        raise ValueError(
            f"x has shape {x.shape}, but max pooling needs images (B, H, W, C); leave out the pooling of dense layers"
        )
    if min(x.shape[1:3]) < size:
        raise ValueError(
            f"x has shape {x.shape}, whose images are smaller than a window of {size} by {size}: leave out a pooling, "
            "or take larger images"
        )
    height, width = (side // size * size for side in x.shape[1:3])
    return _pool(size, x[:, :height, :width])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(size: int, x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (size, size), (size, size))


def _forward(size: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _pool(size, x), x


def _back(size: int, x: jax.Array, error: jax.Array) -> tuple[jax.Array]:
    """The error at the maximum of each window, and zero elsewhere, in two passes over x and without a scatter."""
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // size, size, width // size, size, channels)
    greatest, winner = windows[:, :, 0, :, 0], jnp.zeros(error.shape, jnp.int32)
    for place, (row, column) in enumerate(np.ndindex(size, size)):
        greater = windows[:, :, row, :, column] > greatest
        greatest = jnp.where(greater, windows[:, :, row, :, column], greatest)
        winner = jnp.where(greater, place, winner)
    # Without the barrier XLA would find the winner again for each place of the window.
    winner, error = lax.optimization_barrier((winner, error))
    places = jnp.arange(size**2, dtype=jnp.int32).reshape(1, 1, size, 1, size, 1)
    spread = jnp.where(winner[:, :, None, :, None] == places, error[:, :, None, :, None], jnp.zeros((), error.dtype))
    return (spread.reshape(x.shape),)


_pool.defvjp(_forward, _back)


def average_to(x: jax.Array, cells: int) -> jax.Array:
    """The mean over windows of x (B, …, C), so that at most `cells` are left along each axis between the two.

    The windows are as small as they can be. Where a side is not a multiple of them, the last window is cut short.

    Example:
      >>> from jaxlocal.fast.pooling import average_to
      >>> average_to(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
      [[2.5, 4.5], [10.5, 12.5]]
      >>> average_to(jnp.arange(5.0).reshape(1, 5, 1), 2)[0, :, 0].tolist()
      [1.0, 3.5]
    """
    for axis, side in enumerate(x.shape[1:-1], start=1):
        window = -(-side // cells)
        count = -(-side // window)
        padding = [(0, 0)] * x.ndim
        padding[axis] = 0, count * window - side
        total = jnp.pad(x, padding).reshape(*x.shape[:axis], count, window, *x.shape[axis + 1 :]).sum(axis + 1)
        sizes = np.minimum(window, side - window * np.arange(count))
        x = total / jnp.asarray(sizes, x.dtype).reshape([count if other == axis else 1 for other in range(x.ndim)])
    return x
