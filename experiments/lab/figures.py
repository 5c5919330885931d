"""Pictures that several studies draw from their records."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

import jaxlocal as jl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAR = 20  # times as many epochs
Curves = Mapping[str, Sequence[jl.training.Metrics]]  # each row's history by name, as records keep it


def learning(runs: Curves, title: str, loss: bool = True) -> "Figure":
    """Loss and accuracy on the training set's first examples, and accuracy on the validation set, against epochs.

    The mean over the seeds, and a band of a standard deviation to either side. Where some runs are far longer than
    others, each doubling of the epochs takes as much room.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lengths = [len(rows) for rows in runs.values()]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = [*[("train", "loss")] * loss, ("train", "accuracy"), ("validation", "accuracy")]
    colours = colormaps["tab10" if len(runs) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for axes, (split, measure) in zip(figure.subplots(1, len(panels), sharex=True), panels, strict=True):
        for (name, rows), colour in zip(runs.items(), colours, strict=False):
            epochs = [row["epoch"] for row in rows]
            values = np.array([row[split][measure] for row in rows])
            mean = values.mean(1)
            deviation = values.std(1, ddof=1) if values.shape[1] > 1 else np.zeros_like(mean)
            axes.plot(epochs, mean, label=name, color=colour, marker="o" if len(rows) == 1 else None)
            axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", title=f"{split} {measure}")
        if max(lengths) > FAR * min(lengths):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:.0f}")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        if measure == "loss":
            axes.set_yscale("log")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(title)
    return figure
