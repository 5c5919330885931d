"""The records at a glance: how many times as fast as the unit each rule and each peer is, and memory by depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.lab import records as results
from experiments.speed.bench.nets import NETS


def rows(folder: Path) -> list[results.Row]:
    """A line for each rule, the faster of its two forms, and for each of PyTorch's programs that ran."""
    lines: dict[str, results.Row] = {}
    for net in NETS:
        for row in results.load(folder / f"{net}.json")["rows"]:
            ratio = row["times the unit"]
            if row["world"] == "plain" or ratio is None:
                continue
            program = f"PyTorch: {row['program']}" if row["world"] == "torch" else row["program"].partition(",")[0]
            line = lines.setdefault(program, {"program": program} | dict.fromkeys(NETS))
            line[net] = max(ratio, line[net] or ratio, key=_median)
    return list(lines.values())


def _median(ratio: dict[str, Any]) -> float:
    return ratio["median"]


def draw_memory(lines: Sequence[results.Row], path: Path) -> None:
    """Megabytes of a step against depth, a line for each rule."""
    from matplotlib.figure import Figure  # here: only the picture needs it

    depths = [line["depth"] for line in lines]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
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
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
