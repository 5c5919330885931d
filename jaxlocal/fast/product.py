"""Dense products that learn fast on CPUs.

XLA multiplies matrices on CPUs fastest if the sum runs along the rows of the larger one. The gradients of a dense
layer, as JAX writes them, sum along columns; here what is small is turned over, and what is large is read as it lies.
Turning over is not free: smaller kernels are left to JAX.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LARGE = 2**19  # weights of a kernel from which this is faster: by a quarter with 2**20, slower by a tenth with 2**16
DENSE = (((1,), (0,)), ((), ()))  # the dimension numbers of x (B, n) times W (n, m)


def product(x: jax.Array, kernel: jax.Array, dimension_numbers: Any = DENSE, precision: Any = None) -> jax.Array:
    """`jax.lax.dot_general`, made for x (B, n) times a kernel (n, m): pass it as nn.Dense's `dot_general`.

    In reverse mode only, as derivatives of learning rules are. Other products, kernels that are not large, and other
    backends than the CPU, which have no such trouble, get JAX's own.

    Example:
      >>> import flax.linen as nn
      >>> layer = nn.Dense(8, dot_general=jl.layers.product)
      >>> layer.init_with_output(jax.random.key(0), jnp.ones((2, 6)))[0].shape
      (2, 8)
    """
    dense = dimension_numbers == DENSE and x.ndim == kernel.ndim == 2
    if not dense or kernel.size < LARGE or jax.default_backend() != "cpu":
        return lax.dot_general(x, kernel, dimension_numbers, precision)
    return _product(precision, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(precision: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.matmul(x, kernel, precision=precision)


def _forward(precision: Any, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _product(precision, x, kernel), (x, kernel)


def _back(precision: Any, residuals: Any, error: jax.Array) -> tuple[jax.Array, jax.Array]:
    """W errorᵀ, turned over, and xᵀ error: without the barriers XLA would fold the turning into the product."""
    x, kernel = residuals
    x_error_turned = lax.dot_general(kernel, error, (((1,), (1,)), ((), ())), precision)
    x_error = lax.optimization_barrier(x_error_turned).T
    kernel_error = jnp.matmul(lax.optimization_barrier(x.T), error, precision=precision)
    return x_error, kernel_error


_product.defvjp(_forward, _back)
