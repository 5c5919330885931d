"""Networks for sequences: texts as token ids, and series of real numbers.

With `pool=None` they predict for each token, from targets y (B, T, C).
"""

from collections.abc import Sequence

import flax.linen as nn

from jaxlocal import checks
from jaxlocal.network import Loss, Network, cross_entropy
from jaxlocal.sequences import Embedding, Encoder, Pool, Positions, Readout, Recurrent, Steps, mean, sinusoidal


def lstm_classifier(
    vocabulary: int | None,
    classes: int = 2,
    *,
    features: int = 64,
    hidden: Sequence[int] = (64,),
    bidirectional: bool = True,
    dropout: float = 0.0,
    pool: Pool | None = mean,
    vectors: nn.initializers.Initializer | None = None,
    loss: Loss = cross_entropy,
) -> Network:
    """An embedding, one LSTM layer for each of `hidden`, and a linear readout of the mean over the tokens.

    Args:
      vocabulary: the number of token ids, padding among them; None for series of real numbers (B, T, C), which then
        get a dense layer in place of the embedding.
      classes: the number of classes.
      features: units of the embedding.
      hidden: units of each LSTM layer in each direction.
      bidirectional: whether the layers read in both directions.
      dropout: the share of units left out after each block.
      pool: what the readout makes of a sequence: `jl.sequences.mean`, `last`, or an `AttentionPool()`; None for a
        readout of each token, where each token has a target.
      vectors: the initializer of the embedding, or given vectors (`jl.sequences.given`).
      loss: the loss of the readout.

    Returns:
      The network.

    Reference: Hochreiter and Schmidhuber, 1997.

    Example:
      >>> net = jl.models.lstm_classifier(vocabulary=1000, classes=4, hidden=(32, 32))
      >>> len(net.blocks)
      3
    """
    layers = _recurrent(nn.LSTMCell, hidden, bidirectional, dropout)
    return Network((_first(vocabulary, features, None, dropout, vectors), *layers), _readout(classes, pool), loss)


def gru_classifier(
    vocabulary: int | None,
    classes: int = 2,
    *,
    features: int = 64,
    hidden: Sequence[int] = (64,),
    bidirectional: bool = True,
    dropout: float = 0.0,
    pool: Pool | None = mean,
    vectors: nn.initializers.Initializer | None = None,
    loss: Loss = cross_entropy,
) -> Network:
    """As `lstm_classifier`, with gated recurrent units.

    Reference: Cho et al., 2014.

    Example:
      >>> type(jl.models.gru_classifier(vocabulary=1000, classes=4).blocks[1].cell).__name__
      'GRUCell'
    """
    layers = _recurrent(nn.GRUCell, hidden, bidirectional, dropout)
    return Network((_first(vocabulary, features, None, dropout, vectors), *layers), _readout(classes, pool), loss)


def transformer_classifier(
    vocabulary: int | None,
    classes: int = 2,
    *,
    features: int = 64,
    depth: int = 2,
    heads: int = 4,
    hidden: int | None = None,
    dropout: float = 0.0,
    norm_first: bool = True,
    positions: Positions | None = sinusoidal,
    pool: Pool | None = mean,
    vectors: nn.initializers.Initializer | None = None,
    loss: Loss = cross_entropy,
) -> Network:
    """An embedding with positions, `depth` transformer encoder blocks, and a linear readout of the mean.

    Args:
      vocabulary: the number of token ids, padding among them; None for series of real numbers (B, T, C), which then
        get a dense layer in place of the embedding.
      classes: the number of classes.
      features: units of the embedding and of every block.
      depth: the number of blocks.
      heads: heads of the attention; they share the features, so `features` must be a multiple.
      hidden: hidden units of a block's dense part; by default four times the features.
      dropout: the share of units left out after the embedding and inside the blocks.
      norm_first: layer norm before each part of a block, or after it as in the original.
      positions: what is added to every sequence: `jl.sequences.sinusoidal`, a `LearnedPositions(length)`, or None.
      pool: what the readout makes of a sequence: `jl.sequences.mean`, `last`, or an `AttentionPool()`; None for a
        readout of each token, where each token has a target.
      vectors: the initializer of the embedding, or given vectors (`jl.sequences.given`).
      loss: the loss of the readout.

    Returns:
      The network.

    Reference: Vaswani et al., 2017.

    Example:
      >>> net = jl.models.transformer_classifier(vocabulary=1000, classes=4, depth=3)
      >>> len(net.blocks)
      4
    """
    for name, value in (("depth", depth), ("heads", heads), ("hidden", 1 if hidden is None else hidden)):
        checks.positive_int(name, value)
    checks.flag("norm_first", norm_first)
    first = _first(vocabulary, features, positions, dropout, vectors)
    if features % heads:
        raise ValueError(f"heads={heads}: must divide features={features}; take 1, or another number of features")
    blocks = (Encoder(heads, hidden or 4 * features, dropout, norm_first) for _ in range(depth))
    return Network((first, *blocks), _readout(classes, pool), loss)


def _recurrent(
    cell: type[nn.RNNCellBase], hidden: Sequence[int], bidirectional: bool, dropout: float
) -> list[Recurrent]:
    """A layer of cells for each of these numbers of units."""
    checks.widths("hidden", hidden)
    checks.flag("bidirectional", bidirectional)
    return [Recurrent(cell(features=width), bidirectional, dropout) for width in hidden]  # type: ignore[call-arg]


def _first(
    vocabulary: int | None,
    features: int,
    positions: Positions | None,
    dropout: float,
    vectors: nn.initializers.Initializer | None,
) -> nn.Module:
    """The embedding, or a dense layer for real numbers."""
    checks.positive_int("features", features)
    checks.below_one("dropout", dropout)
    if not (positions is None or callable(positions)):
        raise TypeError(
            f"positions={checks.show(positions)}: must be a function, such as jl.sequences.sinusoidal, or a "
            "jl.sequences.LearnedPositions"
        )
    if vocabulary is None:
        if vectors is not None:
            raise ValueError(
                "vectors: are of token ids, but vocabulary=None means series of numbers; leave one of them out"
            )
        return Steps(features, positions, dropout)
    checks.positive_int("vocabulary", vocabulary)
    checks.function("vectors", vectors, "jl.sequences.given(array)")
    return Embedding(vocabulary, features, positions, dropout, vectors or nn.linear.default_embed_init)


def _readout(classes: int, pool: Pool | None) -> Readout:
    checks.positive_int("classes", classes)
    if not (pool is None or callable(pool)):
        raise TypeError(
            f"pool={checks.show(pool)}: must be a function of a jl.Masked, such as jl.sequences.last, or None for a "
            "readout of each token"
        )
    return Readout(classes, pool)
