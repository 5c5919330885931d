"""Attention whose gradient XLA rounds alike in every program, so that a pipeline equals the sequence bit for bit.

In the gradient of a softmax, XLA joins products and sums with whatever stands beside them, and rounds them together.
Barriers around the softmax and its gradient keep its neighbours out.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def attention(query: jax.Array, key: jax.Array, value: jax.Array, *, mask: jax.Array, **_: Any) -> jax.Array:
    """softmax(q kᵀ / √d) v for each head, from arrays (B, T, heads, d): an `attention_fn` for Flax's own module.

    Where `mask` (B, 1, T, T) is false, nothing is attended to. It has reverse-mode derivatives only.
    """
    scale = jnp.sqrt(jnp.asarray(query.shape[-1], query.dtype))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query / scale, key)
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("bhqk,bkhd->bqhd", softmax(scores), value)


@jax.custom_vjp
def softmax(scores: jax.Array) -> jax.Array:
    """The softmax over the last axis."""
    return jax.nn.softmax(lax.optimization_barrier(scores))


def _forward(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    weights = lax.optimization_barrier(softmax(scores))
    return weights, weights


def _back(weights: jax.Array, error: jax.Array) -> tuple[jax.Array]:
    weights, error = lax.optimization_barrier((weights, error))
    mean = lax.optimization_barrier(jnp.sum(weights * error, axis=-1, keepdims=True))
    return (lax.optimization_barrier(weights * (error - mean)),)


softmax.defvjp(_forward, _back)
