"""What the timings of the pipeline share: programs that are timed in processes of their own."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from statistics import fmean
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import jaxlocal as jl
from experiments.lab.experiment import CannotRun
from experiments.lab.workers import Worker, at_once, available_cores
from jaxlocal.costs import memory
from jaxlocal.network import neighbours
from jaxlocal.pipeline.stages import Stage, learn_stage, steps
from jaxlocal.rule import Learn, Message

RATE = 1e-4
ADAM = optax.adam(RATE)
DEVICES = 2
STEPS = 10  # of a stage in one timed program

Batch = tuple[jax.Array, jax.Array]
Problem = Callable[[], tuple[jl.Rule, Batch]]  # makes a rule and a batch
Timed = Callable[[], float]  # runs a program once, and returns its seconds for each batch
Finds = Callable[..., Callable[[], float]]  # `timed`, or what takes the same


def timed(run: Callable[..., Any], init: Callable[..., Any], batch: Any, steps: int) -> Timed:
    """A program over `steps` times the same batch, compiled."""
    batches, state = _several(batch, steps), init(jax.random.key(0), batch)
    program = jax.jit(run, donate_argnums=0)

    def call() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, batches))
        return (time.perf_counter() - start) / steps

    call()  # the first call compiles
    return call


def megabytes(run: Callable[..., Any], init: Callable[..., Any], batch: Any, steps: int) -> Callable[[], float]:
    """The memory that the same program needs on a device, as XLA counts it."""
    program, state = jax.jit(run, donate_argnums=0), init(jax.random.key(0), batch)
    compiled = program.lower(state, _several(batch, steps)).compile()
    return lambda: memory(compiled) / 1e6


def _several(batch: Any, steps: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), batch)


def sequential(problem: Problem, steps: int, find: Finds = timed) -> Callable[[], float]:
    """The rule itself, batch after batch, on one device."""
    rule, batch = problem()
    return find(lambda params, batches: lax.scan(rule.step, params, batches), jax.jit(rule.init), batch, steps)


def split(problem: Problem) -> tuple[jl.Rule, Batch]:
    """The same problem, with each batch split over all devices of the process."""
    rule, batch = problem()
    return jl.data_parallel(rule, jl.pipeline.mesh(data=len(jax.devices()))), batch


def pipeline(
    problem: Problem,
    steps: int,
    stages: Sequence[int] | None = None,
    devices: int | None = None,
    find: Finds = timed,
) -> Callable[[], float]:
    """The rule as a pipeline over devices, by default all, and the drain, which takes a few ticks more."""
    rule, batch = problem()
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=devices or len(jax.devices())), stages=stages)
    return find(pipe.run, pipe.init, batch, steps)


def costs(problem: Problem) -> Callable[[], jl.pipeline.Costs]:
    """What the rule's components cost on one device."""
    rule, batch = problem()
    return partial(jl.pipeline.measure, rule, jax.jit(rule.init)(jax.random.key(0), batch), batch)


def stage_costs(problem: Problem, sizes: Sequence[int]) -> Callable[[], list[float]]:
    """The seconds in which each stage of a pipeline learns from a batch; `sizes` are numbers of components."""
    rule, batch = problem()
    components, message = jax.jit(rule.init)(jax.random.key(0), batch).components, batch
    calls = []
    for stage in neighbours(sizes):
        own = tuple(components[i] for i in stage)
        calls.append(repeated(partial(learned, steps(rule), stage), own, message))
        _, message, _ = jax.jit(partial(learn_stage, steps(rule), stage))(own, message)
    return lambda: [call() for call in calls]


def learned(steps: tuple[Learn, ...], stage: Stage, components: Any, message: Message) -> Any:
    """The components of a stage, once they have learned from a message."""
    return learn_stage(steps, stage, components, message)[0]


def repeated(piece: Callable[[Any, Any], Any], state: Any, given: Any) -> Timed:
    """A piece of work, `(state, given) -> state`, again and again with what it has left behind."""

    def run(state: Any, several: Any) -> tuple[Any, None]:
        return lax.scan(lambda state, given: (piece(state, given), None), state, several)

    return timed(run, lambda key, given: jax.tree.map(jnp.copy, state), given, STEPS)


def busy(make: Callable[..., Callable[[], Any]], *arguments: Any, cores: Sequence[int]) -> list[Any]:
    """What the same measurement finds on each of these cores, all of which measure at the same time."""
    with ExitStack() as stack:
        return at_once([stack.enter_context(Worker(make, *arguments, cores=[core])) for core in cores])


def over_cores(seconds: Sequence[Sequence[float]]) -> list[float]:
    """The mean over the cores of each component or stage."""
    return [fmean(both) for both in zip(*seconds, strict=True)]


def cores_of(devices: int) -> list[int]:
    """A core for each of these devices; if they are more than two, they share the two cores."""
    return list(islice(cycle(two_cores()), devices))


def two_cores() -> list[int]:
    """The cores that the processes are pinned to."""
    cores = available_cores()
    if len(cores) < DEVICES:
        raise CannotRun("needs Linux and two cores, to pin one device to each")
    return cores[:DEVICES]
