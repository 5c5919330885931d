"""Bartunov et al., Figure 4: how large the auxiliary output of AO-SDTP must be; the fully connected net on CIFAR."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab import study
from experiments.lab.study import Budget, Case, Steps, Study
from experiments.papers.bartunov.table1 import BATCH, CIFAR_FC, prepared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = 16, 64, 128, 256, 512, 1024
QUICK_SIZES = 16, 128, 1024, None
BEST = CIFAR_FC["sdtp_parallel"]


def make(size: int | None, steps: Steps) -> jl.Rule:
    """AO-SDTP with an auxiliary output of so many units; SDTP, which has none, for None."""
    assert BEST.inverse and BEST.noise
    net, tx, inverse_tx = jl.models.cifar_fc(), BEST.forward.tx(), BEST.inverse.tx()
    if size is None:
        return jl.rules.sdtp(net, tx, inverse_tx=inverse_tx, noise=BEST.noise)
    return jl.rules.ao_sdtp(net, tx, inverse_tx=inverse_tx, noise=BEST.noise, auxiliary=size)


def name(size: int | None) -> str:
    """Of a row."""
    return f"aux_{size}" if size else "sdtp"


def draw(rows: Mapping[str, results.Row]) -> dict[str, "Figure"]:
    """Errors against the size, those of SDTP as a level; a standard deviation over the seeds to either side."""
    from matplotlib.figure import Figure

    sizes = [size for size in SIZES if name(size) in rows]
    if not sizes:
        return {}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for split, colour in (("train", "#ffa90e"), ("test", "#3f90da")):
        errors, deviations = zip(*(_error(rows[name(size)], split) for size in sizes), strict=True)
        axes.errorbar(sizes, errors, deviations, color=colour, marker="o", capsize=3, label=f"AO-SDTP, {split}")
        if "sdtp" in rows:
            error, deviation = _error(rows["sdtp"], split)
            axes.axhline(error, color=colour, linestyle="--", label=f"SDTP, {split}")
            axes.axhspan(error - deviation, error + deviation, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.set(xlabel="units of the auxiliary output", ylabel="error, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.suptitle("AO-SDTP on CIFAR-10 (JPEG copies), as Bartunov et al.'s Figure 4")
    return {"bartunov_figure4": figure}


def _error(row: results.Row, split: str) -> tuple[float, float]:
    """In percent, with its deviation over the seeds."""
    return 100 * (1 - row[split]["mean"]), 100 * (row[split]["std"] or 0.0)


def case(size: int | None) -> Case:
    """A row: AO-SDTP with so many units, or SDTP."""
    told = {"net": "cifar_fc", "auxiliary units": str(size or 0), "Table 5": str(BEST)}
    return Case(
        "cifar10",
        partial(make, size),
        told | {"preparation": "crop, flip, each image by its own mean and deviation"},
        full=Budget(500, 3),
        quick=Budget(2, 1) if size in QUICK_SIZES else None,
        batch_size=BATCH,
        prepare=prepared,
    )


STUDY = Study(
    name="bartunov_figure4",
    title="Bartunov et al., Figure 4: the size of the auxiliary output",
    source="Bartunov et al. 2018, Figure 4",
    cases={name(size): case(size) for size in (*SIZES, None)},
    note=(
        "The paper prints no numbers of this figure and no settings of AO-SDTP: optimizers and noise are those of "
        f"SDTP, parallel, in its Table 5. The sizes, the batch size ({BATCH}) and the three seeds are ours, for it "
        "names none. `sdtp` has no auxiliary output."
    ),
    draw=draw,
)
main = partial(study.main, STUDY)

if __name__ == "__main__":
    main()
