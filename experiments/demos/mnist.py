"""Every rule on MNIST, with a short run each. TFDS_DATA_DIR names the folder of the prepared data sets."""

import jaxlocal as jl
from experiments.demos.shared import case
from experiments.lab.experiment import Budget, Experiment
from experiments.lab.main import main

FULL, QUICK = Budget(epochs=5, seeds=3), Budget(epochs=1, seeds=1)
PAPERS = {"bp": 98.52, "al": 98.6, "dtp": 97.14, "sdtp": 96.48, "ao_sdtp": 97.07, "fa": 98.15, "dfa": 97.25}


def paper(rule: str) -> tuple[float, None] | None:
    """The paper's number for a rule."""
    return (PAPERS[rule], None) if rule in PAPERS else None


EXPERIMENT = Experiment(
    module="demos.mnist",
    name="mnist",
    title="Every rule on MNIST",
    source="al: Kao and Chen 2021, Table 2, MLP; others: Bartunov et al. 2018, Table 1, MNIST, FC, parallel",
    rows={rule: case(rule, "mnist", FULL, QUICK, batch_size=64, paper=paper(rule)) for rule in jl.rules.ALL},
    note=(
        "Only loosely comparable with the papers: our net has two hidden layers of 256 units, each rule its default "
        "settings, and the budget is far shorter. Bartunov et al. train six layers of 256 units with settings of a "
        "random search; Kao and Chen train layers of 1024 units for 200 epochs."
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
