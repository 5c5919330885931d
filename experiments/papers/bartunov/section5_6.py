"""Bartunov et al., section 5.6: hybrid targets, between target propagation and backpropagation, on MNIST."""

from functools import partial

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Budget, Experiment
from experiments.lab.main import main
from experiments.lab.training import Case
from experiments.papers.bartunov.shared import BATCH, MNIST_FC, Setup, make

SETUP = Setup("mnist", jl.models.mnist_fc, MNIST_FC, errors={}, quick=None)
SHARES = 0.0, 0.25, 0.5, 0.75, 1.0


def case(share: float) -> Case:
    """A row: difference target propagation with this part of g_bp in its targets."""
    return Case(
        SETUP.data,
        partial(make, SETUP, "dtp_parallel", hybrid=share),
        {"net": "mnist_fc", "hybrid": str(share), "Table 5": str(SETUP.best["dtp_parallel"])},
        full=Budget(epochs=20, seeds=3),
        quick=Budget(epochs=4, seeds=1),
        batch_size=BATCH,
    )


EXPERIMENT = Experiment(
    module="papers.bartunov.section5_6",
    name="bartunov_section5_6",
    title="Bartunov et al., section 5.6: hybrid targets",
    source="Bartunov et al. 2018, section 5.6",
    rows={f"bp_{100 * share:.0f}": case(share) for share in SHARES},
    note=(
        "Targets come down through g = β g_bp + (1 - β) g_tp, where g_tp is the learned inverse and g_bp the "
        "transposed derivative of the layer. The number in a row's name is β in percent: `bp_0` is difference target "
        "propagation, and the errors of `bp_100` are those of backpropagation up to their scale. The paper proposes "
        "such targets and does not try them, so that all of this is ours, except the net and the settings: those of "
        f"Table 5 for DTP, parallel. The batch size is {BATCH}."
    ),
    draw=figures.curves("bartunov_section5_6", "Hybrid targets on MNIST, fully connected"),
)

if __name__ == "__main__":
    main(EXPERIMENT)
