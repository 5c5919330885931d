"""Strict settings for every test: eight devices on the CPU, nothing promoted in silence, warnings are errors."""

import gc
import os
from pathlib import Path

# Eight devices; and no optimization of machine code, for the tests compile much and compute little.
FLAGS = " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + FLAGS
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402 - after the flags
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True)
def room_for_programs():
    """Linux lets a process have some 65,000 mappings, of which each compiled program takes tens: let go in time."""
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
        gc.collect()
