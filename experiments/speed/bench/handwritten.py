"""Every rule as one would write it by hand, in plain JAX and Optax, without jaxlocal and Flax."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.speed.bench import handwritten_local_losses as local_losses
from experiments.speed.bench import handwritten_target_prop as target_prop
from experiments.speed.bench import handwritten_two_passes as two_passes
from experiments.speed.bench.handwritten_layers import (
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
MIRROR_RATE = 0.01  # jaxlocal's default


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


Kernels = list[jax.Array]  # of all layers but the first, below which no error goes


class Variant(NamedTuple):
    """What is different between feedback alignment and its relatives."""

    start: Callable[[Kernels], list[jax.Array]] = list  # what is kept of a drawn B
    carriers: Callable[[list[jax.Array], Kernels, jax.Array], Kernels] = lambda kept, kernels, key: kept
    follow: Callable[[dict[str, Tree], dict[str, Tree], jax.Array, jax.Array], dict[str, Tree]] = (
        lambda updates, weights, x, key: updates
    )


def _carried_back(variant: Variant, net: list[Layer], tx: optax.GradientTransformation) -> Program:
    """Feedback alignment, or a relative."""

    def init(key: jax.Array, batch: Batch) -> State:
        forward, running, _ = init_layers(net, key, batch[0][:2])
        other, _, _ = init_layers(net, jax.random.fold_in(key, 1), batch[0][:2])
        feedback = variant.start(_kernels(other))
        return State({"forward": forward, "feedback": feedback}, tx.init({"forward": forward}), running, key)

    def loss(learnt: dict[str, Tree], feedback: Kernels, batch: Batch) -> tuple[jax.Array, Tree]:
        first, *others = zip(net, learnt["forward"], strict=True)
        a, found = apply(first[0], batch[0], first[1])
        moments = [found]
        for (layer, w), b in zip(others, feedback, strict=True):
            a, found = apply(layer, a, w, lambda kernel, a, b=b: carried(kernel, b, a))
            moments.append(found)
        return mean_loss(a, batch[1]), moments

    def step(state: State, batch: Batch) -> State:
        key, own_key = jax.random.split(state.key)
        learnt = {"forward": state.weights["forward"]}
        carriers = variant.carriers(state.weights["feedback"], _kernels(learnt["forward"]), own_key)
        grads, moments = jax.grad(loss, has_aux=True)(learnt, carriers, batch)

        def adjust(updates: dict[str, Tree], weights: dict[str, Tree]) -> dict[str, Tree]:
            return variant.follow(updates, weights, batch[0], own_key)

        return descend(tx, state._replace(key=key), grads, moments, adjust)

    return Program(init, step)


def _kernels(layers: list[Tree]) -> Kernels:
    return [w["linear"]["kernel"] for w in layers[1:]]


def _as_the_weights(
    updates: dict[str, Tree], weights: dict[str, Tree], x: jax.Array, key: jax.Array
) -> dict[str, Tree]:
    """B has the gradient of W and therefore, with the same optimizer, its update: one state serves both."""
    return decayed(updates | {"feedback": _kernels(updates["forward"])}, weights)


def _with_signs(magnitudes: list[jax.Array], kernels: Kernels, key: jax.Array) -> Kernels:
    return [jnp.abs(m) * jnp.sign(w) for m, w in zip(magnitudes, kernels, strict=True)]


def _mirrored(updates: dict[str, Tree], weights: dict[str, Tree], x: jax.Array, key: jax.Array) -> dict[str, Tree]:
    """B approaches what noise shows of W."""
    kernels = _kernels(weights["forward"])
    shown = map(partial(_mirror, x), kernels, jax.random.split(key, len(kernels)))
    moves = [MIRROR_RATE * (s - b) for s, b in zip(shown, weights["feedback"], strict=True)]
    return updates | {"feedback": moves}


def _mirror(x: jax.Array, kernel: jax.Array, key: jax.Array) -> jax.Array:
    """The correlation of noise with the answer to it, divided by the number of products of each weight."""
    shape = (len(x), len(kernel)) if kernel.ndim == 2 else (*x.shape[:3], kernel.shape[2])
    noise, ones = jax.random.normal(key, shape), jnp.ones((1, *shape[1:]))

    def correlated(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: linear(kernel, a), kernel)(b)[0]

    products = correlated(ones, jnp.ones_like(linear(kernel, ones)))
    return correlated(noise, linear(kernel, noise)) / (len(x) * jnp.maximum(products, 1))


def brsf(
    net: list[Layer], tx: optax.GradientTransformation, feedback_init: Callable[..., jax.Array] = he_normal
) -> Program:
    """Sign symmetry with new magnitudes for every batch."""

    def carriers(kept: list[jax.Array], kernels: Kernels, key: jax.Array) -> Kernels:
        keys = jax.random.split(key, len(kernels))
        magnitudes = [feedback_init(k, w.shape, w.dtype) for k, w in zip(keys, kernels, strict=True)]
        return _with_signs(magnitudes, kernels, key)

    return _carried_back(Variant(lambda kernels: [], carriers), net, tx)


fa = partial(_carried_back, Variant())
kp = partial(_carried_back, Variant(follow=_as_the_weights))
usf = partial(_carried_back, Variant(lambda kernels: [jnp.sqrt(jnp.mean(jnp.square(b))) for b in kernels], _with_signs))
frsf = partial(_carried_back, Variant(carriers=_with_signs))
wm = partial(_carried_back, Variant(follow=_mirrored))


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
    "usf": usf,
    "brsf": brsf,
    "frsf": frsf,
    "wm": wm,
    "dkp": dkp,
    "drtp": drtp,
    "pepita": two_passes.pepita,
    "predsim": local_losses.predsim,
    "dgl": local_losses.dgl,
    "scpl": local_losses.scpl,
    "ff": two_passes.ff,
    "tp": target_prop.tp,
    "dtp": target_prop.dtp,
    "sdtp": target_prop.sdtp,
    "ao_sdtp": target_prop.ao_sdtp,
}
