"""Local losses: every block predicts the label through a small head, and makes examples of a class similar."""

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.fast.convolution import convolve
from jaxlocal.fast.lengths import TINY, direction, length
from jaxlocal.fast.pooling import average_to
from jaxlocal.fast.product import product
from jaxlocal.layers import Head, flat
from jaxlocal.locality import own, upward
from jaxlocal.make import make_rule
from jaxlocal.network import Loss, Network, apply_layer, mean_of_tokens, units
from jaxlocal.parts import apply_helper, head_part, init_forward, init_helper, lesson_of
from jaxlocal.rule import Lesson, Message, Part, Rule, Stats, Weights

FEW = 3  # up to this many channels are too few to compare images by


@learning_rule
def predsim(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    beta: float = 0.99,
    inputs: int = 4096,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Local losses: each block predicts the label by a head of its own, and makes examples of a class similar.

    .. math::
        L_l = (1 - \beta)\, L(a_l V_l + c_l,\ y) + \beta\, \mathrm{MSE}(S(a_l M_l),\ S(y)), \qquad
        S(v)_{ij} = \frac{\tilde v_i \cdot \tilde v_j}{\lVert \tilde v_i \rVert \lVert \tilde v_j \rVert}

    L is the network's loss, ṽ_i the vector of example i minus the mean over its own units, and MSE the mean over all
    B² pairs of examples, where the paper writes the sum. The head (V_l, c_l) reads an image averaged over its cells.
    M_l is a linear map to as many units; for images it is a 3×3 convolution to as many channels, and v_i holds the
    standard deviation of each channel over the image, or the whole image if it has three channels or fewer, or one
    pixel. Of a sequence both losses read the mean over its tokens. β = 0 is the paper's `pred` and β = 1 its `sim`.
    The network's head learns the network's loss. Component l learns from the message (a_{l-1}, y) alone.

    Where paper and public code leave a choice: the code measures both losses before dropout, and here they are those
    of the block's output, so after it. The code computes them before max pooling; so do the networks `vgg8b` and
    `vgg11b`, whose next block pools its input. Its heads begin at zero; here they begin as a network's head does. It
    halves the height and the width of an image in turn until a head has few enough inputs; here cells are square.

    Args:
      net: the network. The paper has batch norm before the activations, and little or no dropout.
      tx: the optimizer of all weights; each role of each block has a state of its own.
      beta: β, from 0 to 1.
      inputs: the most units that the head of a block reads of an image.
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.predsim(net, optax.adam(1e-3))
      >>> params, info = jax.jit(rule.step)(rule.init(jax.random.key(0), batch), batch)
      >>> [sorted(terms) for terms in info.terms]
      [['prediction', 'similarity'], ['prediction', 'similarity'], ['task']]

    Reference:
      Nøkland, Eidnes. Training neural networks with local error signals. ICML 2019.
    """
    checks.up_to_one("beta", beta)
    checks.positive_int("inputs", inputs)
    losses = _LocalLosses(net.loss, beta, inputs)
    blocks = (Part((i,), partial(losses.init, f), partial(losses.teach, f)) for i, f in enumerate(net.blocks))
    n = len(net.layers)
    return make_rule(
        net,
        (*blocks, head_part(net)),
        dict.fromkeys(("forward", "prediction", "similarity"), tx),
        locality={"forward": upward(n), "prediction": own(n), "similarity": own(n)},
        frozen=frozen,
    )


class _LocalLosses(NamedTuple):
    """The two losses of a block. A loss of weight zero has no weights of its own."""

    loss: Loss
    beta: float
    inputs: int

    def init(self, block: nn.Module, key: jax.Array, message: Message) -> tuple[Weights, Stats, Message]:
        """The weights of a block, of its head V and of its map M."""
        checks.one_target("predsim", message[1])
        forward_key, prediction_key, similarity_key = jax.random.split(key, 3)
        weights, stats, (a, y) = init_forward((block,))(forward_key, message)
        a_read = mean_of_tokens(a)
        if self.beta < 1:
            cells = _averaged(a_read, self.inputs)
            weights["prediction"] = init_helper("prediction", Head(units(y)), prediction_key, cells, (units(y),))
        if self.beta > 0:
            _check_comparable(y)
            weights["similarity"] = init_helper("similarity", _map(a_read), similarity_key, a_read, a_read.shape[1:])
        return weights, stats, (a, y)

    def teach(
        self, block: nn.Module, weights: Weights, stats: Stats, message: Message, key: jax.Array
    ) -> tuple[Lesson, Message]:
        """a_l = f_l(a_{l-1}) and the gradient of L_l."""
        below, y = message

        def objective(weights: Weights) -> tuple[dict[str, jax.Array], Stats, Message]:
            a, new_stats = apply_layer(block, weights["forward"][0], stats[0], below, key)
            a_read, losses = mean_of_tokens(a), {}
            if self.beta < 1:
                scores = apply_helper(Head(units(y)), weights["prediction"], _averaged(a_read, self.inputs))
                losses["prediction"] = (1 - self.beta) * self.loss.mean(scores, y)
            if self.beta > 0:
                v = apply_helper(_map(a_read), weights["similarity"], a_read)
                scaled = y / jnp.maximum(jnp.max(jnp.abs(y)), TINY)  # tiny targets would count as zeros
                wanted = _similarities(scaled)
                losses["similarity"] = self.beta * jnp.mean(jnp.square(_similarities(_features(v)) - wanted))
            return losses, (new_stats,), (a, y)

        return lesson_of(objective, weights)


def _similarities(v: jax.Array) -> jax.Array:
    """S(v), (B, B). An example without variation is similar to none."""
    v = flat(v)
    unit = direction(v - jnp.mean(v, axis=1, keepdims=True))
    return unit @ unit.T


def _features(v: jax.Array) -> jax.Array:
    """By what examples are compared: of an image, the standard deviation of each channel."""
    positions, channels = units(v) // v.shape[-1], v.shape[-1]
    if positions == 1 or channels <= FEW:
        return flat(v)
    v = v.reshape(len(v), positions, channels)
    return length(v - jnp.mean(v, axis=1, keepdims=True)) / positions**0.5


def _map(a: jax.Array) -> nn.Module:
    """M: a linear map of a vector, or a convolution of an image, to as many units or channels."""
    if a.ndim == 2:
        return nn.Dense(a.shape[-1], use_bias=False, dot_general=product)
    window = (3,) * (a.ndim - 2)
    return nn.Conv(a.shape[-1], window, use_bias=False, conv_general_dilated=convolve)


def _averaged(a: jax.Array, inputs: int) -> jax.Array:
    """An image averaged over cells, as many as leave no more than this number of inputs; vectors as they are."""
    if a.ndim == 2:
        return a
    most = max(a.shape[1:-1])
    fitting = (n for n in range(1, most + 1) if n ** (a.ndim - 2) * a.shape[-1] <= inputs)
    return average_to(a, max(fitting, default=1))


def _check_comparable(y: jax.Array) -> None:
    if units(y) == 1:
        raise ValueError(
            "batch: y has one target, by which examples cannot be compared as vectors; set beta=0, so that the blocks "
            "learn to predict it and nothing else"
        )
