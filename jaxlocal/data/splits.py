"""The three splits of a data set, and how they are cut from the arrays that a source provides."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

# x (N, …) and y (N, C), or (N, T, C) for tokens: float32, or uint8 where `floats` has yet to be applied; the token ids
# of texts are int32.
Pairs = tuple[np.ndarray, np.ndarray]

DEFAULT_VALIDATION = 5000  # at most this many examples are held out for validation by default


class Splits(NamedTuple):
    """A data set in three: train on the first, choose settings on the second, report the result on the third."""

    train: Pairs
    validation: Pairs
    test: Pairs

    def __repr__(self) -> str:
        """The shapes, in place of all numbers."""
        shapes = (pair and " → ".join(str(np.shape(leaf)) for leaf in pair) for pair in self)
        return f"Splits({', '.join(f'{name}: {shape}' for name, shape in zip(self._fields, shapes, strict=True))})"


SPLITS = Splits._fields


def floats(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """The pair (x, y) in float32, for NumPy and JAX arrays. In x, uint8 is divided by 255; float32 is not copied.

    Inside a compiled program this lets a data set stay on the device as uint8, in a quarter of the memory. Other whole
    numbers in x are token ids, and stay as they are.

    Example:
      >>> x, y = jl.data.floats((np.array([[0, 255]], np.uint8), np.array([[0, 1]], np.uint8)))
      >>> x
      array([[0., 1.]], dtype=float32)
    """
    x, y = pair
    if x.dtype == np.uint8:
        return _float32(x) / 255, _float32(y)
    return x if np.issubdtype(x.dtype, np.integer) else _float32(x), _float32(y)


def autoencoding(splits: Splits) -> Splits:
    """The splits for an autoencoder: the target of each example is the example itself, as a vector of float32."""
    return Splits(*((x, floats((x, x))[0].reshape(len(x), -1)) for x, _ in splits))


def _float32(array: Any) -> Any:
    return np.asarray(array, np.float32) if isinstance(array, np.ndarray) else array.astype(jnp.float32)


def complete(found: Mapping[str, Pairs], validation: int | None) -> Splits:
    """All three splits from those that a data set has. It always has a training set.

    Args:
      found: the data set's own splits by name. A missing test set is replaced by the validation set, or else by a
        tenth of the training set.
      validation: the number of examples that are held out from the end of the training set for validation; by default
        the data set's own validation set is used, or else a tenth of the training set, 5,000 examples at most.

    Returns:
      The three splits.
    """
    train, own_validation, test = (found.get(split) for split in SPLITS)
    assert train is not None
    if test is None:
        own_validation, test = None, own_validation
    if test is None:
        train, test = hold_out_tenth(train)
    if validation is None and own_validation is not None:
        return Splits(train, own_validation, test)
    count = len(train[0])
    if count < 2:
        raise ValueError("train: has too few examples to hold some out for validation; add examples")
    validation = max(1, min(DEFAULT_VALIDATION, count // 10)) if validation is None else validation
    if validation >= count:
        raise ValueError(f"validation={validation}: the training set has {count} examples; hold out fewer than that")
    return Splits(*hold_out(train, validation), test)


def hold_out_tenth(pair: Pairs) -> tuple[Pairs, Pairs]:
    """The pair without the last tenth of its examples, and that tenth, or at least one."""
    return hold_out(pair, max(1, len(pair[0]) // 10))


def hold_out(pair: Pairs, count: int) -> tuple[Pairs, Pairs]:
    """The pair without its last `count` examples, and those examples."""
    x, y = pair
    return (x[:-count], y[:-count]), (x[-count:], y[-count:])


def one_hot(labels: Any, classes: int) -> np.ndarray:
    """Class labels (N,) as rows (N, classes) of uint8."""
    return (np.asarray(labels)[:, None] == np.arange(classes)).astype(np.uint8)
