"""jaxlocal: local and biologically motivated learning rules for JAX and Flax.

import jax, optax, jaxlocal as jl

net = jl.models.mlp(hidden=(256, 256), classes=10)
rule = jl.rules.dfa(net, optax.adam(1e-3))
params = rule.init(jax.random.key(0), batch)
params = rule.update(params, batch)
"""

from jaxlocal import codes, data, diagnostics, layers, models, pipeline, plots, rules, search, sequences, training
from jaxlocal.data import augmentation, streaming
from jaxlocal.decay import l2
from jaxlocal.fast import compiler
from jaxlocal.locality import downward, everywhere, own, upward
from jaxlocal.make import make_rule
from jaxlocal.network import Loss, Masked, Network, apply_layer, apply_layers, cross_entropy, init_layer, squared_error
from jaxlocal.parallel import data_parallel, ensemble, mixed_precision
from jaxlocal.parts import head_lesson, head_part, init_forward
from jaxlocal.pipeline import pipelined
from jaxlocal.rule import Component, Info, Lesson, Params, Part, Rule
from jaxlocal.version import __version__
from jaxlocal.weights import get_weights, load_weights, save_weights, set_weights

__all__ = [
    "Component",
    "Info",
    "Lesson",
    "Loss",
    "Masked",
    "Network",
    "Params",
    "Part",
    "Rule",
    "__version__",
    "apply_layer",
    "apply_layers",
    "augmentation",
    "codes",
    "compiler",
    "cross_entropy",
    "data",
    "data_parallel",
    "diagnostics",
    "downward",
    "ensemble",
    "everywhere",
    "get_weights",
    "head_lesson",
    "head_part",
    "init_forward",
    "init_layer",
    "l2",
    "layers",
    "load_weights",
    "make_rule",
    "mixed_precision",
    "models",
    "own",
    "pipeline",
    "pipelined",
    "plots",
    "rules",
    "save_weights",
    "search",
    "sequences",
    "set_weights",
    "squared_error",
    "streaming",
    "training",
    "upward",
]

compiler.configure()  # before anything is computed: nothing above does
