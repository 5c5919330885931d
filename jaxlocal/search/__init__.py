"""Random search over a rule's settings: one compiled program trains many settings, and validation accuracy decides.

net = jl.models.mlp(hidden=(64, 64))
settings = jl.search.draw(jl.search.bartunov("dtp"), trials=60)
trials = jl.search.search(jl.search.maker("dtp", net), settings, data, epochs=20, batch_size=32, folder="dtp")
print(jl.search.table(trials))
"""

from jaxlocal.search.picture import histograms
from jaxlocal.search.rule_settings import bartunov, maker
from jaxlocal.search.run import on_test, search
from jaxlocal.search.space import Range, choice, draw, log_uniform, uniform
from jaxlocal.search.trials import Trial, best, table

__all__ = [
    "Range",
    "Trial",
    "bartunov",
    "best",
    "choice",
    "draw",
    "histograms",
    "log_uniform",
    "maker",
    "on_test",
    "search",
    "table",
    "uniform",
]
