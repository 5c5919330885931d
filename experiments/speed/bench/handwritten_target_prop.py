"""Target propagation and its variants in dense nets, written by hand in plain JAX and Optax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.speed.bench.handwritten_layers import (
    Batch,
    Layer,
    Program,
    State,
    Tree,
    apply,
    descend,
    flat,
    init_layers,
)
from experiments.speed.bench.nets import CLASSES

ALPHA, AUXILIARY, NOISE = 0.15, 512, 0.1  # jaxlocal's defaults


class Variant(NamedTuple):
    """What distinguishes the rules of the family."""

    difference: bool  # targets are corrected by the error of the inverse
    by_gradient: bool  # the first target comes from a gradient instead of the head's inverse
    auxiliary: int  # units of the auxiliary output
    preserving: bool  # inverses reconstruct the noisy activation instead of the clean one

    def inverted(self, net: list[Layer]) -> range:
        """The places of the layers that have an inverse."""
        return range(1, len(net) - 1 if self.by_gradient else len(net))


def program(variant: Variant, net: list[Layer], tx: optax.GradientTransformation, noise: float = NOISE) -> Program:
    """The program of a variant."""

    def init(key: jax.Array, batch: Batch) -> State:
        return _init(variant, net, tx, key, batch)

    def step(state: State, batch: Batch) -> State:
        x, y = batch
        h, backs = [x], []
        for layer, w in zip(net, state.weights["forward"], strict=True):
            a, back, _ = jax.vjp(lambda w, layer=layer, a=h[-1]: apply(layer, a, w), w, has_aux=True)
            h.append(a)
            backs.append(back)
        o = jax.nn.softmax(h[-1])
        h[-1] = _output(variant, state.weights, o, h[-2])
        target = _targets(variant, net, state.weights, h, o, y)
        errors = [2.0 * (h[i + 1] - target[i + 1]) / len(x) for i in range(len(net) - 1)]
        errors.append((o - y) / len(x))
        key, noise_key = jax.random.split(state.key)
        grads = {
            "forward": [back(error)[0] for back, error in zip(backs, errors, strict=True)],
            "inverse": _inverse_grads(variant, net, state.weights, h, noise, noise_key),
        }
        return descend(tx, state._replace(key=key), grads, state.running)

    return Program(init, step)


def _init(variant: Variant, net: list[Layer], tx: optax.GradientTransformation, key: jax.Array, batch: Batch) -> State:
    forward, running, inputs = init_layers(net, key, batch[0][:2])
    glorot = jax.nn.initializers.glorot_uniform()
    widths = [flat(a).shape[1] for a in inputs]
    read = [*widths[:-1], CLASSES + variant.auxiliary]  # by the inverse of the layer below
    keys = jax.random.split(jax.random.fold_in(key, 1), len(net))
    inverse = [
        {"kernel": glorot(keys[i], (widths[i], read[i + 1])), "bias": jnp.zeros(widths[i])}
        for i in variant.inverted(net)
    ]
    weights: dict[str, Tree] = {"forward": forward, "inverse": inverse}
    opt = tx.init(weights)
    if variant.auxiliary:
        kernel = glorot(keys[0], (widths[-2], variant.auxiliary))
        weights["auxiliary"] = {"kernel": kernel, "bias": jnp.zeros(variant.auxiliary)}
    return State(weights, opt, running, key)


def _output(variant: Variant, weights: dict[str, Tree], o: jax.Array, h: jax.Array) -> jax.Array:
    """The output of the net, together with its auxiliary output."""
    if not variant.auxiliary:
        return o
    w = weights["auxiliary"]
    return jnp.concatenate([o, jnp.tanh(h @ w["kernel"] + w["bias"][None])], 1)


def _inverse(net: list[Layer], i: int, w: Tree, v: jax.Array) -> jax.Array:
    """The inverse of layer i."""
    return net[i - 1].activation(v @ w["kernel"].T + w["bias"][None])


def _targets(
    variant: Variant, net: list[Layer], weights: dict[str, Tree], h: list[jax.Array], o: jax.Array, y: jax.Array
) -> dict[int, jax.Array]:
    """The targets of the layers, from the output down."""
    top, inverted = len(net) - 1, variant.inverted(net)
    target = {top + 1: _output(variant, weights, y, h[top])}
    if variant.by_gradient:
        target[top] = h[top] - ALPHA * ((o - y) @ weights["forward"][top]["linear"]["kernel"].T)
    for i, w in reversed(list(zip(inverted, weights["inverse"], strict=True))):
        target[i] = _inverse(net, i, w, target[i + 1])
        if variant.difference:
            target[i] = h[i] - _inverse(net, i, w, h[i + 1]) + target[i]
    return target


def _inverse_grads(
    variant: Variant, net: list[Layer], weights: dict[str, Tree], h: list[jax.Array], noise: float, key: jax.Array
) -> list[Tree]:
    """The gradients of the inverses, each of which reconstructs the activation below it from a noisy one."""

    def loss(w: Tree, i: int, v: jax.Array, wanted: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(_inverse(net, i, w, v) - wanted)) / len(v)

    inverted, grads = variant.inverted(net), []
    keys = jax.random.split(key, len(inverted))
    for i, w, noise_key in zip(inverted, weights["inverse"], keys, strict=True):
        noisy = h[i] + noise * jax.random.normal(noise_key, h[i].shape)
        v, _ = apply(net[i], noisy, weights["forward"][i])
        if i == len(net) - 1:
            v = _output(variant, weights, jax.nn.softmax(v), noisy)
        grads.append(jax.grad(loss)(w, i, v, noisy if variant.preserving else h[i]))
    return grads


def tp(net: list[Layer], tx: optax.GradientTransformation, noise: float = NOISE) -> Program:
    """Target propagation."""
    return program(Variant(False, False, 0, True), net, tx, noise)


def dtp(net: list[Layer], tx: optax.GradientTransformation, noise: float = NOISE) -> Program:
    """Difference target propagation."""
    return program(Variant(True, True, 0, True), net, tx, noise)


def sdtp(net: list[Layer], tx: optax.GradientTransformation, noise: float = NOISE) -> Program:
    """Simplified difference target propagation."""
    return program(Variant(True, False, 0, False), net, tx, noise)


def ao_sdtp(net: list[Layer], tx: optax.GradientTransformation, noise: float = NOISE) -> Program:
    """Simplified difference target propagation with an auxiliary output."""
    return program(Variant(True, False, AUXILIARY, False), net, tx, noise)
