"""Every rule as one would write it down for this once: plain JAX and Optax, no jaxlocal, no Flax.

A net is a list of layers, its last the linear head. A program's weights are a dict by role, as a jaxlocal component's;
each role is a list with an entry a layer (or a component, in associated learning).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.speed.bench.nets import CLASSES, Net

Tree = Any
Batch = tuple[jax.Array, jax.Array]
Adjust = Callable[[dict[str, Tree], dict[str, Tree]], dict[str, Tree]]  # (updates, weights) -> updates

DECAY = 1e-6  # these five are jaxlocal's defaults
ALPHA = 0.15
AUXILIARY = 512
NOISE = 0.1
IMAGE_CODE = 256

he_normal = jax.nn.initializers.he_normal()


def identity(x: jax.Array) -> jax.Array:
    """The activation of a linear layer."""
    return x


class Layer(NamedTuple):
    """A linear map, then batch norm, activation and 2×2 max pooling, as far as asked."""

    features: int
    activation: Callable[[jax.Array], jax.Array] = identity
    window: int = 0  # of a convolution; 0 for a dense layer
    norm: bool = False
    pool: bool = False


class State(NamedTuple):
    """All that a program carries from batch to batch."""

    weights: dict[str, Tree]
    opt: Tree
    running: Tree  # statistics of batch norm, layer by layer
    key: jax.Array


class Program(NamedTuple):
    """`init(key, batch) -> state` and `step(state, batch) -> state`."""

    init: Callable[[jax.Array, Batch], State]
    step: Callable[[State, Batch], State]


def layers(net: Net) -> list[Layer]:
    """The layers of a net; one of images is `jl.models.conv2`."""
    if net.images:
        conv = Layer(32, jax.nn.relu, window=3, norm=True)
        return [conv, conv._replace(pool=True), Layer(128, jax.nn.relu, norm=True), Layer(CLASSES)]
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


def wide(v: jax.Array, like: jax.Array) -> jax.Array:
    """A vector over the channels, ready to be added."""
    return v.reshape((1,) * (like.ndim - 1) + v.shape)


def apply(layer: Layer, a: jax.Array, w: Tree, linear: Callable = linear) -> tuple[jax.Array, Tree]:
    """The layer's output, and the batch's mean and variance where it has batch norm."""
    z = linear(w["linear"]["kernel"], a)
    z = z + wide(w["linear"]["bias"], z)
    moments: Tree = ()
    if layer.norm:
        axes = tuple(range(z.ndim - 1))
        mean, square = jnp.mean(z, axes), jnp.mean(jnp.square(z), axes)
        moments = mean, jnp.maximum(square - jnp.square(mean), 0)
        scale = w["norm"]["scale"] * lax.rsqrt(moments[1] + 1e-5)
        z = (z - wide(mean, z)) * wide(scale, z) + wide(w["norm"]["bias"], z)
    a = layer.activation(z)
    if layer.pool:
        a = lax.reduce_window(a, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return a, moments


def run(net: list[Layer], weights: list[Tree], a: jax.Array) -> tuple[jax.Array, list[Tree]]:
    """Layer after layer."""
    moments = []
    for layer, w in zip(net, weights, strict=True):
        a, found = apply(layer, a, w)
        moments.append(found)
    return a, moments


def init_layers(net: list[Layer], key: jax.Array, a: jax.Array) -> tuple[list[Tree], list[Tree], list[jax.Array]]:
    """Weights, running statistics, and the input of every layer with the output at the end."""
    weights, running, inputs = [], [], [a]
    for layer, layer_key in zip(net, jax.random.split(key, len(net)), strict=True):
        a = inputs[-1]
        shape = (layer.window, layer.window, a.shape[-1]) if layer.window else (a[0].size,)
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
    """The optimizer's own updates."""
    return updates


def decayed(updates: dict[str, Tree], weights: dict[str, Tree]) -> dict[str, Tree]:
    """Kernels and feedback lose a share of themselves besides."""
    old = {role: weights[role] for role in updates}
    return jax.tree.map(lambda u, w: u - DECAY * w if w.ndim > 1 else u, updates, old)


