"""Every rule on the embedded digits: no download, no settings of its own, a few minutes."""

import jaxlocal as jl
from experiments.demos.shared import case
from experiments.lab.experiment import Budget, Experiment
from experiments.lab.main import main

FULL, QUICK = Budget(epochs=40, seeds=3), Budget(epochs=5, seeds=1)

EXPERIMENT = Experiment(
    module="demos.digits",
    name="digits",
    title="Every rule on the digits",
    rows={rule: case(rule, "digits", FULL, QUICK, batch_size=32) for rule in jl.rules.ALL},
    note="Two hidden layers of 256 units, and the default settings of each rule.",
)

if __name__ == "__main__":
    main(EXPERIMENT)
