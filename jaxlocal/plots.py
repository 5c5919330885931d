"""Pictures, by matplotlib; each function returns the figure, for `figure.savefig(path)`."""

from collections.abc import Mapping, Sequence
from functools import reduce
from math import ceil
from operator import getitem
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxlocal import checks
from jaxlocal.diagnostics import ClassDistances, class_distances
from jaxlocal.pipeline.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]  # a run's metrics.jsonl: a dict an epoch, of numbers or of lists over the seeds
Panels = Mapping[str, ArrayLike]  # layers by name, (N, …) each, as `jl.diagnostics.layer_outputs` returns them

# Petroff's ten, made to be told apart by every eye (Accessible color sequences for data visualization, 2021); black.
_COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadb"),
    "#000000",
)


def curves(rows: Rows, title: str | None = None) -> "Figure":
    """How a run learned: accuracy on both sets, or loss where there is none, and the local loss of each component.

    Over an ensemble of seeds, the mean, and at the left a band of a standard deviation to either side; a seed without
    a finite number leaves a gap. The local losses are on a log axis where all are positive.

    Args:
      rows: of each epoch, what the run wrote: "epoch", "losses" by component, "loss" and "accuracy" of "train" and of
        "validation".
      title: by default, what the last epoch reached.

    Returns:
      The figure.

    Example:
      >>> scores = {"loss": 0.7, "accuracy": 0.8}
      >>> figure = jl.plots.curves([{"epoch": 1, "losses": [0.5, 0.2], "train": scores, "validation": scores}])
      >>> [axes.get_ylabel() for axes in figure.axes]
      ['accuracy', 'local loss']
    """
    from matplotlib import colormaps  # slow to import, and not needed by the library itself
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    epochs = _numbers("rows", rows, "epoch")
    losses = _numbers("rows", rows, "losses")
    losses = losses.reshape(*losses.shape[:2], -1).mean(2)
    measure = _measure("rows", rows)
    figure = _figure(9, 3.6)
    scores, local = figure.subplots(1, 2, sharex=True)
    for split, colour in (("train", _COLOURS[1]), ("validation", _COLOURS[0])):
        _line(scores, "rows", rows, split, measure, color=colour, label=split)
    _against_epochs(scores, measure)
    scores.legend(frameon=False)

    count = losses.shape[1]
    depth = ListedColormap(colormaps["viridis"](np.linspace(0.85, 0, count)))
    for i, loss in enumerate(losses.T):
        local.plot(epochs, loss, color=depth(i), marker=_marker(rows), label=f"component {i + 1}")
    if not np.any(losses <= 0):  # rules with direct feedback go down a projection, which may be negative
        local.set_yscale("log")
    _against_epochs(local, "local loss")
    if count > 8:
        bar = figure.colorbar(ScalarMappable(Normalize(0.5, count + 0.5), depth), ax=local, label="component")
        bar.set_ticks(np.unique(np.linspace(1, count, 5).round()).tolist())
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
    else:
        local.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    reached = _reached("rows", rows, measure)
    figure.suptitle(title or f"Validation {measure} {reached} at epoch {epochs[-1]:.0f}")
    return figure


