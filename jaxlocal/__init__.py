"""jaxlocal: local and biologically motivated learning rules for JAX and Flax.

import jax, optax, jaxlocal as jl

net = jl.models.mlp(hidden=(256, 256), classes=10)
rule = jl.rules.dfa(net, optax.adam(1e-3))
params = rule.init(jax.random.key(0), batch)
params = rule.update(params, batch)
"""

from jaxlocal import (
    augmentation,
    compiler,
    data,
    diagnostics,
    layers,
    models,
    pipeline,
    plots,
    rules,
    search,
    streaming,
    training,
)
from jaxlocal.network import Loss, Network, cross_entropy, squared_error
from jaxlocal.parallel import data_parallel, ensemble, mixed_precision
from jaxlocal.pipeline import pipelined
from jaxlocal.rule import Component, Info, Lesson, Params, Part, Rule, head_part, l2, make_rule, own, upward
from jaxlocal.version import __version__

__all__ = [
    "Component",
    "Info",
    "Lesson",
    "Loss",
    "Network",
    "Params",
    "Part",
    "Rule",
    "__version__",
    "augmentation",
    "compiler",
    "cross_entropy",
    "data",
    "data_parallel",
    "diagnostics",
    "ensemble",
    "head_part",
    "l2",
    "layers",
    "make_rule",
    "mixed_precision",
    "models",
    "own",
    "pipeline",
    "pipelined",
    "plots",
    "rules",
    "search",
    "squared_error",
    "streaming",
    "training",
    "upward",
]

compiler.configure()  # before anything is computed: nothing above does
