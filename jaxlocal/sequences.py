"""Blocks for sequences: embedding, recurrent layers, transformer encoder, convolution over time, and readouts.

A block takes `jl.Masked` sequences (B, T, D), or an array of that shape, all of whose steps then count, and hands on
`jl.Masked`. The first block of a network for text is an `Embedding`, which takes token ids (B, T). Inside are Flax's
own modules.

Where a learning rule needs one vector for each example (a bridge of Associated Learning, direct feedback, a dense
block), it takes the mean over the tokens. So direct feedback sends every token of a sequence the same signal, divided
by their number: B has a row for each class and a column for each feature, whatever the length.

Each token can have a target of its own, y (B, T, C). The network then ends with `Readout(C, pool=None)`, and rules work
token by token: a bridge reads each token, and direct feedback sends token t the error of token t. For classes, a token
whose row of y is all zeros has no target. Padded places must have such rows.

References:
  Hochreiter and Schmidhuber, Long Short-Term Memory, 1997.
  Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation, 2014.
  Vaswani et al., Attention Is All You Need, 2017.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import Scope

from jaxlocal.fast.attention import attention, softmax
from jaxlocal.fast.shards import shard_by_shard
from jaxlocal.layers import Activation, he_normal
from jaxlocal.network import Masked

PADDING = 0  # the token id that fills a sequence up
Pool = Callable[[Masked], jax.Array]  # from a sequence to one vector for each example
Positions = Callable[[jax.Array], jax.Array]  # (B, T, D) -> (T, D), what is added to every sequence


def masked(x: jax.Array | Masked) -> Masked:
    """The sequences with their mask; in an array (B, T, D) every step counts.

    Example:
      >>> jl.sequences.masked(jnp.ones((2, 3, 4))).mask.shape
      (2, 3)
    """
    if isinstance(x, Masked):
        return x
    if x.ndim != 3:
        remedy = (
            "add the features with x[..., None], or begin the network with jl.sequences.Embedding if x holds token ids"
        )
        if x.ndim == 4:
            remedy = (
                "put series into jl.data.Splits, because jl.data.from_arrays takes them for images and adds an axis"
            )
        raise ValueError(
            f"x has shape {x.shape}, but a layer for sequences takes (B, T, D), steps before features; {remedy}"
        )
    return Masked(x, jnp.ones(x.shape[:2], bool))


# What a sequence becomes where one vector is wanted.


def mean(x: Masked) -> jax.Array:
    """The mean over the tokens; of an empty sequence, zero."""
    return x.mean()


def last(x: Masked) -> jax.Array:
    """The values at the last token; of an empty sequence, zero. Meant for layers that read in one direction."""
    count = jnp.sum(x.mask, axis=1, dtype=jnp.int32)
    at_end = jnp.arange(x.mask.shape[1], dtype=jnp.int32)[None] == count[:, None] - 1
    return jnp.sum(jnp.where(at_end[..., None], x.values, jnp.zeros((), x.values.dtype)), axis=1)


class AttentionPool(nn.Module):
    """A mean over the tokens, weighted by the softmax of a learned score; of an empty sequence, zero."""

    @nn.compact
    def __call__(self, x: Masked) -> jax.Array:
        scores = nn.Dense(1, name="score")(x.values)[..., 0]
        weights = softmax(jnp.where(x.mask, scores, jnp.finfo(scores.dtype).min)) * x.mask.astype(scores.dtype)
        return jnp.sum(weights[..., None] * x.values, axis=1)


class Readout(nn.Module):
    """The head of a network for sequences: one vector for each example, then a dense layer.

    With `pool=None` it is the same dense layer of every token: scores (B, T, features), zero at padded places.

    Example:
      >>> for pool in jl.sequences.mean, None:
      ...     scores, _ = jl.sequences.Readout(3, pool).init_with_output(jax.random.key(0), jnp.ones((2, 5, 4)))
      ...     print(scores.shape)
      (2, 3)
      (2, 5, 3)
    """

    features: int
    pool: Pool | None = mean

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        x, linear = masked(x), nn.Dense(self.features, name="linear")
        return x.clear(linear(x.values)) if self.pool is None else linear(self.pool(x))


# The first layers.


def sinusoidal(x: jax.Array) -> jax.Array:
    """The positions of Vaswani et al., section 3.5: sines and cosines of geometrically growing wavelengths.

    Example:
      >>> jl.sequences.sinusoidal(jnp.zeros((1, 5, 4)))[0].tolist()
      [0.0, 0.0, 1.0, 1.0]
    """
    steps, features = x.shape[1:]
    half = -(-features // 2)
    exact = jnp.float64 if x.dtype == jnp.float64 else jnp.float32  # bfloat16 holds no odd number above 256
    rates = 10000.0 ** (-jnp.arange(half, dtype=exact) / half)
    angles = jnp.arange(steps, dtype=exact)[:, None] * rates[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)[:, :features].astype(x.dtype)


class LearnedPositions(nn.Module):
    """A learned vector for each of the first `length` positions."""

    length: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        steps, features = x.shape[1:]
        if steps > self.length:
            raise ValueError(f"x has {steps} steps, but LearnedPositions(length={self.length}) knows fewer; raise it")
        return nn.Embed(self.length, features, name="positions")(jnp.arange(steps))


class Embedding(nn.Module):
    """A learned vector for each token id (B, T). Everything after the last token that is not 0 is padding.

    `vectors` draws the vectors, or gives them: `vectors=jl.sequences.given(array)`. To keep them as they are, freeze
    layer 0 of the network, as in `jl.rules.al(net, tx, frozen={0})`.
    """

    num_embeddings: int
    features: int
    positions: Positions | None = None
    dropout: float = 0.0
    vectors: nn.initializers.Initializer = nn.linear.default_embed_init

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Masked:
        if x.ndim != 2:
            raise ValueError(
                f"x has shape {x.shape}, but an embedding takes token ids of shape (B, T); give each text a row of ids"
            )
        mask = jax.lax.cummax((x != PADDING).astype(jnp.int32), axis=1, reverse=True) > 0
        values = nn.Embed(self.num_embeddings, self.features, embedding_init=self.vectors, name="embed")(x)
        if self.positions is not None:  # then the vectors have the size of the positions
            values = values * jnp.sqrt(jnp.asarray(self.features, values.dtype))
        return Masked(_entered(values, self.positions, self.dropout, train), mask)


class Steps(nn.Module):
    """The first layer for sequences of real numbers (B, T, C): the same dense map of every step."""

    features: int
    positions: Positions | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array | Masked, train: bool = False) -> Masked:
        x = masked(x)
        values = nn.Dense(self.features, name="linear")(x.values)
        return Masked(_entered(values, self.positions, self.dropout, train), x.mask)


def _entered(values: jax.Array, positions: Positions | None, dropout: float, train: bool) -> jax.Array:
    if positions is not None:
        values = values + positions(values)[None]
    return nn.Dropout(dropout, deterministic=not train)(values)


def given(vectors: Any) -> nn.initializers.Initializer:
    """An initializer that returns these vectors (number of tokens, features), one for each token id.

    Example:
      >>> layer = jl.sequences.Embedding(3, 2, vectors=jl.sequences.given(jnp.eye(3)[:, :2]))
      >>> layer.init_with_output(jax.random.key(0), jnp.array([[1, 0]]))[0].values[0, 0].tolist()
      [0.0, 1.0]
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        if jnp.shape(vectors) != tuple(shape):
            raise ValueError(
                f"given: the vectors have shape {jnp.shape(vectors)}, but the embedding has {tuple(shape)}, a row for "
                "each token id; give both the same numbers"
            )
        return jnp.array(vectors, dtype)  # a copy: a step may overwrite its parameters

    return init