def compare(runs: Mapping[str, Rows], title: str | None = None) -> "Figure":
    """The validation accuracy of several runs, or the loss where one has none; bands over the seeds as in `curves`.

    Args:
      runs: the rows of each run by name, of a rule for example.
      title: by default, the last of the best run and of the worst.

    Returns:
      The figure; the legend has the runs from the best to the worst.

    Example:
      >>> rows = [{"epoch": epoch, "validation": {"loss": 1 / epoch}} for epoch in (1, 2, 3)]
      >>> jl.plots.compare({"al": rows, "bp": rows}).axes[0].get_ylabel()
      'loss'
    """
    if not isinstance(runs, Mapping) or not runs:
        raise ValueError(f"runs={checks.show(runs)}: must be the rows of each run by its name, such as {{'al': rows}}")
    names = {name: f"runs[{name!r}]" for name in runs}
    measures = {_measure(names[name], rows) for name, rows in runs.items()}
    measure = "accuracy" if measures == {"accuracy"} else "loss"
    last = {n: _numbers(names[n], rows, "validation", measure)[-1].mean() for n, rows in runs.items()}
    sign = -1 if measure == "accuracy" else 1
    ranked = sorted(runs, key=lambda name: np.nan_to_num(sign * last[name], nan=np.inf))
    figure = _figure(9, 4)
    axes = figure.subplots()
    for place, (name, colour) in enumerate(zip(runs, _colours(len(runs)), strict=True)):
        _line(
            axes,
            names[name],
            runs[name],
            "validation",
            measure,
            color=colour,
            # Two neighbours in the list of colours are also told apart by the stroke.
            linestyle=("-", "--")[place % 2 if len(runs) > 5 else 0],
            label=f"{name}  {_reached(names[name], runs[name], measure)}",
        )
    _against_epochs(axes, measure)
    handles = dict(zip(runs, axes.get_lines(), strict=True))
    axes.legend(
        handles=[handles[name] for name in ranked], frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5)
    )
    best, worst = (f"{_written(last[name], measure)} ({name})" for name in (ranked[0], ranked[-1]))
    axes.set_title(title or f"Validation {measure}: {best}" + (f" to {worst}" if len(runs) > 1 else ""))
    return figure


