"""How much faster the pipeline is on two devices than the sequential rule on one: ratios within one run.

A device is a core. Every program has a process of its own, pinned to its cores before JAX starts any thread; the
processes take turns, so that a drift of the machine hits all alike, and a speedup is the median of the ratios of
neighbouring turns. Beside each pipeline stands the ceiling: two independent sequential programs at once, one a core,
which share nothing but the memory. For comparison, backpropagation as in GPipe on the same two devices.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxlocal as jl
from experiments.lab import records as results
from jaxlocal import flags

RATE = 1e-4
ADAM = optax.adam(RATE)
DEVICES = 2
MICRO = 8  # micro-batches of GPipe
TWO_EQUAL, CNN, MACHINERY = 1.8, 1.6, 1 / 1.05  # the least speedups aimed at; the last is that of one device

Problem = Callable[[], tuple[jl.Rule, tuple[jax.Array, jax.Array]]]  # makes a rule and a batch
Layers = list[tuple[jax.Array, ...]]  # bias and kernel of each
Timed = Callable[[], float]  # runs a program once, and says how many seconds it took for each batch


# What is computed.


def make_batch(size: int, shape: tuple[int, ...], classes: int) -> tuple[jax.Array, jax.Array]:
    """Random examples, as many of each class: time does not depend on what they are."""
    return jax.random.uniform(jax.random.key(1), (size, *shape)), jax.nn.one_hot(jnp.arange(size) % classes, classes)


def equal_components(width: int, batch_size: int) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """Associated learning with two components of exactly the same shapes."""
    net = jl.models.mlp((width, width), classes=width)
    return jl.rules.al(net, ADAM), make_batch(batch_size, (width,), width)


def cnn(image: int, batch_size: int) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """Associated learning of the vanilla CNN in the paper's four components."""
    rule = jl.rules.al(jl.models.vanilla_cnn(), ADAM, components=4)
    return rule, make_batch(batch_size, (image, image, 3), 10)


def backpropagation(
    width: int, batch_size: int, tx: optax.GradientTransformation = ADAM
) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """Backpropagation through four dense layers of the same shape: GPipe's two stages have two of them each."""
    net = jl.models.mlp((width,) * 3, classes=width)
    return jl.rules.bp(net, tx), make_batch(batch_size, (width,), width)


# The programs. Each of these runs in a process of its own, and returns what is called there at each turn.


def sequential(problem: Problem, ticks: int) -> Timed:
    """The rule itself, batch after batch, on one device."""
    rule, batch = problem()
    return _timed(lambda params, batches: lax.scan(rule.step, params, batches), jax.jit(rule.init), batch, ticks)


def pipeline(problem: Problem, ticks: int, stages: Sequence[int] | None = None, room: float = 1.0) -> Timed:
    """The rule as a pipeline over all devices of the process, and drained: there are a few more ticks than batches."""
    rule, batch = problem()
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=len(jax.devices())), stages=stages, room=room)
    return _timed(pipe.run, pipe.init, batch, ticks)


