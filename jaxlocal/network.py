"""A network: a tuple of blocks, a head and a loss; and how any Flax module is used as one of its layers."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from itertools import islice
from math import prod
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

Tree = Any  # a pytree of arrays


class Loss(NamedTuple):
    """What the output is for: the loss of each example, and the output `h_L` that the scores stand for.

    `value(scores, y) -> (B,)` and `output(scores) -> (B, C)`. At its minimum over the scores, the output is y: that is
    what target propagation starts from.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    output: Callable[[jax.Array], jax.Array]

    def mean(self, scores: jax.Array, y: jax.Array) -> jax.Array:
        """The loss of the batch: the mean over its examples."""
        return jnp.mean(self.value(scores, y))

    def error(self, scores: jax.Array, y: jax.Array) -> jax.Array:
        """δ = ∂ mean loss / ∂ scores, (B, C): the output's learning signal, with the 1/B of the mean in it."""
        return jax.grad(self.mean)(scores, y)


def _half_squared_distance(scores: jax.Array, y: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.square(scores - y), axis=tuple(range(1, y.ndim)))


cross_entropy = Loss(optax.softmax_cross_entropy, jax.nn.softmax)  # classes: y is one-hot or any distribution
squared_error = Loss(_half_squared_distance, lambda scores: scores)  # real targets: ½‖scores - y‖² summed over units


class Network(NamedTuple):
    """A feed-forward network: `head(blocks[-1](… blocks[0](x)))`, trained to a small `loss`.

    Blocks and head are Flax modules that take x and, if they care, a keyword `train`. Every block is a component of
    the rules that work layer by layer; the head is the linear readout.
    """

    blocks: tuple[nn.Module, ...]
    head: nn.Module
    loss: Loss = cross_entropy

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The blocks and the head."""
        return (*self.blocks, self.head)


def _options(layer: nn.Module, train: bool) -> dict[str, Any]:
    """The keyword `train`, for the modules that take it."""
    parameters = inspect.signature(type(layer).__call__).parameters
    if "train" in parameters:
        return {"train": train}
    for name in ("training", "is_training", "deterministic"):
        if name in parameters and getattr(layer, name, None) is None:
            raise ValueError(
                f"{type(layer).__name__} is told by {name!r} whether it is trained, but a layer is told by 'train' "
                "only: give its __call__ a parameter train, or wrap it in a module that has one"
            )
    return {}


def init_layer(layer: nn.Module, key: jax.Array, x: jax.Array) -> tuple[Tree, Tree, jax.Array]:
    """A layer's weights, its other collections (batch statistics), and its output for x."""
    y, variables = layer.init_with_output({"params": key}, x, **_options(layer, train=False))
    stats = dict(variables)
    return stats.pop("params", {}), stats, y


def apply_layer(
    layer: nn.Module, weights: Tree, stats: Tree, x: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, Tree]:
    """A layer's output for x, and its new batch statistics.

    With a key as in training: the batch's own statistics, and dropout drawn from the key. Without, as in prediction.
    """
    options = _options(layer, train=key is not None)
    dtype = _COMPUTES_IN.get()
    given = x.dtype
    if dtype is not None:
        weights, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (weights, x))
    variables = {"params": weights, **stats}
    # Batch statistics stay as they are, and so meet numbers of another type.
    with nullcontext() if dtype is None else jax.numpy_dtype_promotion("standard"):
        if key is None:
            y: Any = layer.apply(variables, x, **options)
        else:
            y, updated = layer.apply(variables, x, rngs={"dropout": key}, mutable=list(stats), **options)
            stats = dict(updated)
    return y if dtype is None else y.astype(given), stats


_COMPUTES_IN: ContextVar[Any] = ContextVar("computes_in", default=None)


@contextmanager
def computing_in(dtype: Any) -> Iterator[None]:
    """Inside, layers compute in this floating-point type, whatever that of their weights and inputs is."""
    token = _COMPUTES_IN.set(dtype)
    try:
        yield
    finally:
        _COMPUTES_IN.reset(token)


def apply_layers(
    layers: tuple[nn.Module, ...],
    weights: tuple[Tree, ...],
    stats: tuple[Tree, ...],
    x: jax.Array,
    key: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Tree, ...]]:
    """Layer after layer, each with a dropout key of its own."""
    new_stats = []
    for i, (layer, w, s) in enumerate(zip(layers, weights, stats, strict=True)):
        x, s = apply_layer(layer, w, s, x, None if key is None else jax.random.fold_in(key, i))
        new_stats.append(s)
    return x, tuple(new_stats)


def evenly(count: int, parts: int) -> tuple[int, ...]:
    """The sizes of so many parts, as equal as can be; what is left over goes to the first."""
    return tuple(count // parts + (i < count % parts) for i in range(parts))


def neighbours(sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The numbers 0, 1, … in groups of these sizes, one after the other.

    Example:
      >>> from jaxlocal.network import evenly, neighbours
      >>> neighbours(evenly(5, 2))
      ((0, 1, 2), (3, 4))
    """
    numbers = iter(range(sum(sizes)))
    return tuple(tuple(islice(numbers, size)) for size in sizes)


def units(x: jax.Array) -> int:
    """The number of units of one example of x (B, …)."""
    return prod(x.shape[1:])
