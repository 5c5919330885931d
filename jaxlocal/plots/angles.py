"""A picture of the angles between a rule's updates and backpropagation's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from jaxlocal import checks
from jaxlocal.plots.style import colours, figure, legend_beside, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def alignment(
    angles: ArrayLike | Mapping[str, ArrayLike], names: Sequence[str] | None = None, title: str | None = None
) -> "Figure":
    """The angle between a rule's gradient and backpropagation's in each layer; below 90° the loss decreases.

    Args:
      angles: degrees, one for each layer, as `jl.diagnostics.alignment` returns them, with NaN for a layer without an
        angle; or such angles by rule.
      names: the names of the layers; by default their numbers, from 0.
      title: by default, the number of layers with an angle below 90°.

    Returns:
      The figure.

    Example:
      >>> figure = jl.plots.alignment({"dfa": [80.0, 65.0, 0.0], "al": [88.0, 93.0]})
      >>> figure.axes[0].get_title()
      'Layers with an angle below 90°: dfa 3 of 3, al 1 of 2'
    """
    rules = angles if isinstance(angles, Mapping) else {"": angles}
    rows = {rule: np.asarray(row, float) for rule, row in rules.items()}
    if not rows or any(row.ndim != 1 or not row.size for row in rows.values()):
        raise ValueError(
            f"angles={checks.show(angles)}: must be degrees, (L,), one for each layer, or such arrays by rule"
        )
    layers = max(map(len, rows.values()))
    names = [f"layer {layer}" for layer in range(layers)] if names is None else names
    if len(names) < layers:
        raise ValueError(f"names={checks.show(names)}: has {len(names)} names for {layers} layers; name each layer")
    picture = figure(9, 3.6)
    axes = picture.subplots()
    axes.axhline(90, color="0.35", linestyle="--", linewidth=1)
    for (rule, row), colour in zip(rows.items(), colours(len(rows)), strict=True):
        axes.plot(range(len(row)), row, color=colour, marker="o", markersize=8, label=rule, clip_on=False)
    for layer in range(layers):
        if all(np.isnan(row[layer : layer + 1]).all() for row in rows.values()):
            axes.text(layer, 45, "no angle", color="0.5", ha="center", va="center")
    tidy(axes)
    highest = 180 if any(np.any(row > 90) for row in rows.values()) else 100
    axes.set(xlim=(-0.4, layers - 0.6), xticks=range(layers), xticklabels=names[:layers])
    axes.set(ylim=(0, highest), yticks=range(0, 181, 30), ylabel="angle to backpropagation")
    axes.yaxis.set_major_formatter("{x:.0f}°")
    if isinstance(angles, Mapping):
        legend_beside(axes)
    counts = ", ".join(f"{rule} {np.sum(row < 90)} of {np.sum(row >= 0)}".strip() for rule, row in rows.items())
    axes.set_title(title or f"Layers with an angle below 90°: {counts}")
    return picture
