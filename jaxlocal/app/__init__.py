"""The command line, and what it does from Python: `train`, `compare`, `search`, `evaluate` and `draw` runs in folders.

from jaxlocal.app import Config, train

summary = train(Config(rule="dfa", epochs=2))
"""

from jaxlocal.app.folder import Measured, Summary
from jaxlocal.app.runs import Stopped, compare, draw, evaluate, train
from jaxlocal.app.settings import Config, ConfigError
from jaxlocal.app.trials import search

__all__ = [
    "Config",
    "ConfigError",
    "Measured",
    "Stopped",
    "Summary",
    "compare",
    "draw",
    "evaluate",
    "search",
    "train",
]
