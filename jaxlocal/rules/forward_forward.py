"""Forward-Forward: every block tells inputs with the right label from inputs with a wrong one, by its activities."""

import operator
from collections.abc import Callable, Collection
from functools import partial, reduce
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.layers import flat
from jaxlocal.locality import upward
from jaxlocal.make import make_rule
from jaxlocal.network import Masked, Network, Tree, apply_layer, key_of, units, vocabulary
from jaxlocal.parts import init_forward, lesson_of, own_key
from jaxlocal.rule import Lesson, Message, Params, Part, Rule, Stats, Weights

SMALLEST = 1e-8  # no mean square counts as less, so that nothing is divided by zero


@learning_rule
def ff(net: Network, tx: optax.GradientTransformation, *, threshold: float = 0.5, frozen: Collection[int] = ()) -> Rule:
    r"""Forward-Forward: each block has large activities if the label in the input is right, and small ones if not.

    With a_0 = (y, x) for the positive stream, and a wrong label in place of y for the negative one,

    .. math::
        a_l = f_l(a_{l-1} / \mathrm{rms}(a_{l-1})), \qquad
        g_l = \lVert a_l \rVert^2, \qquad
        L_l = \log(1 + e^{\theta_l - g_l^+}) + \log(1 + e^{g_l^- - \theta_l})

    g is the goodness of an example, L its mean over the batch, and σ(g - θ) the probability that the label is right.
    The wrong label is drawn anew for each batch, all wrong classes alike. Each block divides its input by the root of
    its mean square, so that the goodness of the block below does not reach it. θ_l is `threshold` for each unit of a_l.
    Both streams pass a block as one batch, and batch norm normalises them together. Block l learns from the message
    (a⁺, a⁻) alone.

    To predict, every label is tried. The scores are the sums of the goodness of all blocks but the first; a network
    with one block has that one's. Their softmax is the probability of the classes. The network's head is not used.

    Where the label goes: in front of x as a vector, if the first block is dense. The paper overwrites ten black pixels
    of the frame of an MNIST image, which is the same. Other blocks get the label in front of the channels of each
    pixel, because a convolution would not see a label in a corner. Token ids leave no place for a label. Of a sequence
    the goodness is that of the mean over its tokens. The paper does not say that the first block, too, divides its
    input; here it does, because this learns better.

    Args:
      net: the network, for classes. The paper has ReLU; bounded activations need a threshold below their bound.
      tx: the optimizer; each block has a state of its own.
      threshold: θ_l for each unit of block l.
      frozen: numbers of the blocks that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.ff(net, optax.adam(1e-3))
      >>> params, info = jax.jit(rule.step)(rule.init(jax.random.key(0), batch), batch)
      >>> sorted(info.terms[0]), rule.predict(params, batch[0]).shape
      (['negative', 'positive'], (4, 10))

    Reference:
      Hinton. The forward-forward algorithm: some preliminary investigations. arXiv:2212.13345, 2022.
    """
    checks.positive("threshold", threshold)
    checks.classes("ff", net)
    checks.loss_is_not_learned("ff", net)
    if vocabulary(net) is not None:
        raise ValueError(
            "net takes token ids, among which ff can write no label; take a network for real inputs, or another rule "
            "without a backward pass, such as jl.rules.dgl"
        )
    n = len(net.blocks)
    first, *others = net.blocks
    components = _Component(first, threshold, partial(_streams, net)), *(_Component(f, threshold) for f in others)
    parts = tuple(Part((i,), component.init, component.teach) for i, component in enumerate(components))
    scores = partial(_scores, net)
    return make_rule(net, parts, {"forward": tx}, locality={"forward": upward(n)}, frozen=frozen, scores=scores)