# The layers in between.


class Recurrent(nn.Module):
    """A recurrent layer, such as `Recurrent(nn.LSTMCell(64))`; in both directions, it has twice the cell's features.

    `cell` is a Flax cell; each direction gets one like it, with weights of its own. Padding is not read.
    """

    cell: nn.RNNCellBase
    bidirectional: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array | Masked, train: bool = False) -> Masked:
        x = masked(x)
        onward = nn.RNN(self.cell.clone(parent=None), name="onward")
        backward = nn.RNN(self.cell.clone(parent=None), name="backward", reverse=True, keep_order=True)
        directions = [onward, backward] if self.bidirectional else [onward]
        lengths = jnp.sum(x.mask, axis=1)  # in JAX's own type for whole numbers, as Flax compares them with jnp.arange
        start = self.cell.initialize_carry(jax.random.key(0), x.values[:, 0].shape)  # zeros, whatever the key
        start = jax.tree.map(lambda leaf: leaf.astype(x.values.dtype), start)
        values = jnp.concatenate([_read(rnn, x.values, start, lengths) for rnn in directions], axis=-1)
        return Masked(nn.Dropout(self.dropout, deterministic=not train)(values), x.mask)


def _read(rnn: nn.RNN, values: jax.Array, start: Any, lengths: jax.Array) -> jax.Array:
    """The output of a recurrent layer at every token. Devices that share a batch sum its gradient only once."""
    if rnn.is_initializing():
        return rnn(values, initial_carry=start, seq_lengths=lengths)  # type: ignore[return-value]
    module, variables = rnn.unbind()

    def read(variables: Any, values: jax.Array, start: Any, lengths: jax.Array) -> jax.Array:
        bound = module.clone(parent=Scope(variables, path=rnn.path))  # where it is, for those who ask for its path
        return bound(values, initial_carry=start, seq_lengths=lengths)  # type: ignore[return-value]

    return shard_by_shard(read)(variables, values, start, lengths)


