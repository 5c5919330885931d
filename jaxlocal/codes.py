"""Codes for Associated Learning: how wide they are, and the modules that lead to them and back.

A component of `jl.rules.al` has a code t_i of the target. Its bridge predicts the code from the component's output s_i,
its encoder makes the code from the code below, and its decoder leads back. `lean` and `paper` are two sets of these;
`jl.rules.al(net, tx, codes=jl.codes.paper)` takes the second. The other functions here are parts for sets of your own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax

from jaxlocal import checks
from jaxlocal.fast.pooling import average_to
from jaxlocal.fast.product import product
from jaxlocal.layers import dense, flat, identity
from jaxlocal.network import Loss, Masked, cross_entropy, mean_of_tokens

Coder = Callable[[int], nn.Module]  # number of output units -> module

GRID = 8  # cells along each axis of an image that a lean bridge reads
IMAGE_WIDTH = 256  # units of t_i where s_i is an image and the width is None: the paper's choice for the vanilla CNN


def one_layer(width: int) -> nn.Module:
    """A dense layer with a sigmoid, on the flattened input: the paper's encoder g and decoder h.

    Example:
      >>> jl.codes.one_layer(3).init_with_output(jax.random.key(0), jnp.ones((2, 4, 4, 1)))[0].shape
      (2, 3)
    """
    return dense(width, nn.sigmoid)


def spread(width: int) -> nn.Module:
    """A dense layer with a sigmoid, whose first weights are so large that most of its outputs are far from 0.5.

    As an encoder it gives classes codes that lie far apart from the start, in the upper components, too. With
    `one_layer` the codes of an untrained encoder are all close to 0.5, and the closer the higher the component; a
    convolutional network then takes many epochs before it begins to learn. Real targets lose their sizes in such codes.

    Example:
      >>> for coder in jl.codes.one_layer, jl.codes.spread:
      ...     codes, _ = coder(64).init_with_output(jax.random.key(0), jnp.eye(10))
      ...     print(round(float(jnp.mean(jnp.abs(codes - 0.5))), 1))
      0.1
      0.4
    """
    return dense(width, nn.sigmoid, init=_large)


def _large() -> nn.initializers.Initializer:
    """Weights with the standard deviation 16 / √(number of inputs), about eleven times that of He-normal weights.

    The normal distribution is cut off at two standard deviations, as that of He-normal weights. XLA rounds the whole
    one differently in a compiled program.
    """
    return nn.initializers.variance_scaling(256.0, "fan_in", "truncated_normal")


def hidden_layer(width: int, times: int = 5) -> nn.Module:
    """The paper's bridge: a hidden layer of `times` the width, then the code, both with a sigmoid.

    Example:
      >>> module = jl.codes.hidden_layer(3)
      >>> [layer.linear.features for layer in module.layers]
      [15, 3]
    """
    return nn.Sequential([dense(times * width, nn.sigmoid), one_layer(width)])


def low_rank(width: int, rank: int = 16) -> nn.Module:
    """One layer whose weights are a product of two narrow matrices, without a bias or an activation between them.

    Example:
      >>> module = jl.codes.low_rank(64, rank=8)
      >>> weights = module.init(jax.random.key(0), jnp.ones((1, 1024)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(weights))  # one_layer(64) has 65600
      8768
    """
    checks.positive_int("rank", rank)
    narrow = nn.Dense(rank, use_bias=False, kernel_init=nn.initializers.lecun_normal(), dot_general=product)
    return nn.Sequential([flat, narrow, one_layer(width)])


def linear(width: int) -> nn.Module:
    """A dense layer without bounds: the last decoder for real-valued targets.

    Example:
      >>> float(jl.codes.linear(1).apply({"params": {"linear": {"kernel": jnp.full((1, 1), 9.0), "bias": jnp.ones(1)}}},
      ...                                jnp.ones((1, 1)))[0, 0])
      10.0
    """
    return dense(width, identity)


def pooled(coder: Coder, grid: int = GRID) -> Coder:
    """The same bridge on an image whose cells are averaged, to at most `grid` cells along each axis.

    Whatever is not an image is left as it is; of a sequence every bridge reads the mean over the tokens.

    Args:
      coder: width -> module.
      grid: the largest number of cells along each axis; 1 gives the mean of each channel.

    Returns:
      width -> module.

    Example:
      >>> bridge = jl.codes.pooled(jl.codes.one_layer, grid=2)(3)
      >>> weights = bridge.init(jax.random.key(0), jnp.ones((1, 8, 8, 5)))
      >>> [leaf.shape for leaf in jax.tree.leaves(weights)]  # 2 · 2 · 5 = 20 inputs
      [(3,), (20, 3)]
    """
    checks.positive_int("grid", grid)
    return partial(_pooled, coder, grid)


def _pooled(coder: Coder, grid: int, width: int) -> nn.Module:
    return nn.Sequential([partial(_average, grid), coder(width)])


def _average(grid: int, x: jax.Array | Masked) -> jax.Array:
    return average_to(mean_of_tokens(x), grid)  # Flax would hand the tuple of a sequence to the coder as two arguments


class Codes(NamedTuple):
    """Everything about the codes of Associated Learning. `_replace` changes a part of a set.

    Example:
      >>> codes = jl.codes.lean._replace(width=128, bridge=jl.codes.hidden_layer)
      >>> codes.width
      128
    """

    width: int | Sequence[int] | None  # units of t_i, one number or one for each component; None: those of s_i
    bridge: Coder  # width of t_i -> b_i
    encoder: Coder | None  # width of t_i -> g_i; None: `spread` for classes, and `one_layer` for real targets
    decoder: Coder  # width of t_{i-1} -> h_i, for i > 1
    readout: Coder | None  # number of targets -> h_1; None: linear, or as `decoder` for classes without a `label_loss`
    label_loss: Loss | None  # how far h_1(t_1) is from a class's label; None: the mean squared error
    average: bool  # whether the prediction is the mean over all components; False: that of the last one


# The coders by the names that the command line takes, such as `--rule-args bridge=hidden_layer`.
ALL: dict[str, Coder] = {
    "one_layer": one_layer,
    "spread": spread,
    "hidden_layer": hidden_layer,
    "low_rank": low_rank,
    "linear": linear,
    "pooled_one_layer": pooled(one_layer),
    "pooled_hidden_layer": pooled(hidden_layer),
    "pooled_low_rank": pooled(low_rank),
}

lean = Codes(
    width=64,
    bridge=pooled(one_layer),
    encoder=None,
    decoder=one_layer,
    readout=None,
    label_loss=cross_entropy,
    average=True,
)
paper = Codes(
    width=None,
    bridge=hidden_layer,
    encoder=one_layer,
    decoder=one_layer,
    readout=None,
    label_loss=None,
    average=False,
)
