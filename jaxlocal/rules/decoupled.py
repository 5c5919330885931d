"""Decoupled greedy learning: every group of blocks learns the task by a classifier of its own."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import optax

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.fast.pooling import average_to
from jaxlocal.fast.product import product
from jaxlocal.layers import flat, he_normal
from jaxlocal.locality import own, upward
from jaxlocal.make import make_rule
from jaxlocal.network import Loss, Masked, Network, apply_layers, mean_of_tokens, units
from jaxlocal.parts import apply_helper, block_groups, init_forward, init_helper, lesson_of
from jaxlocal.rule import Lesson, Message, Part, Rule, Stats, Weights
from jaxlocal.sequences import masked
from jaxlocal.tokens import by_token, each_target

CELLS = 2  # along each axis of an image, of which a classifier reads the means


@learning_rule
def dgl(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    components: int | Sequence[int] | None = None,
    hidden: int = 3,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Decoupled greedy learning: every group of blocks learns the task by a classifier of its own.

    .. math::
        a_i = f_i(a_{i-1}), \qquad L_i = L(c_i(a_i),\ y) \quad (i < N), \qquad L_N = L(f_N(a_{N-1}),\ y)

    f_i are the blocks of component i, and f_N those of the last one together with the network's head. L is the
    network's loss, and a_{i-1} is held constant. The auxiliary classifier c_i only helps in training. It reads the
    means of an image over 2 × 2 cells, and has as many hidden ReLU layers as `hidden` says, each with as many units as
    it reads: the paper's MLP-aux. Of a sequence it reads the mean over the tokens or, if each token has a target, each
    token. Component i learns from the message (a_{i-1}, y) alone. With one component the rule is backpropagation.

    The authors' code has batch norm in the classifiers; here they have none, because no weights beside the network's
    keep statistics. Its last component has a classifier like the others; here it has the network's head.

    Args:
      net: the network.
      tx: the optimizer of all weights; each role of each component has a state of its own.
      components: None for one component per block; a number, to cut the blocks into that many components of about the
        same size; or the number of blocks of each component, such as (1, 3, 3, 3) for ResNet-20.
      hidden: the number of hidden layers of a classifier; with 0 it is linear.
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.dgl(net, optax.adam(1e-3))
      >>> params, info = jax.jit(rule.step)(rule.init(jax.random.key(0), batch), batch)
      >>> [sorted(terms) for terms in info.terms]
      [['auxiliary'], ['task']]

    Reference:
      Belilovsky, Eickenberg, Oyallon. Decoupled greedy learning of CNNs. ICML 2020.
    """
    checks.count("hidden", hidden)
    *lower, top = block_groups(components, len(net.blocks))
    groups = (*lower, (*top, len(net.blocks)))
    classifiers = (*(partial(Classifier, hidden=hidden) for _ in lower), None)
    parts = []
    for numbers, classifier in zip(groups, classifiers, strict=True):
        decoupled = _Decoupled(tuple(net.layers[i] for i in numbers), net.loss, classifier)
        parts.append(Part(numbers, decoupled.init, decoupled.teach))
    n = len(groups)
    txs = dict.fromkeys(("forward", "classifier"), tx)
    locality = {"forward": upward(n), "classifier": own(n)}
    return make_rule(net, tuple(parts), txs, locality=locality, frozen=frozen)


class Classifier(nn.Module):
    """c_i: the means over the cells of an image, hidden layers of as many units, and a linear readout."""

    outputs: int
    hidden: int

    @nn.compact
    def __call__(self, a: jax.Array | Masked) -> jax.Array:
        a = flat(average_to(mean_of_tokens(a), CELLS))
        for i in range(self.hidden):
            layer = nn.Dense(a.shape[-1], kernel_init=he_normal(), dot_general=product, name=f"hidden_{i}")
            a = nn.relu(layer(a))
        return nn.Dense(self.outputs, dot_general=product, name="linear")(a)


class _Decoupled(NamedTuple):
    """A component: its layers, and its classifier; without one the layers themselves predict."""

    layers: tuple[nn.Module, ...]
    loss: Loss
    classifier: partial[Classifier] | None

    def init(self, key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        forward_key, classifier_key = jax.random.split(key)
        weights, stats, (a, y) = init_forward(self.layers)(forward_key, message)
        if self.classifier:
            read, targets = each_target(a, y)
            outputs = units(targets)
            classifier = self.classifier(outputs)
            weights["classifier"] = init_helper("classifier", classifier, classifier_key, read, (outputs,))
        return weights, stats, (a, y)

    def teach(self, weights: Weights, stats: Stats, message: Message, key: jax.Array) -> tuple[Lesson, Message]:
        """a_i = f_i(a_{i-1}), and the gradient of L_i."""
        below, y = message

        def objective(weights: Weights) -> tuple[dict[str, jax.Array], Stats, Message]:
            a, new_stats = apply_layers(self.layers, weights["forward"], stats, below, key)
            scores = a
            if self.classifier:
                read, targets = each_target(a, y)
                scores = apply_helper(self.classifier(units(targets)), weights["classifier"], read)
                if by_token(a, y.shape[1:]):
                    scores = masked(a).clear(scores.reshape(y.shape))
            loss = self.loss.mean(scores.reshape(y.shape), y)
            return {"auxiliary" if self.classifier else "task": loss}, new_stats, (a, y)

        return lesson_of(objective, weights)
