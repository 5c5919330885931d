"""Pictures of training runs: measurements at each epoch."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlocal import checks
from jaxlocal.plots.style import COLOURS, colours, figure, legend_beside, marker, mean_and_band, over_epochs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[
    Mapping[str, Any]
]  # a run's metrics.jsonl: a dict for each epoch, of numbers or of lists over the seeds


def curves(rows: Rows, title: str | None = None) -> "Figure":
    """How a run learned: accuracy on both sets, or the loss if there is none, and the local loss of each component.

    For an ensemble of seeds the lines are means, and the bands at the left extend one sample standard deviation to
    either side; where a seed has no finite number, there is a gap. Local losses are on a log axis if all are positive.

    Args:
      rows: what the run recorded at each epoch: "epoch", "losses" by component, and "loss" and perhaps "accuracy" of
        "train" and of "validation".
      title: by default, the measurement at the last epoch.

    Returns:
      The figure.

    Example:
      >>> scores = {"loss": 0.7, "accuracy": 0.8}
      >>> figure = jl.plots.curves([{"epoch": 1, "losses": [0.5, 0.2], "train": scores, "validation": scores}])
      >>> [axes.get_ylabel() for axes in figure.axes]
      ['accuracy', 'local loss']
    """
    epochs = _numbers("rows", rows, "epoch")
    losses = _numbers("rows", rows, "losses")
    measure = _measure("rows", rows)
    picture = figure(9, 3.6)
    scores, local = picture.subplots(1, 2, sharex=True)
    for split, colour in (("train", COLOURS[1]), ("validation", COLOURS[0])):
        _line(scores, "rows", rows, split, measure, color=colour, label=split)
    over_epochs(scores, measure)
    scores.legend(frameon=False)
    _draw_local_losses(local, epochs, losses.reshape(*losses.shape[:2], -1).mean(2))
    reached = _last("rows", rows, measure)
    picture.suptitle(title or f"Validation {measure} {reached} at epoch {epochs[-1]:.0f}")
    return picture


def _draw_local_losses(axes: "Axes", epochs: np.ndarray, losses: np.ndarray) -> None:
    """A line for each component, from the first to the last in darker colours; losses is (epochs, components)."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    count = losses.shape[1]
    shades = ListedColormap(colormaps["viridis"](np.linspace(0.85, 0, count)))
    for i, loss in enumerate(losses.T):
        axes.plot(epochs, loss, color=shades(i), marker=marker(epochs), label=f"component {i}")
    if not np.any(losses <= 0):  # the local loss of direct feedback is a projection, which may be negative
        axes.set_yscale("log")
    over_epochs(axes, "local loss")
    if count <= 8:
        legend_beside(axes)
        return
    bar = axes.figure.colorbar(ScalarMappable(Normalize(-0.5, count - 0.5), shades), ax=axes, label="component")
    bar.set_ticks(np.unique(np.linspace(0, count - 1, 5).round()).tolist())
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)


def compare(runs: Mapping[str, Rows], title: str | None = None) -> "Figure":
    """The validation accuracy of several runs, or the loss if one of them has none; bands over seeds as in `curves`.

    Args:
      runs: the rows of each run by name, for example by the name of its rule.
      title: by default, the last measurement of the best run and of the worst.

    Returns:
      The figure. Its legend lists the runs from the best to the worst.

    Example:
      >>> rows = [{"epoch": epoch, "validation": {"loss": 1 / epoch}} for epoch in (1, 2, 3)]
      >>> jl.plots.compare({"al": rows, "bp": rows}).axes[0].get_ylabel()
      'loss'
    """
    if not isinstance(runs, Mapping) or not runs:
        raise ValueError(f"runs={checks.show(runs)}: must be the rows of each run by its name, such as {{'al': rows}}")
    arguments = {name: f"runs[{name!r}]" for name in runs}
    measures = {_measure(arguments[name], rows) for name, rows in runs.items()}
    measure = "accuracy" if measures == {"accuracy"} else "loss"
    last = {name: _numbers(arguments[name], rows, "validation", measure)[-1].mean() for name, rows in runs.items()}
    sign = -1 if measure == "accuracy" else 1
    ranked = sorted(runs, key=lambda name: np.nan_to_num(sign * last[name], nan=np.inf))
    picture = figure(9, 4)
    axes = picture.subplots()
    for place, (name, colour) in enumerate(zip(runs, colours(len(runs)), strict=True)):
        label = f"{name}  {_last(arguments[name], runs[name], measure)}"
        # Neighbours in a long list of colours are similar, so every other line is dashed.
        stroke = "--" if len(runs) > 5 and place % 2 else "-"
        style = {"color": colour, "linestyle": stroke, "label": label}
        _line(axes, arguments[name], runs[name], "validation", measure, **style)
    over_epochs(axes, measure)
    lines = dict(zip(runs, axes.get_lines(), strict=True))
    legend_beside(axes, handles=[lines[name] for name in ranked])
    best, worst = (f"{_written(last[name], measure)} ({name})" for name in (ranked[0], ranked[-1]))
    axes.set_title(title or f"Validation {measure}: {best}" + (f" to {worst}" if len(runs) > 1 else ""))
    return picture


def _numbers(argument: str, rows: Rows, *keys: str) -> np.ndarray:
    """What all rows have at these keys, (epochs, …), with NaN in place of anything that is not a finite number."""
    try:
        numbers = np.array([reduce(getitem, keys, row) for row in rows], float)
    except (KeyError, TypeError, ValueError):
        numbers = np.empty(0)
    if not numbers.size:
        raise ValueError(
            f"{argument}={checks.show(rows)}: has no rows, or rows without equally many numbers at "
            f"{' '.join(map(repr, keys))}; pass the dicts of one run's metrics.jsonl, one for each epoch"
        )
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _measure(argument: str, rows: Rows) -> str:
    """The measurement that a run is judged by, "accuracy" or "loss"."""
    _numbers(argument, rows, "validation", "loss")
    return "accuracy" if all("accuracy" in row["validation"] for row in rows) else "loss"


def _line(axes: "Axes", argument: str, rows: Rows, split: str, measure: str, **style: Any) -> None:
    """The mean over the seeds at each epoch, with a band of one standard deviation to either side."""
    epochs = _numbers(argument, rows, "epoch")
    values = _numbers(argument, rows, split, measure).reshape(len(rows), -1)
    mean_and_band(axes, epochs, values, **style)


def _last(argument: str, rows: Rows, measure: str) -> str:
    """The measurement at the last epoch as text; over several seeds the mean and the standard deviation."""
    last = _numbers(argument, rows, "validation", measure)[-1]
    return _written(last.mean(), measure) + (f" ± {_written(last.std(ddof=1), measure)}" if last.size > 1 else "")


def _written(value: float, measure: str) -> str:
    return f"{100 * value:.1f} %" if measure == "accuracy" else f"{value:#.3g}"
