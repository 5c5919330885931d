"""Associated Learning and backpropagation on texts, by two LSTM layers: trainings for `speed.time_to_accuracy`.

The network is without dropout, so that every program which is timed there computes the same.
"""

from functools import partial

import jax

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Experiment
from experiments.lab.main import main
from experiments.lab.searched import rates_in_words, searched
from experiments.lab.training import Steps
from experiments.papers.al_text.shared import FEATURES, RATES, SETS, cases, make_rule, sequences

TITLES = {"ag_news_10k": "AG News", "sst2": "Sentiment Treebank"}
NAMES = tuple(TITLES)
CONTENDERS = "bp", "al"
WORDS = f"embedding of {FEATURES}, two LSTMs of {FEATURES} units in each direction, mean"


def network(name: str) -> jl.Network:
    """The network for a set."""
    read = SETS[name]
    return jl.models.lstm_classifier(read.vocabulary, read.classes, features=FEATURES, hidden=(FEATURES, FEATURES))


def stepping(name: str, contender: str) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """The rule of a contender, and the first batch."""
    x, y = sequences(name).train
    size = SETS[name].batch_size
    return make_rule(contender, network(name), RATES[0], Steps(1, 1)), jl.data.floats((x[:size], y[:size]))


EXPERIMENT = Experiment(
    module="papers.al_text.deep",
    name="al_text_deep",
    title="Associated Learning and backpropagation by two LSTM layers",
    rows={
        row: one
        for name in NAMES
        for row, one in searched(partial(cases, name, name, network(name), WORDS, CONTENDERS), RATES).items()
    },
    note=(
        "Both rules train the same blocks from the same random vectors; AL has a component for each block, with lean "
        f"codes. {rates_in_words(RATES)} The data are those of `al_text_classification`."
    ),
    draw=figures.curves("al_text_deep", "two LSTM layers", loss=False),
)

if __name__ == "__main__":
    main(EXPERIMENT)
