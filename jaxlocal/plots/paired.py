"""A picture of differences between rules."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxlocal.plots.style import COLOURS, figure, tidy
from jaxlocal.statistics import Difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def differences(against: Mapping[str, Difference], title: str, unit: str) -> "Figure":
    """The differences of several rules from one baseline, the largest at the top, with intervals and effect sizes.

    A difference whose interval leaves out zero is blue, the others are grey. The effect sizes d are at the right.

    Args:
      against: the difference of each rule, by its name.
      title: what is measured, and against what.
      unit: of the differences.

    Returns:
      The figure.

    Example:
      >>> difference = jl.statistics.paired([0.98, 0.97, 0.98], [0.95, 0.95, 0.96])
      >>> jl.plots.differences({"al": difference}, "Accuracy, minus that of bp", "share").axes[0].get_xlabel()
      'share'
    """
    ranked = sorted(against, key=lambda name: against[name].mean)
    picture = figure(7, 1.2 + 0.28 * len(ranked))
    axes = picture.subplots()
    axes.axvline(0, color="0.4", linewidth=1)
    for place, name in enumerate(ranked):
        difference = against[name]
        colour = COLOURS[0] if difference.is_clear else COLOURS[3]
        if difference.low is not None and difference.high is not None:
            axes.plot([difference.low, difference.high], [place, place], color=colour, linewidth=2)
        axes.plot(difference.mean, place, "o", color=colour)
        if difference.effect is not None:
            axes.text(1.01, place, f"d {difference.effect:+.1f}", va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(ranked)), ranked)
    axes.set_xlabel(unit)
    axes.set_title(title)
    tidy(axes)
    return picture
