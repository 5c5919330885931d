"""Streaming: sets that do not fit on the device, read from disk in the background."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxlocal.checks import positive_int, show
from jaxlocal.data import Pairs, Splits


def stream(pairs: Pairs, orders: Sequence[np.ndarray], *, workers: int = 2, ahead: int = 2) -> Iterator[Pairs]:
    """The chunks `(x[rows], y[rows])` for the rows of each order, read ahead by threads of grain.

    They come in the order asked for, however many threads there are: a stream is the same as indexing.

    Args:
      pairs: x and y, as `jl.data.load` maps them into memory.
      orders: for each chunk the numbers of its examples (K, B): K batches of B examples.
      workers: the threads that read.
      ahead: how many chunks are read before they are asked for; so many are held in memory.

    Returns:
      An iterator of chunks (K, B, …), in NumPy. The threads end with it.

    Example:
      >>> pairs = jl.data.digits().train
      >>> orders = np.arange(1024).reshape(4, 8, 32)
      >>> [x.shape for x, y in jl.streaming.stream(pairs, orders)]
      [(8, 32, 8, 8, 1), (8, 32, 8, 8, 1), (8, 32, 8, 8, 1), (8, 32, 8, 8, 1)]
    """
    positive_int("workers", workers)
    positive_int("ahead", ahead)
    x, y = pairs
    if len(x) != len(y):
        raise ValueError(f"pairs: x has shape {x.shape} and y {y.shape}; their first axes must be the same examples")
    if not isinstance(orders, Sequence | np.ndarray):
        raise TypeError(
            f"orders={show(orders)}: must be a sequence of index arrays, such as a list; make it list(orders)"
        )
    return _chunks(pairs, orders, min(workers, ahead), ahead)


def _chunks(pairs: Pairs, orders: Sequence[np.ndarray], workers: int, ahead: int) -> Iterator[Pairs]:
    import grain  # slow to import, and needed for large sets only

    x, y = pairs
    chunks = iter(
        grain.MapDataset.source(orders)
        .map(lambda rows: (x[rows], y[rows]))
        .to_iter_dataset(grain.ReadOptions(num_threads=workers, prefetch_buffer_size=ahead))
    )
    try:
        yield from chunks
    finally:
        chunks.close()


def resident(splits: Splits, device: jax.Device | None = None) -> bool:
    """Whether the sets may live on the device: in half its memory, or on a CPU in a quarter of what is available.

    Sets in uint8 are counted, and best kept, as such: `jl.data.floats` turns each batch inside the compiled program.
    """
    device = device or jax.local_devices()[0]
    stats = device.memory_stats()
    room = stats["bytes_limit"] / 2 if stats and "bytes_limit" in stats else _available() / 4
    arrays: list[Any] = jax.tree.leaves(tuple(splits))
    return sum(array.nbytes for array in arrays) < room


def _available() -> int:
    """Bytes of main memory that may be had; Linux's file cache is no hindrance, so free pages would be too few."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
