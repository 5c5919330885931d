"""Every rule as one would write it by hand, in plain JAX and Optax, without jaxlocal and Flax."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.speed.bench import handwritten_local_losses as local_losses
from experiments.speed.bench import handwritten_target_prop as target_prop
from experiments.speed.bench.handwritten_layers import (
    Adjust,
    Batch,
    Layer,
    Program,
    State,
    Tree,
    apply,
    as_they_are,
    decayed,
    descend,
    flat,
    he_normal,
    init_layers,
    linear,
    mean_loss,
    run,
)
from experiments.speed.bench.nets import CLASSES

IMAGE_CODE = 256  # jaxlocal's default


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
    """`linear(kernel, a)`, with an error that returns through `feedback`."""
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
    """Feedback alignment, or Kolen-Pollack if `adjust` moves the feedback."""

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
    """B has the gradient of W and therefore, with the same optimizer, its update: one state serves both."""
    feedback = [update["linear"]["kernel"] for update in updates["forward"][1:]]
    return decayed(updates | {"feedback": feedback}, weights)


fa = partial(_carried_back, as_they_are)
kp = partial(_carried_back, _feedback_follows)


def _direct(learns: bool, by_target: bool, net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """Direct feedback alignment, optionally with the target instead of the error, or with feedback that learns."""

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
    """Associated Learning, where each block is a component; the head is not used."""

    def coders(block: Layer, t: jax.Array) -> tuple[list[Layer], list[Layer], list[Layer]]:
        """Bridge, encoder and decoder of a block."""
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


ALL: dict[str, Callable[..., Program]] = {
    "bp": bp,
    "al": al,
    "dfa": dfa,
    "fa": fa,
    "kp": kp,
    "dkp": dkp,
    "drtp": drtp,
    "predsim": local_losses.predsim,
    "tp": target_prop.tp,
    "dtp": target_prop.dtp,
    "sdtp": target_prop.sdtp,
    "ao_sdtp": target_prop.ao_sdtp,
}
