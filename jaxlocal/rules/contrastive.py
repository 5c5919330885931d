"""Supervised contrastive parallel learning: every component brings the codes of a class together."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.fast.lengths import direction
from jaxlocal.fast.product import product
from jaxlocal.layers import flat, he_normal
from jaxlocal.locality import own, upward
from jaxlocal.make import make_rule
from jaxlocal.network import Masked, Network, apply_layers
from jaxlocal.parts import apply_helper, block_groups, head_part, init_forward, init_helper, lesson_of
from jaxlocal.rule import Lesson, Message, Part, Rule, Stats, Weights


@learning_rule
def scpl(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    components: int | Sequence[int] | None = None,
    temperature: float = 0.1,
    hidden: int = 512,
    width: int = 1024,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Supervised contrastive parallel learning: each component brings the codes of a class together.

    .. math::
        a_l = f_l(a_{l-1}), \qquad
        v = \frac{p_l(a_l)}{\lVert p_l(a_l) \rVert}, \qquad
        L_l = -\frac{1}{B} \sum_i \frac{1}{n_i} \sum_{j \neq i,\, y_j = y_i}
        \log \frac{e^{v_i \cdot v_j / \tau}}{\sum_{k \neq i} e^{v_i \cdot v_k / \tau}}

    v_i is the code of example i, and n_i the number of examples of its class in the batch, i among them. The projection
    p_l has one hidden ReLU layer and only helps in training. It reads an image as a vector, and of a sequence the mean
    over its tokens. The network's head is a component of its own and learns the network's loss. Component l learns
    from the message (a_{l-1}, y) alone. An example without another of its class in the batch attracts nothing, and one
    alone in its batch teaches the blocks nothing, so batches must be large enough.

    n_i is that of the authors' code. The loss of Khosla et al. divides by the number of the other examples of the
    class, which may be none.

    Args:
      net: the network, for classes.
      tx: the optimizer of all weights; each role of each component has a state of its own.
      components: None for one component per block; a number, to cut the blocks into that many components of about the
        same size; or the number of blocks of each component, such as (1, 3, 3, 3) for ResNet-20.
      temperature: τ.
      hidden: the units of the projection's hidden layer.
      width: the units of a code.
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.scpl(net, optax.adam(1e-3))
      >>> params, info = jax.jit(rule.step)(rule.init(jax.random.key(0), batch), batch)
      >>> [sorted(terms) for terms in info.terms]
      [['contrastive'], ['contrastive'], ['task']]

    Reference:
      Ho, Wang, Lin, Chen. SCPL: enhancing neural network training throughput with decoupled local losses and model
      parallelism. arXiv:2602.00062, 2026.
      Khosla et al. Supervised contrastive learning. NeurIPS 2020.
    """
    checks.classes("scpl", net)
    checks.positive("temperature", temperature)
    checks.positive_int("hidden", hidden)
    checks.positive_int("width", width)
    projection = Projection(hidden, width)
    parts = []
    for numbers in block_groups(components, len(net.blocks)):
        contrastive = _Contrastive(tuple(net.blocks[i] for i in numbers), projection, temperature)
        parts.append(Part(numbers, contrastive.init, contrastive.teach))
    n = len(parts) + 1
    txs = dict.fromkeys(("forward", "projection"), tx)
    locality = {"forward": upward(n), "projection": own(n)}
    return make_rule(net, (*parts, head_part(net)), txs, locality=locality, frozen=frozen)


class Projection(nn.Module):
    """p_l: a hidden ReLU layer and a linear one."""

    hidden: int
    width: int

    @nn.compact
    def __call__(self, a: jax.Array | Masked) -> jax.Array:
        hidden = nn.Dense(self.hidden, kernel_init=he_normal(), dot_general=product, name="hidden")(flat(a))
        return nn.Dense(self.width, dot_general=product, name="linear")(nn.relu(hidden))


class _Contrastive(NamedTuple):
    """A component: its blocks, and what projects their output."""

    blocks: tuple[nn.Module, ...]
    projection: Projection
    temperature: float

    def init(self, key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        checks.one_target("scpl", message[1])
        forward_key, projection_key = jax.random.split(key)
        weights, stats, (a, y) = init_forward(self.blocks)(forward_key, message)
        shape = (self.projection.width,)
        weights["projection"] = init_helper("projection", self.projection, projection_key, a, shape)
        return weights, stats, (a, y)

    def teach(self, weights: Weights, stats: Stats, message: Message, key: jax.Array) -> tuple[Lesson, Message]:
        """a_l = f_l(a_{l-1}), and the gradient of L_l."""
        below, y = message

        def objective(weights: Weights) -> tuple[dict[str, jax.Array], Stats, Message]:
            a, new_stats = apply_layers(self.blocks, weights["forward"], stats, below, key)
            v = direction(apply_helper(self.projection, weights["projection"], a))
            return {"contrastive": _contrast(v, y, self.temperature)}, new_stats, (a, y)

        return lesson_of(objective, weights)


def _contrast(v: jax.Array, y: jax.Array, temperature: float) -> jax.Array:
    """L_l of these codes."""
    label, others = jnp.argmax(y, axis=-1), ~jnp.eye(len(y), dtype=bool)
    alike = label[:, None] == label[None]
    similar = v @ v.T / temperature
    log_share = similar - jax.nn.logsumexp(similar, axis=1, keepdims=True, where=others)
    attracted = jnp.sum(jnp.where(alike & others, log_share, jnp.zeros_like(log_share)), axis=1)
    return -jnp.mean(attracted / jnp.sum(alike, axis=1, dtype=v.dtype))
