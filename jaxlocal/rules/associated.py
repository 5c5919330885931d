"""Associated Learning: every component brings its own code of the input and its own code of the target together."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.layers import dense, identity
from jaxlocal.locality import own, upward
from jaxlocal.make import make_rule
from jaxlocal.network import Network, Tree, apply_layer, apply_layers, cross_entropy, evenly, neighbours, units
from jaxlocal.parts import init_forward, init_helper
from jaxlocal.rule import Lesson, Message, Params, Part, Rule, Weights, forward_weights

Coder = Callable[[int], nn.Module]  # makes a module with the given number of output units

IMAGE_WIDTH = 256  # units of the target's code beside an image, the paper's choice for the vanilla CNN


def code(width: int) -> nn.Module:
    """The paper's encoder g and decoder h: a dense layer with a sigmoid."""
    return dense(width, nn.sigmoid)


def bridge_code(width: int) -> nn.Module:
    """The paper's bridge b: a hidden layer of five times the width, then the code, both with a sigmoid."""
    return nn.Sequential([dense(5 * width, nn.sigmoid), dense(width, nn.sigmoid)])


def linear_code(width: int) -> nn.Module:
    """A decoder without bounds, for real-valued targets."""
    return dense(width, identity)


@learning_rule
def al(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    autoencoder_tx: optax.GradientTransformation | None = None,
    components: int | Sequence[int] | None = None,
    width: int | Sequence[int] | None = None,
    bridge: Coder = bridge_code,
    encoder: Coder = code,
    decoder: Coder = code,
    readout: Coder | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Associated Learning: each component makes its code of x predict its code of y, and its code of y decodable.

    With s_0 = x, t_0 = y and s_i, t_i taken as constants outside component i,

    .. math::
        s_i = f_i(s_{i-1}), \qquad t_i = g_i(t_{i-1}), \qquad
        L_i = \mathrm{MSE}(b_i(s_i),\ t_i) + \mathrm{MSE}(h_i(t_i),\ t_{i-1})

    The first term trains the associated function f_i and the bridge b_i, with t_i held; the second trains the encoder
    g_i and the decoder h_i. MSE is the mean over the batch *and* the units. The prediction is
    h_1 ∘ … ∘ h_N ∘ b_N ∘ f_N ∘ … ∘ f_1 (the effective parameters); the network's head takes no part. All components
    learn from the values before the batch's update, so no component waits for another: component i needs the message
    (s_{i-1}, t_{i-1}) and nothing else.

    Args:
      net: the network; its blocks, alone or in groups, are the associated functions f_i.
      tx: the optimizer of f and b.
      autoencoder_tx: the optimizer of g and h; by default `tx` with all its moves doubled, the paper's twice the rate.
      components: None for one component a block, the number of components to cut the blocks into as evenly as can
        be, or the number of blocks of each, such as (1, 3, 3, 3) for ResNet-20.
      width: units of t_i, one number or one a component; by default those of s_i, or 256 where s_i is an image.
      bridge: makes b_i of the width; by default dense 5·width, dense width, sigmoids, on the flattened s_i.
      encoder: makes g_i of the width; by default dense with sigmoid.
      decoder: makes h_i, i > 1, of the width below.
      readout: makes h_1 of the number of targets; by default as `decoder` for classes and linear for real targets.
      frozen: numbers of the blocks that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.al(net, optax.adam(1e-3))
      >>> params, info = rule.step(rule.init(jax.random.key(0), batch), batch)
      >>> sorted(info.terms[0]), info.losses.shape
      (['associated', 'autoencoder'], (2,))

    Reference:
      Kao, Chen. Associated Learning: decomposing end-to-end backpropagation based on autoencoders and target
      propagation. Neural Computation 33, 2021. Equations 4.1 to 4.8.
    """
    checks.callables(bridge=bridge, encoder=encoder, decoder=decoder, readout=readout)
    groups = _groups(components, len(net.blocks))
    widths = _widths(width, len(groups))
    readout = readout or (decoder if net.loss == cross_entropy else linear_code)
    decoders = (readout, *(decoder for _ in groups[1:]))
    f = tuple(tuple(net.blocks[layer] for layer in layers) for layers in groups)

    def n(i: int, s: jax.Array) -> int:
        """The units of t_i."""
        return widths[i] or (units(s) if s.ndim == 2 else IMAGE_WIDTH)

    def init(i: int, key: jax.Array, message: Message) -> tuple[Weights, tuple[Tree, ...], Message]:
        f_key, b_key, g_key, h_key = jax.random.split(key, 4)
        weights, stats, (s, t_below) = init_forward(f[i])(f_key, message)
        code_shape = (n(i, s),)
        weights["bridge"] = init_helper("bridge", bridge(n(i, s)), b_key, s, code_shape)
        weights["encoder"] = init_helper("encoder", encoder(n(i, s)), g_key, t_below, code_shape)
        t = _apply(encoder(n(i, s)), weights["encoder"], t_below)
        weights["decoder"] = init_helper("decoder", decoders[i](units(t_below)), h_key, t, t_below.shape[1:])
        return weights, stats, (s, t)

    def teach(
        i: int, weights: Weights, stats: tuple[Tree, ...], message: Message, key: jax.Array
    ) -> tuple[Lesson, Message]:
        s_below, t_below = message
        f_key, b_key, g_key, h_key = jax.random.split(key, 4)  # for dropout; made only where it is used

        def objective(weights: Weights) -> tuple[jax.Array, tuple[dict[str, jax.Array], Message, tuple[Tree, ...]]]:
            s, new_stats = apply_layers(f[i], weights["forward"], stats, s_below, f_key)
            t = _apply(encoder(n(i, s)), weights["encoder"], t_below, g_key)
            associated = mse(_apply(bridge(n(i, s)), weights["bridge"], s, b_key), stop_gradient(t))
            autoencoder = mse(_apply(decoders[i](units(t_below)), weights["decoder"], t, h_key), t_below)
            losses = {"associated": associated, "autoencoder": autoencoder}
            return associated + autoencoder, (losses, (s, t), new_stats)

        grads, (losses, message, stats) = jax.grad(objective, has_aux=True)(weights)
        return Lesson(grads, stats, losses), message

    def effective(params: Params) -> dict[str, Tree]:
        return {
            "forward": forward_weights(params),
            "bridge": params.components[-1].weights["bridge"],
            "decoders": tuple(component.weights["decoder"] for component in params.components),
        }

    def scores(params: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        s, targets = x, [prod(params.shapes[1])]  # units of t_0, t_1, …
        for i, component in enumerate(params.components):
            s, _ = apply_layers(f[i], component.weights["forward"], component.stats, s, key)
            targets.append(n(i, s))
        t = _apply(bridge(targets[-1]), params.components[-1].weights["bridge"], s, key)
        for i, component in reversed(tuple(enumerate(params.components))):
            t = _apply(decoders[i](targets[i]), component.weights["decoder"], t, key)
        return t

    parts = tuple(Part(layers, partial(init, i), partial(teach, i)) for i, layers in enumerate(groups))
    autoencoder_tx = autoencoder_tx or optax.chain(tx, optax.scale(2.0))
    txs = {"forward": tx, "bridge": tx, "encoder": autoencoder_tx, "decoder": autoencoder_tx}
    count = len(groups)
    locality = {"forward": upward(count), "bridge": own(count), "encoder": upward(count), "decoder": own(count)}
    return make_rule(net, parts, txs, locality=locality, frozen=frozen, effective=effective, scores=scores)


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
    """The mean over batch and units of (a - b)²."""
    return jnp.mean(jnp.square(a - b))


def _apply(coder: nn.Module, weights: Tree, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    return apply_layer(coder, weights, {}, x, key)[0]


def _groups(components: int | Sequence[int] | None, blocks: int) -> tuple[tuple[int, ...], ...]:
    """The numbers of the blocks of each component."""
    if components is None:
        components = blocks
    if not isinstance(components, Sequence):
        checks.positive_int("components", components)
        if components > blocks:
            raise ValueError(
                f"components={components}: the network has {blocks} blocks, and a component needs one at least; ask "
                f"for 1 to {blocks}, or add blocks"
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


def _widths(width: int | Sequence[int] | None, count: int) -> tuple[int | None, ...]:
    """The width of each component's code, None where it follows that of s."""
    if width is None:
        return (None,) * count
    widths = tuple(width) if isinstance(width, Sequence) else (width,) * count
    if len(widths) != count:
        raise ValueError(
            f"width={width!r}: names {len(widths)} widths for {count} components; pass one number or {count}"
        )
    for one in widths:
        checks.positive_int("width", one)
    return widths
