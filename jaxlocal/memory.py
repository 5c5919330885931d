"""How much memory there is, and what arrays would take, so that too much is refused before anything is made."""

import os

import jax

from jaxlocal.network import Tree


def available(device: jax.Device | None = None) -> int:
    """The bytes of a device's own memory; for a CPU, those of main memory that a program can get."""
    return own(device or jax.local_devices()[0]) or _main_memory()


def own(device: jax.Device) -> int | None:
    """The bytes of a device's own memory; None for a CPU."""
    return (device.memory_stats() or {}).get("bytes_limit")


def needed(arrays: Tree) -> int:
    """The bytes of some arrays, or of shapes of them; random keys are not counted."""
    return sum(leaf.size * getattr(leaf.dtype, "itemsize", 0) for leaf in jax.tree.leaves(arrays))


def in_words(size: int) -> str:
    """A number of bytes, such as 1.5 GB."""
    return f"{size / 2**30:.3g} GB"


def _main_memory() -> int:
    """The bytes of main memory that a program can get. On Linux that includes the memory of the file cache."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
