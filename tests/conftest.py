"""Strict settings for every test: eight devices on the CPU, no silent promotion, warnings are errors."""

import atexit
import ctypes
import gc
import os
import shlex
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from platform import machine

# The tests compile much and compute little, so machine code is not optimized. JAX 0.10 can also leave out the slow part
# of its compiler, which builds each loop in a context of its own. What then does its work rounds a product and a sum
# together wherever it happens to see both, and two programs with the same arithmetic could differ in the last bit;
# without AVX2 it cannot. A flag that is in XLA_FLAGS already stays as it is.
FLAGS = {"xla_force_host_platform_device_count": 8, "xla_backend_optimization_level": 0}
if version("jaxlib").startswith("0.10.") and machine() == "x86_64":
    FLAGS |= {
        "xla_cpu_use_fusion_emitters": "false",
        "xla_cpu_max_isa": "AVX",
        "xla_cpu_parallel_codegen_split_count": 1,  # the programs are too small to be compiled by several threads
    }
given = os.environ.get("XLA_FLAGS", "")
added = (f"--{name}={value}" for name, value in FLAGS.items() if name not in given)
os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The processes of a run share their compiled programs; by default the first process removes them at its end.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxlocal-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}

import jax  # noqa: E402 - after the flags
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_collection_finish():
    """Spare Python's search for garbage what it will never find any in, and search less often."""
    gc.freeze()
    gc.set_threshold(20_000, 50, 20)


@pytest.fixture(scope="module")
def drawn_once():
    """A picture is drawn once in a module, because drawing is slow; files of the same name are stand-ins after that."""
    from matplotlib.figure import Figure  # slow, and most tests draw nothing

    draw, drawn = Figure.savefig, set()

    def save(figure, path, **options):
        name = Path(path).name
        draw(figure, path, **options) if name not in drawn else Path(path).write_bytes(b"\x89PNG")
        drawn.add(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


LARGE = 3 * 2**30  # bytes
STATM = Path("/proc/self/statm")  # Linux only; elsewhere nothing is measured and nothing is given back


def resident():
    """The memory of this process in bytes."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def bounded_memory():
    """Compiling leaves much memory that is free but not given back; and at last compiled programs are dropped, too.

    This also keeps a process below Linux's limit of 65,000 mappings, of which a program takes hundreds.
    """
    if STATM.exists() and resident() > LARGE:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
        trim(0)
        if resident() > LARGE * 2 / 3:
            jax.clear_caches()
            gc.collect()
            trim(0)


# For the tests of the command line.


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own to work in, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXLOCAL_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # or `main` would set one for all later tests
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def run(capsys):
    """A command's exit code, output and errors."""
    from jaxlocal.app import cli

    def run(line):
        code = cli.main(shlex.split(line))
        return code, *capsys.readouterr()

    return run
