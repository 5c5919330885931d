"""Figures drawn from records, all in one style."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import jaxlocal as jl
from experiments.lab import records
from experiments.lab.experiment import Experiment, Recorded
from jaxlocal.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = records.ROOT / "docs" / "pictures" / "records"
BLUE, ORANGE, RED = style.COLOURS[:3]
FAR = 20  # the ratio of two runs' epochs beyond which the axis of the epochs is logarithmic
Curves = Mapping[str, Sequence[jl.training.Metrics]]  # each row's history by name, as records keep it
Draw = Callable[[Recorded], Mapping[str, "Figure"]]


def save(figure: "Figure", name: str, recorded: Recorded) -> Path:
    """Save a figure where the pages show it, or beside the records in another folder; its file says what it shows."""
    path = (recorded.out or PICTURES) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Source": source(recorded)})
    return path


def source(recorded: Recorded) -> str:
    """The experiment and a digest of the records that its figures show."""
    experiment, others = recorded.experiment, recorded.experiment.drawn_too
    return f"{experiment.module} {records.digest({**recorded.records, **(others(recorded) if others else {})})}"


def drawn_by(source: str) -> Experiment:
    """The experiment that a `source` names: a file, or a folder with a `__main__`."""
    module = import_module(f"experiments.{source.split()[0]}")
    if not hasattr(module, "EXPERIMENT"):
        module = import_module(f"{module.__name__}.__main__")
    return module.EXPERIMENT


def shown_in(picture: Path) -> str:
    """The `source` of what a saved picture shows."""
    from PIL import Image

    with Image.open(picture) as image:
        return image.info.get("Source", "")


def panels(
    columns: int = 1, rows: int = 1, *, size: tuple[float, float], **shared: Any
) -> tuple["Figure", list["Axes"]]:
    """A figure and its axes, row by row."""
    figure = style.figure(*size)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for one in axes:
        style.tidy(one)
    return figure, axes


def grid(count: int, columns: int, cell: tuple[float, float]) -> tuple["Figure", list["Axes"]]:
    """A figure and so many axes of the size `cell`, in rows of at most so many columns."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = panels(columns, rows, size=(cell[0] * columns, cell[1] * rows + 0.5))
    for one in axes[count:]:
        one.remove()
    return figure, axes[:count]


def whole_epochs(axes: "Axes") -> None:
    """Only whole numbers on the axis of the epochs."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def curves(name: str, title: str, prefix: str = "", suffix: str = "", loss: bool = True) -> Draw:
    """Draws the learning curves of the rows whose names begin and end like this, as the figure `name`."""

    def draw(recorded: Recorded) -> dict[str, "Figure"]:
        rows = recorded.rows().items()
        trained = {row: line["history"] for row, line in rows if "history" in line}
        runs = {
            row.removeprefix(prefix).removesuffix(suffix): history
            for row, history in trained.items()
            if row.startswith(prefix) and row.endswith(suffix)
        }
        return {name: learning(runs, title, loss)} if runs else {}

    return draw


def learning(runs: Curves, title: str, loss: bool = True) -> "Figure":
    """Loss and accuracy on the training set's first examples, and accuracy on the validation set, against epochs.

    If all runs have test accuracies after each epoch, these take the place of those on the validation set. Lines are
    means over the seeds. Where some runs are far longer than others, the axis of the epochs is logarithmic.
    """
    from matplotlib import colormaps

    lengths = [len(rows) for rows in runs.values()]
    held_out = "test" if all("test" in rows[-1] for rows in runs.values()) else "validation"
    shown = [*[("train", "loss")] * loss, ("train", "accuracy"), (held_out, "accuracy")]
    colours = colormaps["tab10" if len(runs) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    figure, every = panels(len(shown), size=(11, 4.2), sharex=True)
    for axes, (split, measure) in zip(every, shown, strict=True):
        for (name, rows), colour in zip(runs.items(), colours, strict=False):
            epochs = [row["epoch"] for row in rows]
            values = np.array([row[split][measure] for row in rows])
            style.mean_and_band(axes, epochs, values, color=colour, label=name)
        axes.set(xlabel="epoch", title=f"{split} {measure}")
        if max(lengths) > FAR * min(lengths):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:.0f}")
        else:
            whole_epochs(axes)
        if measure == "loss":
            axes.set_yscale("log")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(title)
    return figure
