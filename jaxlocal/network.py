"""A network is a tuple of blocks, a head and a loss. Any Flax module can be one of its layers."""

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, reduce
from itertools import islice
from math import prod
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.errors import InvalidRngError, ModifyScopeVariableError
from jax.custom_derivatives import SymbolicZero

Tree = Any  # a pytree of arrays


class Masked(NamedTuple):
    """Sequences of different lengths in one array: what a layer of `jl.sequences` hands on.

    Every sequence is padded at its end. Whatever stands at the padded places must not change a prediction.
    """

    values: jax.Array  # (B, T, D)
    mask: jax.Array  # (B, T), true where there is a token

    def mean(self) -> jax.Array:
        """The mean over the tokens of each sequence, (B, D); of an empty sequence, zero."""
        here = self.mask[..., None].astype(self.values.dtype)
        return jnp.sum(self.values * here, axis=1) * one_over(here, axis=1)

    def clear(self, values: jax.Array) -> jax.Array:
        """These values (B, T, …) of the tokens, with zeros at the padded places."""
        return jnp.where(self.mask[..., None], values, jnp.zeros((), values.dtype))


def one_over(here: jax.Array, axis: int | None = None) -> jax.Array:
    """One over the number of places that are marked by 1 and not by 0; without any, one.

    A mean is the sum times this: XLA divides differently in different programs, and a pipeline would not equal the
    sequence.
    """
    return 1 / jnp.maximum(jnp.sum(here, axis=axis), 1)


def mean_where(values: jax.Array, here: jax.Array) -> jax.Array:
    """The mean over the places (B, T) or (N,) that are marked, for each further axis; without any, zero."""
    here = here.astype(values.dtype)
    marked = values * here.reshape(*here.shape, *(1,) * (values.ndim - here.ndim))
    return jnp.sum(marked, axis=tuple(range(here.ndim))) * one_over(here)


def has_target(y: jax.Array) -> jax.Array:
    """Whether each token has a target, (B, T) for y (B, T, C): a row of zeros is none, as at padded places.

    Example:
      >>> from jaxlocal.network import has_target
      >>> has_target(jax.nn.one_hot(jnp.array([[2, 0, -1]]), 3)).tolist()
      [[True, True, False]]
    """
    return (y != 0).any(axis=-1)


def are_one_hot(y: Any) -> Any:
    """Whether each row has a single 1 and else 0; of NumPy's arrays or of JAX's.

    Example:
      >>> from jaxlocal.network import are_one_hot
      >>> are_one_hot(jnp.array([[0.0, 1.0], [0.5, 0.5], [0.0, 0.0]])).tolist()
      [True, False, False]
    """
    return ((y != 0).sum(axis=-1) == 1) & (y.max(axis=-1) == 1)


