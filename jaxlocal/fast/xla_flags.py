"""Flags of XLA's CPU compiler.

By default XLA copies all weights at the start of a step, even if they are donated, and computes gradients long before
they are used. The settings here change where numbers are stored and when they are computed, but not the numbers.

They are added only for versions of jaxlib that are known to have them: XLA ends the process if it does not know a flag,
and a later version may have dropped one.

Do not add multi-output fusion, which joins loops that read the same numbers. With it JAX 0.10 computes wrong gradients
without any error, for example of backpropagation through two convolutions with batch norm on images of 4×4.
"""

import os
from importlib.metadata import version

KNOWN = "0.10", "0.11", "0.12"  # versions of jaxlib that have the flags
SETTINGS = (
    "--xla_cpu_copy_insertion_use_region_analysis=true",  # donated weights are overwritten without being copied first
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",  # each gradient is used before the next one is computed
)


def configure() -> None:
    """Add the settings to XLA_FLAGS, which XLA reads at the first computation. Flags that are set already stay.

    `import jaxlocal` calls this, unless the environment has JAXLOCAL_XLA_FLAGS=0.
    """
    if ".".join(version("jaxlib").split(".")[:2]) not in KNOWN:
        return
    given = os.environ.get("XLA_FLAGS", "").split()
    names = {_name(flag) for flag in given}
    os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in SETTINGS if _name(flag) not in names)])


def _name(flag: str) -> str:
    return flag.partition("=")[0]
