"""Streaming: the same as indexing, errors reach the caller, and no thread stays behind."""

import threading
import time

import jax
import numpy as np
import pytest

from jaxlocal import data
from jaxlocal.data import streaming

ORDERS = [np.random.default_rng(i).permutation(500)[:96].reshape(3, 32) for i in range(7)]


@pytest.fixture
def pairs(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (500, 4, 4, 1), np.uint8))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    return x, np.eye(500, dtype=np.uint8)


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain")]


def assert_no_workers():
    for _ in range(100):
        if not workers():
            return
        time.sleep(0.05)
    raise AssertionError(workers())


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 2), (3, 1), (4, 9)])
def test_a_stream_is_the_same_as_indexing(pairs, threads, ahead):
    chunks = list(streaming.stream(pairs, ORDERS, workers=threads, ahead=ahead))
    assert len(chunks) == len(ORDERS)
    for chunk, rows in zip(chunks, ORDERS, strict=True):
        for streamed, side in zip(chunk, pairs, strict=True):
            assert type(streamed) is np.ndarray
            np.testing.assert_array_equal(streamed, side[rows])
    assert_no_workers()


def test_orders_may_be_one_array(pairs):
    orders = np.arange(480).reshape(5, 3, 32)
    x = np.concatenate([x for x, _ in streaming.stream(pairs, orders)])
    np.testing.assert_array_equal(x.reshape(480, 4, 4, 1), pairs[0][:480])
    assert list(streaming.stream(pairs, [])) == []


def test_an_error_of_a_worker_reaches_the_caller(pairs):
    chunks = streaming.stream(pairs, [*ORDERS[:2], np.array([[500]])])
    next(chunks)
    next(chunks)
    with pytest.raises(IndexError, match="500"):
        next(chunks)
    assert_no_workers()


def test_leaving_early_leaves_no_thread(pairs):
    for _ in streaming.stream(pairs, ORDERS):
        assert workers()
        break
    assert_no_workers()
    chunks = streaming.stream(pairs, ORDERS)
    next(chunks)
    chunks.close()
    assert_no_workers()


def test_bad_arguments_are_refused_at_once(pairs):
    with pytest.raises(ValueError, match="workers=0: must be at least 1"):
        streaming.stream(pairs, ORDERS, workers=0)
    with pytest.raises(ValueError, match="ahead=0: must be at least 1"):
        streaming.stream(pairs, ORDERS, ahead=0)
    with pytest.raises(TypeError, match=r"orders=.*must be a sequence of index arrays"):
        streaming.stream(pairs, iter(ORDERS))
    with pytest.raises(ValueError, match="their first axes must be the same examples"):
        streaming.stream((pairs[0], pairs[1][:9]), ORDERS)


class Device:
    def __init__(self, limit):
        self.limit = limit

    def memory_stats(self):
        return {"bytes_limit": self.limit}


def test_resident_counts_all_the_sets():
    splits = data.digits()
    size = sum(array.nbytes for pair in splits for array in pair)
    assert streaming.resident(splits, Device(2 * size + 2))
    assert not streaming.resident(splits, Device(2 * size))
    assert streaming.resident(splits, jax.devices("cpu")[0])
    huge = np.broadcast_to(np.float32(0), (2**40, 8)), np.broadcast_to(np.float32(0), (2**40, 1))
    assert not streaming.resident(splits._replace(train=huge), jax.devices("cpu")[0])
