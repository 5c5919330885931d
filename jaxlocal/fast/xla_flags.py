"""Flags of XLA's CPU compiler.

By default XLA copies all weights at the start of a step, even if they are donated, and computes gradients long before
they are used. The settings here change where numbers are stored and when they are computed, but not the numbers.

Multi-output fusion is not among them, although it makes one loop of a step of Adam, where XLA makes three. With it
JAX 0.10 computes wrong numbers in silence: two convolutions on images of 2×2, say, and then the standard deviation of
each channel have a wrong value and a wrong gradient.
"""

import os

SETTINGS = (
    "--xla_cpu_copy_insertion_use_region_analysis=true",  # donated weights are overwritten without being copied first
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",  # each gradient is used before the next one is computed
)


def configure() -> None:
    """Add the settings to XLA_FLAGS, which XLA reads at the first computation. Flags that are set already stay.

    `import jaxlocal` calls this, unless the environment has JAXLOCAL_XLA_FLAGS=0.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    names = {_name(flag) for flag in given}
    os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in SETTINGS if _name(flag) not in names)])


def _name(flag: str) -> str:
    return flag.partition("=")[0]
