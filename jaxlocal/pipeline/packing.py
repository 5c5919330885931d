"""Trees of different shapes in the same arrays, so that one program can run on devices that hold different trees.

The arrays are called slots; each slot holds at most one leaf of a tree. Leaves share a slot by rank: for every dtype,
the largest leaves of all trees share one, the second largest share the next, and so on. If all leaves of a slot have
the same shape, the slot has that shape too, and packing copies nothing. Otherwise the slot is flat and as long as its
largest leaf. A slot has at least one axis, so that the slots of many devices can be concatenated.
"""

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlocal.network import Tree

Slots = tuple[jax.Array, ...]


class Form(NamedTuple):
    """One of the trees: its structure, the shapes of its leaves, and the number of each leaf's slot."""

    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    slots: tuple[int, ...]


class Packing(NamedTuple):
    """The forms of all trees, the slots that can hold any of them, and how many leading axes a flat slot keeps."""

    forms: tuple[Form, ...]
    slots: tuple[jax.ShapeDtypeStruct, ...]
    lead: int


class Leaf(NamedTuple):
    """A leaf of one of the trees that are to be packed."""

    tree: int
    number: int  # among the leaves of its tree
    shape: tuple[int, ...]
    dtype: Any

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return prod(self.shape) * self.dtype.itemsize


def packing(trees: Sequence[Tree], lead: int = 0, room: float = 1.0) -> Packing:
    """Decide which leaves of these trees share a slot.

    Args:
      trees: trees of arrays, or of their shapes.
      lead: the number of leading axes on which all leaves agree; a flat slot keeps them.
      room: the memory of all slots, as a multiple of the least possible. With more than 1, leaves whose shape differs
        from the largest leaf of their slot get a slot of their own, large leaves first, so that packing does not copy
        them.

    Returns:
      The packing.

    Example:
      >>> from jaxlocal.pipeline.packing import pack, packing, unpack
      >>> wide, narrow = {"w": jnp.ones((3, 4)), "n": jnp.int32(7)}, {"w": jnp.ones((2, 5))}
      >>> both = packing([wide, narrow])
      >>> [slot.shape for slot in both.slots]
      [(12,), (1,)]
      >>> unpack(both, 1, pack(both, 1, narrow))["w"].shape
      (2, 5)
      >>> [slot.shape for slot in packing([wide, narrow], room=2).slots]
      [(2, 5), (3, 4), (1,)]
    """
    flattened = [jax.tree.flatten(tree) for tree in trees]
    leaves = [
        Leaf(t, i, leaf.shape, leaf.dtype) for t, (found, _) in enumerate(flattened) for i, leaf in enumerate(found)
    ]
    groups = _separate(_by_rank(leaves), room)
    slot_of = {(leaf.tree, leaf.number): slot for slot, group in enumerate(groups) for leaf in group}
    forms = tuple(
        Form(
            structure,
            tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in found),
            tuple(slot_of[t, i] for i in range(len(found))),
        )
        for t, (found, structure) in enumerate(flattened)
    )
    return Packing(forms, tuple(_slot(group, lead) for group in groups), lead)


def zeros(packing: Packing) -> Slots:
    """All slots, filled with zeros."""
    return tuple(jnp.zeros(slot.shape, slot.dtype) for slot in packing.slots)


def pack(packing: Packing, form: int, tree: Tree, into: Slots | None = None) -> Slots:
    """Write a tree of one of the forms into slots; the rest of the slots keeps its values, by default zeros."""
    slots = list(into or zeros(packing))
    for leaf, number in zip(jax.tree.leaves(tree), packing.forms[form].slots, strict=True):
        slot = slots[number]
        if slot.shape == leaf.shape:
            slots[number] = leaf
        else:
            rows = leaf.reshape(*leaf.shape[: packing.lead], -1)
            slots[number] = lax.dynamic_update_slice(slot, rows, (0,) * slot.ndim)
    return tuple(slots)


def unpack(packing: Packing, form: int, slots: Slots) -> Tree:
    """Read the tree of one of the forms from slots."""
    structure, leaves, numbers = packing.forms[form]

    def read(leaf: jax.ShapeDtypeStruct, slot: jax.Array) -> jax.Array:
        if slot.shape == leaf.shape:
            return slot
        length = prod(leaf.shape[packing.lead :])
        return lax.slice_in_dim(slot, 0, length, axis=packing.lead).reshape(leaf.shape)

    return structure.unflatten([read(leaf, slots[number]) for leaf, number in zip(leaves, numbers, strict=True)])


def _by_rank(leaves: Sequence[Leaf]) -> list[list[Leaf]]:
    """For every dtype, the largest leaf of each tree, then the second largest of each, and so on; large ones first."""
    ranks: dict[tuple[str, int], list[Leaf]] = {}
    larger: Counter[tuple[int, str]] = Counter()  # of the same tree and dtype
    for leaf in sorted(leaves, key=lambda leaf: (-leaf.nbytes, leaf.shape, leaf.tree, leaf.number)):
        dtype = str(leaf.dtype)
        ranks.setdefault((dtype, larger[leaf.tree, dtype]), []).append(leaf)
        larger[leaf.tree, dtype] += 1
    return sorted(ranks.values(), key=lambda rank: -rank[0].nbytes)


def _separate(ranks: list[list[Leaf]], room: float) -> list[list[Leaf]]:
    """The leaves of each slot: those of a rank, except that other shapes than the largest move out as room allows."""
    spare = (room - 1) * sum(rank[0].nbytes for rank in ranks)
    groups = []
    for rank in ranks:
        by_shape: dict[tuple[int, ...], list[Leaf]] = {}
        for leaf in rank:
            by_shape.setdefault(leaf.shape, []).append(leaf)
        together, *others = by_shape.values()  # the largest leaf's shape comes first
        for other in others:
            if other[0].nbytes <= spare:
                spare -= other[0].nbytes
                groups.append(other)
            else:
                together = together + other
        groups.append(together)
    return groups


def _slot(group: list[Leaf], lead: int) -> jax.ShapeDtypeStruct:
    """The slot of leaves whose first is the largest: of their shape if they all have the same one, else flat."""
    shape = group[0].shape
    if not shape or any(leaf.shape != shape for leaf in group):
        shape = (*shape[:lead], prod(shape[lead:]))
    return jax.ShapeDtypeStruct(shape, group[0].dtype)
