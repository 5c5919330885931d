"""Bartunov et al., Figure 4: how large the auxiliary output of AO-SDTP must be; the fully connected net on CIFAR."""

from functools import partial
from typing import TYPE_CHECKING

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Budget, Experiment, Recorded
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.training import Case, Steps
from experiments.papers.bartunov import shared
from experiments.papers.bartunov.shared import BATCH, CIFAR_FC, prepared
from jaxlocal.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = 16, 64, 128, 256, 512, 1024


def make(size: int | None, steps: Steps) -> jl.Rule:
    """AO-SDTP with an auxiliary output of `size` units, or SDTP, which has none, for None."""
    setup = shared.Setup("cifar10", jl.models.cifar_fc, CIFAR_FC, {}, None)
    if size is None:
        return shared.make(setup, "sdtp_parallel", steps)
    return shared.make(setup, "ao_sdtp_parallel", steps, auxiliary=size)


def name(size: int | None) -> str:
    """The name of a row."""
    return f"aux_{size}" if size else "sdtp"


def case(size: int | None) -> Case:
    """A row: AO-SDTP with `size` auxiliary units, or SDTP."""
    return Case(
        "cifar10",
        partial(make, size),
        {
            "net": "cifar_fc",
            "auxiliary units": str(size or 0),
            "Table 5": str(CIFAR_FC["sdtp_parallel"]),
            "preparation": "crop, flip, each image by its own mean and deviation",
        },
        full=Budget(epochs=500, seeds=3),
        quick=Budget(epochs=2, seeds=1),
        batch_size=BATCH,
        prepare=prepared,
    )


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """Errors against the size, with the sample standard deviation over the seeds; SDTP's errors are a level."""
    rows = recorded.rows()
    sizes = [size for size in SIZES if name(size) in rows]
    if not sizes:
        return {}
    figure, (axes,) = figures.panels(size=(7, 4))
    for split, colour in (("train", figures.ORANGE), ("test", figures.BLUE)):
        errors, deviations = zip(*(_error(rows[name(size)], split) for size in sizes), strict=True)
        axes.errorbar(sizes, errors, deviations, color=colour, marker="o", capsize=3, label=f"AO-SDTP, {split}")
        if "sdtp" in rows:
            error, deviation = _error(rows["sdtp"], split)
            axes.axhline(error, color=colour, linestyle="--", label=f"SDTP, {split}")
            axes.axhspan(error - deviation, error + deviation, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.set(xlabel="units of the auxiliary output", ylabel="error, %")
    style.legend_beside(axes)
    figure.suptitle("AO-SDTP on CIFAR-10 (JPEG copies), as Bartunov et al.'s Figure 4")
    return {"bartunov_figure4": figure}


def _error(row: Row, split: str) -> tuple[float, float]:
    """The error in percent, and its deviation over the seeds."""
    return 100 * (1 - row[split]["mean"]), 100 * (row[split]["std"] or 0.0)


EXPERIMENT = Experiment(
    module="papers.bartunov.figure4",
    name="bartunov_figure4",
    title="Bartunov et al., Figure 4: the size of the auxiliary output",
    source="Bartunov et al. 2018, Figure 4",
    rows={name(size): case(size) for size in (*SIZES, None)},
    note=(
        "The paper prints no numbers of this figure and no settings of AO-SDTP: optimizers and noise are those of "
        "SDTP, parallel, in its Table 5. The network, fully connected, the parallel form, the sizes, the batch size "
        f"({BATCH}) and the three seeds are ours, for it names none. `sdtp` has no auxiliary output."
    ),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
