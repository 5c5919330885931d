"""A picture of a pipeline's timetable."""

from typing import TYPE_CHECKING

from jaxlocal.pipeline.schedule import Schedule
from jaxlocal.plots.style import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def schedule(timetable: Schedule, title: str | None = None) -> "Figure":
    """The timetable of a pipeline, as in the AL paper's Table 1: time runs from left to right, each stage has a row.

    Example:
      >>> figure = jl.plots.schedule(jl.pipeline.Schedule(batches=6, stages=3))
      >>> figure.axes[0].get_xlabel()
      'tick'
    """
    from matplotlib import colormaps  # imported here because it is slow and only pictures need it

    table = timetable.table()
    ticks, stages = table.shape
    picture = figure(min(16, 2 + 0.45 * ticks), 1.2 + 0.45 * stages)
    axes = picture.subplots()
    for tick, row in enumerate(table):
        for stage, batch in enumerate(row):
            waits = batch < 0
            shade = 0.25 + 0.7 * batch / max(1, timetable.batches - 1)
            face, hatch = ("0.93", "////") if waits else (colormaps["viridis"](shade), None)
            axes.barh(stage, 0.94, left=tick + 0.03, height=0.88, color=face, hatch=hatch, edgecolor="w")
            if not waits and ticks <= 40:
                axes.text(tick + 0.5, stage, str(batch), ha="center", va="center", color="w" if shade < 0.7 else "k")
    axes.set(xlim=(0, ticks), xlabel="tick", ylim=(stages - 0.5, -0.5), yticks=range(stages))
    axes.set_yticklabels([f"stage {stage}" for stage in range(stages)])
    used = f"{timetable.batches} batches through {stages} stages: {100 * timetable.utilisation:.1f} % of the time used"
    axes.set_title(title or used)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return picture