class _Component(NamedTuple):
    """A block, and how it makes two streams of its message. Only the first block does; the others receive streams."""

    block: nn.Module
    threshold: float
    streams: Callable[[Message, jax.Array], Message] = lambda message, key: message

    def init(self, key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        """The weights of the block, whose streams have the same shape."""
        positive, negative = self.streams(message, key)
        weights, stats, (a, _) = init_forward((self.block,))(key, (_normalised(positive), negative))
        return weights, stats, (a, a)

    def teach(self, weights: Weights, stats: Stats, message: Message, key: jax.Array) -> tuple[Lesson, Message]:
        """Both streams through the block, and the gradient of L_l."""
        below = _normalised(jax.tree.map(_in_turns, *self.streams(message, key)))

        def objective(weights: Weights) -> tuple[dict[str, jax.Array], Stats, Message]:
            a, new_stats = apply_layer(self.block, weights["forward"][0], stats[0], below, key)
            positive, negative = _apart(_goodness(a) - self.threshold * units(a))
            losses = {"positive": jnp.mean(nn.softplus(-positive)), "negative": jnp.mean(nn.softplus(negative))}
            return losses, (new_stats,), _apart(a)

        return lesson_of(objective, weights)


def _streams(net: Network, batch: Message, key: jax.Array) -> Message:
    """a_0 with the right labels, and a_0 with wrong ones."""
    x, y = batch
    checks.one_target("ff", y)
    right, classes = jnp.argmax(y, axis=-1), y.shape[-1]
    wrong = (right + jax.random.randint(own_key(net, key), right.shape, 1, classes)) % classes
    return _labelled(net, x, y), _labelled(net, x, jax.nn.one_hot(wrong, classes, dtype=y.dtype))


def _in_turns(positive: jax.Array, negative: jax.Array) -> jax.Array:
    """The examples of both streams in turns.

    So a device that has a share of the batch has both streams of its examples. If one stream came after the other,
    examples would have to move between devices, and in a pipeline the devices would wait for each other for ever.
    """
    return jnp.stack([positive, negative], axis=1).reshape(-1, *positive.shape[1:])


def _apart(both: Tree) -> tuple[Tree, Tree]:
    """The positive and the negative stream."""
    pairs = jax.tree.map(lambda leaf: leaf.reshape(-1, 2, *leaf.shape[1:]), both)
    return jax.tree.map(lambda leaf: leaf[:, 0], pairs), jax.tree.map(lambda leaf: leaf[:, 1], pairs)


def _labelled(net: Network, x: jax.Array, y: jax.Array) -> jax.Array:
    """a_0: the label in front of the vector, or in front of the channels of each pixel."""
    if isinstance(getattr(net.blocks[0], "linear", None), nn.Dense):
        x = flat(x)
    everywhere = y.reshape(y.shape[0], *(1,) * (x.ndim - 2), y.shape[-1])
    return jnp.concatenate([jnp.broadcast_to(everywhere, (*x.shape[:-1], y.shape[-1])), x], axis=-1)


def _scores(net: Network, params: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """For each label, the goodness of all blocks but the first."""
    (classes,) = params.shapes[1]
    a = _labelled(net, jnp.repeat(x, classes, axis=0), jnp.tile(jnp.eye(classes, dtype=x.dtype), (x.shape[0], 1)))
    goodness = []
    for i, (block, component) in enumerate(zip(net.blocks, params.components, strict=True)):
        weights, stats = component.weights["forward"][0], component.stats[0]
        a, _ = apply_layer(block, weights, stats, _normalised(a), key_of(key, i))
        goodness.append(_goodness(a))
    return reduce(operator.add, goodness[1:] or goodness).reshape(-1, classes)


def _goodness(a: jax.Array | Masked) -> jax.Array:
    """The sum of the squares of each example's activities."""
    return jnp.sum(jnp.square(flat(a)), axis=1)


def _normalised(a: Tree) -> Tree:
    """Each example divided by the root of its mean square."""
    scale = jax.lax.rsqrt(jnp.maximum(_goodness(a) / units(a), SMALLEST))

    def scaled(values: jax.Array) -> jax.Array:
        return values * scale.reshape(-1, *(1,) * (values.ndim - 1))

    return a._replace(values=scaled(a.values)) if isinstance(a, Masked) else scaled(a)
