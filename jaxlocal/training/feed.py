"""Feeds: the examples of an epoch in random order, in chunks of many steps; from the device, or from memory or disk."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlocal.data import Pairs
from jaxlocal.data.streaming import stream
from jaxlocal.rule import Batch

CHUNK_BYTES = 2**28  # the most bytes of examples that are gathered, or read from disk, at a time


class Chunk(NamedTuple):
    """Some consecutive steps of an epoch, which one call of a compiled program learns from."""

    examples: Batch  # on the devices; every step takes some of them
    # The examples of each step: (steps, batch size), or (steps, members, batch size) in an ensemble. If `examples` are
    # whole batches, the number of each step's batch: (steps,).
    rows: jax.Array | np.ndarray
    key: jax.Array  # of the epoch, for the augmentation
    begin: int  # where the chunk's first step is in `rows`
    first: int  # the number of that step in the epoch
    steps: int  # the number of steps in this chunk
    length: int  # the number of steps in the longest chunk of the epoch


class Order(NamedTuple):
    """The order of the examples in every epoch, which depends on the seed and on the epoch's number alone.

    Each epoch shuffles all examples. What is left after the last whole batch is not used in that epoch.
    """

    key: jax.Array  # of an ensemble, one for each member
    members: int  # of an ensemble, or 0
    examples: int  # how many there are
    batch_size: int

    @property
    def steps(self) -> int:
        """The number of steps in an epoch."""
        return self.examples // self.batch_size

    def of_epoch(self, epoch: int) -> tuple[jax.Array, jax.Array]:
        """The epoch's key, and the examples of each step: (steps, batch size), members second in an ensemble."""
        key = per_member(lambda key: jax.random.fold_in(key, epoch), self.members)(self.key)
        return key, _order(self.members, self.examples, self.batch_size, key)


class ResidentFeed(NamedTuple):
    """Chunks of examples that are all on the devices."""

    examples: Batch
    order: Order
    length: int  # the number of steps in a chunk

    def chunks(self, epoch: int, first: int) -> Iterator[Chunk]:
        """The rest of an epoch, from its step `first` on."""
        key, rows = self.order.of_epoch(epoch)
        for step in range(first, self.order.steps, self.length):
            steps = min(self.length, self.order.steps - step)
            yield Chunk(self.examples, rows, key, begin=step, first=step, steps=steps, length=self.length)


