"""Weight decay and the L2 penalty. Neither touches biases and scales."""

from typing import Any

import jax
import optax

from jaxlocal import checks
from jaxlocal.network import Tree


def decayed(tx: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    """W ← W + move - rate·W on every weight but biases and scales. The rate is not multiplied by the learning rate."""
    return optax.chain(tx, optax.add_decayed_weights(-rate, mask=kernels))


def shrunk(moves: Tree, weights: Tree, rate: float) -> Tree:
    """These moves with the decay of `decayed` in them."""
    tx = decayed(optax.identity(), rate)
    return tx.update(moves, tx.init(weights), weights)[0]


def l2(strength: float) -> optax.GradientTransformation:
    """Adds the gradient of strength/2·‖W‖²; chain it in front of the optimizer. Biases and scales are left out.

    Example:
      >>> tx = optax.chain(jl.l2(1e-4), optax.adam(1e-3))
    """
    checks.non_negative("strength", strength)
    return optax.add_decayed_weights(strength, mask=kernels)


def kernels(tree: Tree) -> Tree:
    """True where a leaf is a weight matrix, kernel or feedback matrix, rather than a bias or a scale."""

    def is_kernel(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and not (path and getattr(path[-1], "key", None) == "bias")

    return jax.tree_util.tree_map_with_path(is_kernel, tree)
