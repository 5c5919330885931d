"""Strict settings for every test: eight devices on the CPU, no silent promotion, warnings are errors."""

import gc
import os
from importlib.metadata import version
from pathlib import Path
from platform import machine

# The tests compile much and compute little, so machine code is not optimized. JAX 0.10 can also leave out the slow part
# of its compiler, which builds each loop in a context of its own. What then does its work rounds a product and a sum
# together wherever it happens to see both, and two programs with the same arithmetic could differ in the last bit;
# without AVX2 it cannot. A flag that is in XLA_FLAGS already stays as it is.
FLAGS = {"xla_force_host_platform_device_count": 8, "xla_backend_optimization_level": 0}
if version("jaxlib").startswith("0.10.") and machine() == "x86_64":
    FLAGS |= {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_max_isa": "AVX"}
given = os.environ.get("XLA_FLAGS", "")
added = (f"--{name}={value}" for name, value in FLAGS.items() if name not in given)
os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402 - after the flags
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True)
def room_for_programs():
    """Linux allows a process about 65,000 mappings, and each compiled program takes tens: drop them in time."""
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
        gc.collect()
