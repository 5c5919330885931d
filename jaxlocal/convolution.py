"""Convolutions that learn as fast inside a loop or a branch as outside, on CPUs too.

XLA's CPU compiler brings the convolutions of a gradient into the form of its fast routine only where they stand outside
of every loop and branch; within a `lax.scan` or `lax.switch` they are ten times slower. Here the gradients are written
in that form to begin with: the numbers are the same, bit for bit.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], ...]


class Window(NamedTuple):
    """How a kernel passes over images, axis by axis: `jax.lax.conv_general_dilated` has these arguments."""

    strides: tuple[int, ...]
    padding: Pads
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Pads,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for channels-last images, (B, …, C): pass it as nn.Conv's `conv_general_dilated`.

    In reverse mode only, as derivatives of learning rules are. Grouped convolutions, and other backends than the CPU,
    which have no such trouble, get JAX's own.

    Example:
      >>> import flax.linen as nn
      >>> layer = nn.Conv(8, (3, 3), conv_general_dilated=jl.layers.convolve)
      >>> layer.init_with_output(jax.random.key(0), jnp.ones((2, 6, 6, 3)))[0].shape
      (2, 6, 6, 8)
    """
    ones = (1,) * (x.ndim - 2)
    strides, lhs_dilation, rhs_dilation = (tuple(given or ones) for given in (strides, lhs_dilation, rhs_dilation))
    if feature_group_count > 1 or jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
        )
    pads = padding
    if isinstance(pads, str):
        reach = [(k - 1) * dilation + 1 for k, dilation in zip(kernel.shape, rhs_dilation, strict=False)]
        pads = tuple(lax.padtype_to_pads(x.shape[1:-1], reach, strides, pads))
    window = Window(strides, tuple((low, high) for low, high in pads), lhs_dilation, rhs_dilation, precision)
    return _convolve(window, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution in the form of the fast routine: x (B, …, I), kernel (…, I, O)."""
    last = x.ndim - 1
    axes = range(1, last)
    layout = lax.ConvDimensionNumbers((0, last, *axes), (last, last - 1, *range(last - 1)), (0, last, *axes))
    strides, padding, lhs_dilation, rhs_dilation, precision = window
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation, layout, precision=precision
    )


def _forward(window: Window, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _convolve(window, x, kernel), (x, kernel)


def _back(window: Window, residuals: Any, error: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both gradients are convolutions, with strides and dilations in exchanged roles."""
    x, kernel = residuals
    spatial = range(x.ndim - 2)
    below, within = [], []  # the padding of the two
    for axis, stride, (low, _), lhs_step, rhs_step in zip(spatial, *window[:4], strict=True):
        size = (x.shape[axis + 1] - 1) * lhs_step + 1  # of the image, kernel and error, spread out
        reach = (kernel.shape[axis] - 1) * rhs_step + 1
        spread = (error.shape[axis + 1] - 1) * stride + 1
        below.append((reach - 1 - low, size + low - spread))
        within.append((low, spread + reach - 1 - size - low))

    to_x = Window(window.lhs_dilation, tuple(below), window.strides, window.rhs_dilation, window.precision)
    x_error = _convolve(to_x, error, jnp.flip(kernel, tuple(spatial)).swapaxes(-1, -2))

    to_kernel = Window(window.rhs_dilation, tuple(within), window.lhs_dilation, window.strides, window.precision)
    examples_last = jnp.swapaxes(x, 0, -1)  # the sum is over examples: they take the place of the channels
    kernel_error = _convolve(to_kernel, examples_last, jnp.moveaxis(error, 0, -2))
    return x_error, jnp.moveaxis(kernel_error, 0, -2)


_convolve.defvjp(_forward, _back)
