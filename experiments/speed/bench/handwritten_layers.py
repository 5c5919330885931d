"""The layers and the state of the hand-written programs, in plain JAX and Optax, without jaxlocal and Flax.

A net is a list of layers, of which the last is the linear head. A program's weights are a dict by role, as those of a
component of jaxlocal; each role is a list with an entry for each layer (or for each component in Associated Learning).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.speed.bench.nets import CLASSES, Net

Tree = Any
Batch = tuple[jax.Array, jax.Array]
Adjust = Callable[[dict[str, Tree], dict[str, Tree]], dict[str, Tree]]  # (updates, weights) -> updates

DECAY = 1e-6  # jaxlocal's default

he_normal = jax.nn.initializers.he_normal()


def identity(x: jax.Array) -> jax.Array:
    """The activation of a linear layer."""
    return x


class Layer(NamedTuple):
    """Optional 2×2 max pooling, a linear map, then optional batch norm and the activation."""

    features: int
    activation: Callable[[jax.Array], jax.Array] = identity
    window: int = 0  # of a convolution; 0 for a dense layer
    norm: bool = False
    pool: bool = False


class State(NamedTuple):
    """Everything that a program carries from batch to batch."""

    weights: dict[str, Tree]
    opt: Tree
    running: Tree  # statistics of batch norm, layer by layer
    key: jax.Array


class Program(NamedTuple):
    """`init(key, batch) -> state` and `step(state, batch) -> state`."""

    init: Callable[[jax.Array, Batch], State]
    step: Callable[[State, Batch], State]


def layers(net: Net) -> list[Layer]:
    """The layers of a net; a net of images is `jl.models.conv2`."""
    if net.images:
        conv = Layer(32, jax.nn.relu, window=3, norm=True)
        return [conv, conv, Layer(128, jax.nn.relu, norm=True, pool=True), Layer(CLASSES)]
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[net.activation]
    return [*(Layer(width, activation) for width in net.hidden), Layer(CLASSES)]


# Layers.


def flat(a: jax.Array) -> jax.Array:
    """Each example as a vector."""
    return a.reshape(len(a), -1)


def linear(kernel: jax.Array, a: jax.Array) -> jax.Array:
    """A convolution, or a dense layer."""
    if kernel.ndim == 4:
        return lax.conv_general_dilated(a, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return flat(a) @ kernel


def pooled(a: jax.Array) -> jax.Array:
    """The maximum of each window of 2×2."""
    return lax.reduce_window(a, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def wide(v: jax.Array, like: jax.Array) -> jax.Array:
    """A vector over the channels, in a shape that can be added to `like`."""
    return v.reshape((1,) * (like.ndim - 1) + v.shape)


def apply(layer: Layer, a: jax.Array, w: Tree, linear: Callable = linear) -> tuple[jax.Array, Tree]:
    """The layer's output, and the batch's mean and variance if it has batch norm."""
    z = linear(w["linear"]["kernel"], pooled(a) if layer.pool else a)
    z = z + wide(w["linear"]["bias"], z)
    moments: Tree = ()
    if layer.norm:
        axes = tuple(range(z.ndim - 1))
        mean, square = jnp.mean(z, axes), jnp.mean(jnp.square(z), axes)
        moments = mean, jnp.maximum(square - jnp.square(mean), 0)
        scale = w["norm"]["scale"] * lax.rsqrt(moments[1] + 1e-5)
        z = (z - wide(mean, z)) * wide(scale, z) + wide(w["norm"]["bias"], z)
    return layer.activation(z), moments


def run(net: list[Layer], weights: list[Tree], a: jax.Array) -> tuple[jax.Array, list[Tree]]:
    """The output of the net, and the batch statistics of each layer."""
    moments = []
    for layer, w in zip(net, weights, strict=True):
        a, found = apply(layer, a, w)
        moments.append(found)
    return a, moments


def init_layers(net: list[Layer], key: jax.Array, a: jax.Array) -> tuple[list[Tree], list[Tree], list[jax.Array]]:
    """Weights, running statistics, and the input of every layer followed by the output."""
    weights, running, inputs = [], [], [a]
    for layer, layer_key in zip(net, jax.random.split(key, len(net)), strict=True):
        a = inputs[-1]
        inputs_of_dense = a[0].size // (4 if layer.pool else 1)
        shape = (layer.window, layer.window, a.shape[-1]) if layer.window else (inputs_of_dense,)
        zeros, ones = jnp.zeros(layer.features), jnp.ones(layer.features)
        w = {"linear": {"kernel": he_normal(layer_key, (*shape, layer.features)), "bias": zeros}}
        if layer.norm:
            w["norm"] = {"scale": ones, "bias": zeros}
        weights.append(w)
        running.append((zeros, ones) if layer.norm else ())
        inputs.append(apply(layer, a, w)[0])
    return weights, running, inputs


def mean_loss(scores: jax.Array, y: jax.Array) -> jax.Array:
    """The cross-entropy of the batch."""
    return jnp.mean(optax.softmax_cross_entropy(scores, y))


def as_they_are(updates: dict[str, Tree], weights: dict[str, Tree]) -> dict[str, Tree]:
    """The updates of the optimizer."""
    return updates


def decayed(updates: dict[str, Tree], weights: dict[str, Tree]) -> dict[str, Tree]:
    """The updates, from which a small part of the kernels and the feedback is subtracted."""
    old = {role: weights[role] for role in updates}
    return jax.tree.map(lambda u, w: u - DECAY * w if w.ndim > 1 else u, updates, old)


def descend(
    tx: optax.GradientTransformation, state: State, grads: dict[str, Tree], moments: Tree, adjust: Adjust = as_they_are
) -> State:
    """One step of the optimizer on the roles that have gradients, and of the running statistics."""
    updates, opt = tx.update(grads, state.opt, {role: state.weights[role] for role in grads})
    updates = adjust(updates, state.weights)
    moved = optax.apply_updates({role: state.weights[role] for role in updates}, updates)
    running = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state.running, moments)
    return State(state.weights | moved, opt, running, state.key)