def gpipe(width: int, batch_size: int, ticks: int) -> Timed:
    """`backpropagation` as in GPipe over all devices of the process, first checked against the rule on one of them."""
    rule, batch = backpropagation(width, batch_size, optax.sgd(1.0))  # whose step is the gradient
    devices = jl.pipeline.mesh(stage=len(jax.devices()))
    params = jax.jit(rule.init)(jax.random.key(0), batch)
    weights, after = (divide(one, len(jax.devices())) for one in (params, jax.jit(rule.update)(params, batch)))
    gradients = jax.jit(partial(gpipe_gradients, devices, MICRO))(weights, batch)
    for before, then, found in zip(*map(jax.tree.leaves, (weights, after, gradients)), strict=True):
        expected = np.asarray(before - then)
        if (worst := np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()) > 1e-5:
            raise RuntimeError(f"GPipe's gradients differ from those of bp by {worst:.1e} of the largest")

    def on_devices(leaf: jax.Array) -> NamedSharding:
        return NamedSharding(devices, P("stage") if leaf.ndim else P())

    def init(key: jax.Array, batch: tuple[jax.Array, jax.Array]) -> Any:
        state = weights, ADAM.init(weights)
        return jax.device_put(state, jax.tree.map(on_devices, state))

    def step(state: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        weights, memory = state
        updates, memory = ADAM.update(gpipe_gradients(devices, MICRO, weights, batch), memory, weights)
        state = optax.apply_updates(weights, updates), memory
        return lax.with_sharding_constraint(state, jax.tree.map(on_devices, state)), None

    return _timed(lambda state, batches: lax.scan(step, state, batches), init, batch, ticks)


def costs(problem: Problem) -> Callable[[], jl.pipeline.Costs]:
    """What the rule's components cost on one device."""
    rule, batch = problem()
    return partial(jl.pipeline.measure, rule, jax.jit(rule.init)(jax.random.key(0), batch), batch)


def _timed(run: Callable[..., Any], init: Callable[..., Any], batch: tuple[jax.Array, jax.Array], ticks: int) -> Timed:
    batches = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (ticks, *leaf.shape)), batch)
    state = init(jax.random.key(0), batch)
    program = jax.jit(run, donate_argnums=0)

    def call() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, batches))
        return (time.perf_counter() - start) / ticks

    call()  # to compile
    return call


# GPipe.


def divide(params: jl.Params, stages: int) -> Layers:
    """The layers of `backpropagation`, those that take the same place in each stage in one array.

    The parts of all stages lie along the first axis: sharded over it, a device's part is a kernel as it is.
    """
    layers = [jax.tree.leaves(layer) for layer in params.components[0].weights["forward"]]  # (bias, kernel)
    share = len(layers) // stages
    return [tuple(map(jnp.concatenate, zip(*layers[place::share], strict=True))) for place in range(share)]