class Loss(NamedTuple):
    """The loss of each example, and the output `h_L` that belongs to the network's scores.

    `value(scores, y) -> (B,)` and `output(scores) -> (B, C)`. Where the loss is smallest, the output equals y; target
    propagation starts from there.

    If each token has a target, y (B, T, C), `value` may return the loss of each token, (B, T). A token whose row of y
    is all zeros has no target. `cross_entropy` does so; `squared_error` sums over the tokens as over all units.

    With `of_classes` y holds classes, the class with the highest score is predicted, and there is an accuracy.
    Otherwise y holds real numbers.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    output: Callable[[jax.Array], jax.Array]
    of_classes: bool = False

    def is_of_tokens(self, y: jax.Array) -> bool:
        """Whether `value` is the loss of each token, for targets of this shape."""
        example = jax.ShapeDtypeStruct((1, *y.shape[1:]), jnp.float32)
        return jax.eval_shape(self.value, example, example).ndim > 1

    def mean(self, scores: jax.Array, y: jax.Array) -> jax.Array:
        """The loss of a batch: the mean over its examples, or over all tokens in it that have a target."""
        values = self.value(scores, y)
        return jnp.mean(values) if values.ndim == 1 else mean_where(values, has_target(y))

    def error(self, scores: jax.Array, y: jax.Array) -> jax.Array:
        """δ = ∂ mean loss / ∂ scores, (B, C): the learning signal at the output, which includes the 1/B of the mean.

        If the loss is that of each token, it is (B, T, C), and 1/B becomes 1 / the number of tokens with a target.
        """
        return jax.grad(self.mean)(scores, y)


def _half_squared_distance(scores: jax.Array, y: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.square(scores - y), axis=tuple(range(1, y.ndim)))


def _cross_entropy(scores: jax.Array, y: jax.Array) -> jax.Array:
    return _with_error(scores, y)  # a function by name, which can be sent to another process


@jax.custom_jvp
def _with_error(scores: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy(scores, y)


@partial(_with_error.defjvp, symbolic_zeros=True)
def _derivative(primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    """The textbook's gradient, p ∑y - y. XLA rounds JAX's own, a sum of two products, differently in a pipeline."""
    (scores, y), (by_scores, by_y) = primals, tangents
    value = _with_error(scores, y)
    moves = []
    if not isinstance(by_scores, SymbolicZero):
        error = jax.nn.softmax(scores) * jnp.sum(y, axis=-1, keepdims=True) - y
        moves.append(jnp.sum(error * by_scores, axis=-1))
    if not isinstance(by_y, SymbolicZero):
        moves.append(jnp.sum(-jax.nn.log_softmax(scores) * by_y, axis=-1))
    return value, reduce(operator.add, moves)


cross_entropy = Loss(_cross_entropy, jax.nn.softmax, of_classes=True)  # y is one-hot or any distribution
squared_error = Loss(
    _half_squared_distance, lambda scores: scores
)  # for real targets: ½‖scores - y‖², summed over units


MANY_LAYERS = 8  # beyond which a network is printed with some left out


class Network(NamedTuple):
    """A feed-forward network, `head(blocks[-1](… blocks[0](x)))`, and the loss that training minimises.

    Blocks and head are Flax modules. They take x and, if training and prediction differ, a keyword `train`. The rules
    that work layer by layer treat every block as a component. The head is the linear readout.
    """

    blocks: tuple[nn.Module, ...]
    head: nn.Module
    loss: Loss = cross_entropy

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The blocks and the head."""
        return (*self.blocks, self.head)

    def __repr__(self) -> str:
        """The layers on one line, such as Network(Dense 256 → Dense 256 → Head 10)."""
        try:
            layers = list(map(_in_short, self.layers))
        except TypeError:  # the blocks are no tuple
            layers = ["?"]
        if len(layers) > MANY_LAYERS:
            layers[2:-2] = [f"… {len(layers) - 4} more …"]
        return f"Network({' → '.join(layers)})"


def _in_short(layer: Any) -> str:
    """A layer's kind and its number of features; of a block those of its linear map."""
    inside = getattr(layer, "linear", layer)
    kind = getattr(inside, "nnx_class", type(inside))  # a bridge to flax.nnx names what it leads to
    return f"{getattr(kind, '__name__', 'module')} {getattr(inside, 'features', '')}".strip()


def _options(layer: nn.Module, train: bool) -> dict[str, Any]:
    """The keyword `train` for a module that has this parameter; also for one of flax.nnx inside a bridge."""
    parameters = inspect.signature(getattr(layer, "nnx_class", type(layer)).__call__).parameters
    if "train" in parameters:
        return {"train": train}
    for name in ("training", "is_training", "deterministic"):
        if name in parameters and getattr(layer, name, None) is None:
            raise ValueError(
                f"{type(layer).__name__} has a parameter {name!r}, but jaxlocal passes 'train' to layers: rename the "
                "parameter of its __call__ to train, or wrap it in a module that has such a parameter"
            )
    return {}


def init_layer(layer: nn.Module, key: jax.Array, x: jax.Array) -> tuple[Tree, Tree, jax.Array]:
    """A layer's new weights, its other collections (batch statistics), and its output for x."""
    keys = {"params": key, "dropout": key}  # modules of flax.nnx ask for both, those of flax.linen for the first
    with nn.intercept_methods(_check_train_is_passed_on):
        y, variables = layer.init_with_output(keys, x, **_options(layer, train=False))
    if not isinstance(y, Masked) and getattr(y, "ndim", 0) < 2:
        found = f"an array of shape {y.shape}" if hasattr(y, "shape") else f"a {type(y).__name__}"
        raise TypeError(
            f"{type(layer).__name__} returns {found}, but a layer must return one array (B, …), with a row for each "
            "example; wrap it in a module that does"
        )
    stats = dict(variables)
    return stats.pop("params", {}), stats, y


