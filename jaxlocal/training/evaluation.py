"""Evaluation of whole sets, piece by piece: the mean loss and, for classes, the accuracy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import checks
from jaxlocal.data import Pairs, floats
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.checking import check_augmentation, check_inputs, check_pair, check_targets
from jaxlocal.network import Loss, has_target
from jaxlocal.programs import compiled
from jaxlocal.rule import Batch, Params, Rule
from jaxlocal.tokens import check_padding
from jaxlocal.training.feed import CHUNK_BYTES, take

PIECE = 500  # the number of examples that are evaluated at a time


class Totals(NamedTuple):
    """What `totals` adds up over the examples, or over the tokens; for an ensemble one number for each member."""

    loss: jax.Array  # the sum of the losses
    correct: jax.Array  # the number of those whose highest score is at the right class


def totals(
    rule: Rule,
    params: Params,
    data: Batch,
    augmentation: Augmentation | None = None,
    *,
    count: int | jax.Array | None = None,
    piece: int | None = None,
) -> Totals:
    """The totals over the first `count` examples, by default over all, computed `piece` examples at a time.

    It may be called inside a compiled program.
    """
    every = len(data[0])
    size, count = min(piece or PIECE, every), every if count is None else count

    def of_piece(i: int | jax.Array) -> Totals:
        rows = i * size + jnp.arange(size)
        counted = rows < count
        x, y = floats(take(data, jnp.minimum(rows, every - 1)))
        scores = rule.predict(params, augmentation.test(x) if augmentation else x)

        def of_one(scores: jax.Array) -> Totals:
            losses = rule.net.loss.value(scores, y)
            correct = jnp.argmax(scores, -1) == jnp.argmax(y, -1)
            if losses.ndim > 1:  # of each token
                tokens = has_target(y) & counted.reshape(size, *(1,) * (losses.ndim - 1))
                return Totals(jnp.vdot(losses, tokens.astype(losses.dtype)), jnp.sum(correct & tokens))
            correct = correct.reshape(size, -1).all(1)
            return Totals(jnp.vdot(losses, counted.astype(losses.dtype)), jnp.sum(correct & counted))

        return (jax.vmap(of_one) if rule.placement.members else of_one)(scores)

    def add(i: jax.Array, sums: Totals) -> Totals:
        return jax.tree.map(jnp.add, sums, of_piece(i))

    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_piece, 0))
    return jax.lax.fori_loop(0, -(-every // size), add, nothing)


def number_of_targets(loss: Loss, y: Any) -> Any:
    """The number of examples or, where the loss is that of each token, of tokens that have a target, at least one."""
    return jnp.maximum(has_target(y).sum(), 1) if loss.is_of_tokens(y) else len(y)


def evaluate(
    rule: Rule, params: Params, data: Pairs | Batch, augmentation: Augmentation | None = None
) -> dict[str, float | list[float]]:
    """The mean loss of a whole set and, for classes, the accuracy; for an ensemble a list over its members.

    If each token has a class, both are means over all tokens that have one.

    NumPy arrays, which may be larger than the device's memory, are brought there piece by piece.

    Args:
      rule: a rule, or an ensemble of rules.
      params: its parameters.
      data: the examples.
      augmentation: the augmentation of the training, whose `test` prepares the images.

    Returns:
      {"loss": …, "accuracy": …}, or only the loss if the targets are real numbers.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3))
      >>> data = jl.data.digits()
      >>> sorted(jl.training.evaluate(rule, rule.init(jax.random.key(0), data.train), data.test))
      ['accuracy', 'loss']
    """
    _check(rule, params, data)
    check_augmentation(augmentation)
    x, y = data
    size = len(x)
    if isinstance(x, np.ndarray):
        size = min(size, max(1, CHUNK_BYTES // (x[:1].nbytes + y[:1].nbytes)))
    sums: Any = 0.0
    for begin in range(0, len(x), size):
        rows = np.minimum(np.arange(begin, begin + size), len(x) - 1)  # all pieces have one shape, and one program
        some = take(data, rows) if size < len(x) else data
        found = _totals(rule, augmentation, params, some, min(size, len(x) - begin))
        sums = sums + np.stack([np.asarray(total, np.float64) for total in found])
    loss, accuracy = (sums / int(number_of_targets(rule.net.loss, y))).tolist()
    return {"loss": loss, "accuracy": accuracy} if rule.net.loss.of_classes else {"loss": loss}


def accuracy(rule: Rule, params: Params, data: Batch) -> jax.Array:
    """The fraction of examples whose highest score is at the right class; for an ensemble, that of each member.

    If each token has a class, it is the fraction of the tokens that have one.

    For networks whose targets are real numbers there is none: see `evaluate`.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3))
      >>> data = jl.data.digits()
      >>> accuracy = jl.training.accuracy(rule, rule.init(jax.random.key(0), data.train), data.test)
    """
    _check(rule, params, data)
    if not rule.net.loss.of_classes:
        raise ValueError("accuracy: the network's loss has no classes; measure it with jl.training.evaluate")
    return _accuracy(rule, params, data)


def _check(rule: Any, params: Any, data: Any) -> None:
    """These are a rule, parameters of it, and examples with as many targets as it has."""
    checks.rule_and_params(rule, params)
    check_pair("data", data)
    check_inputs("data", data[0], rule.net)
    if data[1].shape[1:] != params.shapes[1]:
        raise ValueError(
            f"data: y has shape {data[1].shape}, but the parameters were made for y of shape "
            f"(N, {', '.join(map(str, params.shapes[1]))}); take data with targets of this shape"
        )
    check_targets("data", data[1], rule.net)
    check_padding("data", data[0], data[1], rule.net.layers[0])


@compiled(static=1)
def _accuracy(rule: Rule, params: Params, data: Batch) -> jax.Array:
    return totals(rule, params, data).correct / number_of_targets(rule.net.loss, data[1])


@compiled(static=2)
def _totals(rule: Rule, augmentation: Augmentation | None, params: Params, data: Batch, count: jax.Array) -> Totals:
    """Compiled once for all sets of one size."""
    return totals(rule, params, data, augmentation, count=count)
