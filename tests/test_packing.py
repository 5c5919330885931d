"""Trees of different shapes in the same arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import plain, same

from jaxlocal.pipeline.packing import pack, packing, unpack, zeros

TREES = (
    {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones(4), "n": jnp.int32(7), "key": jax.random.key(3)},
    {"w": jnp.arange(10.0).reshape(2, 5), "b": jnp.ones(4), "v": jnp.full((9,), 2.0)},
    {"w": jnp.arange(12.0).reshape(3, 4), "n": jnp.int32(8)},
)


@pytest.mark.parametrize("room", [1, 1.2, 2, 10])
def test_every_tree_comes_back_whatever_was_there_before(room):
    found = packing(TREES, room=room)
    slots = zeros(found)
    for form, tree in enumerate(TREES):
        slots = pack(found, form, tree, slots)
        assert [slot.shape for slot in slots] == [slot.shape for slot in found.slots]
        assert same(unpack(found, form, slots), tree)


def test_the_least_memory_is_that_of_the_largest_of_each_rank():
    slots = {(slot.shape, str(slot.dtype)) for slot in packing(TREES).slots}
    # floats: 12 | 10 | 12, then 4 | 9 | -, then - | 4 | -
    assert slots == {((12,), "float32"), ((9,), "float32"), ((4,), "float32"), ((1,), "int32"), ((1,), "key<fry>")}


def test_room_is_kept_to_and_goes_to_the_largest():
    def floats(room):
        return sorted(slot.shape for slot in packing(TREES, room=room).slots if slot.dtype == jnp.float32)

    least = 4 * (12 + 9 + 4 + 1) + TREES[0]["key"].dtype.itemsize
    assert floats(1 + 40 / least) == [(2, 5), (3, 4), (4,), (9,)]
    assert floats(1 + 39 / least) == [(4,), (4,), (9,), (12,)]


def test_leaves_of_one_shape_keep_it():
    a, b = ({"w": jnp.full((2, 3), i), "b": jnp.full((3,), i)} for i in (1.0, 2.0))
    found = packing([a, b])
    assert {slot.shape for slot in found.slots} == {(2, 3), (3,)}
    jaxpr = str(jax.make_jaxpr(lambda tree: unpack(found, 1, pack(found, 0, tree)))(a))
    assert "reshape" not in jaxpr and "slice" not in jaxpr


def test_leading_axes_stay():
    found = packing([(jnp.ones((8, 3, 2)),), (jnp.ones((8, 5)),)], lead=1)
    assert [slot.shape for slot in found.slots] == [(8, 6)]
    message = (jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32),)
    slots = pack(found, 1, message)
    np.testing.assert_array_equal(plain(slots)[0][:, 5:], 0)
    assert same(unpack(found, 1, slots), message)


def test_the_rest_of_a_slot_is_zero_not_uninitialised_memory():
    found = packing(TREES)
    jaxpr = str(jax.make_jaxpr(lambda tree: (zeros(found), pack(found, 1, tree)))(TREES[1]))
    assert "empty" not in jaxpr  # On a CPU, JAX fills such memory with zeros; on other devices it does not.
    for slot in plain(zeros(found)):
        np.testing.assert_array_equal(slot, 0)


def test_nothing_to_pack():
    assert packing([]).slots == ()
