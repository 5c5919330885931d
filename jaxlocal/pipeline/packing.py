"""Trees of different shapes in the same arrays: what one program for many devices needs.

Each tree's leaves are sorted by size and take the slots of their type in that order. Where all trees agree on a slot's
shape, the slot has that shape and nothing is ever copied; elsewhere it is flat and as long as the longest needs. A slot
has one axis at least, so that the slots of many devices can lie one after the other.
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
    """One of the trees: its structure, its leaves, and the slot that each of them takes."""

    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    places: tuple[int, ...]


class Packing(NamedTuple):
    """The forms of all trees, the slots that hold any of them, and how many leading axes a slot leaves as they are."""

    forms: tuple[Form, ...]
    slots: tuple[jax.ShapeDtypeStruct, ...]
    lead: int


def packing(trees: Sequence[Tree], lead: int = 0, room: float = 1.0) -> Packing:
    """A packing for trees of arrays, or of their shapes.

    Args:
      trees: the trees.
      lead: how many leading axes all leaves agree on, which a flat slot keeps.
      room: the memory for all slots, as a multiple of the least. With more of it, arrays of other shapes than their
        slot's largest get slots of their own, the large ones first, and need not be copied out of it and back.

    Returns:
      The packing.

    Example:
      >>> from jaxlocal.packing import pack, packing, unpack
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
    leaves = {(t, i): leaf for t, (found, _) in enumerate(flattened) for i, leaf in enumerate(found)}

    def weight(place: tuple[int, int]) -> int:
        return leaves[place].size * leaves[place].dtype.itemsize

    by_rank: dict[
        Any, list[tuple[int, int]]
    ] = {}  # of each type, the largest leaves of all trees, the second largest …
    seen: Counter[Any] = Counter()
    for place in sorted(leaves, key=lambda place: (-weight(place), leaves[place].shape, place)):
        tree_and_type = place[0], str(leaves[place].dtype)
        by_rank.setdefault((tree_and_type[1], seen[tree_and_type]), []).append(place)
        seen[tree_and_type] += 1

    spare = (room - 1) * sum(weight(sharers[0]) for sharers in by_rank.values())
    groups = []  # of leaves, each in a slot
    for sharers in sorted(by_rank.values(), key=lambda sharers: -weight(sharers[0])):
        by_shape: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for place in sharers:
            by_shape.setdefault(leaves[place].shape, []).append(place)
        together, *others = by_shape.values()
        for other in others:
            if weight(other[0]) <= spare:
                spare -= weight(other[0])
                groups.append(other)
            else:
                together = together + other
        groups.append(together)

    slots: list[jax.ShapeDtypeStruct] = []
    slot_of: dict[tuple[int, int], int] = {}
    for group in groups:
        shape, dtype = leaves[group[0]].shape, leaves[group[0]].dtype
        if not shape or any(leaves[place].shape != shape for place in group):
            shape = (*shape[:lead], prod(shape[lead:]))  # the first is the largest
        slot_of |= dict.fromkeys(group, len(slots))
        slots.append(jax.ShapeDtypeStruct(shape, dtype))
    forms = tuple(
        Form(
            structure,
            tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in found),
            tuple(slot_of[t, i] for i in range(len(found))),
        )
        for t, (found, structure) in enumerate(flattened)
    )
    return Packing(forms, tuple(slots), lead)


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
