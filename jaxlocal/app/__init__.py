"""The command line from Python: `train`, `compare`, `search`, `rank`, `evaluate`, `predict`, `export` and `draw` runs.

from jaxlocal.app import Config, train

summary = train(Config(rule="dfa", epochs=2))
"""

from typing import TYPE_CHECKING

from jaxlocal.lazy import attributes

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from jaxlocal.app.comparison import compare
    from jaxlocal.app.exporting import export
    from jaxlocal.app.folder import Measured, Summary
    from jaxlocal.app.prediction import Numbers, Prediction
    from jaxlocal.app.ranking import rank
    from jaxlocal.app.runs import Stopped, draw, evaluate, predict, train
    from jaxlocal.app.settings import Config, ConfigError
    from jaxlocal.app.trials import search

__all__ = [
    "Config",
    "ConfigError",
    "Measured",
    "Numbers",
    "Prediction",
    "Stopped",
    "Summary",
    "compare",
    "draw",
    "evaluate",
    "export",
    "predict",
    "rank",
    "search",
    "train",
]

_HOMES = {
    "Config": "settings",
    "ConfigError": "settings",
    "Measured": "folder",
    "Numbers": "prediction",
    "Prediction": "prediction",
    "Stopped": "runs",
    "Summary": "folder",
    "compare": "comparison",
    "draw": "runs",
    "evaluate": "runs",
    "export": "exporting",
    "predict": "runs",
    "rank": "ranking",
    "search": "trials",
    "train": "runs",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = attributes(__name__, __all__, _HOMES)
