"""Checks of data sets, for everything that trains or evaluates."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlocal.checks import finite, pair_of_arrays, readable, show, token_ids
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.splits import SPLITS, Splits
from jaxlocal.network import Network, cross_entropy, vocabulary
from jaxlocal.tokens import check_padding

TOKEN_LABELS = " or, if it holds the class of each token, with jax.nn.one_hot(y, classes)"
SPLIT_EXAMPLE = "jl.data.Splits(train=(x, y), validation=(x, y), test=(x, y))"

PIECE = 2**22  # numbers that are read at a time, because a set may be larger than the memory


def check_is_splits(data: Any) -> None:
    """The value is a `Splits`, whatever it holds."""
    if not isinstance(data, Splits):
        raise TypeError(
            f"data={show(data)}: must be a jl.data.Splits, such as jl.data.digits(), "
            f"jl.data.from_arrays(train=(x, labels)) or {SPLIT_EXAMPLE}"
        )


def check_splits(data: Any, net: Network | None = None) -> None:
    """The value is a `Splits` whose training and validation sets are alike; the test set may be missing.

    If the network is known, it can take the inputs.
    """
    check_is_splits(data)
    for name, pair in zip(SPLITS[:2], data, strict=False):
        if pair is None:
            raise ValueError(f"data.{name} is None: training needs it; hold some examples out, as in {SPLIT_EXAMPLE}")
        check_pair(f"data.{name}", pair)
    for leaf, train, validation in zip("xy", data.train, data.validation, strict=True):
        if train.shape[1:] != validation.shape[1:]:
            raise ValueError(
                f"data: {leaf} has shape {train.shape} in train and {validation.shape} in validation; give both the "
                f"same shape after the first axis{' (the same classes)' if leaf == 'y' else ''}"
            )
    if net:
        for name, (x, y) in zip(SPLITS[:2], data, strict=False):
            check_inputs(f"data.{name}", x, net)
            check_targets(f"data.{name}", y, net)
            check_padding(f"data.{name}", x, y, net.layers[0])


def check_targets(name: str, y: Any, net: Network) -> None:
    """The targets are classes where the network's loss is the cross entropy, as far as they can be read here."""
    if net.loss == cross_entropy and readable(y) and not are_classes(y):
        whole = "make the labels whole numbers, y.astype(int), or " if are_whole(y) else ""
        raise ValueError(
            f"{name}: cross entropy needs class labels, one-hot or as probabilities, but these are other numbers; "
            f"{whole}give the network loss=jl.squared_error"
        )


def are_whole(y: Any) -> bool:
    """Whether these may be the numbers of classes, stored as floats: one for each example, whole and not negative."""
    some = np.asarray(y[:PIECE])
    return y.shape[1:] == (1,) and bool(np.all((some >= 0) & (some == np.floor(some))))


def are_classes(y: Any) -> bool:
    """Whether all rows are probabilities of classes; a token without a target has a row of zeros."""
    piece = max(1, PIECE // max(1, y[:1].size))  # rows
    return all(_are_classes(np.asarray(y[at : at + piece], np.float32)) for at in range(0, len(y), piece))


def _are_classes(rows: np.ndarray) -> bool:
    sums = rows.sum(-1)
    return bool(np.all(rows >= -1e-3) and np.all((np.abs(sums - 1) < 1e-3) | ((rows.ndim > 2) & (sums == 0))))


def check_augmentation(value: Any) -> None:
    """The value is an augmentation, or None."""
    if not isinstance(value, Augmentation | None):
        raise TypeError(f"augmentation={show(value)}: must be an augmentation, such as jl.augmentation.flip()")


def check_inputs(name: str, x: Any, net: Network) -> None:
    """The inputs are real numbers or pixels, and token ids that the network knows where its first layer takes them."""
    known = vocabulary(net)
    if known is None and jnp.issubdtype(x.dtype, jnp.integer) and x.dtype != np.uint8:
        raise TypeError(
            f"{name}: x has dtype {x.dtype}, but the network takes real numbers; convert it with x.astype(np.float32), "
            "or, if x holds token ids, take a network that begins with jl.sequences.Embedding"
        )
    if known is not None and x.dtype == np.uint8:
        raise TypeError(f"{name}: x has dtype uint8, which stands for pixels; give token ids as x.astype(np.int32)")
    token_ids(f"{name}: x", x, known)


def check_pair(name: str, pair: Any) -> None:
    """The value is a pair (x, y) of equally many examples, at least one, in finite floats or in uint8.

    The x of texts holds whole numbers, the token ids.
    """
    pair_of_arrays(name, pair)
    x, y = pair
    if jnp.issubdtype(y.dtype, jnp.integer) and y.ndim < 2:
        raise TypeError(
            f"{name}: y has shape {y.shape} and dtype {y.dtype}, which are class labels; turn them into one-hot rows "
            "with jax.nn.one_hot(y, classes)"
        )
    for leaf, array in zip("xy", pair, strict=True):
        ids = leaf == "x" and jnp.issubdtype(array.dtype, jnp.integer)
        if not (ids or jnp.issubdtype(array.dtype, jnp.floating) or array.dtype == np.uint8):
            raise TypeError(
                f"{name}: {leaf} has dtype {array.dtype}, but must be float32 or uint8; convert it with "
                f"{leaf}.astype(np.float32){TOKEN_LABELS if leaf == 'y' and array.ndim == 2 else ''}"
            )
        if array.ndim < 2:
            raise ValueError(
                f"{name}: {leaf} has shape {array.shape}, but must be (N, …), examples first; add an axis with "
                f"{leaf}[:, None]"
            )
    if len(x) != len(y):
        raise ValueError(f"{name}: x has {len(x)} examples and y has {len(y)}; give them equally many")
    if not len(x):
        raise ValueError(f"{name}: x has shape {x.shape}, without an example; give at least one")
    for leaf, array in zip("xy", pair, strict=True):
        finite(name, leaf, array)
