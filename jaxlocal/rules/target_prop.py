"""Target propagation: every layer learns to hit a target that comes down through learned inverses."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.layers import Transposed, flat, identity
from jaxlocal.locality import downward, everywhere, upward
from jaxlocal.make import make_rule
from jaxlocal.network import Network, Tree, apply_layer, init_layer, units
from jaxlocal.parts import init_forward, init_helper
from jaxlocal.rule import Batch, Component, Lesson, Message, Part, Rule, Weights

Inverse = Callable[[jax.Array], jax.Array]
# (g, h_l, h_{l+1}, target_{l+1}) -> target_l
Propagate = Callable[[Inverse, jax.Array, jax.Array, jax.Array], jax.Array]


def vanilla(g: Inverse, h: jax.Array, above: jax.Array, target: jax.Array) -> jax.Array:
    """ĥ_l = g(ĥ_{l+1})."""
    return g(target)


def difference(g: Inverse, h: jax.Array, above: jax.Array, target: jax.Array) -> jax.Array:
    """ĥ_l = h_l - g(h_{l+1}) + g(ĥ_{l+1}): right to first order even where g is no exact inverse."""
    return h - g(above) + g(target)


@learning_rule
def tp(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    inverse_tx: optax.GradientTransformation | None = None,
    noise: float = 0.1,
    noise_preserving: bool = True,
    alternate: int | None = None,
    inverses: Mapping[int, nn.Module] | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Target propagation: each layer's target is the inverse of the next layer's target.

    .. math::
        \hat h_L = y, \qquad \hat h_l = g_{l+1}(\hat h_{l+1}), \qquad
        L_l = \|f_l(h_{l-1}) - \hat h_l\|^2 \; (l < L), \qquad L_L = \mathcal{L}

    and g_l learns by the inverse loss ‖g_l(f_l(h_{l-1} + ε)) - (h_{l-1} + ε)‖², ε ~ N(0, noise²). Norms sum over the
    units and average over the batch. h_L is the output distribution (softmax of the scores; the scores themselves for
    a squared error). All losses of a step use the values before it.

    The paper does not say which inverse loss plain TP has. With the denoising one, ‖… - h_{l-1}‖², training proved
    unstable here, so the noise-preserving one is the default.

    Args:
      net: the network; layers above the first need an inverse: `jl.layers` blocks without pooling have one.
      tx: the optimizer of the forward weights.
      inverse_tx: the optimizer of the inverses; by default as `tx`.
      noise: standard deviation of ε.
      noise_preserving: reconstruct h + ε; False for h alone.
      alternate: None to train both losses on every batch; else the number of steps (those of an epoch, in the paper)
        after which inverse and forward training take turns, inverses first.
      inverses: modules of your own by the number of the layer that they invert, 1 for the second block.
      frozen: numbers of the layers that keep their forward weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10, activation=jnp.tanh)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.tp(net, optax.adam(1e-3))
      >>> params, info = rule.step(rule.init(jax.random.key(0), batch), batch)
      >>> sorted(info.terms[1])
      ['forward', 'inverse']

    Reference:
      Bartunov, Santoro, Richards, Marris, Hinton, Lillicrap. Assessing the scalability of biologically-motivated deep
      learning algorithms and architectures. NeurIPS 2018, section 2.1.2.
    """
    locality = {"forward": upward, "inverse": downward}
    return _target_prop(net, tx, inverse_tx, vanilla, noise, noise_preserving, alternate, inverses, frozen, locality)