def gpipe_gradients(devices: Mesh, micro: int, weights: Layers, batch: tuple[jax.Array, jax.Array]) -> Layers:
    """The gradients of the whole batch, each device with its share of the layers.

    The micro-batches go through the stages in lockstep, ppermute moves their activations on, and what the backward
    pass needs of them is kept. JAX transposes the whole: in the backward pass the errors go from the last stage to the
    first, and each tick adds to the gradients. In (stages - 1) of (micro + stages - 1) ticks a device has nothing of
    use to do: the bubble.
    """
    stages = devices.shape["stage"]

    def loss(weights: Layers, x: jax.Array, y: jax.Array) -> jax.Array:
        stage = lax.axis_index("stage")
        is_last = stage == stages - 1

        def tick(arriving: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
            a = jnp.where(stage == 0, x[jnp.minimum(t, micro - 1)], arriving)
            for layer, (bias, kernel) in enumerate(weights):
                z = a @ kernel + bias[None]
                a = jnp.tanh(z) if layer < len(weights) - 1 else jnp.where(is_last, z, jnp.tanh(z))
            return lax.ppermute(a, "stage", [(j, j + 1) for j in range(stages - 1)]), a

        _, out = lax.scan(tick, jnp.zeros_like(x[0]), jnp.arange(micro + stages - 1))
        scores = out[stages - 1 :].reshape(y.shape)
        return jnp.where(is_last, jl.cross_entropy.mean(scores, y), 0.0)

    def here(weights: Layers, x: jax.Array, y: jax.Array) -> Layers:
        return jax.grad(loss)(weights, x.reshape(micro, -1, x.shape[-1]), y)

    specs = P("stage"), P(), P()
    return jax.shard_map(here, mesh=devices, in_specs=specs, out_specs=P("stage"), check_vma=False)(weights, *batch)


# The processes.


class Worker:
    """A process pinned to cores of its own, each of them a device; it computes only when told to."""

    def __init__(self, cores: Sequence[int], make: Callable[..., Callable[[], Any]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, tuple(cores), make, arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.end()

    def begin(self) -> None:
        """Let it start."""
        self._pipe.send(True)

    def end(self) -> Any:
        """Wait for what it has found."""
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError("a worker process stopped; its own message is above") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join()


def ask(cores: Sequence[int], make: Callable[..., Callable[[], Any]], *arguments: Any) -> Any:
    """What a process that is started for it finds at its only turn."""
    with Worker(cores, make, *arguments) as worker:
        worker.begin()
        return worker.end()


def _serve(
    pipe: Any, cores: tuple[int, ...], make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]
) -> None:
    os.sched_setaffinity(0, cores)
    flags = f" --xla_force_host_platform_device_count={len(cores)} --xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags  # of flags given twice the last counts
    jax.config.update("jax_platforms", "cpu")
    call = make(*arguments)
    pipe.send(None)
    while True:
        try:
            pipe.recv()
        except EOFError:  # no more turns
            return
        pipe.send(call())


def two_cores(parser: argparse.ArgumentParser) -> list[int]:
    """The cores that the workers are pinned to."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < DEVICES:
        parser.error("needs Linux and two cores, to pin one device to each")
    return cores[:DEVICES]


def take_turns(workers: Mapping[str, Sequence[Worker]], repeats: int) -> dict[str, list[float]]:
    """Seconds for each batch, of each repeat; the workers of one name run at once, and share the batches."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, together in workers.items():
            for worker in together:
                worker.begin()
            seconds[name].append(max([worker.end() for worker in together]) / len(together))
    return seconds


# The experiment.


class Program(NamedTuple):
    """One line of the table; the first of each case is the sequential one."""

    name: str
    devices: int
    make: Callable[..., Timed]
    arguments: tuple[Any, ...]
    least: float | None = None  # the speedup aimed at
    bubble: float | None = None


def run_case(
    name: str, batch_size: int, programs: Sequence[Program], cores: Sequence[int], repeats: int
) -> list[results.Row]:
    """The rows of one case: all its programs, and the ceiling, in turn."""
    first = programs[0]
    with ExitStack() as stack:

        def start(cores: Sequence[int], program: Program) -> Worker:
            return stack.enter_context(Worker(cores, program.make, *program.arguments))

        workers = {program.name: [start(cores[: program.devices], program)] for program in programs}
        ceiling = Program("two sequential at once (ceiling)", DEVICES, first.make, first.arguments)
        workers[ceiling.name] = [*workers[first.name], start(cores[1:], first)]
        seconds = take_turns(workers, repeats)
    return [
        row(name, batch_size, program, seconds[program.name], seconds[first.name]) for program in [*programs, ceiling]
    ]


def row(
    case: str, batch_size: int, program: Program, seconds: Sequence[float], sequential: Sequence[float]
) -> results.Row:
    """One line of the table, from the seconds of each repeat."""
    ratios = [theirs / own for own, theirs in zip(seconds, sequential, strict=True)]
    outcome = None if program.least is None else "met" if median(ratios) >= program.least else "missed"
    return {
        "case": case,
        "batch": batch_size,
        "program": program.name,
        "devices": program.devices,
        "ms per batch": results.spread([1e3 * value for value in seconds]),
        "speedup": results.spread(ratios),
        "target": None if program.least is None else f"≥ {program.least:.3g}",
        "outcome": outcome,
        "bubble": program.bubble,
    }


def _on_one_and_two(problem: Problem, ticks: int, least: float) -> list[Program]:
    return [
        Program("sequential", 1, sequential, (problem, ticks)),
        Program("pipeline", 1, pipeline, (problem, ticks), MACHINERY),
        Program("pipeline, two devices", DEVICES, pipeline, (problem, ticks), least),
    ]


def run_equal(batch_size: int, args: argparse.Namespace, cores: Sequence[int]) -> list[results.Row]:
    """Two equal components."""
    programs = _on_one_and_two(partial(equal_components, args.width, batch_size), args.ticks, TWO_EQUAL)
    return run_case("two equal components", batch_size, programs, cores, args.repeats)


def run_cnn(batch_size: int, args: argparse.Namespace, cores: Sequence[int]) -> list[results.Row]:
    """The vanilla CNN, its four components cut into two stages by what they cost here."""
    problem = partial(cnn, args.image, batch_size)
    seconds = ask(cores[:1], costs, problem).seconds
    stages = jl.pipeline.balance(seconds, DEVICES)
    print(f"vanilla CNN: components of {', '.join(f'{1e3 * one:.1f}' for one in seconds)} ms, stages of {stages}")
    sequential_one, one, _ = _on_one_and_two(problem, args.ticks, CNN)
    two = [
        Program(f"pipeline {stages}, room={room}", DEVICES, pipeline, (problem, args.ticks, stages, room), CNN)
        for room in (1, 2)
    ]
    return run_case("vanilla CNN", batch_size, [sequential_one, one, *two], cores, args.repeats)


def run_gpipe(batch_size: int, args: argparse.Namespace, cores: Sequence[int]) -> list[results.Row]:
    """Backpropagation, for comparison."""
    bubble = (DEVICES - 1) / (MICRO + DEVICES - 1)
    problem = partial(backpropagation, args.width, batch_size)
    programs = [
        Program("sequential", 1, sequential, (problem, args.ticks)),
        Program(f"GPipe, {MICRO} micro-batches", DEVICES, gpipe, (args.width, batch_size, args.ticks), bubble=bubble),
    ]
    return run_case("backpropagation", batch_size, programs, cores, args.repeats)


CASES = {
    "equal-512": partial(run_equal, 512),
    "equal-32": partial(run_equal, 32),
    "cnn-32": partial(run_cnn, 32),
    "gpipe-512": partial(run_gpipe, 512),
}


class Parser(flags.Parser):
    """The flags of an experiment on the pipeline."""

    def command(self, args: argparse.Namespace, budget: Sequence[str]) -> str:
        """The command that does this again, whatever the defaults will be by then."""
        words = [self.prog]
        for name in budget:
            value = getattr(args, name)
            if value is not None:
                words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
        return " ".join(words)

    def is_full(self, args: argparse.Namespace, budget: Sequence[str]) -> bool:
        """Whether this is the default run, which is recorded unasked."""
        return all(getattr(args, name) == self.get_default(name) for name in budget)


BUDGET = "cases", "repeats", "ticks", "width", "image"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, print their table, and record a full run."""
    parser = Parser("python -m experiments.speed.pipeline_speed", description=__doc__)
    show = "(default: %(default)s)"
    cases = list(CASES)
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases, metavar="CASE", help=" ".join(cases))
    parser.add_argument("--repeats", type=flags.whole, default=5, metavar="N", help=f"turns of each program {show}")
    parser.add_argument("--ticks", type=flags.whole, default=100, metavar="N", help=f"batches a turn {show}")
    parser.add_argument(
        "--width", type=flags.whole, default=1024, metavar="N", help=f"units of the dense layers {show}"
    )
    parser.add_argument(
        "--image", type=flags.whole, default=32, metavar="N", help=f"height and width of the images {show}"
    )
    parser.add_argument("--quick", action="store_true", help="two turns of four batches at most, to try it out")
    parser.add_argument(
        "--out",
        type=flags.file,
        metavar="FILE",
        help="write the record here (default: a full run's to experiments/records/pipeline, a shorter run's nowhere)",
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.repeats, args.ticks = min(args.repeats, 2), min(args.ticks, 4)
    args.cases = [name for name in CASES if name in args.cases]
    cores = two_cores(parser)
    results.code()  # of now: the code may be edited while it runs
    rows: list[results.Row] = []
    for name in args.cases:
        found = CASES[name](args, cores)
        print(f"{results.table(found)}\n", flush=True)
        rows += found
    if args.out or parser.is_full(args, BUDGET):
        settings = {name: getattr(args, name) for name in BUDGET} | {"optimizer": f"adam({RATE})", "micro": MICRO}
        note = (
            "A device is a pinned core. ms per batch and speedup: median (least to most) over the repeats; a speedup "
            "is against the sequential program of the same case in the same turn. The pipelines' time includes the "
            "drain."
        )
        path = results.record("pipeline/speed", rows, parser.command(args, BUDGET), settings, note=note, out=args.out)
        print(f"recorded in {path}")


if __name__ == "__main__":
    main()
