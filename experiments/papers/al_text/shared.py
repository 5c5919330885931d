"""What the trainings on sequences share: the sets, the rules, and the rates that each row chooses among."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxlocal as jl
from experiments.lab.experiment import Budget, CannotRun
from experiments.lab.training import Case, Steps
from experiments.papers.al.shared import COSINE, cosine_adam

RATES = 1e-3, 3e-3, 1e-2
FOLDER = "JAXLOCAL_TEXTS"  # the environment variable that names the folder of the sets
FULL = Budget(epochs=30, seeds=5)
FEATURES = 64


class Set(NamedTuple):
    """Labelled sequences, and what is read of them."""

    vocabulary: int | None  # of texts; None for a series of numbers
    length: int
    classes: int
    quick: Budget
    batch_size: int = 32

    @property
    def words(self) -> str:
        """What is read, in words."""
        if self.vocabulary is None:
            return f"{self.length} steps of numbers"
        return f"{self.vocabulary} words, {self.length} tokens of each text"


SETS = {
    "trec6": Set(4000, 20, 6, Budget(epochs=9, seeds=3)),
    "sst2": Set(8000, 40, 2, Budget(epochs=6, seeds=3)),
    "ag_news_10k": Set(10000, 64, 4, Budget(epochs=3, seeds=3)),
    "imdb": Set(10000, 128, 2, Budget(epochs=3, seeds=3), 64),
    "digits": Set(None, 8, 10, Budget(epochs=30, seeds=3)),
}
Make = Callable[[jl.Network, optax.GradientTransformation], jl.Rule]
RULES: dict[str, Make] = {
    "bp": jl.rules.bp,
    "al": jl.rules.al,
    "kp": jl.rules.kp,
    "dfa": jl.rules.dfa,
}


@cache
def sequences(name: str) -> jl.data.Splits:
    """A set as token ids or, the digits, as series of the rows of each image; put on the device once."""
    read = SETS[name]
    if read.vocabulary is None:
        series = jl.data.Splits(*((x[..., 0], y) for x, y in jl.data.digits()))
        return jax.tree.map(jnp.asarray, series)
    texts = jl.data.load_text(file_of(name), vocabulary=read.vocabulary, length=read.length)
    return jax.tree.map(jnp.asarray, texts.splits)


def file_of(name: str) -> Path:
    """The file of a set of texts."""
    folder = os.environ.get(FOLDER)
    file = Path(folder or "") / name / f"{name}.csv.gz"
    if not folder or not file.exists():
        raise CannotRun(f"needs {name}/{name}.csv.gz in the folder that the environment variable {FOLDER} names")
    return file


def make_rule(rule: str, net: jl.Network, rate: float, steps: Steps) -> jl.Rule:
    """The rule on the network, with Adam whose rate falls to zero by a cosine."""
    return RULES[rule](net, cosine_adam(rate, steps))


def cases(row: str, name: str, net: jl.Network, words: str, rules: Iterable[str], rate: float) -> Mapping[str, Case]:
    """A row for each rule on a set, with the same settings; its name begins with `row`."""
    read = SETS[name]
    settings = {"net": words, "optimizer": f"adam, its rate {COSINE.words}", "read": read.words}
    return {
        f"{row}_{rule}": Case(
            name,
            partial(make_rule, rule, net, rate),
            settings,
            FULL,
            read.quick,
            batch_size=read.batch_size,
            load=partial(sequences, name),
        )
        for rule in rules
    }
