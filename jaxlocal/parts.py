"""What many rules share: forward weights and activities, the head, modules that only help in training."""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import flax.linen as nn
import jax
from jax.lax import stop_gradient

from jaxlocal import author, checks
from jaxlocal.network import Network, Tree, apply_layer, evenly, init_layer, neighbours
from jaxlocal.rule import Component, Lesson, Message, Part, Stats, Weights


def init_forward(layers: tuple[nn.Module, ...]) -> Callable[[jax.Array, Message], tuple[Weights, Stats, Message]]:
    """The `init` of a part with forward weights and nothing else."""

    def init(key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        x, y = author.checked_pair(message)
        weights, stats = [], []
        for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            w, s, x = init_layer(layer, layer_key, x)
            weights.append(w)
            stats.append(s)
        return {"forward": tuple(weights)}, tuple(stats), (x, y)

    return init


def lesson_of(
    objective: Callable[[Weights], tuple[dict[str, jax.Array], Stats, Message]], weights: Weights
) -> tuple[Lesson, Message]:
    """The lesson of a component that descends the gradient of its own objective, and the message that it hands on.

    Args:
      objective: weights -> (losses by name, new stats, message). What is differentiated is the sum of the losses.
      weights: the component's weights by role.

    Returns:
      The lesson, and the message.

    Example:
      >>> def objective(weights):
      ...     return {"size": jnp.sum(jnp.square(weights["forward"]))}, (), None
      >>> lesson, _ = jl.lesson_of(objective, {"forward": jnp.array([1.0, 2.0])})
      >>> lesson.grads["forward"].tolist(), float(lesson.losses["size"])
      ([2.0, 4.0], 5.0)
    """

    def total(weights: Weights) -> tuple[jax.Array, tuple[dict[str, jax.Array], Stats, Message]]:
        losses, stats, message = author.checked_objective(objective(weights))
        return reduce(operator.add, losses.values()), (losses, stats, message)

    grads, (losses, stats, message) = jax.grad(total, has_aux=True)(weights)
    return Lesson(grads, stats, losses), message


def head_lesson(net: Network, weights: Weights, stats: Stats, message: Message, key: jax.Array) -> Lesson:
    """The lesson of the head: the gradient of the network's loss, the head's input held constant."""
    a, y = author.checked_pair(message)

    def objective(weights: Weights) -> tuple[dict[str, jax.Array], Stats, Message]:
        scores, new_stats = apply_layer(net.head, weights["forward"][0], stats[0], a, key)
        return {"task": net.loss.mean(scores, y)}, (new_stats,), message

    return lesson_of(objective, weights)[0]


def head_part(net: Network) -> Part:
    """The head as the last component of a rule: it learns the network's loss from the message (a, y)."""

    def teach(weights: Weights, stats: Stats, message: Message, key: jax.Array) -> tuple[Lesson, Message]:
        return head_lesson(net, weights, stats, message, key), message

    return Part((len(net.blocks),), init_forward((net.head,)), teach)


def activities(
    net: Network, components: tuple[Component, ...], x: jax.Array, keys: tuple[jax.Array, ...]
) -> tuple[list[jax.Array], list[Tree]]:
    """x and the output of each layer, all held constant, and each layer's new batch statistics.

    Every layer is a component.
    """
    a, stats = [x], []
    for layer, c, key in zip(net.layers, components, keys, strict=True):
        above, new_stats = apply_layer(layer, c.weights["forward"][0], c.stats[0], a[-1], key)
        a.append(above)
        stats.append(new_stats)
    return stop_gradient(a), stats


def init_helper(name: str, module: Any, key: jax.Array, x: jax.Array, shape: tuple[int, ...]) -> Tree:
    """The weights of a module beside the network, such as a bridge, that maps x to examples of the given shape.

    `name` is what an error calls the module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}={checks.show(module)}: must be an instance of a Flax module")
    weights, stats, y = init_layer(module, key, x)
    if stats:
        raise ValueError(
            f"{name}={checks.show(module)}: keeps {', '.join(stats)}, but a module beside the network may have "
            "weights only; use a module without batch statistics"
        )
    if y.shape[1:] != shape:
        raise ValueError(f"{name}={checks.show(module)}: its output has shape {y.shape[1:]}, but must have {shape}")
    return weights


def apply_helper(module: nn.Module, weights: Tree, x: Any, key: jax.Array | None = None) -> jax.Array:
    """The output of a module beside the network, whose weights `init_helper` made."""
    return apply_layer(module, weights, {}, x, key)[0]


def own_key(net: Network, key: jax.Array) -> jax.Array:
    """A key for what the rule itself draws for a batch.

    Dropout in layer i draws from `fold_in(key, i)`, and no layer has the number that is taken here. So no key is used
    twice.
    """
    return jax.random.fold_in(key, len(net.layers))


def block_groups(components: int | Sequence[int] | None, blocks: int) -> tuple[tuple[int, ...], ...]:
    """The numbers of the blocks of each component."""
    if components is None:
        components = blocks
    if not isinstance(components, Sequence):
        checks.positive_int("components", components)
        if components > blocks:
            raise ValueError(
                f"components={components}: is more than the network's number of blocks, {blocks}, and a component "
                "needs one at least; ask for fewer, or add blocks"
            )
        components = evenly(blocks, components)
    for size in components:
        checks.positive_int("components", size)
    if sum(components) != blocks:
        raise ValueError(
            f"components={tuple(components)}: takes {sum(components)} blocks, but the network has {blocks}; the sizes "
            "must sum to the number of blocks"
        )
    return neighbours(components)
