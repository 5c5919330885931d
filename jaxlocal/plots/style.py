"""The common style of all pictures: sizes, colours, axes and legends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Petroff's ten colours, which people with colour blindness can tell apart, too, and black.
# Petroff. Accessible Color Sequences for Data Visualization. 2021.
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadb"),
    "#000000",
)


def figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches. Whatever is drawn in it is kept from overlapping."""
    from matplotlib.figure import Figure  # imported here because it is slow and only pictures need it
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))


def colours(count: int) -> list[Any]:
    """Different colours, one for each of `count` things."""
    from matplotlib import colormaps

    return list(COLOURS[:count] if count <= len(COLOURS) else colormaps["turbo"](np.linspace(0.03, 0.97, count)))


def tidy(axes: "Axes") -> None:
    """Light axes at the left and at the bottom, and a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color="0.6", linewidth=0.8)
    axes.tick_params(color="0.6")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def over_epochs(axes: "Axes", label: str) -> None:
    """Tidy axes of a measurement at each epoch; an accuracy is shown in per cent."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    tidy(axes)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if label == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def legend_beside(axes: "Axes", **settings: Any) -> None:
    """A legend to the right of the axes."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), **settings)


def marker(x: Sequence[Any] | np.ndarray) -> str | None:
    """A single number is drawn as a point, because a line needs two."""
    return "o" if len(x) == 1 else None


def mean_and_band(axes: "Axes", x: Sequence[float] | np.ndarray, values: np.ndarray, **settings: Any) -> None:
    """The mean over the last axis of the values, which is the seeds, in a band of one sample standard deviation."""
    mean = values.mean(-1)
    axes.plot(x, mean, marker=marker(x), **settings)
    if values.shape[-1] > 1:
        deviation = values.std(-1, ddof=1)
        band = mean - deviation, mean + deviation
        axes.fill_between(x, *band, color=settings["color"], alpha=0.2, linewidth=0)
