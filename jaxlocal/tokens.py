"""Targets for each token, y (B, T, C): how learning rules work token by token.

Each token is treated as an example: `each_target` gives it a row of its own. Padded places are rows, too, but count
nowhere.
"""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxlocal.checks import readable
from jaxlocal.network import Masked
from jaxlocal.sequences import PADDING, Embedding, masked


def by_token(x: jax.Array | Masked, targets: tuple[int, ...]) -> bool:
    """Whether x are sequences whose tokens have a target each; `targets` is the shape of the targets of one example.

    Example:
      >>> from jaxlocal.tokens import by_token
      >>> x = jnp.ones((2, 5, 4))
      >>> by_token(x, (5, 3)), by_token(x, (3,))
      (True, False)
    """
    values = x.values if isinstance(x, Masked) else x
    return values.ndim == 3 and len(targets) == 2 and targets[0] == values.shape[1]


def check_padding(name: str, x: Any, y: Any, first: nn.Module) -> None:
    """Refuse targets at padded places, where the values can be seen. `first` is the network's first layer.

    x and y are a batch, or batches (T, B, …).
    """
    if not isinstance(first, Embedding) or y.shape[:-1] != x.shape or not (readable(x) and readable(y)):
        return
    # The mask of `Embedding`, but by NumPy: inside `jax.jit` what JAX computes of known numbers could not be read.
    padded = ~np.maximum.accumulate((np.asarray(x) != PADDING)[..., ::-1], axis=-1)[..., ::-1]
    if np.asarray(y)[padded].any():
        raise ValueError(
            f"{name}: y has a target at a padded place; make its row zeros, as jax.nn.one_hot(-1, classes) is"
        )


def rows(x: jax.Array | Masked) -> jax.Array:
    """Each token as an example by itself, also at padded places: (B · T, D)."""
    values = masked(x).values
    return values.reshape(-1, values.shape[-1])


def each_target(a: jax.Array | Masked, y: jax.Array) -> tuple[Any, jax.Array]:
    """a and y with a row for each target: where each token has one, each token is an example by itself.

    Example:
      >>> from jaxlocal.tokens import each_target
      >>> a, y = each_target(jnp.ones((2, 5, 4)), jnp.ones((2, 5, 3)))
      >>> a.shape, y.shape
      ((10, 4), (10, 3))
    """
    return (rows(a), rows(y)) if by_token(a, y.shape[1:]) else (a, y)
