"""Matrix products whose gradients are fast on CPUs.

XLA multiplies matrices on CPUs fastest if the sum runs along the rows of the larger matrix. JAX's gradients of a dense
layer sum along columns. Here the small matrix is transposed instead, and the large one is read as it lies in memory.
Transposing takes time, too, so small kernels use JAX's own product.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# A kernel of this number of weights is large. One of 2**20 gains a quarter of the time, and one of 2**16 loses a tenth.
LARGE = 2**19
DENSE = (((1,), (0,)), ((), ()))  # the dimension numbers of x (B, n) times W (n, m)


def product(x: jax.Array, kernel: jax.Array, dimension_numbers: Any = DENSE, precision: Any = None) -> jax.Array:
    """`jax.lax.dot_general` for x (B, n) times a kernel (n, m): pass it to nn.Dense as `dot_general`.

    It has reverse-mode derivatives only, which is all that learning rules need. Other products, small kernels and
    devices other than CPUs use JAX's own product.

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
    """(W errorᵀ)ᵀ and xᵀ error. Without the barriers XLA would merge the transposition with the product."""
    x, kernel = residuals
    x_error_transposed = lax.dot_general(kernel, error, (((1,), (1,)), ((), ())), precision)
    x_error = lax.optimization_barrier(x_error_transposed).T
    kernel_error = jnp.matmul(lax.optimization_barrier(x.T), error, precision=precision)
    return x_error, kernel_error


_product.defvjp(_forward, _back)