def descend(
    tx: optax.GradientTransformation, state: State, grads: dict[str, Tree], moments: Tree, adjust: Adjust = as_they_are
) -> State:
    """One step of the optimizer on the roles that have gradients; the running statistics move on."""
    updates, opt = tx.update(grads, state.opt, {role: state.weights[role] for role in grads})
    updates = adjust(updates, state.weights)
    moved = optax.apply_updates({role: state.weights[role] for role in updates}, updates)
    running = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state.running, moments)
    return State(state.weights | moved, opt, running, state.key)


# The rules.


def bp(net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """Backpropagation."""

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, _ = init_layers(net, key, batch[0][:2])
        weights = {"forward": forward}
        return State(weights, tx.init(weights), running, key)

    def loss(weights: dict[str, Tree], batch: Batch) -> tuple[jax.Array, Tree]:
        scores, moments = run(net, weights["forward"], batch[0])
        return mean_loss(scores, batch[1]), moments

    def step(state: State, batch: Batch) -> State:
        grads, moments = jax.grad(loss, has_aux=True)(state.weights, batch)
        return descend(tx, state, grads, moments)

    return Program(init, step)


@jax.custom_vjp
def carried(kernel: jax.Array, feedback: jax.Array, a: jax.Array) -> jax.Array:
    """`linear(kernel, a)`, through which the error comes back by `feedback`."""
    return linear(kernel, a)


def _carry(kernel: jax.Array, feedback: jax.Array, a: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return linear(kernel, a), (kernel, feedback, a)


def _carry_back(residuals: tuple[jax.Array, ...], error: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    kernel, feedback, a = residuals
    (grad,) = jax.linear_transpose(lambda kernel: linear(kernel, a), kernel)(error)
    (below,) = jax.linear_transpose(partial(linear, feedback), a)(error)
    return grad, None, below


carried.defvjp(_carry, _carry_back)


def _carried_back(adjust: Adjust, net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """Feedback alignment; with an `adjust` that moves the feedback, Kolen-Pollack."""

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, _ = init_layers(net, key, batch[0][:2])
        other, _, _ = init_layers(net, jax.random.fold_in(key, 1), batch[0][:2])
        feedback = [w["linear"]["kernel"] for w in other[1:]]  # no error goes below the first layer
        return State({"forward": forward, "feedback": feedback}, tx.init({"forward": forward}), running, key)

    def loss(learnt: dict[str, Tree], feedback: list[jax.Array], batch: Batch) -> tuple[jax.Array, Tree]:
        first, *others = zip(net, learnt["forward"], strict=True)
        a, found = apply(first[0], batch[0], first[1])
        moments = [found]
        for (layer, w), b in zip(others, feedback, strict=True):
            a, found = apply(layer, a, w, lambda kernel, a, b=b: carried(kernel, b, a))
            moments.append(found)
        return mean_loss(a, batch[1]), moments

    def step(state: State, batch: Batch) -> State:
        learnt = {"forward": state.weights["forward"]}
        grads, moments = jax.grad(loss, has_aux=True)(learnt, state.weights["feedback"], batch)
        return descend(tx, state, grads, moments, adjust)

    return Program(init, step)


def _feedback_follows(updates: dict[str, Tree], weights: dict[str, Tree]) -> dict[str, Tree]:
    """B has W's gradient and so, under the same optimizer, W's update: one state serves both."""
    feedback = [update["linear"]["kernel"] for update in updates["forward"][1:]]
    return decayed(updates | {"feedback": feedback}, weights)


fa = partial(_carried_back, as_they_are)
kp = partial(_carried_back, _feedback_follows)


def _direct(learns: bool, by_target: bool, net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """Direct feedback alignment; by the target in the error's place, or with feedback that learns."""

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, (_, *outputs, _) = init_layers(net, key, batch[0][:2])
        keys = jax.random.split(jax.random.fold_in(key, 1), len(outputs))
        feedback = [he_normal(k, (a[0].size, CLASSES)).T for k, a in zip(keys, outputs, strict=True)]
        weights = {"forward": forward, "feedback": feedback}
        return State(weights, tx.init(weights if learns else {"forward": forward}), running, key)

    def step(state: State, batch: Batch) -> State:
        a, y = batch
        outputs, backs, moments = [], [], []
        for layer, w in zip(net, state.weights["forward"], strict=True):
            a, back, found = jax.vjp(partial(apply, layer, a), w, has_aux=True)
            outputs.append(a)
            backs.append(back)
            moments.append(found)
        error = (jax.nn.softmax(a) - y) / len(y)
        signal = y / len(y) if by_target else error
        signals = [(signal @ b).reshape(a.shape) for b, a in zip(state.weights["feedback"], outputs, strict=False)]
        grads = {"forward": [back(s)[0] for back, s in zip(backs, [*signals, error], strict=True)]}
        if learns:
            grads["feedback"] = [error.T @ flat(a) for a in outputs[:-1]]
        return descend(tx, state, grads, moments, decayed if learns else as_they_are)

    return Program(init, step)


dfa = partial(_direct, False, False)
drtp = partial(_direct, False, True)
dkp = partial(_direct, True, False)


def al(net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """Associated learning, a component a block; the head takes no part."""

    def coders(block: Layer, t: jax.Array) -> tuple[list[Layer], list[Layer], list[Layer]]:
        """Bridge, encoder and decoder beside a block."""
        width = IMAGE_CODE if block.window else block.features
        hidden, code, back = (Layer(n, jax.nn.sigmoid) for n in (5 * width, width, t.shape[1]))
        return [hidden, code], [code], [back]

    def init(key: jax.Array, batch: Batch) -> State:
        s, t = (leaf[:2] for leaf in batch)
        weights: dict[str, list[Tree]] = {"forward": [], "bridge": [], "encoder": [], "decoder": []}
        running = []
        for block, block_key in zip(net[:-1], jax.random.split(key, len(net) - 1), strict=True):
            keys = jax.random.split(block_key, 4)
            bridge, encoder, decoder = coders(block, t)
            (w,), (found,), (_, s) = init_layers([block], keys[0], s)
            weights["forward"].append(w)
            running.append(found)
            g, _, (_, code) = init_layers(encoder, keys[1], t)
            weights["encoder"].append(g)
            weights["bridge"].append(init_layers(bridge, keys[2], s)[0])
            weights["decoder"].append(init_layers(decoder, keys[3], code)[0])
            t = code
        return State(weights, tx.init(weights), running, key)

    def autoencoder(learnt: tuple[Tree, Tree], encoder: list[Layer], decoder: list[Layer], t: jax.Array) -> Any:
        code, _ = run(encoder, learnt[0], t)
        return jnp.mean(jnp.square(run(decoder, learnt[1], code)[0] - t)), code

    def associated(learnt: tuple[Tree, Tree], block: Layer, bridge: list[Layer], s: jax.Array, code: jax.Array) -> Any:
        s, moments = apply(block, s, learnt[0])
        return jnp.mean(jnp.square(run(bridge, learnt[1], s)[0] - code)), (s, moments)

    def twice(updates: dict[str, Tree], weights: dict[str, Tree]) -> dict[str, Tree]:
        return updates | {role: jax.tree.map(lambda u: 2.0 * u, updates[role]) for role in ("encoder", "decoder")}

    def step(state: State, batch: Batch) -> State:
        s, t = batch
        roles = "forward", "bridge", "encoder", "decoder"
        grads, moments = [], []
        for block, f, b, g, h in zip(net[:-1], *(state.weights[role] for role in roles), strict=True):
            bridge, encoder, decoder = coders(block, t)
            (dg, dh), code = jax.grad(autoencoder, has_aux=True)((g, h), encoder, decoder, t)
            (df, db), (s, found) = jax.grad(associated, has_aux=True)((f, b), block, bridge, s, code)
            grads.append((df, db, dg, dh))
            moments.append(found)
            t = code
        by_role = {role: list(found) for role, found in zip(roles, zip(*grads, strict=True), strict=True)}
        return descend(tx, state, by_role, moments, twice)

    return Program(init, step)


def _target_prop(
    difference: bool,
    by_gradient: bool,
    auxiliary: int,
    preserving: bool,
    net: list[Layer],
    tx: optax.GradientTransformation,
    noise: float = NOISE,
) -> Program:
    """Target propagation in dense nets; `by_gradient` gives the first target, in the place of the head's inverse."""
    top = len(net) - 1
    inverted = range(1, top if by_gradient else top + 1)

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, inputs = init_layers(net, key, batch[0][:2])
        glorot = jax.nn.initializers.glorot_uniform()
        widths = [flat(a).shape[1] for a in inputs]
        read = [*widths[: top + 1], CLASSES + auxiliary]
        keys = jax.random.split(jax.random.fold_in(key, 1), top + 1)
        inverse = [
            {"kernel": glorot(keys[i], (widths[i], read[i + 1])), "bias": jnp.zeros(widths[i])} for i in inverted
        ]
        weights: dict[str, Tree] = {"forward": forward, "inverse": inverse}
        opt = tx.init(weights)
        if auxiliary:
            kernel = glorot(keys[0], (widths[top], auxiliary))
            weights["auxiliary"] = {"kernel": kernel, "bias": jnp.zeros(auxiliary)}
        return State(weights, opt, running, key)

    def g(i: int, w: Tree, v: jax.Array) -> jax.Array:
        return net[i - 1].activation(v @ w["kernel"].T + w["bias"][None])

    def step(state: State, batch: Batch) -> State:
        x, y = batch
        forward, inverse = state.weights["forward"], dict(zip(inverted, state.weights["inverse"], strict=True))

        def with_z(o: jax.Array, h: jax.Array) -> jax.Array:
            if not auxiliary:
                return o
            w = state.weights["auxiliary"]
            return jnp.concatenate([o, jnp.tanh(h @ w["kernel"] + w["bias"][None])], 1)

        h, backs = [x], []
        for layer, w in zip(net, forward, strict=True):
            a, back, _ = jax.vjp(partial(apply, layer, h[-1]), w, has_aux=True)
            h.append(a)
            backs.append(back)
        o = jax.nn.softmax(h[-1])
        h[-1] = with_z(o, h[top])

        target = {top + 1: with_z(y, h[top])}
        if by_gradient:
            target[top] = h[top] - ALPHA * ((o - y) @ forward[top]["linear"]["kernel"].T)
        for i in reversed(inverted):
            target[i] = g(i, inverse[i], target[i + 1])
            if difference:
                target[i] = h[i] - g(i, inverse[i], h[i + 1]) + target[i]

        errors = [2.0 * (h[i + 1] - target[i + 1]) / len(x) for i in range(top)]
        grads = {"forward": [back(error)[0] for back, error in zip(backs, [*errors, (o - y) / len(x)], strict=True)]}

        def inverse_loss(w: Tree, i: int, v: jax.Array, wanted: jax.Array) -> jax.Array:
            return jnp.sum(jnp.square(g(i, w, v) - wanted)) / len(x)

        key, *keys = jax.random.split(state.key, 1 + len(inverted))
        grads["inverse"] = []
        for i, noise_key in zip(inverted, keys, strict=True):
            noisy = h[i] + noise * jax.random.normal(noise_key, h[i].shape)
            v, _ = apply(net[i], noisy, forward[i])
            v = with_z(jax.nn.softmax(v), noisy) if i == top else v
            grads["inverse"].append(jax.grad(inverse_loss)(inverse[i], i, v, noisy if preserving else h[i]))
        return descend(tx, state._replace(key=key), grads, state.running)

    return Program(init, step)


tp = partial(_target_prop, False, False, 0, True)
dtp = partial(_target_prop, True, True, 0, True)
sdtp = partial(_target_prop, True, False, 0, False)
ao_sdtp = partial(_target_prop, True, False, AUXILIARY, False)

ALL: dict[str, Callable[..., Program]] = {
    "bp": bp,
    "al": al,
    "dfa": dfa,
    "fa": fa,
    "kp": kp,
    "dkp": dkp,
    "drtp": drtp,
    "tp": tp,
    "dtp": dtp,
    "sdtp": sdtp,
    "ao_sdtp": ao_sdtp,
}
