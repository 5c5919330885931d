"""The records of all nets in one small table: how many times as fast as the unit each rule and each peer is."""

from pathlib import Path
from typing import Any

from experiments import results
from experiments.bench.nets import NETS


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
