"""Target propagation: every layer learns to hit a target that comes down through learned inverses.

The algorithm is in `jaxlocal.targets`. The four rules here differ in where their targets start, in how a target goes
down by a layer, and in what the head's inverse reads.

Lee et al. have published code of DTP. No public code of SDTP and AO-SDTP was found, so these two are made from the text
of Bartunov et al. alone; `tests/reference.py` has their equations in NumPy.
"""

from collections.abc import Collection, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.layers import flat
from jaxlocal.locality import downward, everywhere, upward
from jaxlocal.network import Network, apply_layer, init_layer
from jaxlocal.parts import apply_helper
from jaxlocal.rule import Component, Rule, Weights
from jaxlocal.targets import PLAIN, First, Inverse, Locality, Output, glorot_dense, target_prop


def vanilla(g: Inverse, h: jax.Array, above: jax.Array, target: jax.Array) -> jax.Array:
    """ĥ_l = g(ĥ_{l+1})."""
    return g(target)


def difference(g: Inverse, h: jax.Array, above: jax.Array, target: jax.Array) -> jax.Array:
    """ĥ_l = h_l - g(h_{l+1}) + g(ĥ_{l+1}): right to first order even where g is not an exact inverse."""
    return h - g(above) + g(target)


def with_features(count: int) -> Output:
    """[o, z], with z = tanh(W_z h) and W_z fixed at its random start."""
    W_z = glorot_dense(count)

    def init(key: jax.Array, h: jax.Array) -> Weights:
        return {"auxiliary": init_layer(W_z, key, flat(h))[0]}

    def read(weights: Weights, o: jax.Array, h: jax.Array) -> jax.Array:
        z = jnp.tanh(apply_helper(W_z, weights["auxiliary"], flat(h)))
        return jnp.concatenate([o, z], 1)

    return Output(init, read)


def label(net: Network, output: Output = PLAIN) -> First:
    """The first target is that of the output: the label, at which the loss is smallest."""

    def target(head: Component, h: list[jax.Array], y: jax.Array, key: jax.Array) -> jax.Array:
        return output.read(head.weights, y, h[-2])

    return First(len(net.layers), target)


def gradient(net: Network, alpha: float) -> First:
    """The first target is that of the head's input: a step down the gradient of each example's own loss."""

    def target(head: Component, h: list[jax.Array], y: jax.Array, key: jax.Array) -> jax.Array:
        def summed_loss(below: jax.Array) -> jax.Array:
            scores, _ = apply_layer(net.head, head.weights["forward"][0], head.stats[0], below, key)
            return jnp.sum(net.loss.value(scores, y))

        return h[-2] - alpha * jax.grad(summed_loss)(h[-2])

    return First(len(net.blocks), target)


# A difference target holds h_l and h_{l+1}: through them it depends on all forward weights.
TARGETS_FROM_ALL: Locality = {"forward": everywhere, "inverse": downward}


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
      >>> params, info = jax.jit(rule.step)(rule.init(jax.random.key(0), batch), batch)
      >>> sorted(info.terms[1])
      ['forward', 'inverse']

    Reference:
      Bartunov, Santoro, Richards, Marris, Hinton, Lillicrap. Assessing the scalability of biologically-motivated deep
      learning algorithms and architectures. NeurIPS 2018, section 2.1.2.
    """
    return target_prop(
        net,
        tx,
        first=label(net),
        propagate=vanilla,
        locality={"forward": upward, "inverse": downward},
        inverse_tx=inverse_tx,
        noise=noise,
        noise_preserving=noise_preserving,
        alternate=alternate,
        inverses=inverses,
        frozen=frozen,
    )


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
    hybrid: float | None = None,
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

    Hybrid targets come down through :math:`g = \beta g_{bp} + (1 - \beta) g_{tp}`, with β = `hybrid`. g_tp is the
    learned inverse, and g_bp the transposed derivative of the layer:
    :math:`g_{bp}(v) = (\partial h_{l+1} / \partial h_l)^T v`. With `hybrid=1` and `alpha=0.5` the gradients are those
    of backpropagation; α is a half because the losses here lack the factor 1/2 of that section of the paper, which
    proposes hybrid targets and does not try them.

    Args:
      net: the network, as for `tp`.
      tx: the optimizer of the forward weights.
      inverse_tx: the optimizer of the inverses; by default as `tx`.
      alpha: the step of the first target.
      noise: standard deviation of ε.
      noise_preserving: reconstruct h + ε; False for h alone.
      alternate: as for `tp`.
      hybrid: the part of g_bp in the targets, from 0 to 1; None for the learned inverses alone.
      inverses: as for `tp`.
      frozen: numbers of the layers that keep their forward weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10, activation=jnp.tanh)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.dtp(net, optax.adam(1e-3), inverse_tx=optax.adam(3e-3), alternate=10)
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Lee, Zhang, Fischer, Bengio. Difference target propagation. ECML 2015; Bartunov et al. 2018, equation 2, and
      section 5.6 for hybrid targets.
    """
    checks.positive("alpha", alpha)
    if hybrid is not None:
        checks.up_to_one("hybrid", hybrid)
    return target_prop(
        net,
        tx,
        first=gradient(net, alpha),
        propagate=difference,
        locality=TARGETS_FROM_ALL,
        hybrid=hybrid,
        inverse_tx=inverse_tx,
        noise=noise,
        noise_preserving=noise_preserving,
        alternate=alternate,
        inverses=inverses,
        frozen=frozen,
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
        \hat h_L = \operatorname{argmin}_{h_L} \mathcal{L}(h_L) = y, \qquad
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
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Bartunov et al. 2018, algorithm 1.
    """
    return target_prop(
        net,
        tx,
        first=label(net),
        propagate=difference,
        locality=TARGETS_FROM_ALL,
        inverse_tx=inverse_tx,
        noise=noise,
        noise_preserving=noise_preserving,
        alternate=alternate,
        inverses=inverses,
        frozen=frozen,
    )


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
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Bartunov et al. 2018, equation 3 and algorithm 2.
    """
    checks.positive_int("auxiliary", auxiliary)
    output = with_features(auxiliary)
    locality = {**TARGETS_FROM_ALL, "auxiliary": everywhere}
    return target_prop(
        net,
        tx,
        first=label(net, output),
        propagate=difference,
        locality=locality,
        output=output,
        inverse_tx=inverse_tx,
        noise=noise,
        noise_preserving=noise_preserving,
        alternate=alternate,
        inverses=inverses,
        frozen=frozen,
    )
