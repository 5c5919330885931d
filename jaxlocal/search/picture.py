"""A picture of a search: how the accuracies are distributed over the settings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxlocal import checks
from jaxlocal.plots.style import COLOURS, figure
from jaxlocal.search.trials import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def histograms(results: Mapping[str, Sequence[Trial]]) -> "Figure":
    """A histogram of validation accuracy over the settings for each rule, as in the paper's Figure 5.

    The settings of a robust rule lie close together on the right. Diverged settings are red, at 0 %. If the targets are
    real numbers, there is no accuracy to draw.

    Example:
      >>> trials = [jl.search.Trial({"lr": 0.1}, (0.5, 0.75), 0.25)]
      >>> jl.search.histograms({"bp": trials, "dtp": trials}).axes[-1].get_xlabel()
      'validation accuracy, %'

    Reference:
      Bartunov et al. 2018, Figure 5.
    """
    from matplotlib.ticker import MaxNLocator  # imported here because it is slow and only pictures need it

    if not results or not all(results.values()):
        raise ValueError(f"results={checks.show(results)}: must hold the trials of one rule or more, by name")
    if any(trial.losses for trials in results.values() for trial in trials):
        raise ValueError(
            "results: their targets are real numbers, which have no accuracy; print jl.search.table(trials)"
        )
    picture = figure(6, 0.8 + 1.2 * len(results))
    axes = picture.subplots(len(results), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (name, trials) in zip(axes, results.items(), strict=True):
        sound, diverged = ([100 * t.accuracy for t in trials if t.diverged == d] for d in (False, True))
        median, highest = np.median(sound + diverged), max(sound + diverged)
        axis.hist([sound, diverged], np.linspace(0, 100, 26), stacked=True, color=[COLOURS[0], COLOURS[2]], rwidth=0.9)
        axis.set_title(f"{name}: best {highest:.1f} %, median {median:.1f} %, {len(diverged)} diverged", fontsize=10)
        axis.set_xlim(0, 100)
        axis.set_ylabel("settings")
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("validation accuracy, %")
    return picture
