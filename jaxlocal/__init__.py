"""jaxlocal: local and biologically motivated learning rules for JAX and Flax.

import jax, optax, jaxlocal as jl

net = jl.models.mlp(hidden=(256, 256), classes=10)
rule = jl.rules.dfa(net, optax.adam(1e-3))
params = rule.init(jax.random.key(0), batch)
params = rule.update(params, batch)
"""

import os
from typing import TYPE_CHECKING

from jaxlocal.fast import xla_flags
from jaxlocal.lazy import attributes
from jaxlocal.version import __version__

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from jaxlocal import (
        codes,
        data,
        diagnostics,
        layers,
        loggers,
        models,
        pipeline,
        plots,
        ranking,
        rules,
        search,
        sequences,
        statistics,
        training,
    )
    from jaxlocal.app.runs import load
    from jaxlocal.app.trained import pretrained
    from jaxlocal.data import augmentation, streaming
    from jaxlocal.decay import l2
    from jaxlocal.locality import downward, everywhere, own, upward
    from jaxlocal.make import make_rule
    from jaxlocal.network import (
        Loss,
        Masked,
        Network,
        apply_layer,
        apply_layers,
        cross_entropy,
        init_layer,
        squared_error,
    )
    from jaxlocal.parallel import data_parallel, ensemble, mixed_precision
    from jaxlocal.parts import head_lesson, head_part, init_forward, lesson_of
    from jaxlocal.pipeline import pipelined
    from jaxlocal.references import cite
    from jaxlocal.rule import Component, Info, Lesson, Params, Part, Rule
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
    "cite",
    "codes",
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
    "lesson_of",
    "load",
    "load_weights",
    "loggers",
    "make_rule",
    "mixed_precision",
    "models",
    "own",
    "pipeline",
    "pipelined",
    "plots",
    "pretrained",
    "ranking",
    "rules",
    "save_weights",
    "search",
    "sequences",
    "set_weights",
    "squared_error",
    "statistics",
    "streaming",
    "training",
    "upward",
]

_HOMES = {
    "Component": "rule",
    "Info": "rule",
    "Lesson": "rule",
    "Loss": "network",
    "Masked": "network",
    "Network": "network",
    "Params": "rule",
    "Part": "rule",
    "Rule": "rule",
    "apply_layer": "network",
    "apply_layers": "network",
    "augmentation": "data.augmentation",
    "cite": "references",
    "cross_entropy": "network",
    "data_parallel": "parallel",
    "downward": "locality",
    "ensemble": "parallel",
    "everywhere": "locality",
    "get_weights": "weights",
    "head_lesson": "parts",
    "head_part": "parts",
    "init_forward": "parts",
    "lesson_of": "parts",
    "init_layer": "network",
    "l2": "decay",
    "load": "app.runs",
    "load_weights": "weights",
    "make_rule": "make",
    "mixed_precision": "parallel",
    "own": "locality",
    "pipelined": "pipeline",
    "pretrained": "app.trained",
    "save_weights": "weights",
    "set_weights": "weights",
    "squared_error": "network",
    "streaming": "data.streaming",
    "upward": "locality",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = attributes(__name__, __all__, _HOMES)

if os.environ.get("JAXLOCAL_XLA_FLAGS") != "0":
    xla_flags.configure()
