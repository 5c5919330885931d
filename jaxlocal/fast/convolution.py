"""Convolutions whose gradients are fast on CPUs, also inside loops and branches.

XLA's CPU compiler has a fast routine for convolutions of one form. It brings the convolutions of a gradient into that
form only outside of loops and branches; inside a `lax.scan` or `lax.switch` they are ten times slower. Here gradients
are written in that form from the start. The gradient of a kernel is a sum over all positions of all examples; it is
computed for a few examples at a time, whose numbers stay in the processor's cache. Kernels that cover few numbers, or
have few channels, are computed by matrix products, which are faster still.
"""

import operator
from collections.abc import Sequence
from functools import partial, reduce
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlocal.fast.shards import shard_by_shard

Pads = tuple[tuple[int, int], ...]

# Found by measurement, see experiments/speed/bench/notes.md. Twice or half of each is about as fast.
FEW = 32  # up to this many numbers under a kernel, one matrix product is faster than the routine for convolutions
CHANNELS = range(32, 128)  # with these numbers of channels, products that are shifted and added are faster
POSITIONS = 8192  # the gradient of a kernel is summed over about this many positions at a time
PRODUCTS = 2**21  # about this many products are computed at a time before they are shifted and added


class Window(NamedTuple):
    """How a kernel moves over images, for each axis: the arguments of `jax.lax.conv_general_dilated`."""

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
    """`jax.lax.conv_general_dilated` for channels-last images, (B, …, C): pass it to nn.Conv under that name.

    It has reverse-mode derivatives only, which is all that learning rules need. Grouped convolutions and devices other
    than CPUs use JAX's own convolution.

    Example:
      >>> import flax.linen as nn
      >>> layer = nn.Conv(8, (3, 3), conv_general_dilated=jl.layers.convolve)
      >>> layer.init_with_output(jax.random.key(0), jnp.ones((2, 6, 6, 3)))[0].shape
      (2, 6, 6, 8)
    """
    ones = (1,) * (x.ndim - 2)
    strides, lhs_dilation, rhs_dilation = (tuple(given or ones) for given in (strides, lhs_dilation, rhs_dilation))
    exported = not isinstance(x.shape[0], int)  # for batches of any size, on any backend
    dilated = isinstance(padding, str) and set(lhs_dilation) != {1}  # JAX refuses it
    if feature_group_count > 1 or exported or dilated or not x.shape[0] or jax.default_backend() != "cpu":
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
    return shard_by_shard(lambda kernel, x: _convolve(window, x, kernel))(kernel, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of x (B, …, I) with the kernel (…, I, O), by the method that is fastest for its shape."""
    *reach, channels, features = kernel.shape
    if prod(reach) == 1 or prod(reach) * channels <= FEW:
        return _one_product(window, x, kernel)
    ones = (1,) * len(reach)
    if channels in CHANNELS and window.strides == window.lhs_dilation == window.rhs_dilation == ones:
        x = _padded(window, x)
        count = _at_a_time(len(x), prod(x.shape[1:-1]) * prod(reach) * features, PRODUCTS)
        y = lax.map(partial(_shifted_products, window, kernel), x.reshape(-1, count, *x.shape[1:]))
        return y.reshape(len(x), *y.shape[2:])
    return _routine(window, x, kernel)


def _padded(window: Window, x: jax.Array) -> jax.Array:
    """The images with zeros around them and, if they are dilated, between their pixels."""
    pads = ((low, high, step - 1) for (low, high), step in zip(window.padding, window.lhs_dilation, strict=True))
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


def _one_product(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """All numbers under the kernel at each position as a row, times the kernel as a matrix."""
    x = _padded(window, x)
    *reach, channels, features = kernel.shape
    steps = np.array(window.rhs_dilation)
    length = np.array(x.shape[1:-1]) - (np.array(reach) - 1) * steps

    def under(offset: tuple[int, ...]) -> jax.Array:
        """The numbers under the weights at this offset in the kernel, at every position."""
        start = np.array(offset) * steps
        return lax.slice(x, (0, *start, 0), (len(x), *(start + length), channels), (1, *window.strides, 1))

    rows = jnp.concatenate([under(offset) for offset in np.ndindex(*reach)], -1)
    y = jnp.matmul(rows.reshape(-1, rows.shape[-1]), kernel.reshape(-1, features), precision=window.precision)
    return y.reshape(*rows.shape[:-1], features)


def _shifted_products(window: Window, kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Every position of x times the weights at every offset; then each output position sums its own products."""
    *reach, channels, features = kernel.shape
    by_channel = jnp.moveaxis(kernel, -2, 0).reshape(channels, -1)
    products = jnp.matmul(x.reshape(-1, channels), by_channel, precision=window.precision)
    # Without the barrier XLA would compute the products again for each offset.
    products = lax.optimization_barrier(products).reshape(*x.shape[:-1], -1)
    length = np.array(x.shape[1:-1]) - np.array(reach) + 1

    def shifted(i: int, offset: tuple[int, ...]) -> jax.Array:
        start, stop = np.array(offset), np.array(offset) + length
        return lax.slice(products, (0, *start, i * features), (len(x), *stop, (i + 1) * features))

    return reduce(operator.add, (shifted(i, offset) for i, offset in enumerate(np.ndindex(*reach))))


def _routine(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution in the form of XLA's fast routine."""
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
    """The gradients of the input and of the kernel: convolutions in which strides and dilations exchange roles."""
    x, kernel = residuals
    spatial = range(x.ndim - 2)
    x_padding, kernel_padding = [], []
    for axis, stride, (low, _), lhs_step, rhs_step in zip(spatial, *window[:4], strict=True):
        # The sizes of image, kernel and error with their dilation or stride.
        image = (x.shape[axis + 1] - 1) * lhs_step + 1
        reach = (kernel.shape[axis] - 1) * rhs_step + 1
        spread = (error.shape[axis + 1] - 1) * stride + 1
        x_padding.append((reach - 1 - low, image + low - spread))
        kernel_padding.append((low, spread + reach - 1 - image - low))

    to_x = Window(window.lhs_dilation, tuple(x_padding), window.strides, window.rhs_dilation, window.precision)
    x_error = _convolve(to_x, error, jnp.flip(kernel, tuple(spatial)).swapaxes(-1, -2))

    to_kernel = Window(
        window.rhs_dilation, tuple(kernel_padding), window.lhs_dilation, window.strides, window.precision
    )

    def add_part(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, error = part
        examples_last = jnp.swapaxes(x, 0, -1)  # the sum is over examples, so they take the place of channels
        return total + _routine(to_kernel, examples_last, jnp.moveaxis(error, 0, -2)), None

    count = _at_a_time(len(x), prod(error.shape[1:-1]), POSITIONS)
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]), (x, error))
    nothing = jnp.zeros_like(jnp.moveaxis(kernel, -2, 0))
    kernel_error, _ = lax.scan(add_part, nothing, parts)
    return x_error, jnp.moveaxis(kernel_error, 0, -2)


def _at_a_time(examples: int, size: int, most: int) -> int:
    """The number of examples of this size to process at once: a divisor of `examples` that makes up to `most` numbers.

    If the best divisor makes less than an eighth of `most`, all examples are processed at once.
    """
    count = max(n for n in range(1, examples + 1) if examples % n == 0 and (n == 1 or n * size <= most))
    return count if count * size * 8 > most else examples


_convolve.defvjp(_forward, _back)
