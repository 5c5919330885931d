"""Trees of different shapes in the same arrays: what one program for many devices needs.

Each tree's leaves are sorted by size and take the slots of their type in that order. Where all trees agree on a slot's
shape, the slot has that shape and nothing is ever copied; elsewhere it is flat and as long as the longest needs. A slot
has one axis at least, so that the slots of many devices can lie one after the other.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlocal.network import Tree

Slots = tuple[jax.Array, ...]


class Form(NamedTuple):
    """One of the trees: its structure, its leaves, and the slot that each of them takes."""

    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    places: tuple[int, ...]


class Packing(NamedTuple):
    """The forms of all trees, the slots that hold any of them, and how many leading axes a slot leaves as they are."""

    forms: tuple[Form, ...]
    slots: tuple[jax.ShapeDtypeStruct, ...]
    lead: int


def packing(trees: Sequence[Tree], lead: int = 0) -> Packing:
    """A packing for trees of arrays, or of their shapes; all leaves agree on the first `lead` axes.

    Example:
      >>> from jaxlocal.packing import pack, packing, unpack
      >>> wide, narrow = {"w": jnp.ones((3, 4)), "n": jnp.int32(7)}, {"w": jnp.ones((2, 5))}
      >>> both = packing([wide, narrow])
      >>> [slot.shape for slot in both.slots]
      [(12,), (1,)]
      >>> unpack(both, 1, pack(both, 1, narrow))["w"].shape
      (2, 5)
    """
    flattened = [jax.tree.flatten(tree) for tree in trees]
    queues: dict[tuple[str, int], list[jax.ShapeDtypeStruct | Any]] = {}  # by type and rank in size
    forms = []
    for leaves, structure in flattened:
        ranks: dict[str, int] = {}
        queued: list[tuple[str, int]] = [("", 0)] * len(leaves)
        for i in sorted(range(len(leaves)), key=lambda i: (-leaves[i].size, leaves[i].shape)):
            dtype = str(leaves[i].dtype)
            queued[i] = dtype, ranks.get(dtype, 0)
            ranks[dtype] = queued[i][1] + 1
            queues.setdefault(queued[i], []).append(leaves[i])
        forms.append((structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves), queued))

    numbers = {queue: i for i, queue in enumerate(sorted(queues))}
    slots = []
    for queue in sorted(queues):
        leaves = queues[queue]
        shapes = {leaf.shape for leaf in leaves}
        longest = max(prod(shape[lead:]) for shape in shapes)
        (*_, shape) = shapes
        if len(leaves) < len(trees) or len(shapes) > 1 or not shape:
            shape = (*shape[:lead], longest)
        slots.append(jax.ShapeDtypeStruct(shape, leaves[0].dtype))
    return Packing(
        tuple(Form(structure, leaves, tuple(numbers[queue] for queue in queued)) for structure, leaves, queued in forms),
        tuple(slots),
        lead,
    )


def empty(packing: Packing) -> Slots:
    """All slots, zero."""
    return tuple(jnp.empty(slot.shape, slot.dtype) for slot in packing.slots)


def pack(packing: Packing, form: int, tree: Tree, into: Slots | None = None) -> Slots:
    """The slots with a tree of one of the forms in them; what it does not need stays as it was."""
    slots = list(into or empty(packing))
    for leaf, place in zip(jax.tree.leaves(tree), packing.forms[form].places, strict=True):
        slot = slots[place]
        if slot.shape == leaf.shape:
            slots[place] = leaf
        else:
            rows = leaf.reshape(*leaf.shape[: packing.lead], -1)
            slots[place] = lax.dynamic_update_slice(slot, rows, (0,) * slot.ndim)
    return tuple(slots)


def unpack(packing: Packing, form: int, slots: Slots) -> Tree:
    """The tree of one of the forms."""
    structure, leaves, places = packing.forms[form]

    def read(leaf: jax.ShapeDtypeStruct, slot: jax.Array) -> jax.Array:
        if slot.shape == leaf.shape:
            return slot
        length = prod(leaf.shape[packing.lead :])
        return lax.slice_in_dim(slot, 0, length, axis=packing.lead).reshape(leaf.shape)

    return structure.unflatten([read(leaf, slots[place]) for leaf, place in zip(leaves, places, strict=True)])
