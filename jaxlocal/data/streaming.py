"""Streaming of data sets that do not fit on the device: threads read ahead from disk."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxlocal.checks import positive_int, show
from jaxlocal.data.splits import Pairs, Splits
from jaxlocal.memory import available, own


def stream(pairs: Pairs, orders: Sequence[np.ndarray], *, workers: int = 2, ahead: int = 2) -> Iterator[Pairs]:
    """The chunks `(x[rows], y[rows])` for the rows in each of the orders, read ahead by threads of grain.

    The chunks arrive in the given order for any number of threads, so a stream equals plain indexing.

    Args:
      pairs: x and y, memory-mapped as `jl.data.load` returns them.
      orders: for each chunk the numbers of its examples (K, B), for K batches of B examples.
      workers: the number of threads that read.
      ahead: the number of chunks that are read in advance and held in memory.

    Returns:
      An iterator of chunks (K, B, …) of NumPy arrays. The threads end when the iterator ends or is closed.

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
        raise TypeError(f"orders={show(orders)}: must be a sequence of index arrays, such as a list; pass list(orders)")
    return _chunks(pairs, orders, min(workers, ahead), ahead)


def _chunks(pairs: Pairs, orders: Sequence[np.ndarray], workers: int, ahead: int) -> Iterator[Pairs]:
    import grain  # imported here because it is slow and only large data sets need it

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
    """Whether the splits fit on the device: into half of its memory, or for a CPU into a quarter of what is available.

    A data set in uint8 counts, and should stay on the device, as uint8: `jl.data.floats` converts each batch inside the
    compiled program.
    """
    device = device or jax.local_devices()[0]
    limit = available(device) / (2 if own(device) else 4)
    arrays: list[np.ndarray] = jax.tree.leaves(tuple(splits))
    return sum(array.nbytes for array in arrays) < limit
