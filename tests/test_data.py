"""Data: what the splits hold, and what is said when a set is not there."""

import os

import jax
import numpy as np
import optax
import pytest
from helpers import ROOT

import jaxlocal as jl

PREPARED = os.environ.get("TFDS_DATA_DIR") or str(ROOT.parent / "shared" / "tensorflow_datasets")


def check(splits, counts, shape):
    for (x, y), count in zip(splits, counts, strict=True):
        assert x.shape == (count, *shape)
        assert y.shape == (count, 10)
        assert x.dtype == y.dtype == np.float32
        assert x.min() == 0
        assert 0.9 < x.max() <= 1
        np.testing.assert_array_equal(y.sum(1), 1)
        assert np.all(y.mean(0) > 0.05)  # every class is there


def test_digits():
    splits = jl.data.digits()
    check(splits, (1097, 300, 400), (8, 8, 1))
    rows = np.concatenate([x.reshape(len(x), -1) for x, _ in splits])
    assert len(np.unique(rows, axis=0)) == len(rows)  # no example is in two splits
    again = jl.data.digits()
    np.testing.assert_array_equal(splits.test[0], again.test[0])


@pytest.mark.skipif(not os.path.isdir(f"{PREPARED}/mnist"), reason=f"no prepared MNIST in TFDS_DATA_DIR or {PREPARED}")
def test_mnist_of_tfds():
    check(jl.data.images("mnist", data_dir=PREPARED), (55000, 5000, 10000), (28, 28, 1))


@pytest.mark.parametrize("name", ["mnist", "no_such_set"])
def test_a_set_that_is_not_there(name, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        jl.data.images(name, data_dir=str(tmp_path))
    message = str(error.value)
    for word in (f"name='{name}'", str(tmp_path), f"tfds build {name}", "TFDS_DATA_DIR"):
        assert word in message


def test_an_epoch_without_a_whole_batch_is_refused():
    rule = jl.rules.bp(jl.models.mlp((4,)), optax.sgd(0.1))
    train = jl.data.digits().train
    params = rule.init(jax.random.key(0), train)
    with pytest.raises(ValueError, match="batch_size=2000: the data has 1097 examples"):
        jl.training.epoch(rule, params, train, jax.random.key(0), 2000)
