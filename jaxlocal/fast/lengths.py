"""Lengths and directions, with derivatives of our own: those of JAX are rounded differently in a pipeline."""

import jax
import jax.numpy as jnp

TINY = 1e-8  # a vector whose sum of squares is smaller counts as zero


@jax.custom_vjp
def direction(v: jax.Array) -> jax.Array:
    """Each vector of v (B, n) divided by its length; of a tiny one, zero."""
    return _direction_forward(v)[0]


def _direction_forward(v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    square = jnp.sum(jnp.square(v), axis=1, keepdims=True)
    inverse = _inverse_root(square)
    return v * inverse, (v * inverse, inverse)


def _direction_back(residuals: tuple[jax.Array, jax.Array], error: jax.Array) -> tuple[jax.Array]:
    unit, inverse = residuals
    along = jnp.sum(error * unit, axis=1, keepdims=True)
    return ((error - along * unit) * inverse,)


direction.defvjp(_direction_forward, _direction_back)


@jax.custom_vjp
def length(v: jax.Array) -> jax.Array:
    """The lengths of the columns of v (B, n, C), (B, C)."""
    return _length_forward(v)[0]


def _length_forward(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    square = jnp.sum(jnp.square(v), axis=1, keepdims=True)
    inverse = _inverse_root(square)
    return (square * inverse)[:, 0], v * inverse


def _length_back(direction: jax.Array, error: jax.Array) -> tuple[jax.Array]:
    return (error[:, None] * direction,)


length.defvjp(_length_forward, _length_back)


def _inverse_root(x: jax.Array) -> jax.Array:
    """1 / √x; where x is tiny, zero."""
    return jnp.where(x > TINY, jax.lax.rsqrt(jnp.maximum(x, TINY)), jnp.zeros((), x.dtype))
