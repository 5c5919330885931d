"""The records at a glance: the speed of each rule as a multiple of the unit's, and memory by depth."""

from typing import TYPE_CHECKING, Any

from experiments.lab import figures
from experiments.lab.experiment import Recorded
from experiments.lab.records import Record, Row
from experiments.speed.bench.nets import NETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rows(recorded: Recorded) -> list[Row]:
    """A line for each rule, the faster of its two forms, and for each of PyTorch's programs that ran."""
    lines: dict[str, Row] = {}
    for net in NETS:
        for row in recorded.records[net]["rows"]:
            ratio = row["times the unit"]
            if row["world"] == "plain" or not isinstance(ratio, dict):
                continue
            program = f"PyTorch: {row['program']}" if row["world"] == "torch" else row["program"].partition(",")[0]
            line = lines.setdefault(program, {"program": program} | dict.fromkeys(NETS))
            line[net] = max(ratio, line[net] or ratio, key=_median)
    return list(lines.values())


def _median(ratio: dict[str, Any]) -> float:
    return ratio["median"]


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The picture of memory."""
    return {"memory": memory(recorded.records["memory"])} if "memory" in recorded.records else {}


def memory(record: Record) -> "Figure":
    """Megabytes of a step against depth, a line for each rule."""
    lines = record["rows"]
    depths = [line["depth"] for line in lines]
    figure, (axes,) = figures.panels(size=(6.4, 4.2))
    axes.grid(False)
    for column in list(lines[0])[1:]:
        (drawn,) = axes.loglog(depths, [line[column] for line in lines], marker="o", markersize=4)
        name = column.removesuffix(" MB")
        axes.text(depths[-1] * 1.08, lines[-1][column], name, color=drawn.get_color(), va="center")
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.set_xlim(depths[0] / 1.15, depths[-1] * 1.6)
    axes.set_yticks(ticks := [3, 10, 30, 100], [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("hidden layers of 64 units")
    axes.set_ylabel("MB that a step needs, batch 4096")
    return figure
