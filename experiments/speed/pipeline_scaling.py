"""How the pipeline of associated learning scales with the number of devices: a model, checked here, and its picture.

Measured are each component's step, the bytes that it hands on, a step of backpropagation, all on one core, and the link
between two. Predicted are seconds for an epoch of n batches:

- associated learning in sequence: n · (sum of the components' seconds);
- its pipeline over D devices: (n + D - 1) · tick, where tick = (the slowest stage) + (the slowest transfer), for here
  transfer does not overlap with computing, and a transfer of m bytes takes latency + m / bandwidth;
- backpropagation in sequence: n · step;
- backpropagation as in GPipe over K devices with M micro-batches: n · (M + K - 1) / M · step / K. Its transfers are
  taken as free, its layers as perfectly divided, and small micro-batches as no less efficient: all in its favour.

Backpropagation trains the network with as many parameters as associated learning predicts by (`jl.models.matched`).
In the picture a network of l components has l devices: O(n · l) in sequence, O(n + l) in the pipeline.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxlocal as jl
from experiments.lab import records as results
from experiments.speed.pipeline_speed import (
    DEVICES,
    RATE,
    Parser,
    Worker,
    ask,
    costs,
    make_batch,
    pipeline,
    sequential,
    take_turns,
    two_cores,
)
from jaxlocal import flags
from jaxlocal.network import neighbours

CLASSES = 10
LARGE = 16 * 2**20  # bytes of the message that measures the bandwidth
TRANSFERS = 50  # of each message in one program
FAR = 2**11  # the depth to which the picture goes on


# The model.


class Link(NamedTuple):
    """What joins two neighbouring devices."""

    bandwidth: float  # bytes a second
    latency: float  # seconds

    def seconds(self, size: float) -> float:
        """For a message of so many bytes."""
        return self.latency + size / self.bandwidth


def tick(seconds: Sequence[float], message: Sequence[int], stages: Sequence[int], link: Link) -> float:
    """Seconds of a tick, for components of these seconds and messages, cut into stages of so many components."""
    groups = neighbours(stages)
    slowest = max(sum(seconds[i] for i in group) for group in groups)
    return slowest + max((link.seconds(message[group[-1]]) for group in groups[:-1]), default=0.0)


def pipelined_epoch(batches: int, devices: Any, tick: float) -> Any:
    """Seconds of an epoch in the pipeline, the drain included, for a number of devices or an array of them."""
    return (batches + devices - 1) * tick


def gpipe_epoch(batches: int, devices: Any, micro: int, step: Any) -> Any:
    """Seconds of an epoch of backpropagation as in GPipe, for a number of devices or an array of them."""
    return batches * (micro + devices - 1) / micro * step / devices


# What is measured, in processes of their own.


def associated(depth: int, width: int, batch_size: int) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """Associated learning with so many components, alike but for the first."""
    rule = jl.rules.al(jl.models.mlp((width,) * depth, CLASSES), optax.adam(RATE))
    return rule, make_batch(batch_size, (width,), CLASSES)


def matched(depth: int, width: int, batch_size: int) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """Backpropagation through as many parameters as `associated` predicts by."""
    net = jl.models.matched(jl.models.mlp((width,) * depth, CLASSES), depth, width)
    return jl.rules.bp(net, optax.adam(RATE)), make_batch(batch_size, (width,), CLASSES)


def transfer(size: int) -> Callable[[], float]:
    """Seconds for a message of so many bytes from one device to the next, as the pipeline sends it."""
    devices = jl.pipeline.mesh(stage=DEVICES)

    def send(message: jax.Array) -> jax.Array:
        return lax.fori_loop(0, TRANSFERS, lambda _, m: lax.ppermute(m, "stage", [(0, 1)]), message)

    send_all = jax.jit(jax.shard_map(send, mesh=devices, in_specs=P("stage"), out_specs=P("stage")))
    message = jnp.zeros((DEVICES * max(size // 4, 1),))

    def call() -> float:
        start = time.perf_counter()
        jax.block_until_ready(send_all(message))
        return (time.perf_counter() - start) / TRANSFERS

    call()  # to compile
    return call


def measure_link(cores: Sequence[int], repeats: int) -> Link:
    """The link between two devices of one process, from a message of one number and from a large one."""
    with Worker(cores, transfer, 4) as small, Worker(cores, transfer, LARGE) as large:
        seconds = take_turns({"small": [small], "large": [large]}, repeats)
    latency, long = median(seconds["small"]), median(seconds["large"])
    return Link(LARGE / max(long - latency, 1e-9), latency)


def run_depth(depth: int, link: Link, link_here: Link, args: argparse.Namespace, cores: Sequence[int]) -> results.Row:
    """Measure a network of this depth, predict its epochs with `link`, and check what can be checked on two cores."""
    al = partial(associated, depth, args.width, args.batch_size)
    bp = partial(matched, depth, args.width, args.batch_size)
    seconds, message = ask(cores[:1], costs, al)
    stages = jl.pipeline.balance(seconds, DEVICES)
    with (
        Worker(cores[:1], sequential, bp, args.ticks) as bp_worker,
        Worker(cores[:1], sequential, al, args.ticks) as al_worker,
        Worker(cores, pipeline, al, args.ticks, stages) as pipeline_worker,
    ):
        workers = {"bp": [bp_worker], "al": [al_worker], "pipeline": [pipeline_worker]}
        found = take_turns(workers, args.repeats)
    step, one, two = (median(found[name]) for name in workers)
    predicted = pipelined_epoch(args.ticks, DEVICES, tick(seconds, message, stages, link_here)) / args.ticks
    numbers = {
        "depth": depth,
        "component ms": results.spread([1e3 * value for value in seconds]),
        "message bytes": max(message),
        "bp ms": results.spread([1e3 * value for value in found["bp"]]),
        "epoch, bp s": args.batches * step,
        "epoch, GPipe s": gpipe_epoch(args.batches, depth, args.micro, step),
        "epoch, al s": args.batches * sum(seconds),
        "epoch, pipeline s": pipelined_epoch(args.batches, depth, tick(seconds, message, (1,) * depth, link)),
        "one device: predicted ms": 1e3 * sum(seconds),
        "one device: measured ms": results.spread([1e3 * value for value in found["al"]]),
        "one device: ratio": sum(seconds) / one,
        "two devices: stages": "+".join(map(str, stages)),
        "two devices: predicted ms": 1e3 * predicted,
        "two devices: measured ms": results.spread([1e3 * value for value in found["pipeline"]]),
        "two devices: ratio": predicted / two,
    }
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in numbers.items()}


# The picture.

COLORS = {"al": "#c0392b", "bp": "#8a6d1d", "GPipe": "#2471a3", "pipeline": "#1e8449"}


def draw(rows: Sequence[results.Row], link: Link, args: argparse.Namespace, path: Path) -> None:
    """Time per epoch against depth, with a device for each component.

    The markers are the model with each depth's own measurements. The lines are the model with the cost of the median
    component, for they are alike: dashed beyond the depths that were measured.
    """
    from matplotlib.figure import Figure  # here: only the picture needs it

    n, micro = args.batches, args.micro
    component = median(one for row in rows for one in row["component ms"]["repeats"]) / 1e3
    message = max(row["message bytes"] for row in rows)
    shallowest, deepest = rows[0]["depth"], rows[-1]["depth"]

    depth = np.geomspace(shallowest, max(FAR, deepest), 400)
    # The weights of `matched` are 2 l + 9 squares of the width, but for a small head.
    step = rows[-1]["bp ms"]["median"] / 1e3 * (2 * depth + 9) / (2 * deepest + 9)
    pipeline_line = pipelined_epoch(n, depth, component + link.seconds(message))
    lines = {
        "al": ("sequential AL", n * component * depth),
        "bp": ("sequential BP", n * step),
        "GPipe": (f"GPipe-style BP\n({micro} micro-batches)", gpipe_epoch(n, depth, micro, step)),
        "pipeline": ("AL pipeline", pipeline_line),
    }

    figure = Figure(figsize=(9.4, 6.4))
    axes = figure.add_axes((0.08, 0.245, 0.735, 0.69))
    axes.axvspan(shallowest / 1.25, deepest * 1.15, color="0.95", linewidth=0, zorder=0)
    axes.text(
        (shallowest * deepest) ** 0.5,
        0.97,
        "components measured",
        transform=axes.get_xaxis_transform(),
        color="0.45",
        ha="center",
        va="top",
        fontsize=9.5,
    )
    for name, (_, line) in lines.items():
        near = depth <= deepest
        axes.plot(depth[near], line[near], color=COLORS[name], linewidth=2.2)
        axes.plot(depth[~near], line[~near], color=COLORS[name], linewidth=1.8, linestyle=(0, (5, 2)))
        own = [row[f"epoch, {name} s"] for row in rows]
        axes.plot([row["depth"] for row in rows], own, "o", color=COLORS[name], markersize=6.5, markeredgecolor="white")
    for row in rows:
        if row["depth"] == DEVICES:  # the only pipeline of the picture that this machine has the cores for
            measured = pipelined_epoch(n, DEVICES, row["two devices: measured ms"]["median"] / 1e3)
            axes.plot(DEVICES, measured, "D", color=COLORS["pipeline"], markerfacecolor="white", markersize=8)
    for law, guide in (("O(n · l)", n * depth), ("O(n + l)", n + depth)):
        top = lines["al"][1] * 2.6 if law == "O(n · l)" else pipeline_line / 1.9
        axes.plot(depth, guide * top[0] / guide[0], color="0.35", linewidth=1, linestyle=":")
        place = np.searchsorted(depth, (deepest * depth[-1]) ** 0.5)
        axes.annotate(
            law,
            (depth[place], guide[place] * top[0] / guide[0]),
            (-8, 8) if top is not pipeline_line else (0, 0),
            textcoords="offset points",
            color="0.25",
            fontsize=10,
            style="italic",
            ha="right",
        )
    axes.set(xscale="log", yscale="log", xlim=(shallowest / 1.25, depth[-1]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("depth l: components of the network, each on a device of its own", fontsize=10.5)
    axes.set_ylabel(f"seconds for an epoch of n = {n} batches", fontsize=10.5)
    axes.grid(color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

    # Labels at the ends of the lines, pushed apart where they would overlap.
    bottom, top = np.log(axes.get_ylim())
    height = bottom
    for name, (label, line) in sorted(lines.items(), key=lambda item: item[1][1][-1]):
        height = max(np.log(line[-1]), height + 0.075 * (top - bottom))
        axes.annotate(
            label,
            (depth[-1], line[-1]),
            (1.02, (height - bottom) / (top - bottom)),
            textcoords="axes fraction",
            color=COLORS[name],
            fontsize=10.5,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )
    axes.set_title(
        "Time per epoch against depth: one component on each device", loc="left", fontsize=13, fontweight="bold"
    )
    device = results.device()
    caption = (
        f"Dense layers of {args.width} units, batch {args.batch_size}, Adam. A device is one core of {device['cpu']} "
        f"({device['cores']} cores); link {link.bandwidth / 1e9:.3g} GB/s, {1e6 * link.latency:.3g} µs.\n"
        "Dots: the model with each depth's measured components and steps. Diamond: the pipeline run on two cores.\n"
        "Lines: the model with the median component, dashed beyond the depths measured. No more than two devices ran.\n"
        "GPipe is favoured: transfers are free, layers divide perfectly, small micro-batches cost no more."
    )
    figure.text(0.08, 0.02, caption, fontsize=8.5, color="0.3", va="bottom", linespacing=1.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


# The experiment.

BUDGET = "depths", "width", "batch_size", "batches", "micro", "ticks", "repeats", "bandwidth", "latency"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, predict, check, draw; print the table, and record a full run."""
    parser = Parser("python -m experiments.speed.pipeline_scaling", description=__doc__)
    show = "(default: %(default)s)"
    add = parser.add_argument
    add("--depths", nargs="+", type=flags.whole, default=[2, 4, 8, 16], metavar="N", help=f"components {show}")
    add("--width", type=flags.whole, default=256, metavar="N", help=f"units of the dense layers {show}")
    add("--batch-size", type=flags.whole, default=64, metavar="N", help=f"examples a step {show}")
    add("--batches", type=flags.whole, default=937, metavar="N", help=f"n, of an epoch {show}: those of MNIST")
    add("--micro", type=flags.whole, default=8, metavar="M", help=f"micro-batches of GPipe {show}")
    add("--ticks", type=flags.whole, default=100, metavar="N", help=f"batches a turn of what is timed {show}")
    add("--repeats", type=flags.whole, default=5, metavar="N", help=f"turns of each program {show}")
    add("--bandwidth", type=flags.positive, metavar="GB/S", help="of the link (default: measured between two cores)")
    add("--latency", type=flags.positive, metavar="µS", help="of the link (default: measured between two cores)")
    add("--quick", action="store_true", help="depths to 4, and two turns of ten batches at most, to try it out")
    recorded = (
        "write the record here, and the picture beside it (default: a full run's to experiments/records/pipeline)"
    )
    add("--out", type=flags.file, metavar="FILE", help=recorded)
    args = parser.parse_args(argv)
    if args.quick:
        args.repeats, args.ticks = min(args.repeats, 2), min(args.ticks, 10)
        args.depths = [depth for depth in args.depths if depth <= 4] or [DEVICES]
    args.depths = sorted(set(args.depths))
    if args.depths[0] < DEVICES:
        parser.error(f"argument --depths: {args.depths[0]} component cannot be cut into {DEVICES} stages")
    cores = two_cores(parser)
    is_recorded = args.out or parser.is_full(args, BUDGET)
    if is_recorded and not find_spec("matplotlib"):
        parser.error("the picture needs matplotlib: pip install matplotlib")
    results.code()  # of now: the code may be edited while it runs

    link = measure_link(cores, args.repeats)
    print(f"link between two cores: {link.bandwidth / 1e9:.3g} GB/s, {1e6 * link.latency:.3g} µs")
    check_link = link  # what is measured on this machine is checked against its own link
    if args.bandwidth:
        link = link._replace(bandwidth=1e9 * args.bandwidth)
    if args.latency:
        link = link._replace(latency=args.latency / 1e6)
    rows = []
    for depth in args.depths:
        rows.append(run_depth(depth, link, check_link, args, cores))
        print(f"{results.table(rows[-1:])}\n", flush=True)
    if is_recorded:
        settings = {name: getattr(args, name) for name in BUDGET} | {
            "optimizer": f"adam({RATE})",
            "bandwidth": link.bandwidth / 1e9,
            "latency": 1e6 * link.latency,
        }
        note = (
            "A device is a pinned core. component ms: median (least to most) of the components; other spreads are of "
            "repeats. Epochs are predicted for depth devices. bandwidth in GB/s, latency in µs."
        )
        command = parser.command(args, BUDGET)
        path = results.record("pipeline/scaling", rows, command, settings, note=note, out=args.out)
        draw(rows, link, args, path.with_suffix(".png"))
        print(f"recorded in {path}, drawn in {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
