"""Forward-Forward, written by hand in plain JAX and Optax, without jaxlocal and Flax."""

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
