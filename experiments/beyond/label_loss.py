"""Associated Learning with the cross entropy in the lowest decoder, beside the paper's squared error."""

from collections.abc import Iterator
from functools import partial

import optax

import jaxlocal as jl
from experiments.lab.experiment import Budget, Experiment, Recorded, comparison
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.tables import percent
from experiments.lab.training import Case, Steps
from experiments.papers.al.shared import COSINE

RATES = 3e-3, 1e-2
BUDGET = Budget(epochs=20, seeds=10)
CODES = {"squared": jl.codes.lean._replace(label_loss=None), "cross_entropy": jl.codes.lean}


def make(loss: str, rate: float, steps: Steps) -> jl.Rule:
    """The rule with one of the losses, and otherwise with its defaults."""
    net = jl.models.mlp(hidden=(64, 64))
    return jl.rules.al(net, optax.adam(COSINE.make(rate, steps.total)), codes=CODES[loss])


def spread(recorded: Recorded) -> Iterator[Row]:
    """The accuracies of each loss and rate: over all seeds, and of the worst seed."""
    found = recorded.rows()
    for row in recorded.experiment.rows:
        loss, _, rate = row.rpartition("_")
        test = found[row]["test"] if row in found else None
        worst = f"{100 * min(test['per_seed']):.2f}" if test else ""
        yield {"loss": loss, "rate": rate, "test %": percent(test) if test else "not run", "worst seed's %": worst}


EXPERIMENT = Experiment(
    module="beyond.label_loss",
    name="beyond_label_loss",
    title="The loss of the lowest decoder",
    note=(
        "Lean codes on the digits, two hidden layers of 64 tanh units; Adam with the rate that ends the row's name, "
        f"twice that for encoders and decoders, {COSINE.words}. The rates were not searched. [Lean "
        "codes](lean.md#choose-the-codes) use cross entropy for classes."
    ),
    tables=(spread, comparison),
    rows={
        f"{loss}_{rate:g}": Case(
            "digits",
            partial(make, loss, rate),
            {"net": "mlp of 64, 64, tanh", "label_loss": loss, "optimizer": f"adam({rate:g}), {COSINE.words}"},
            BUDGET,
            BUDGET,
            batch_size=32,
            load=jl.data.digits,
        )
        for rate in RATES
        for loss in CODES
    },
)

if __name__ == "__main__":
    main(EXPERIMENT)