class Needed(NamedTuple):
    """Which examples of a batch each device of a mesh needs."""

    mesh: Mesh
    split: tuple[str, ...]  # the axes over which the examples are split
    first: str | None = None  # the axis along which only the first devices need them; the others get zeros

    def rows(self, size: int) -> np.ndarray:
        """The places in a batch of this size of the examples that the devices of this process need."""
        try:
            parts: Any = self._sharding(()).addressable_devices_indices_map((*self._copies, size)).values()
        except ValueError:
            axes = " and ".join(f"{name}={number}" for name, number in self.mesh.shape.items())
            raise ValueError(
                f"batch_size={size}: cannot be split evenly over the mesh {axes}; take a multiple"
            ) from None
        needed = [np.arange(size)[part[-1]] for part in parts if self._is_first(part)]
        return np.unique(np.concatenate([np.arange(0), *needed]))

    def on_devices(self, leaf: np.ndarray, rows: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
        """Batches on the devices.

        Args:
          leaf: the examples of this process.
          rows: their places in each batch.
          shape: that of the batches with all their examples; with `first`, its axis comes before the last one.
        """
        *lead, size = shape
        at = len(lead)

        def piece(index: Any) -> np.ndarray:
            places = np.arange(size)[index[at + len(self._copies)]]
            if not self._is_first(index[at:]):
                return np.zeros((*lead, 1, len(places), *leaf.shape[at + 1 :]), leaf.dtype)
            own = np.take(leaf, np.searchsorted(rows, places), axis=at)
            return np.expand_dims(own, at) if self._copies else own

        whole = (*lead, *self._copies, size, *leaf.shape[at + 1 :])
        return jax.make_array_from_callback(whole, self._sharding((None,) * at), piece)

    @property
    def _copies(self) -> tuple[int, ...]:
        return (self.mesh.shape[self.first],) if self.first else ()

    def _is_first(self, part: tuple[slice, ...]) -> bool:
        return not self.first or not part[0].start

    def _sharding(self, lead: tuple[None, ...]) -> NamedSharding:
        return NamedSharding(self.mesh, P(*lead, *((self.first,) if self.first else ()), self.split))


class StreamedFeed(NamedTuple):
    """Chunks of examples that are read from memory or disk in the background, each while the one before is learned.

    A process reads only the examples that its own devices need.
    """

    examples: Pairs
    order: Order
    length: int  # the number of steps in a chunk
    needed: Needed | None  # which examples each device needs, if there are several

    def chunks(self, epoch: int, first: int) -> Iterator[Chunk]:
        """The rest of an epoch, from its step `first` on."""
        key, order = self.order.of_epoch(epoch)
        wanted = np.asarray(order)
        firsts = range(first, self.order.steps, self.length)
        # The last chunk begins earlier than it needs to, so that all chunks have one shape, and one program.
        starts = [min(step, self.order.steps - self.length) for step in firsts]
        rows = self.needed.rows(self.order.batch_size) if self.needed else np.arange(self.order.batch_size)
        read = stream(self.examples, [wanted[start : start + self.length, ..., rows] for start in starts])
        shape = (self.length, *wanted.shape[1:])
        for pair, start, step in zip(read, starts, firsts, strict=True):
            steps = min(self.length, self.order.steps - step)
            x, y = (self.needed.on_devices(leaf, rows, shape) if self.needed else jnp.asarray(leaf) for leaf in pair)
            rows_read = np.arange(self.length)
            yield Chunk((x, y), rows_read, key, begin=step - start, first=step, steps=steps, length=self.length)


def keys(seed: int, members: int) -> tuple[jax.Array, jax.Array]:
    """The keys of the weights and of the order; in an ensemble member i has those of a single run with `seed + i`."""
    seeds = seed + jnp.arange(members) if members else jnp.asarray(seed)
    both = per_member(jax.random.split, members)(per_member(jax.random.key, members)(seeds))
    return both[..., 0], both[..., 1]


def on_devices(pair: Any, mesh: Mesh | None) -> Batch:
    """The pair (x, y) on the default device or, whole, on every device of a mesh."""
    if mesh is None:
        x, y = map(jnp.asarray, pair)
        return x, y
    everywhere = NamedSharding(mesh, P())
    x, y = (jax.make_array_from_callback(leaf.shape, everywhere, leaf.__getitem__) for leaf in map(np.asarray, pair))
    return x, y


def take(pair: Any, rows: Any) -> Any:
    """Some examples of a pair (x, y)."""
    x, y = pair
    return x[rows], y[rows]


def per_member(function: Callable[..., Any], members: int) -> Callable[..., Any]:
    """The function, mapped over the members of an ensemble."""
    return jax.vmap(function) if members else function


def shuffled(key: jax.Array, count: int, batch_size: int) -> jax.Array:
    """The examples that each step takes: (steps, batch size)."""
    order = jax.random.permutation(key, count)
    return order[: count // batch_size * batch_size].reshape(-1, batch_size)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _order(members: int, count: int, batch_size: int, key: jax.Array) -> jax.Array:
    if not members:
        return shuffled(key, count, batch_size)
    return jax.vmap(lambda key: shuffled(key, count, batch_size), out_axes=1)(key)


def check_batch_size(batch_size: int, count: int) -> None:
    """Refuse a batch size of which an epoch has no whole batch."""
    if not 0 < batch_size <= count:
        raise ValueError(f"batch_size={batch_size}: the data has {count} examples; take 1 to {count}")
