"""The link between two cores: how long the pipeline takes to send a message from one to the other."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxlocal as jl
from experiments.lab.workers import Worker, take_turns
from experiments.speed.scaling_model import Link
from experiments.speed.shared import DEVICES

LARGE = 16 * 2**20  # bytes of the message that measures the bandwidth
TRANSFERS = 50  # of each message in one program


def send(size: int) -> Callable[[], float]:
    """A function that times a message of `size` bytes from one device to the next, as the pipeline sends it."""
    devices = jl.pipeline.mesh(stage=DEVICES)

    def send_on(message: jax.Array) -> jax.Array:
        return lax.fori_loop(0, TRANSFERS, lambda _, m: lax.ppermute(m, "stage", [(0, 1)]), message)

    send_all = jax.jit(jax.shard_map(send_on, mesh=devices, in_specs=P("stage"), out_specs=P("stage")))
    message = jnp.zeros((DEVICES * max(size // 4, 1),))

    def call() -> float:
        start = time.perf_counter()
        jax.block_until_ready(send_all(message))
        return (time.perf_counter() - start) / TRANSFERS

    call()  # the first call compiles
    return call


def measure_link(cores: Sequence[int], rounds: int) -> Link:
    """The link between two devices of one process, from a message of one number and from a large one."""
    with Worker(send, 4, cores=cores) as small, Worker(send, LARGE, cores=cores) as large:
        seconds = take_turns({"small": small.ask, "large": large.ask}, rounds)
    latency, long = median(seconds["small"]), median(seconds["large"])
    return Link(LARGE / max(long - latency, 1e-9), latency)
