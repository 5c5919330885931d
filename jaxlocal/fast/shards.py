"""Loops over a batch that is split over devices: each device loops over its own examples.

If a loop over such a batch adds up a gradient, the compiler sums it over the devices in every turn of the loop. With
`shard_by_shard` each device adds up its own part, and the parts are summed once, after the loop.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

_SPLIT_OVER: ContextVar[tuple[Mesh, tuple[str, ...]] | None] = ContextVar("split_over", default=None)


@contextmanager
def split_over(mesh: Mesh, *axes: str) -> Iterator[None]:
    """In this context, batches are split over these axes of a mesh of devices."""
    token = _SPLIT_OVER.set((mesh, axes) if axes else None)
    try:
        yield
    finally:
        _SPLIT_OVER.reset(token)


def shard_by_shard(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same `function(weights, *arrays)`, which each device computes for its own examples.

    The first axis of the arrays and of the result are the examples, and no example may matter to another. If the batch
    is not split over devices, or if the examples cannot be divided evenly, the function is called as it is.
    """

    def run(weights: Any, *arrays: Any) -> jax.Array:
        split = _SPLIT_OVER.get()
        if split is None:
            return function(weights, *arrays)
        mesh, axes = split
        if len(jax.tree.leaves(arrays)[0]) % prod(mesh.shape[axis] for axis in axes):
            return function(weights, *arrays)
        specs = P(), *(P(axes) for _ in arrays)
        inside = jax.sharding.get_abstract_mesh()  # in a pipeline, which has divided the mesh already
        over_shards = jax.shard_map(
            function,
            mesh=mesh if inside.empty else inside,
            in_specs=specs,
            out_specs=P(axes),
            axis_names=set(axes),
            check_vma=False,
        )
        return over_shards(weights, *arrays)

    return run
