"""Local losses, decoupled greedy and contrastive learning, by hand in plain JAX and Optax, without our library."""

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
    he_normal,
    init_layers,
    linear,
    mean_loss,
    run,
)
from experiments.speed.bench.nets import CLASSES

BETA, INPUTS, HIDDEN, TEMPERATURE = 0.99, 4096, 3, 0.1  # jaxlocal's defaults
PROJECTION = [Layer(512, jax.nn.relu), Layer(1024)]


def pooled(a: jax.Array) -> jax.Array:
    """An image averaged over the smallest windows that leave no more than INPUTS numbers."""
    if a.ndim == 2:
        return a
    side, channels = a.shape[1], a.shape[3]
    window = next(n for n in range(1, side + 1) if side % n == 0 and (side // n) ** 2 * channels <= INPUTS)
    return a.reshape(len(a), side // window, window, side // window, window, channels).mean((2, 4))


def similarities(v: jax.Array) -> jax.Array:
    """The cosines of the angles between examples; of images those of each channel's standard deviation."""
    v = v.std((1, 2)) if v.ndim > 2 else v
    v = v - v.mean(1, keepdims=True)
    v = v / jnp.sqrt(jnp.square(v).sum(1, keepdims=True))
    return v @ v.T


def predsim(net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """A prediction loss and a similarity loss for each block, and the task's for the head."""
    readout = Layer(CLASSES)

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, (_, *outputs, _) = init_layers(net, key, batch[0][:2])
        weights: dict[str, list[Tree]] = {"forward": forward, "prediction": [], "similarity": []}
        for a, k in zip(outputs, jax.random.split(jax.random.fold_in(key, 1), len(outputs)), strict=True):
            (head,), _, _ = init_layers([readout], k, pooled(a))
            shape = (3, 3) if a.ndim > 2 else ()
            weights["prediction"].append(head)
            weights["similarity"].append({"kernel": he_normal(k, (*shape, a.shape[-1], a.shape[-1]))})
        return State(weights, tx.init(weights), running, key)

    def local(learnt: tuple[Tree, Tree, Tree], block: Layer, a: jax.Array, y: jax.Array) -> tuple[jax.Array, Tree]:
        a, moments = apply(block, a, learnt[0])
        scores, _ = apply(readout, flat(pooled(a)), learnt[1])
        similar = jnp.square(similarities(linear(learnt[2]["kernel"], a)) - similarities(y)).mean()
        return (1 - BETA) * mean_loss(scores, y) + BETA * similar, (a, moments)

    def task(w: Tree, a: jax.Array, y: jax.Array) -> jax.Array:
        return mean_loss(run(net[-1:], [w], a)[0], y)

    def step(state: State, batch: Batch) -> State:
        a, y = batch
        roles = "forward", "prediction", "similarity"
        grads, moments = [], []
        for block, *learnt in zip(net[:-1], *(state.weights[role] for role in roles), strict=False):
            grad, (a, found) = jax.grad(local, has_aux=True)(tuple(learnt), block, a, y)
            grads.append(grad)
            moments.append(found)
        by_role = {role: list(found) for role, found in zip(roles, zip(*grads, strict=True), strict=True)}
        by_role["forward"].append(jax.grad(task)(state.weights["forward"][-1], a, y))
        return descend(tx, state, by_role, [*moments, ()])

    return Program(init, step)


def dgl(net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """The task's loss for each block, by a classifier with hidden layers; the head belongs to the last block."""

    def read(a: jax.Array) -> jax.Array:
        """Of an image the means of its quarters."""
        return a if a.ndim == 2 else a.reshape(len(a), 2, a.shape[1] // 2, 2, a.shape[2] // 2, -1).mean((2, 4))

    def classifier(width: int) -> list[Layer]:
        return [*(Layer(width, jax.nn.relu) for _ in range(HIDDEN)), Layer(CLASSES)]

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, (_, *outputs, _, _) = init_layers(net, key, batch[0][:2])
        keys = jax.random.split(jax.random.fold_in(key, 1), len(outputs))
        inputs = [flat(read(a)) for a in outputs]
        classifiers = [init_layers(classifier(a.shape[1]), k, a)[0] for a, k in zip(inputs, keys, strict=True)]
        weights = {"forward": forward, "classifier": classifiers}
        return State(weights, tx.init(weights), running, key)

    def local(learnt: tuple[Tree, Tree], block: Layer, a: jax.Array, y: jax.Array) -> tuple[jax.Array, Tree]:
        a, moments = apply(block, a, learnt[0])
        inputs = flat(read(a))
        return mean_loss(run(classifier(inputs.shape[1]), learnt[1], inputs)[0], y), (a, moments)

    def task(top: list[Tree], a: jax.Array, y: jax.Array) -> tuple[jax.Array, list[Tree]]:
        scores, moments = run(net[-2:], top, a)
        return mean_loss(scores, y), moments

    def step(state: State, batch: Batch) -> State:
        a, y = batch
        forward = state.weights["forward"]
        grads, moments = [], []
        for block, *learnt in zip(net[:-2], forward[:-2], state.weights["classifier"], strict=True):
            grad, (a, found) = jax.grad(local, has_aux=True)(tuple(learnt), block, a, y)
            grads.append(grad)
            moments.append(found)
        top, found = jax.grad(task, has_aux=True)(forward[-2:], a, y)
        by_role = {"forward": [*(f for f, _ in grads), *top], "classifier": [c for _, c in grads]}
        return descend(tx, state, by_role, [*moments, *found])

    return Program(init, step)


def scpl(net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """The contrast of classes for each block, by a projection with a hidden layer, and the task's loss for the head."""

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, (_, *outputs, _) = init_layers(net, key, batch[0][:2])
        keys = jax.random.split(jax.random.fold_in(key, 1), len(outputs))
        projections = [init_layers(PROJECTION, k, a)[0] for a, k in zip(outputs, keys, strict=True)]
        weights = {"forward": forward, "projection": projections}
        return State(weights, tx.init(weights), running, key)

    def local(learnt: tuple[Tree, Tree], block: Layer, a: jax.Array, y: jax.Array) -> tuple[jax.Array, Tree]:
        a, moments = apply(block, a, learnt[0])
        v, _ = run(PROJECTION, learnt[1], a)
        v = v / jnp.sqrt(jnp.square(v).sum(1, keepdims=True))
        others, alike = 1 - jnp.eye(len(v)), y @ y.T
        strength = jnp.exp(v @ v.T / TEMPERATURE)
        log_share = v @ v.T / TEMPERATURE - jnp.log((strength * others).sum(1, keepdims=True))
        return -((alike * others * log_share).sum(1) / alike.sum(1)).mean(), (a, moments)

    def task(w: Tree, a: jax.Array, y: jax.Array) -> jax.Array:
        return mean_loss(run(net[-1:], [w], a)[0], y)

    def step(state: State, batch: Batch) -> State:
        a, y = batch
        forward = state.weights["forward"]
        grads, moments = [], []
        for block, *learnt in zip(net[:-1], forward[:-1], state.weights["projection"], strict=True):
            grad, (a, found) = jax.grad(local, has_aux=True)(tuple(learnt), block, a, y)
            grads.append(grad)
            moments.append(found)
        head = jax.grad(task)(forward[-1], a, y)
        by_role = {"forward": [*(f for f, _ in grads), head], "projection": [p for _, p in grads]}
        return descend(tx, state, by_role, [*moments, ()])

    return Program(init, step)
