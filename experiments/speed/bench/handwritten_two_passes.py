"""Forward-Forward and PEPITA, which learn from two passes, by hand in plain JAX and Optax, without our library."""

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
    linear,
    pooled,
)
from experiments.speed.bench.nets import CLASSES

THRESHOLD = 0.5  # jaxlocal's default


def normalised(a: jax.Array) -> jax.Array:
    """Each example divided by the root of its mean square, or by 1e-4 if that is larger."""
    return a / jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(a), tuple(range(1, a.ndim)), keepdims=True), 1e-8))


def ff(net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """The goodness of right and of wrong labels for each block; there is no head."""
    blocks = net[:-1]

    def labelled(x: jax.Array, label: jax.Array) -> jax.Array:
        """The label in front of the vector, or of the channels of each pixel."""
        x = x if blocks[0].window else flat(x)
        label = label.reshape(len(label), *(1,) * (x.ndim - 2), -1)
        return jnp.concatenate([jnp.broadcast_to(label, (*x.shape[:-1], CLASSES)), x], -1)

    def init(key: jax.Array, batch: Batch) -> State:
        x, y = batch
        forward, running, _ = init_layers(blocks, key, labelled(x[:2], y[:2]))
        weights = {"forward": forward}
        return State(weights, tx.init(weights), running, key)

    def local(w: Tree, block: Layer, a: jax.Array) -> tuple[jax.Array, Tree]:
        """The logistic loss of both streams, of which the first half has the right labels."""
        a, moments = apply(block, a, w)
        excess = jnp.square(flat(a)).sum(1) - THRESHOLD * flat(a).shape[1]
        right, wrong = jnp.split(excess, 2)
        return jnp.mean(jnp.logaddexp(-right, 0) + jnp.logaddexp(wrong, 0)), (a, moments)

    def step(state: State, batch: Batch) -> State:
        x, y = batch
        key, own_key = jax.random.split(state.key)
        label = jnp.argmax(y, 1) + jax.random.randint(own_key, (len(y),), 1, CLASSES)
        wrong = jax.nn.one_hot(label % CLASSES, CLASSES)
        a = jnp.concatenate([labelled(x, y), labelled(x, wrong)])
        grads, moments = [], []
        for block, w in zip(blocks, state.weights["forward"], strict=True):
            grad, (a, found) = jax.grad(local, has_aux=True)(w, block, normalised(a))
            grads.append(grad)
            moments.append(found)
        return descend(tx, state._replace(key=key), {"forward": grads}, moments)

    return Program(init, step)


def pepita(net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """Two passes; each layer learns from its change in the second, whose input has the error added."""
    feedback_init = jax.nn.initializers.variance_scaling(0.005, "fan_in", "uniform")

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, _ = init_layers(net, key, batch[0][:2])
        feedback = feedback_init(jax.random.fold_in(key, 1), (batch[0][0].size, CLASSES)).T
        return State({"forward": forward, "feedback": [feedback]}, tx.init({"forward": forward}), running, key)

    def inputs(weights: list[Tree], a: jax.Array) -> tuple[list[jax.Array], list[Tree]]:
        """The input of every layer followed by the scores, and the batch statistics."""
        found, moments = [a], []
        for layer, w in zip(net, weights, strict=True):
            a, moment = apply(layer, found[-1], w)
            found.append(a)
            moments.append(moment)
        return found, moments

    def step(state: State, batch: Batch) -> State:
        (x, y), forward = batch, state.weights["forward"]
        first, moments = inputs(forward, x)
        error = jax.nn.softmax(first[-1]) - y
        second, _ = inputs(forward, x + (error @ state.weights["feedback"][0]).reshape(x.shape))
        changes = [a - b for a, b in zip(first[1:-1], second[1:-1], strict=True)]
        grads = []
        for layer, w, below, change in zip(net, forward, second, [*changes, error], strict=False):
            read = pooled(below) if layer.pool else below
            (kernel,) = jax.vjp(lambda kernel, read=read: linear(kernel, read), w["linear"]["kernel"])[1](
                change / len(x)
            )
            bias = change.sum(tuple(range(change.ndim - 1))) / len(x)
            grads.append(jax.tree.map(jnp.zeros_like, w) | {"linear": {"kernel": kernel, "bias": bias}})
        return descend(tx, state, {"forward": grads}, moments)

    return Program(init, step)
