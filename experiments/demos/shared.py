"""What the comparisons of all rules share: two hidden layers, and each rule with its default settings."""

from functools import partial

import optax

import jaxlocal as jl
from experiments.lab.experiment import Budget, Paper
from experiments.lab.training import Case, Steps

HIDDEN, CLASSES, RATE = (256, 256), 10, 1e-3


def make(rule: str, steps: Steps) -> jl.Rule:
    """The rule with its default settings."""
    return jl.rules.ALL[rule](jl.models.mlp(HIDDEN, CLASSES), optax.adam(RATE))


def case(rule: str, data: str, full: Budget, quick: Budget, batch_size: int, paper: Paper | None = None) -> Case:
    """The row of a rule."""
    settings = {"net": f"mlp(hidden={HIDDEN}, classes={CLASSES})", "optimizer": f"adam({RATE})"}
    return Case(data, partial(make, rule), settings, full, quick, paper, batch_size)
