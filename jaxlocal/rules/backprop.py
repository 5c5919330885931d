"""Backpropagation: the baseline."""

from collections.abc import Collection
from functools import partial

import jax
import optax

from jaxlocal.checks import learning_rule
from jaxlocal.locality import everywhere
from jaxlocal.make import make_rule
from jaxlocal.network import Network, apply_layers
from jaxlocal.parts import init_forward, lesson_of
from jaxlocal.rule import Batch, Component, Lesson, Message, Part, Rule, Stats, Weights


@partial(learning_rule, needs_blocks=False)
def bp(net: Network, tx: optax.GradientTransformation, *, frozen: Collection[int] = ()) -> Rule:
    r"""Backpropagation: one component, the network; one objective, its loss.

    .. math::
        \delta_l = \delta_{l+1} W_{l+1}^\top \odot f'(z_l), \qquad
        \Delta W_l = -\eta\, a_{l-1}^\top \delta_l

    with δ_k = ∂L/∂z_k at the output k, L the mean loss of the batch, a_l (B, n_l) and W_l (n_{l-1}, n_l).

    Args:
      net: the network.
      tx: the optimizer, over all weights together.
      frozen: numbers of the layers that keep their weights; `frozen={0, 1}` on a 2-conv net is "BP (FC only)".

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.bp(net, optax.adam(1e-3))
      >>> params, info = jax.jit(rule.step)(rule.init(jax.random.key(0), batch), batch)
      >>> info.losses.shape
      (1,)

    Reference:
      Rumelhart, Hinton, Williams. Learning representations by back-propagating errors. Nature 323, 1986.
    """

    def teach(components: tuple[Component, ...], batch: Batch, keys: tuple[jax.Array, ...]) -> tuple[Lesson, ...]:
        (network,), (x, y), (key,) = components, batch, keys

        def objective(weights: Weights) -> tuple[dict[str, jax.Array], Stats, Message]:
            scores, stats = apply_layers(net.layers, weights["forward"], network.stats, x, key)
            return {"task": net.loss.mean(scores, y)}, stats, (scores, y)

        return (lesson_of(objective, network.weights)[0],)

    parts = (Part(tuple(range(len(net.layers))), init_forward(net.layers)),)
    return make_rule(net, parts, {"forward": tx}, teach, locality={"forward": everywhere(1)}, frozen=frozen)
