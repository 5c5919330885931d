"""Pictures of how the classes lie in the outputs of each layer."""

from collections.abc import Mapping, Sequence
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxlocal import checks
from jaxlocal.diagnostics import ClassDistances, class_distances
from jaxlocal.plots.style import COLOURS, colours, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panels = Mapping[str, ArrayLike]  # (N, …) by the name of a layer, as `jl.diagnostics.layer_outputs` returns them
Features = dict[str, dict[str, np.ndarray]]  # panels by the name of a rule, "" for panels without one
Distances = dict[str, dict[str, ClassDistances]]


def tsne(
    panels: Panels | Mapping[str, Panels],
    labels: ArrayLike,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> "Figure":
    """Each layer's outputs as points in the plane by t-SNE, coloured by class: the AL paper's Figures 5 and 6.

    Below each panel stands the ratio of inter-class to intra-class distance in the layer itself. The map starts from
    the principal components with a fixed seed. Its perplexity is 30, or less if there are fewer than 91 examples.

    Args:
      panels: arrays by layer, as `jl.diagnostics.layer_outputs` returns them; or such panels by rule, for a row each.
      labels: the classes, (N,) whole numbers or (N, C) one-hot.
      names: the names of the classes; by default their numbers.
      title: by default, the ratios of the first and the last layer.

    Returns:
      The figure.

    Example:
      >>> x, y = (array[:60] for array in jl.data.digits().test)
      >>> figure = jl.plots.tsne({"raw data": x, "a code": y}, y)
      >>> [axes.get_title() for axes in figure.axes]
      ['raw data', 'a code']
    """
    rules, classes = _features(panels, "labels", labels)
    names = [str(label) for label in range(classes.max() + 1)] if names is None else names
    if len(names) <= classes.max():
        raise ValueError(
            f"names={checks.show(names)}: has {len(names)} names for the classes 0 to {classes.max()}; name each class"
        )
    longest = max(map(len, rules.values()))
    columns = ceil(longest / ceil(longest / 5))  # at most five
    lines = [ceil(len(layers) / columns) for layers in rules.values()]
    picture = figure(9, 0.9 + (0.5 + 8.6 / max(columns, 3)) * sum(lines))
    grid = iter(picture.subplots(sum(lines), columns, squeeze=False))
    distances = _distances(rules, classes)
    for (rule, layers), count in zip(rules.items(), lines, strict=True):
        places = np.concatenate(list(islice(grid, count)))
        places[0].set_ylabel(rule, fontweight="bold")
        for axes in places[len(layers) :]:
            axes.set_axis_off()
        for axes, (name, features) in zip(places, layers.items(), strict=False):
            _scatter(axes, features, classes, len(names))
            axes.set(title=name, xlabel=f"inter:intra {distances[rule][name].ratio:.2f}")
    _legend_of_classes(picture, np.unique(classes), names)
    picture.suptitle(title or _ratio_title(distances))
    return picture


def _scatter(axes: "Axes", features: np.ndarray, classes: np.ndarray, count: int) -> None:
    """The examples as points in the plane, coloured by class."""
    from matplotlib.colors import ListedColormap

    size = np.clip(4000 / len(classes), 4, 20)
    palette = ListedColormap(colours(count))
    x, y = _embedded(features).T
    axes.scatter(x, y, c=classes, cmap=palette, vmin=0, vmax=count - 1, s=size, alpha=0.8, linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.spines[:].set(color="0.8", linewidth=0.8)


def _legend_of_classes(picture: "Figure", found: np.ndarray, names: Sequence[str]) -> None:
    """The classes' colours below the panels. More than twenty classes have no legend, because it would not fit."""
    from matplotlib.lines import Line2D

    if len(found) > 20:
        return
    palette = colours(len(names))
    dots = [Line2D([], [], marker="o", linestyle="", color=palette[k], label=names[k]) for k in found]
    columns = min(len(found), 10)
    picture.legend(handles=dots, loc="outside lower center", ncols=columns, frameon=False, handletextpad=0.1)


def distances(panels: Panels | Mapping[str, Panels], y: ArrayLike, title: str | None = None) -> "Figure":
    """How far the classes lie apart in each layer, how wide they are, and the ratio: the AL paper's Table 7.

    Args:
      panels: arrays by layer, as `jl.diagnostics.layer_outputs` returns them; or such panels by rule, for a row each.
      y: the classes, (N,) whole numbers or (N, C) one-hot. Each class needs two examples or more.
      title: by default, the ratios of the first and the last layer.

    Returns:
      The figure.

    Example:
      >>> x, y = jl.data.digits().test
      >>> figure = jl.plots.distances({"raw data": x, "output": y}, y)
      >>> [axes.get_xlabel() for axes in figure.axes]
      ['inter-class distance', 'intra-class distance', 'ratio']
    """
    rules, classes = _features(panels, "y", y)
    measured = _distances(rules, classes)
    heights = [len(layers) for layers in rules.values()]
    picture = figure(9, 1.2 + 0.34 * sum(heights) + 0.5 * len(rules))
    grid = picture.subplots(len(rules), 3, squeeze=False, sharey="row", height_ratios=heights)
    columns = (
        ("inter", "inter-class distance", COLOURS[0]),
        ("intra", "intra-class distance", COLOURS[1]),
        ("ratio", "ratio", COLOURS[4]),
    )
    for column, (measure, label, colour) in enumerate(columns):
        for (rule, layers), axes in zip(measured.items(), grid[:, column], strict=True):
            values = {name: float(getattr(layer, measure)) for name, layer in layers.items()}
            _bars(axes, values, colour)
            if not column:
                axes.set_ylabel(rule, fontweight="bold")
        grid[-1, column].set_xlabel(label)
    for inter, intra, ratio in grid:
        intra.sharex(inter)
        if ratio is not grid[0, 2]:
            ratio.sharex(grid[0, 2])  # ratios have no unit, so one scale serves all rules
    picture.suptitle(title or _ratio_title(measured))
    return picture


def _bars(axes: "Axes", values: Mapping[str, float], colour: str) -> None:
    """A horizontal bar for each value, from the top down. An infinite value is written, but its bar has no length."""
    lengths = [value if np.isfinite(value) else 0 for value in values.values()]
    bars = axes.barh(range(len(values)), lengths, height=0.7, color=colour)
    axes.bar_label(bars, [f"{value:.2f}" for value in values.values()], padding=3, fontsize="small")
    axes.set(yticks=range(len(values)), yticklabels=list(values), ylim=(len(values) - 0.5, -0.5), xticks=[])
    axes.margins(x=0.25)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.spines.left.set(visible=True, color="0.6")


def _features(panels: Panels | Mapping[str, Panels], argument: str, labels: ArrayLike) -> tuple[Features, np.ndarray]:
    """The panels as arrays by rule and layer, and the class of each example."""
    nested = isinstance(panels, Mapping) and all(isinstance(layers, Mapping) for layers in panels.values())
    rules: Any = panels if nested else {"": panels}
    if not rules or not all(isinstance(layers, Mapping) and layers for layers in rules.values()):
        raise ValueError(
            f"panels={checks.show(panels)}: must be arrays by the names of layers, as jl.diagnostics.layer_outputs "
            "returns them, or such panels by rule"
        )
    classes = _classes(argument, labels)
    features: Features = {}
    for rule, layers in rules.items():
        features[rule] = {layer: np.asarray(array, np.float32) for layer, array in layers.items()}
        for layer, array in features[rule].items():
            panel = "panels" + "".join(f"[{key!r}]" for key in (rule, layer) if key)
            if array.shape[:1] != classes.shape:
                raise ValueError(
                    f"{panel} has shape {array.shape}, but {argument} has {len(classes)} examples; pass the labels of "
                    "the examples that the panels were made from"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{panel} holds NaN or infinity: the run has diverged; leave the layer out")
    return features, classes


def _classes(argument: str, labels: ArrayLike) -> np.ndarray:
    """The number of each example's class, (N,)."""
    classes = np.asarray(labels)
    if classes.ndim == 2:
        classes = classes.argmax(1) if classes.shape[1] > 1 else classes[:, 0]
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer) or np.any(classes < 0):
        raise ValueError(
            f"{argument}={checks.show(labels)}: must be one-hot, (N, C), or the numbers of the classes, (N,), from 0"
        )
    counts = np.unique(classes, return_counts=True)[1]
    checks.comparable_classes(argument, counts.tolist())
    return classes


def _embedded(features: np.ndarray) -> np.ndarray:
    """The examples as points in the plane by t-SNE, (N, 2)."""
    from sklearn.manifold import TSNE  # imported here because it is slow and only this picture needs it
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    points = features.reshape(len(features), -1)
    if not np.ptp(points, axis=0).any():  # the layer's units are dead, so all examples are at one point
        return np.zeros((len(points), 2))
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))  # t-SNE starts from two principal components
    # Several threads wait for each other in busy loops, which is ten times slower where processes share the cores.
    with threadpool_limits(1):
        return TSNE(perplexity=min(30, (len(points) - 1) / 3), init="pca", random_state=0).fit_transform(points)


def _distances(rules: Features, classes: np.ndarray) -> Distances:
    y = jax.nn.one_hot(classes, classes.max() + 1)
    return {
        rule: {layer: class_distances(jnp.asarray(features), y) for layer, features in layers.items()}
        for rule, layers in rules.items()
    }


def _ratio_title(measured: Distances) -> str:
    """The ratio in the first and in the last layer, or for several rules in the last layer of each."""

    def last(layers: dict[str, ClassDistances]) -> float:
        return float(tuple(layers.values())[-1].ratio)

    if len(measured) > 1:
        ratios = ", ".join(f"{rule} {last(layers):.2f}" for rule, layers in measured.items())
        return f"Inter- to intra-class distance in the last layer: {ratios}"
    (layers,) = measured.values()
    first, *_, end = (*layers, *layers)
    return f"Inter- to intra-class distance: {float(layers[first].ratio):.2f} in {first}, {last(layers):.2f} in {end}"
