"""What the comparisons of all rules share: two hidden layers, and each rule with its default settings."""

from functools import partial

import optax

import jaxlocal as jl
from experiments.lab.experiment import Budget, Paper
from experiments.lab.training import Case, Steps

HIDDEN, CLASSES = (256, 256), 10
ADAM = "adam(0.001)", optax.adam(1e-3)
OPTIMIZERS = {
    "pepita": ("sgd(0.1, momentum=0.9)", optax.sgd(0.1, momentum=0.9))
}  # its paper's; with Adam its weights can grow without bound


def make(rule: str, steps: Steps) -> jl.Rule:
    """The rule with its default settings."""
    return jl.rules.ALL[rule](jl.models.mlp(HIDDEN, CLASSES), OPTIMIZERS.get(rule, ADAM)[1])


def case(rule: str, data: str, full: Budget, quick: Budget, batch_size: int, paper: Paper | None = None) -> Case:
    """The row of a rule."""
    settings = {"net": f"mlp(hidden={HIDDEN}, classes={CLASSES})", "optimizer": OPTIMIZERS.get(rule, ADAM)[0]}
    return Case(data, partial(make, rule), settings, full, quick, paper, batch_size)
