"""Data: the embedded digits, and image sets in TFDS form."""

import os
from typing import NamedTuple

import numpy as np

Pairs = tuple[np.ndarray, np.ndarray]  # x (N, …) in [0, 1] and y (N, C) one-hot, both float32


class Splits(NamedTuple):
    """Three sets apart: learn from the first, choose on the second, report on the third."""

    train: Pairs
    validation: Pairs
    test: Pairs


def digits() -> Splits:
    """The 1,797 handwritten digits of 8×8 pixels that scikit-learn ships: 1,097 to train, 300 to validate, 400 to test.

    The split is fixed: a permutation of the examples by a fixed seed.

    Example:
      >>> jl.data.digits().train[0].shape
      (1097, 8, 8, 1)

    Reference:
      Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.
    """
    from sklearn.datasets import load_digits  # slow to import, and not needed by the library itself

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = _pairs(pixels.reshape(-1, 8, 8, 1)[order] / 16, labels[order], 10)
    return Splits((x[:1097], y[:1097]), (x[1097:1397], y[1097:1397]), (x[1397:], y[1397:]))


def images(name: str, validation: int = 5000, data_dir: str | None = None) -> Splits:
    """An image set with its labels, read in TFDS form without TensorFlow; pixels are divided by 255.

    Args:
      name: the data set's name in TFDS, such as "mnist".
      validation: how many examples at the end of the training set are kept for choosing.
      data_dir: where the prepared sets are; by default the environment variable TFDS_DATA_DIR.

    Returns:
      The three splits.
    """
    import tensorflow_datasets as tfds  # slow to import, and not needed by the library itself

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        sources = [builder.as_data_source(split) for split in ("train", "test")]
    except (tfds.core.DatasetNotFoundError, FileNotFoundError, NotImplementedError, ValueError) as error:
        raise FileNotFoundError(
            f"name={name!r}: no prepared data set of this name in {data_dir or '~/tensorflow_datasets'}; prepare it by "
            f"'tfds build {name} --file_format=array_record' where there is a network, and set TFDS_DATA_DIR to its "
            "folder"
        ) from error
    classes = builder.info.features["label"].num_classes
    decoded = []
    for source in sources:
        examples = source.__getitems__(range(len(source)))
        pixels = np.stack([example["image"] for example in examples]).astype(np.float32) / 255
        decoded.append(_pairs(pixels, np.array([example["label"] for example in examples]), classes))
    (x, y), test = decoded
    return Splits((x[:-validation], y[:-validation]), (x[-validation:], y[-validation:]), test)


def _pairs(x: np.ndarray, labels: np.ndarray, classes: int) -> Pairs:
    return x.astype(np.float32), np.eye(classes, dtype=np.float32)[labels]