class Encoder(nn.Module):
    """A transformer encoder block: attention of all tokens to all tokens, then a dense network for each token.

    With `norm_first`, layer norm precedes each of the two parts; otherwise it follows the sum of the part and its
    input, as Vaswani et al. have it.
    """

    heads: int = 4
    hidden: int = 256
    dropout: float = 0.0
    norm_first: bool = True
    activation: Activation = nn.gelu

    @nn.compact
    def __call__(self, x: jax.Array | Masked, train: bool = False) -> Masked:
        x = masked(x)
        features = x.values.shape[-1]
        attend_to = nn.MultiHeadDotProductAttention(self.heads, attention_fn=attention, name="attention")
        # An empty sequence would have nothing to attend to; it attends to its padding, which no readout counts.
        seen = x.mask | ~jnp.any(x.mask, axis=1, keepdims=True)

        def attend(a: jax.Array) -> jax.Array:
            return attend_to(a, mask=nn.make_attention_mask(jnp.ones_like(seen), seen, dtype=bool))

        def think(a: jax.Array) -> jax.Array:
            return nn.Dense(features, name="narrow")(self.activation(nn.Dense(self.hidden, name="wide")(a)))

        a = x.values
        for name, part in (("attention", attend), ("dense", think)):
            norm, drop = nn.LayerNorm(name=f"norm_{name}"), nn.Dropout(self.dropout, deterministic=not train)
            a = a + drop(part(norm(a))) if self.norm_first else norm(a + drop(part(a)))
        return Masked(a, x.mask)


class Convolution(nn.Module):
    """A convolution over time with `kernel` steps, padded with zeros to keep the length.

    It is a dense map of the steps side by side: on a CPU, XLA's own convolution is slow inside a loop.
    """

    features: int
    kernel: int = 3
    dropout: float = 0.0
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array | Masked, train: bool = False) -> Masked:
        x = masked(x)
        steps, before = x.mask.shape[1], (self.kernel - 1) // 2
        padded = jnp.pad(x.clear(x.values), ((0, 0), (before, self.kernel - 1 - before), (0, 0)))
        windows = jnp.concatenate([padded[:, i : i + steps] for i in range(self.kernel)], axis=-1)
        values = self.activation(nn.Dense(self.features, kernel_init=he_normal(), name="linear")(windows))
        return Masked(nn.Dropout(self.dropout, deterministic=not train)(values), x.mask)