@learning_rule
def dtp(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    inverse_tx: optax.GradientTransformation | None = None,
    alpha: float = 0.15,
    noise: float = 0.1,
    noise_preserving: bool = True,
    alternate: int | None = None,
    inverses: Mapping[int, nn.Module] | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Difference target propagation: targets corrected for what the inverse misses, the first one by a gradient.

    .. math::
        \hat h_{L-1} = h_{L-1} - \alpha \frac{\partial \mathcal{L}}{\partial h_{L-1}}, \qquad
        \hat h_l = h_l - g_{l+1}(h_{l+1}) + g_{l+1}(\hat h_{l+1})

    Convention: 𝓛 in the first target is each example's own loss, not the mean of the batch, so α does not change its
    meaning with the batch size (the public code of Lee et al. divides by it). The inverse loss preserves the noise,
    ‖g_l(f_l(h_{l-1} + ε)) - (h_{l-1} + ε)‖². The head needs no inverse. Everything else as in `tp`.

    Args:
      net: the network, as for `tp`.
      tx: the optimizer of the forward weights.
      inverse_tx: the optimizer of the inverses; by default as `tx`.
      alpha: the step of the first target.
      noise: standard deviation of ε.
      noise_preserving: reconstruct h + ε; False for h alone.
      alternate: as for `tp`.
      inverses: as for `tp`.
      frozen: numbers of the layers that keep their forward weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10, activation=jnp.tanh)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.dtp(net, optax.adam(1e-3), inverse_tx=optax.adam(3e-3), alternate=10)
      >>> params = rule.update(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Lee, Zhang, Fischer, Bengio. Difference target propagation. ECML 2015; Bartunov et al. 2018, equation 2.
    """
    checks.positive("alpha", alpha)
    locality = {"forward": everywhere, "inverse": downward}
    return _target_prop(
        net, tx, inverse_tx, difference, noise, noise_preserving, alternate, inverses, frozen, locality, alpha=alpha
    )


@learning_rule
def sdtp(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    inverse_tx: optax.GradientTransformation | None = None,
    noise: float = 0.1,
    noise_preserving: bool = False,
    alternate: int | None = None,
    inverses: Mapping[int, nn.Module] | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Simplified difference target propagation: no gradient crosses a layer; the first target is the label.

    .. math::
        \hat h_L = \arg\min_{h_L} \mathcal{L}(h_L) = y, \qquad
        \hat h_l = h_l - g_{l+1}(h_{l+1}) + g_{l+1}(\hat h_{l+1}), \quad l = L-1 \dots 1

    The inverse loss is denoising, ‖g_l(f_l(h_{l-1} + ε)) - h_{l-1}‖². Everything else as in `tp`.

    Args:
      net: the network, as for `tp`.
      tx: the optimizer of the forward weights.
      inverse_tx: the optimizer of the inverses; by default as `tx`.
      noise: standard deviation of ε.
      noise_preserving: reconstruct h + ε; False for h alone.
      alternate: as for `tp`.
      inverses: as for `tp`.
      frozen: numbers of the layers that keep their forward weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10, activation=jnp.tanh)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.sdtp(net, optax.adam(1e-3))
      >>> params = rule.update(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Bartunov et al. 2018, algorithm 1.
    """
    locality = {"forward": everywhere, "inverse": downward}
    return _target_prop(net, tx, inverse_tx, difference, noise, noise_preserving, alternate, inverses, frozen, locality)


@learning_rule
def ao_sdtp(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    inverse_tx: optax.GradientTransformation | None = None,
    auxiliary: int = 512,
    noise: float = 0.1,
    noise_preserving: bool = False,
    alternate: int | None = None,
    inverses: Mapping[int, nn.Module] | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Auxiliary-output SDTP: the head's inverse also sees fixed random features z of the layer below.

    .. math::
        z = \tanh(W_z h_{L-1}), \qquad
        \hat h_{L-1} = h_{L-1} - g_L(o, z) + g_L(y, z)

    with o the output distribution and W_z fixed at its random start: z tells the examples of a class apart, which the
    label cannot. Everything else as in `sdtp`.

    Args:
      net: the network, as for `tp`.
      tx: the optimizer of the forward weights.
      inverse_tx: the optimizer of the inverses; by default as `tx`.
      auxiliary: the number of units of z.
      noise: standard deviation of ε.
      noise_preserving: reconstruct h + ε; False for h alone.
      alternate: as for `tp`.
      inverses: as for `tp`; one of the head takes [o, z].
      frozen: numbers of the layers that keep their forward weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10, activation=jnp.tanh)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.ao_sdtp(net, optax.adam(1e-3), auxiliary=32)
      >>> params = rule.update(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Bartunov et al. 2018, equation 3 and algorithm 2.
    """
    checks.positive_int("auxiliary", auxiliary)
    locality = {"forward": everywhere, "inverse": downward}
    return _target_prop(
        net,
        tx,
        inverse_tx,
        difference,
        noise,
        noise_preserving,
        alternate,
        inverses,
        frozen,
        locality,
        z_units=auxiliary,
    )


def _target_prop(
    net: Network,
    tx: optax.GradientTransformation,
    inverse_tx: optax.GradientTransformation | None,
    propagate: Propagate,
    noise: float,
    noise_preserving: bool,
    alternate: int | None,
    inverses: Mapping[int, nn.Module] | None,
    frozen: Collection[int],
    locality: Mapping[str, Callable[[int], np.ndarray]],
    *,
    alpha: float | None = None,
    z_units: int = 0,
) -> Rule:
    """The family: with `alpha` the first target comes by a gradient, else by the head's inverse, helped by z."""
    checks.non_negative("noise", noise)
    checks.flag("noise_preserving", noise_preserving)
    if alternate is not None:
        checks.positive_int("alternate", alternate)
    top = len(net.blocks)  # the head's number; h[i] is the input of layer i, the paper's h_i
    inverted = range(1, top + 1 if alpha is None else top)  # no target goes below the first layer
    inverses = _given(inverses, inverted)

    def f(i: int, component: Component, h: jax.Array, key: jax.Array) -> tuple[jax.Array, Tree]:
        return apply_layer(net.layers[i], component.weights["forward"][0], component.stats[0], h, key)

    def output(weights: Weights, scores: jax.Array, h: jax.Array) -> jax.Array:
        """What the head's inverse reads: the output distribution o, and with it z where there is one."""
        return with_z(weights, net.loss.output(scores), h)

    def with_z(weights: Weights, o: jax.Array, h: jax.Array) -> jax.Array:
        if not z_units:
            return o
        z, _ = apply_layer(_dense(z_units), weights["auxiliary"], {}, flat(h))
        return jnp.concatenate([o, jnp.tanh(z)], 1)

    def inverse(i: int, h: jax.Array, above: jax.Array) -> nn.Module:
        """The module that maps the output of layer i back to its input h, with the range of the layer below."""
        if i in inverses:
            return inverses[i]
        shape, activation = h.shape[1:], getattr(net.layers[i - 1], "activation", identity)
        activation = activation if callable(activation) else identity
        if i == top:
            return Transposed(_dense(units(above)), shape, activation)
        layer = net.layers[i]
        if not hasattr(layer, "inverse"):
            raise ValueError(
                f"net.layers[{i}] is {type(layer).__name__}, whose inverse target propagation needs; build it of "
                f"jl.layers, give it a method inverse(shape, activation), or pass inverses={{{i}: a Flax module}}"
            )
        return layer.inverse(shape, activation)

    def init(i: int, key: jax.Array, message: Message) -> tuple[Weights, tuple[Tree, ...], Message]:
        forward_key, inverse_key, z_key = jax.random.split(key, 3)
        h, _ = message
        weights, stats, (above, y) = init_forward((net.layers[i],))(forward_key, message)
        if i == top and z_units:
            weights["auxiliary"], _, _ = init_layer(_dense(z_units), z_key, flat(h))
        if i in inverted:
            v = output(weights, above, h) if i == top else above
            weights["inverse"] = init_helper(f"inverses[{i}]", inverse(i, h, v), inverse_key, v, h.shape[1:])
        return weights, stats, (above, y)

    def summed_loss(h: jax.Array, head: Component, key: jax.Array, y: jax.Array) -> jax.Array:
        """The sum over the batch, whose gradient in h holds each example's own."""
        return jnp.sum(net.loss.value(f(top, head, h, key)[0], y))

    def teach(components: tuple[Component, ...], batch: Batch, keys: tuple[jax.Array, ...]) -> tuple[Lesson, ...]:
        x, y = batch
        head = components[top]
        forward_keys, noise_keys = zip(*(jax.random.split(key) for key in keys), strict=True)

        # Propagate activity forward.
        h, stats = [x], []
        for i, component in enumerate(components):
            h_next, new_stats = f(i, component, h[i], forward_keys[i])
            h.append(h_next)
            stats.append(new_stats)
        h[top + 1] = output(head.weights, h[top + 1], h[top])
        h = stop_gradient(h)

        # Compute the targets, from the top down.
        def g(i: int) -> Inverse:
            module, weights = inverse(i, h[i], h[i + 1]), components[i].weights["inverse"]
            return lambda v: apply_layer(module, weights, {}, v)[0]

        target: dict[int, jax.Array] = {}
        if alpha is None:
            target[top + 1] = with_z(head.weights, y, h[top])
        else:
            target[top] = h[top] - alpha * jax.grad(summed_loss)(h[top], head, forward_keys[top], y)
        for i in reversed(inverted):
            target[i] = propagate(g(i), h[i], h[i + 1], target[i + 1])

        # Train every layer towards its target, and every inverse on its layer.
        def forward_loss(forward: Tree, i: int) -> jax.Array:
            a, _ = f(i, replace(components[i], weights={"forward": forward}), h[i], forward_keys[i])
            return net.loss.mean(a, y) if i == top else squared_distance(a, stop_gradient(target[i + 1]))

        def inverse_loss(weights: Tree, i: int) -> jax.Array:
            noisy = h[i] + noise * jax.random.normal(noise_keys[i], h[i].shape, h[i].dtype)
            v, _ = f(i, components[i], noisy, forward_keys[i])
            v = output(head.weights, v, noisy) if i == top else v
            again, _ = apply_layer(inverse(i, h[i], v), weights, {}, v)
            return squared_distance(again, noisy if noise_preserving else h[i])

        lessons = []
        for i, component in enumerate(components):
            objectives = {"forward": forward_loss, "inverse": inverse_loss}
            taught = {
                role: jax.value_and_grad(objective)(component.weights[role], i)
                for role, objective in objectives.items()
                if role in component.weights
            }
            losses = {role: loss for role, (loss, _) in taught.items()}
            lessons.append(Lesson({role: grads for role, (_, grads) in taught.items()}, (stats[i],), losses))
        return tuple(lessons)

    parts = tuple(Part((i,), partial(init, i)) for i in range(top + 1))
    return make_rule(
        net,
        parts,
        {"forward": tx, "inverse": inverse_tx or tx},
        teach,
        locality={role: mask(top + 1) for role, mask in locality.items()},
        frozen=frozen,
        alternate=alternate,
    )


def squared_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """‖a - b‖², summed over the units and averaged over the batch."""
    return jnp.sum(jnp.square(a - b)) / a.shape[0]


def _dense(features: int) -> nn.Dense:
    return nn.Dense(features, kernel_init=nn.initializers.glorot_uniform())


def _given(inverses: Mapping[int, nn.Module] | None, inverted: range) -> dict[int, nn.Module]:
    if not isinstance(inverses, Mapping | None):
        raise TypeError(f"inverses={checks.show(inverses)}: must be a dict, layer number: Flax module")
    for i in inverses or {}:
        if i not in inverted:
            raise ValueError(
                f"inverses={{{i}: …}}: the layers with an inverse are {list(inverted)}; no other layer needs one"
            )
    return dict(inverses or {})