def _check_train_is_passed_on(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], context: nn.module.InterceptorContext
) -> Any:
    """Refuse a layer that calls a module inside it without `train`, if training and prediction differ there."""
    module = context.module
    if context.method_name == "__call__" and module.path and len(args) < 2 and "train" not in kwargs:
        needs_train = "train" in inspect.signature(type(module).__call__).parameters
        # A block of `jl.layers` says by these two whether training and prediction differ.
        if needs_train and (getattr(module, "norm", True) or getattr(module, "dropout", True)):
            raise ValueError(
                f"the {type(module).__name__} {'/'.join(module.path)!r} inside a layer is called without train, so it "
                "would never work as in training; pass train on to it, or, in place of nn.Sequential, put each of its "
                "layers into the network by itself"
            )
    return call(*args, **kwargs)


def vocabulary(net: Network) -> int | None:
    """The number of token ids that the network's first layer can look up; None if its inputs are real numbers.

    A layer that takes whole numbers says so by its attribute `num_embeddings`, as `flax.linen.Embed` does.
    """
    return getattr(net.layers[0], "num_embeddings", None)


def apply_layer(
    layer: nn.Module, weights: Tree, stats: Tree, x: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, Tree]:
    """A layer's output for x, and its new batch statistics.

    With a key, the layer works as in training: it uses the batch's own statistics, and dropout draws from the key.
    Without a key, it works as in prediction.
    """
    dtype = _COMPUTES_IN.get()
    if dtype is None:
        return _apply(layer, weights, stats, x, key)
    given = next((leaf.dtype for leaf in jax.tree.leaves(x) if _is_real(leaf)), jnp.float32)
    weights, x = _in_type((weights, x), dtype)
    # Batch statistics keep their type, so the layer combines them with numbers of the other type.
    with jax.numpy_dtype_promotion("standard"):
        y, stats = _apply(layer, weights, stats, x, key)
    return _in_type(y, given), stats


def _apply(layer: nn.Module, weights: Tree, stats: Tree, x: jax.Array, key: jax.Array | None) -> tuple[Any, Tree]:
    options = _options(layer, train=key is not None)
    variables = {"params": weights, **stats}
    try:
        if key is None:
            return layer.apply(variables, x, **options), stats
        y, updated = layer.apply(variables, x, rngs={"dropout": key}, mutable=list(stats), **options)
    except InvalidRngError as error:
        raise ValueError(
            f"{type(layer).__name__} asks for a random key that it does not get ({error}); there is only one, in "
            "training: self.make_rng('dropout')"
        ) from None
    except ModifyScopeVariableError as error:
        raise ValueError(
            f"{type(layer).__name__} changes its variables in prediction, too ({error}); give its __call__ a parameter "
            "train, and change them only if it is true: nn.BatchNorm(use_running_average=not train)"
        ) from None
    return y, dict(updated)


def _in_type(tree: Tree, dtype: Any) -> Tree:
    """The tree with its real numbers in this type; token ids and masks stay as they are."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_real(leaf) else leaf, tree)


def _is_real(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


_COMPUTES_IN: ContextVar[Any] = ContextVar("computes_in", default=None)


@contextmanager
def computing_in(dtype: Any) -> Iterator[None]:
    """In this context layers compute in the given floating-point type, not in that of their weights and inputs."""
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
    """The output of the last layer and the new batch statistics of all layers. Each layer has its own dropout key."""
    new_stats = []
    for i, (layer, w, s) in enumerate(zip(layers, weights, stats, strict=True)):
        x, s = apply_layer(layer, w, s, x, key_of(key, i))
        new_stats.append(s)
    return x, tuple(new_stats)


def key_of(key: jax.Array | None, i: int) -> jax.Array | None:
    """The dropout key of layer i; None where there is no dropout."""
    return None if key is None else jax.random.fold_in(key, i)


def evenly(count: int, groups: int) -> tuple[int, ...]:
    """The sizes of the groups when `count` things are divided as equally as possible. Larger groups come first."""
    return tuple(count // groups + (i < count % groups) for i in range(groups))


def neighbours(sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The numbers 0, 1, … divided into consecutive groups of these sizes.

    Example:
      >>> from jaxlocal.network import evenly, neighbours
      >>> neighbours(evenly(5, 2))
      ((0, 1, 2), (3, 4))
    """
    numbers = iter(range(sum(sizes)))
    return tuple(tuple(islice(numbers, size)) for size in sizes)


def mean_of_tokens(x: jax.Array | Masked) -> jax.Array:
    """Sequences as the mean over their tokens (B, D); vectors and images as they are."""
    return x.mean() if isinstance(x, Masked) else x


def units(x: jax.Array | Masked) -> int:
    """The number of units of one example of x (B, …); of sequences, those of a token."""
    return x.values.shape[-1] if isinstance(x, Masked) else prod(x.shape[1:])
