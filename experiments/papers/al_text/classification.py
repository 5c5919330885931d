"""Associated Learning on sequences: an LSTM and a transformer on four sets of texts and a series of numbers.

The successor of the Associated Learning paper (ICLR 2022) reports that it beats backpropagation on texts. Here AL,
backpropagation, KP and DFA train the same blocks from the same random vectors, and each has the same search for its
rate.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxlocal as jl
from experiments.lab import figures, records
from experiments.lab.experiment import Budget, CannotRun, Entry, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.searched import rates_in_words, searched
from experiments.lab.tables import percent
from experiments.lab.training import Case, Steps
from experiments.papers.al.shared import COSINE, SQUARED, compared
from jaxlocal.data.tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = 1e-3, 3e-3, 1e-2
FOLDER = "JAXLOCAL_TEXTS"  # the environment variable that names the folder of the sets
LINEAR_SPLITS = "train", "test"
FULL, ONCE = Budget(epochs=30, seeds=5), Budget(epochs=1, seeds=1)


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
LINEAR = {"linear": "TF-IDF, linear", "linear_cut": "the same, on the networks' tokens"}  # the columns, by rows
Make = Callable[[jl.Network, optax.GradientTransformation], jl.Rule]
RULES: dict[str, Make] = {
    "bp": jl.rules.bp,
    "al": partial(jl.rules.al, codes=SQUARED),
    "kp": jl.rules.kp,
    "dfa": jl.rules.dfa,
}
FEATURES, DROPOUT = 64, 0.3
NETS: dict[str, tuple[Callable[..., jl.Network], str]] = {
    "lstm": (
        partial(jl.models.lstm_classifier, features=FEATURES, hidden=(FEATURES,), dropout=DROPOUT),
        f"embedding of {FEATURES}, one LSTM of {FEATURES} units in each direction, mean",
    ),
    "transformer": (
        partial(jl.models.transformer_classifier, features=FEATURES, depth=1, dropout=DROPOUT),
        f"embedding of {FEATURES}, one encoder block of 4 heads and {4 * FEATURES} hidden units, mean",
    ),
}
# Of the successor's Table: ICLR 2022, with all 120,000 training texts of AG News.
PUBLISHED = {
    "ag_news_10k_lstm_al": 92.0,
    "ag_news_10k_lstm_bp": 91.3,
    "ag_news_10k_transformer_al": 92.0,
    "ag_news_10k_transformer_bp": 91.1,
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


def make_rule(rule: str, net: str, name: str, rate: float, steps: Steps) -> jl.Rule:
    """The rule on the network, with Adam whose rate falls to zero by a cosine."""
    read = SETS[name]
    blocks = NETS[net][0](read.vocabulary, read.classes)
    return RULES[rule](blocks, optax.adam(COSINE.make(rate, steps.total)))


def cases(net: str, name: str, rate: float) -> Mapping[str, Case]:
    """A row for each rule, with the same settings."""
    read = SETS[name]
    settings = {
        "net": f"{NETS[net][1]}; dropout {DROPOUT}",
        "optimizer": f"adam, its rate {COSINE.words}",
        "read": read.words,
    }
    return {
        f"{name}_{net}_{rule}": Case(
            name,
            partial(make_rule, rule, net, name, rate),
            settings,
            FULL,
            read.quick,
            batch_size=read.batch_size,
            load=partial(sequences, name),
        )
        for rule in RULES
    }


Documents = Mapping[str, tuple[list[str], list[Any]]]  # the texts and labels of the training and the test set


def whole(name: str) -> Documents:
    """All texts as they are."""
    table = read_table(file_of(name))
    return {split: ([row.text for row in table[split]], [row.label for row in table[split]]) for split in LINEAR_SPLITS}


def cut_off(name: str) -> Documents:
    """The texts as the networks get them: their first tokens, each a word such as "w17"; none kept for validation."""

    def documents(x: jax.Array, y: jax.Array) -> tuple[list[str], list[Any]]:
        texts = [" ".join(f"w{token}" for token in tokens if token) for tokens in x.tolist()]
        return texts, y.argmax(-1).tolist()

    splits = sequences(name)
    return {split: documents(*getattr(splits, split)) for split in LINEAR_SPLITS}


def linear(name: str, read: Callable[[str], Documents], words: str, task: Task) -> Iterator[Outcome]:
    """Logistic regression on the weighted frequencies of words (TF-IDF)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    began = time.perf_counter()
    documents = read(name)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10.0, max_iter=1000))
    model.fit(*documents["train"])
    train, test = (records.over_seeds([model.score(*documents[split])]) for split in LINEAR_SPLITS)
    seconds = round(time.perf_counter() - began, 1)
    row = {"rule": task.row, "train": train, "test": test, "seconds": seconds, "paper": None}
    model_words = f"TF-IDF of {words}, logistic regression with C = 10"
    settings = {"data": name, "model": model_words, "epochs": 1, "seeds": [0]}
    yield Outcome([row], settings, ONCE, f"{task.row}: test {percent(test)} %")


def rows() -> dict[str, Entry]:
    """Every network on every set, and a linear model on every set of texts."""
    found: dict[str, Entry] = {}
    for name, read in SETS.items():
        for net in NETS:
            found |= searched(partial(cases, net, name), RATES)
        if read.vocabulary is not None:
            found[f"{name}_linear"] = Job(ONCE, ONCE, partial(linear, name, whole, "the words of whole texts"))
            found[f"{name}_linear_cut"] = Job(ONCE, ONCE, partial(linear, name, cut_off, "the networks' tokens"))
    return found


def draw(recorded: Recorded) -> "dict[str, Figure]":
    """The learning curves, a figure for each set."""
    found: dict[str, Figure] = {}
    for name in SETS:
        found |= figures.curves(f"al_text_{name}", name, prefix=f"{name}_", loss=False)(recorded)
    return found


def accuracies(recorded: Recorded) -> Iterator[Row]:
    """The test accuracy of each rule on each set and network, and of the linear model on the same texts."""
    found = recorded.rows()
    for name in SETS:
        for net in NETS:
            tests = {rule: found.get(f"{name}_{net}_{rule}", {}).get("test") for rule in RULES}
            shown = {rule: percent(test) if test else "not run" for rule, test in tests.items()}
            read = {words: found.get(f"{name}_{row}", {}).get("test") for row, words in LINEAR.items()}
            linear = {words: percent(test) if test else "" for words, test in read.items()}
            yield {"set": name, "network": net, **shown, **linear}


EXPERIMENT = Experiment(
    module="papers.al_text.classification",
    name="al_text_classification",
    title="Associated Learning on texts and series",
    rows=rows(),
    note=(
        "Every rule trains the same blocks from the same random vectors; AL has a component for each block, with lean "
        f"codes and the squared error. {rates_in_words(RATES)} The data: TREC questions in six classes, the Stanford "
        "Sentiment Treebank's sentences in two, 9,998 of the 120,000 training texts of AG News with all of its test "
        "texts, the reviews of IMDb, cut off after 128 tokens, and scikit-learn's digits, read as a series of eight "
        "rows. The published numbers are those of AL's successor (ICLR 2022) on AG News with all training texts and "
        "larger networks; on IMDb it reports 90.2 % for AL and 88.2 % for backpropagation. The linear model has "
        "no search; it reads whole texts or, in the last column, what the networks read."
    ),
    tables=(accuracies, partial(compared, {"published test %": PUBLISHED})),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
