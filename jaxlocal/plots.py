"""Pictures, by matplotlib; each function returns the figure, for `figure.savefig(path)`."""

from typing import TYPE_CHECKING

from jaxlocal.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
