"""The weight mirror: the feedback learns the weights from noise, between the batches of feedback alignment."""

from collections.abc import Collection

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlocal import checks, transport
from jaxlocal.checks import learning_rule
from jaxlocal.decay import decayed
from jaxlocal.network import Network
from jaxlocal.parts import own_key
from jaxlocal.rule import Batch, Component, Lesson, Rule
from jaxlocal.rules.feedback import carried_back, carried_lesson, drawn
from jaxlocal.transport import Map


@learning_rule
def wm(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    mirror_rate: float = 0.01,
    mirror_decay: float | None = None,
    feedback_init: nn.initializers.Initializer | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""The weight mirror: feedback alignment whose B learns W from noise.

    Each batch is used in two modes. In engaged mode the network learns from the batch, as in `fa`. In mirror mode each
    linear map gets noise ξ of its own, with as many examples as the batch, and B learns from what the map makes of it:

    .. math::
        \mathrm{engaged:}\quad \delta_l &= \delta_{l+1} B_{l+1} \odot f'(z_l), \qquad
        \Delta W_l = -\eta\, a_{l-1}^\top \delta_l \\
        \mathrm{mirror:}\quad \zeta_l &= \xi_l W_l, \quad \xi_l \sim \mathcal{N}(0, 1), \qquad
        \Delta B_l = \eta_B\, \zeta_l^\top \xi_l / N - \lambda B_l

    The expected value of ζᵀξ/N is Wᵀ, so B approaches η_B/λ times Wᵀ. N is the number of products that a weight takes
    part in: the number of examples, and of their places if the weight is shared by many. Both modes read the weights
    from before the step. In mirror mode the map has no bias and no activation, because a block may be any Flax module.
    If the noise is so small that the activation is linear, this differs from the paper only by a factor in η_B.

    Args:
      net: the network, as for `fa`.
      tx: the optimizer of the forward weights.
      mirror_rate: η_B.
      mirror_decay: λ; by default η_B, so that B approaches Wᵀ itself.
      feedback_init: the initialiser of B; by default each linear map's own.
      frozen: numbers of the layers that keep their weights and their B.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.wm(net, optax.adam(1e-3), mirror_rate=0.03)
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Akrout, Wilson, Humphreys, Lillicrap, Tweed. Deep learning without weight transport. NeurIPS 2019.
    """
    mirror_decay = mirror_rate if mirror_decay is None else mirror_decay
    checks.below_one("mirror_rate", mirror_rate)
    checks.below_one("mirror_decay", mirror_decay)

    def teach(component: Component, batch: Batch, key: jax.Array) -> Lesson:
        weights, (x, _) = component.weights["forward"], batch
        engaged = carried_lesson(net, component.weights["feedback"], component, batch, key)
        mirrored = transport.for_each_map(net.layers, weights, component.stats, x, own_key(net, key), mirror)
        return engaged._replace(grads=engaged.grads | {"feedback": jax.tree.map(jnp.negative, mirrored)})

    txs = {"forward": tx, "feedback": decayed(optax.sgd(mirror_rate), mirror_decay)}
    return carried_back(net, txs, frozen, drawn(net, feedback_init), teach)


def mirror(found: Map, kernel: jax.Array, key: jax.Array) -> jax.Array:
    """ζᵀξ/N in the layout of W: an estimate of W from the map's answer to noise."""
    noise = jax.random.normal(key, found.x.shape, kernel.dtype)
    answer, correlate = jax.vjp(lambda kernel: found.apply(kernel, noise), kernel)
    return correlate(answer)[0] / (len(noise) * _products(found, kernel))


def _products(found: Map, kernel: jax.Array) -> jax.Array:
    """For each weight, the number of products that it takes part in for one example, or 1 if there is none."""
    ones = jnp.ones((1, *found.x.shape[1:]), kernel.dtype)
    answer, correlate = jax.vjp(lambda kernel: found.apply(kernel, ones), kernel)
    return jnp.maximum(correlate(jnp.ones_like(answer))[0], 1)