def tsne(
    panels: Panels | Mapping[str, Panels],
    labels: ArrayLike,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> "Figure":
    """Each layer's outputs as points in the plane by t-SNE, coloured by class: the AL paper's Figures 5 and 6.

    Under each panel, the ratio of inter- to intra-class distance in the layer itself. The map starts from the
    principal components and from a fixed seed; its perplexity is 30, and less under 91 examples.

    Args:
      panels: layers by name, as `jl.diagnostics.layer_outputs` returns them; or such panels by rule, for a row each.
      labels: the classes, (N,) whole numbers or (N, C) one-hot.
      names: of the classes; their numbers by default.
      title: by default, what the ratio comes to.

    Returns:
      The figure.

    Example:
      >>> x, y = (array[:60] for array in jl.data.digits().test)
      >>> figure = jl.plots.tsne({"raw data": x, "a code": y}, y)
      >>> [axes.get_title() for axes in figure.axes]
      ['raw data', 'a code']
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D

    rules, classes = _labelled(panels, "labels", labels)
    found = np.unique(classes)
    names = [str(label) for label in range(classes.max() + 1)] if names is None else names
    if len(names) <= classes.max():
        raise ValueError(
            f"names={checks.show(names)}: has {len(names)} names for the classes 0 to {classes.max()}; name each class"
        )
    colours = _colours(len(names))
    longest = max(map(len, rules.values()))
    columns = ceil(longest / ceil(longest / 5))
    lines = [ceil(len(layers) / columns) for layers in rules.values()]
    figure = _figure(9, 0.9 + (0.5 + 8.6 / max(columns, 3)) * sum(lines))
    grid = iter(figure.subplots(sum(lines), columns, squeeze=False))
    ratios = _distances(rules, classes)
    for (rule, layers), count in zip(rules.items(), lines, strict=True):
        places = np.concatenate([next(grid) for _ in range(count)])
        places[0].set_ylabel(rule, fontweight="bold")
        for axes in places[len(layers) :]:
            axes.set_axis_off()
        for axes, (name, features) in zip(places, layers.items(), strict=False):
            axes.scatter(
                *_embedded(features).T,
                c=classes,
                cmap=ListedColormap(colours),
                vmin=0,
                vmax=len(names) - 1,
                s=np.clip(4000 / len(classes), 4, 20),
                alpha=0.8,
                linewidths=0,
            )
            axes.set(title=name, xlabel=f"inter:intra {ratios[rule][name].ratio:.2f}", xticks=[], yticks=[])
            axes.set_aspect("equal", adjustable="datalim")
            axes.margins(0.08)
            axes.spines[:].set(color="0.8", linewidth=0.8)
    if len(found) <= 20:
        dots = [Line2D([], [], marker="o", linestyle="", color=colours[k], label=names[k]) for k in found]
        figure.legend(
            handles=dots, loc="outside lower center", ncols=min(len(found), 10), frameon=False, handletextpad=0.1
        )
    figure.suptitle(title or _ratio_title(ratios))
    return figure


def distances(panels: Panels | Mapping[str, Panels], y: ArrayLike, title: str | None = None) -> "Figure":
    """How far the classes lie apart in each layer, how wide they are, and the ratio: the AL paper's Table 7.

    Args:
      panels: layers by name, as `jl.diagnostics.layer_outputs` returns them; or such panels by rule, for a row each.
      y: the classes, (N,) whole numbers or (N, C) one-hot; each needs two examples or more.
      title: by default, what the ratio comes to.

    Returns:
      The figure.

    Example:
      >>> x, y = jl.data.digits().test
      >>> figure = jl.plots.distances({"raw data": x, "output": y}, y)
      >>> [axes.get_xlabel() for axes in figure.axes]
      ['inter-class distance', 'intra-class distance', 'ratio']
    """
    rules, classes = _labelled(panels, "y", y)
    measured = _distances(rules, classes)
    heights = [len(layers) for layers in rules.values()]
    figure = _figure(9, 1.2 + 0.34 * sum(heights) + 0.5 * len(rules))
    grid = figure.subplots(len(rules), 3, squeeze=False, sharey="row", height_ratios=heights)
    measures = zip(("inter", "intra", "ratio"), (_COLOURS[0], _COLOURS[1], _COLOURS[4]), strict=True)
    for column, (measure, colour) in enumerate(measures):
        for (rule, layers), axes in zip(measured.items(), grid[:, column], strict=True):
            values = np.array([getattr(layer, measure) for layer in layers.values()])
            # A ratio to no distance at all is written, but no bar is as long.
            bars = axes.barh(range(len(layers)), np.where(np.isfinite(values), values, 0), height=0.7, color=colour)
            axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize="small")
            axes.set(yticks=range(len(layers)), yticklabels=layers, ylim=(len(layers) - 0.5, -0.5), xticks=[])
            axes.margins(x=0.25)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.spines.left.set(visible=True, color="0.6")
            if not column:
                axes.set_ylabel(rule, fontweight="bold")
        grid[-1, column].set_xlabel("ratio" if measure == "ratio" else f"{measure}-class distance")
    for inter, intra, ratio in grid:
        intra.sharex(inter)
        if ratio is not grid[0, 2]:
            ratio.sharex(grid[0, 2])  # has no unit, so it compares between rules too
    figure.suptitle(title or _ratio_title(measured))
    return figure


def alignment(
    angles: ArrayLike | Mapping[str, ArrayLike], names: Sequence[str] | None = None, title: str | None = None
) -> "Figure":
    """The angle between what a rule teaches each layer and backpropagation's gradient; under 90° the loss falls.

    Args:
      angles: degrees, one a layer, as `jl.diagnostics.alignment` returns them, NaN where there is none; or such angles
        by rule.
      names: of the layers; their numbers, from 1, by default.
      title: by default, how many layers are taught to go down the loss.

    Returns:
      The figure.

    Example:
      >>> figure = jl.plots.alignment({"dfa": [80.0, 65.0, 0.0], "al": [88.0, 93.0]})
      >>> figure.axes[0].get_title()
      'Layers taught down the loss, under 90°: dfa 3 of 3, al 1 of 2'
    """
    rules = angles if isinstance(angles, Mapping) else {"": angles}
    rows = {rule: np.asarray(row, float) for rule, row in rules.items()}
    if not rows or any(row.ndim != 1 or not row.size for row in rows.values()):
        raise ValueError(f"angles={checks.show(angles)}: must be degrees, (L,), one a layer, or such arrays by rule")
    layers = max(map(len, rows.values()))
    names = [f"layer {layer + 1}" for layer in range(layers)] if names is None else names
    if len(names) < layers:
        raise ValueError(f"names={checks.show(names)}: has {len(names)} names for {layers} layers; name each layer")
    figure = _figure(9, 3.6)
    axes = figure.subplots()
    axes.axhline(90, color="0.35", linestyle="--", linewidth=1)
    for (rule, row), colour in zip(rows.items(), _colours(len(rows)), strict=True):
        axes.plot(range(len(row)), row, color=colour, marker="o", markersize=8, label=rule, clip_on=False)
    for layer in range(layers):
        if all(np.isnan(row[layer : layer + 1]).all() for row in rows.values()):
            axes.text(layer, 45, "no angle", color="0.5", ha="center", va="center")
    _tidy(axes)
    uphill = any(np.any(row > 90) for row in rows.values())
    axes.set(
        xlim=(-0.4, layers - 0.6),
        xticks=range(layers),
        xticklabels=names[:layers],
        yticks=range(0, 181, 30),
        ylim=(0, 180 if uphill else 100),
        ylabel="angle to backpropagation",
    )
    axes.yaxis.set_major_formatter("{x:.0f}°")
    if isinstance(angles, Mapping):
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    falls = ", ".join(f"{rule} {np.sum(row < 90)} of {np.sum(row >= 0)}".strip() for rule, row in rows.items())
    axes.set_title(title or f"Layers taught down the loss, under 90°: {falls}")
    return figure


def schedule(timetable: Schedule, title: str | None = None) -> "Figure":
    """The timetable of a pipeline, as in Table 1 of the AL paper: time from left to right, a row for each stage.

    Example:
      >>> figure = jl.plots.schedule(jl.pipeline.Schedule(batches=6, stages=3))
      >>> figure.axes[0].get_xlabel()
      'tick'
    """
    from matplotlib import colormaps  # slow to import, and not needed by the library itself
    from matplotlib.figure import Figure

    table = timetable.table()
    ticks, stages = table.shape
    figure = Figure(figsize=(min(16, 2 + 0.45 * ticks), 1.2 + 0.45 * stages), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["viridis"]
    for tick, row in enumerate(table):
        for stage, batch in enumerate(row):
            learns = batch >= 0
            shade = 0.25 + 0.7 * batch / max(1, timetable.batches - 1)
            face = colours(shade) if learns else "0.93"
            axes.barh(
                stage, 0.94, left=tick + 0.03, height=0.88, color=face, hatch=None if learns else "////", edgecolor="w"
            )
            if learns and ticks <= 40:
                axes.text(tick + 0.5, stage, str(batch), ha="center", va="center", color="w" if shade < 0.7 else "k")
    axes.set(
        xlim=(0, ticks),
        ylim=(stages - 0.5, -0.5),
        xlabel="tick",
        yticks=range(stages),
        yticklabels=[f"stage {stage}" for stage in range(stages)],
        title=title
        or f"{timetable.batches} batches through {stages} stages: {timetable.utilisation:.1%} of the time used",
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color="0.6", linewidth=0.8)
    axes.tick_params(color="0.6")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def _colours(count: int) -> list[Any]:
    """So many colours to tell things apart by."""
    from matplotlib import colormaps

    return list(_COLOURS[:count] if count <= len(_COLOURS) else colormaps["turbo"](np.linspace(0.03, 0.97, count)))


def _numbers(name: str, rows: Rows, *keys: str) -> np.ndarray:
    """What all rows have at these keys, (epochs, …); NaN where there is no finite number."""
    try:
        numbers = np.array([reduce(getitem, keys, row) for row in rows], float)
    except (KeyError, TypeError, ValueError):
        numbers = np.empty(0)
    if not numbers.size:
        raise ValueError(
            f"{name}={checks.show(rows)}: has no row, or one without numbers at {' '.join(map(repr, keys))} or with "
            "more or fewer than the others; pass the dicts of one run's metrics.jsonl, one an epoch"
        )
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _measure(name: str, rows: Rows) -> str:
    """What a run is judged by."""
    _numbers(name, rows, "validation", "loss")
    return "accuracy" if all("accuracy" in row["validation"] for row in rows) else "loss"


def _marker(rows: Rows) -> str | None:
    return "o" if len(rows) == 1 else None


def _line(axes: "Axes", name: str, rows: Rows, split: str, measure: str, **style: Any) -> None:
    """The mean over the seeds against the epochs, and a band of a standard deviation to either side."""
    epochs = _numbers(name, rows, "epoch")
    values = _numbers(name, rows, split, measure).reshape(len(rows), -1)
    mean, deviation = values.mean(1), values.std(1)
    axes.plot(epochs, mean, marker=_marker(rows), **style)
    if values.shape[1] > 1:
        band = mean - deviation, mean + deviation
        axes.fill_between(epochs, *band, color=style["color"], alpha=0.2, linewidth=0)


def _against_epochs(axes: "Axes", label: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    _tidy(axes)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if label == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))


def _reached(name: str, rows: Rows, measure: str) -> str:
    """The last of a run, in words; over seeds with its standard deviation."""
    last = _numbers(name, rows, "validation", measure)[-1]
    return _written(last.mean(), measure) + (f" ± {_written(last.std(), measure)}" if last.size > 1 else "")


def _written(value: float, measure: str) -> str:
    return f"{value:.1%}" if measure == "accuracy" else f"{value:#.3g}"


def _name(argument: str, *keys: str) -> str:
    return argument + "".join(f"[{key!r}]" for key in keys if key)


def _labelled(
    panels: Panels | Mapping[str, Panels], name: str, labels: ArrayLike
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
    """The panels by rule, "" where there is one without a name, and the class of each example."""
    nested = isinstance(panels, Mapping) and all(isinstance(layers, Mapping) for layers in panels.values())
    rules: Any = panels if nested else {"": panels}
    if not rules or not all(isinstance(layers, Mapping) and layers for layers in rules.values()):
        raise ValueError(
            f"panels={checks.show(panels)}: must be arrays by the names of layers, as jl.diagnostics.layer_outputs "
            "returns them, or such panels by rule"
        )
    classes = np.asarray(labels)
    classes = classes.argmax(1) if classes.ndim == 2 else classes
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer) or np.any(classes < 0):
        raise ValueError(
            f"{name}={checks.show(labels)}: must be one-hot, (N, C), or the numbers of the classes, (N,), from 0"
        )
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) < 2 or min(counts) < 2:
        raise ValueError(
            f"{name}: has {len(counts)} classes, the smallest with {min(counts, default=0)} examples; distances need "
            "two classes or more, of two examples or more"
        )
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for rule, layers in rules.items():
        arrays[rule] = {layer: np.asarray(features, np.float32) for layer, features in layers.items()}
        for layer, features in arrays[rule].items():
            panel = _name("panels", rule, layer)
            if features.shape[:1] != classes.shape:
                raise ValueError(
                    f"{panel} has shape {features.shape}, but {name} has {len(classes)} examples; pass the labels of "
                    "the examples that the panels were made from"
                )
            if not np.isfinite(features).all():
                raise ValueError(f"{panel} holds NaN or infinity: the run has diverged; leave the layer out")
    return arrays, classes


def _embedded(features: np.ndarray) -> np.ndarray:
    """The examples in the plane, (N, 2)."""
    from sklearn.manifold import TSNE  # slow to import, and not needed by the library itself
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    points = features.reshape(len(features), -1)
    if not np.ptp(points, axis=0).any():  # a dead layer: all in one place
        return np.zeros((len(points), 2))
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))  # the principal components are two
    with threadpool_limits(1):  # its threads wait for each other by spinning: ten times as slow where cores are shared
        return TSNE(perplexity=min(30, (len(points) - 1) / 3), init="pca", random_state=0).fit_transform(points)


def _distances(rules: dict[str, dict[str, np.ndarray]], classes: np.ndarray) -> dict[str, dict[str, ClassDistances]]:
    y = jax.nn.one_hot(classes, classes.max() + 1)
    return {
        rule: {layer: class_distances(jnp.asarray(features), y) for layer, features in layers.items()}
        for rule, layers in rules.items()
    }


def _ratio_title(measured: dict[str, dict[str, ClassDistances]]) -> str:
    """The fact: what the ratio comes to at the end, and from where."""

    def last(layers: dict[str, ClassDistances]) -> float:
        return float(tuple(layers.values())[-1].ratio)

    if len(measured) > 1:
        told = ", ".join(f"{rule} {last(layers):.2f}" for rule, layers in measured.items())
        return f"Inter- to intra-class distance in the last layer: {told}"
    (layers,) = measured.values()
    first, *_, end = (*layers, *layers)
    return f"Inter- to intra-class distance: {float(layers[first].ratio):.2f} in {first}, {last(layers):.2f} in {end}"
