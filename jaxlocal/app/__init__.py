"""The command line, and what it does from Python: `train`, `compare`, `search`, `evaluate`, `predict`, `draw` runs.

from jaxlocal.app import Config, train

summary = train(Config(rule="dfa", epochs=2))
"""

from jaxlocal.app.folder import Measured, Summary
from jaxlocal.app.prediction import Prediction
from jaxlocal.app.runs import Stopped, compare, draw, evaluate, predict, train
from jaxlocal.app.settings import Config, ConfigError
from jaxlocal.app.trials import search

__all__ = [
    "Config",
    "ConfigError",
    "Measured",
    "Prediction",
    "Stopped",
    "Summary",
    "compare",
    "draw",
    "evaluate",
    "predict",
    "search",
    "train",
]
