"""Sign symmetry: the error goes back through weights with the signs of the forward weights, and other magnitudes."""

from collections.abc import Collection

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlocal import transport
from jaxlocal.checks import learning_rule
from jaxlocal.network import Network, Tree
from jaxlocal.parts import own_key
from jaxlocal.rule import Batch, Component, Lesson, Rule, Stats
from jaxlocal.rules.feedback import Start, carried_back, carried_lesson, drawn
from jaxlocal.transport import Feedback


@learning_rule
def usf(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_init: nn.initializers.Initializer | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Uniform sign-concordant feedback: the error goes back through the signs of W.

    .. math::
        \delta_l = \delta_{l+1} B_{l+1} \odot f'(z_l), \qquad
        B_l = \sigma_l \operatorname{sign}(W_l)^\top

    The paper has σ = 1, with batch normalisation and with updates that keep only the sign of the gradient. So that any
    optimizer will do, each linear map has a σ of its own here: the root mean square of a B that `fa` would draw. It
    does not change. The sign of zero is zero. A unit of the last block with the same sign to all classes learns nothing
    from the cross entropy, because the errors of the classes add up to zero.

    Args:
      net: the network, as for `fa`.
      tx: the optimizer of the forward weights.
      feedback_init: the initialiser whose root mean square is σ; by default each linear map's own.
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.usf(net, optax.adam(1e-3))
      >>> params = rule.init(jax.random.key(0), batch)
      >>> jax.tree.map(jnp.shape, params.components[0].weights["feedback"])
      ({}, {'linear': ()}, {'linear': ()})

    Reference:
      Liao, Leibo, Poggio. How important is weight symmetry in backpropagation? AAAI 2016.
      Also: Moskovitz, Litwin-Kumar, Abbott. Feedback alignment in deep convolutional networks. arXiv:1812.06488, 2018.
    """
    draw = drawn(net, feedback_init)

    def start(weights: tuple[Tree, ...], stats: Stats, x: jax.Array, key: jax.Array) -> tuple[Feedback, ...]:
        return jax.tree.map(lambda b: jnp.sqrt(jnp.mean(jnp.square(b))), draw(weights, stats, x, key))

    return _fixed_magnitudes(net, tx, frozen, start)


@learning_rule
def frsf(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_init: nn.initializers.Initializer | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Fixed random-magnitude sign-concordant feedback: random magnitudes that stay, with the signs of W.

    .. math::
        \delta_l = \delta_{l+1} B_{l+1} \odot f'(z_l), \qquad
        B_l = (|M_l| \odot \operatorname{sign}(W_l))^\top

    M is drawn once and stored in the layout of W. With |M| = |W| this is backpropagation.

    Args:
      net: the network, as for `fa`.
      tx: the optimizer of the forward weights.
      feedback_init: the initialiser of M; by default each linear map's own.
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.frsf(net, optax.adam(1e-3))
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Liao, Leibo, Poggio. How important is weight symmetry in backpropagation? AAAI 2016.
    """
    return _fixed_magnitudes(net, tx, frozen, drawn(net, feedback_init))


@learning_rule
def brsf(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_init: nn.initializers.Initializer | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Batchwise random-magnitude sign-concordant feedback: as `frsf`, with new magnitudes for every batch.

    .. math::
        \delta_l = \delta_{l+1} B_{l+1} \odot f'(z_l), \qquad
        B_l = (|M_l| \odot \operatorname{sign}(W_l))^\top

    M is drawn anew for every batch, from the random key in the parameters, and is not stored.

    Args:
      net: the network, as for `fa`.
      tx: the optimizer of the forward weights.
      feedback_init: the initialiser of M; by default each linear map's own.
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.brsf(net, optax.adam(1e-3))
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Liao, Leibo, Poggio. How important is weight symmetry in backpropagation? AAAI 2016.
    """
    draw = drawn(net, feedback_init)

    def start(weights: tuple[Tree, ...], stats: Stats, x: jax.Array, key: jax.Array) -> tuple[Feedback, ...]:
        jax.eval_shape(draw, weights, stats, x, key)  # refuses a network in which it could not draw
        return tuple({} for _ in net.layers)

    def teach(component: Component, batch: Batch, key: jax.Array) -> Lesson:
        weights, (x, _) = component.weights["forward"], batch
        magnitudes = draw(weights, component.stats, x, own_key(net, key))
        return carried_lesson(net, _with_signs(magnitudes, weights), component, batch, key)

    return carried_back(net, {"forward": tx}, frozen, start, teach)


def _fixed_magnitudes(net: Network, tx: optax.GradientTransformation, frozen: Collection[int], start: Start) -> Rule:
    """The magnitudes are those that the component carries."""

    def teach(component: Component, batch: Batch, key: jax.Array) -> Lesson:
        feedback = _with_signs(component.weights["feedback"], component.weights["forward"])
        return carried_lesson(net, feedback, component, batch, key)

    return carried_back(net, {"forward": tx}, frozen, start, teach)


def _with_signs(magnitudes: tuple[Feedback, ...], weights: tuple[Tree, ...]) -> tuple[Feedback, ...]:
    """B = |M| ⊙ sign(W), for each linear map."""
    kernels = transport.kernels_with_feedback(weights, magnitudes)
    return jax.tree.map(lambda m, w: jnp.abs(m) * jnp.sign(w), magnitudes, kernels)
