"""The picture of `experiments.speed.pipeline_scaling`: the time of an epoch against depth."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.lab import figures
from experiments.lab.records import Record, Row
from experiments.speed.scaling_model import Link, gpipe_epoch, gpipe_step, measured_tick, pipelined_epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"al": "#c0392b", "bp": "#8a6d1d", "GPipe": "#2471a3", "pipeline": "#1e8449"}
ON_TWO = "GPipe on two devices: measured ms"
FAR = 2**11  # the largest depth in the picture
CHECKED = 2  # the number of devices on which the pipeline itself was run, and the depth at which it is shown


class Line(NamedTuple):
    """A line of the picture: the model's seconds against depth."""

    label: str
    seconds: np.ndarray


def draw(record: Record) -> "Figure":
    """The time of an epoch against depth, with a device for each component.

    The markers are the model with each depth's own measurements. The lines are the model with the median component,
    because the components are alike; they are dashed beyond the measured depths.
    """
    rows, settings = record["rows"], record["settings"]
    link = Link(1e9 * settings["bandwidth"], settings["latency"] / 1e6)
    depth = np.geomspace(rows[0]["depth"], max(FAR, rows[-1]["depth"]), 400)
    lines = _model(rows, settings, link, depth)
    figure, (axes,) = figures.panels(size=(9.4, 6.4))
    figure.set_layout_engine("none")
    axes.set_position((0.08, 0.245, 0.735, 0.69))
    _draw_lines(axes, rows, lines, depth)
    _draw_measured(axes, rows, settings)
    _draw_laws(axes, lines, depth, settings["batches"], rows[-1]["depth"])
    axes.set(xscale="log", yscale="log", xlim=(rows[0]["depth"] / 1.25, depth[-1]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("depth l: components of the network, each on a device of its own", fontsize=10.5)
    axes.set_ylabel(f"seconds for an epoch of n = {settings['batches']} batches", fontsize=10.5)
    axes.grid(color="0.88", linewidth=0.6)
    _label_lines(axes, lines, depth)
    title = "Time per epoch against depth: one component on each device"
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
    figure.text(0.08, 0.02, _caption(record, link), fontsize=8.5, color="0.3", va="bottom", linespacing=1.5)
    return figure


def _model(rows: Sequence[Row], settings: dict[str, Any], link: Link, depth: np.ndarray) -> dict[str, Line]:
    n, micro = settings["batches"], settings["micro"]
    component = median(one for row in rows for one in row["component ms"]["repeats"]) / 1e3
    message, rest = max(row["message bytes"] for row in rows), settings["rest"] / 1e3
    step, in_sequence, on_two = (_straight(rows, name, depth) for name in ("bp ms", "al ms", ON_TWO))
    return {
        "al": Line("sequential AL", n * in_sequence),
        "bp": Line("sequential BP", n * step),
        "GPipe": Line(f"GPipe BP\n({micro} micro-batches)", _gpipe(settings, depth, on_two)),
        "pipeline": Line("AL pipeline", pipelined_epoch(n, depth, component + link.seconds(message) + rest)),
    }


def _gpipe(settings: dict[str, Any], depth: Any, on_two: Any) -> Any:
    """Seconds of an epoch of GPipe with a device for each layer, where it takes `on_two` seconds a batch on two."""
    micro = settings["micro"]
    return gpipe_epoch(settings["batches"], depth, micro, gpipe_step(on_two, CHECKED, micro))


def _straight(rows: Sequence[Row], name: str, depth: np.ndarray) -> np.ndarray:
    """Seconds at these depths, in proportion to the deepest network that was measured."""
    return rows[-1][name]["median"] / 1e3 * depth / rows[-1]["depth"]


def _draw_lines(axes: "Axes", rows: Sequence[Row], lines: dict[str, Line], depth: np.ndarray) -> None:
    """The model, and the depths that were measured."""
    shallowest, deepest = rows[0]["depth"], rows[-1]["depth"]
    axes.axvspan(shallowest / 1.25, deepest * 1.15, color="0.95", linewidth=0, zorder=0)
    place, transform = ((shallowest * deepest) ** 0.5, 0.97), axes.get_xaxis_transform()
    axes.text(*place, "components measured", transform=transform, color="0.45", ha="center", va="top", fontsize=9.5)
    near = depth <= deepest
    for name, (_, seconds) in lines.items():
        axes.plot(depth[near], seconds[near], color=COLOURS[name], linewidth=2.2)
        axes.plot(depth[~near], seconds[~near], color=COLOURS[name], linewidth=1.8, linestyle=(0, (5, 2)))


def _draw_measured(axes: "Axes", rows: Sequence[Row], settings: dict[str, Any]) -> None:
    """The model with each depth's own measurements, and the pipeline that was run."""
    for name, colour in COLOURS.items():
        if name == "GPipe":
            own = [_gpipe(settings, row["depth"], row[ON_TWO]["median"] / 1e3) for row in rows]
        else:
            own = [row[f"epoch, {name} s"] for row in rows]
        axes.plot([row["depth"] for row in rows], own, "o", color=colour, markersize=6.5, markeredgecolor="white")
    for row in rows:
        if row["depth"] == CHECKED:
            tick = measured_tick(row["two devices: measured ms"]["median"] / 1e3, settings["steps"], CHECKED)
            measured = pipelined_epoch(settings["batches"], CHECKED, tick)
            axes.plot(CHECKED, measured, "D", color=COLOURS["pipeline"], markerfacecolor="white", markersize=8)


def _draw_laws(axes: "Axes", lines: dict[str, Line], depth: np.ndarray, batches: int, deepest: int) -> None:
    """The orders of growth, as dotted lines beside those that they describe."""
    place = np.searchsorted(depth, (deepest * depth[-1]) ** 0.5)
    laws = {
        "O(n · l)": (batches * depth, lines["al"].seconds[0] * 2.6),
        "O(n + l)": (batches + depth, lines["pipeline"].seconds[0] / 1.9),
    }
    for law, (growth, start) in laws.items():
        guide = growth * start / growth[0]
        axes.plot(depth, guide, color="0.35", linewidth=1, linestyle=":")
        at, offset = (depth[place], guide[place]), (-8, 8)
        style: dict[str, Any] = {"color": "0.25", "fontsize": 10, "style": "italic", "ha": "right"}
        axes.annotate(law, at, offset, textcoords="offset points", **style)


def _label_lines(axes: "Axes", lines: dict[str, Line], depth: np.ndarray) -> None:
    """The names at the ends of the lines, moved apart where they would overlap."""
    bottom, top = np.log(axes.get_ylim())
    height = bottom
    for name, (label, seconds) in sorted(lines.items(), key=lambda item: item[1].seconds[-1]):
        height = max(np.log(seconds[-1]), height + 0.075 * (top - bottom))
        axes.annotate(
            label,
            (depth[-1], seconds[-1]),
            (1.02, (height - bottom) / (top - bottom)),
            textcoords="axes fraction",
            color=COLOURS[name],
            fontsize=10.5,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _caption(record: Record, link: Link) -> str:
    settings, device = record["settings"], record["device"]
    return (
        f"Dense layers of {settings['width']} units, batch {settings['batch_size']}, Adam. A device is one core of "
        f"{device['cpu']} ({device['cores']} cores); link {link.bandwidth / 1e9:.3g} GB/s, "
        f"{1e6 * link.latency:.3g} µs; rest of a tick {settings['rest']:.2g} ms.\n"
        "Dots: the model with each depth's measured components and steps. Diamond: what ran on two cores.\n"
        "Lines: the model with the median component, dashed beyond the depths measured. No more than two devices ran.\n"
        "GPipe: scaled from what ran on two cores; its layers divide perfectly, its messages are a share of the work."
    )
