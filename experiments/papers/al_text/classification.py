"""Associated Learning on sequences: an LSTM and a transformer on four sets of texts and a series of numbers.

The successor of the Associated Learning paper (ICLR 2022) reports that it beats backpropagation on texts. Here AL,
backpropagation, KP and DFA train the same blocks from the same random vectors, and each has the same search for its
rate.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax

import jaxlocal as jl
from experiments.lab import figures, records
from experiments.lab.experiment import Budget, Entry, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.searched import rates_in_words, searched
from experiments.lab.tables import percent
from experiments.papers.al.shared import compared
from experiments.papers.al_text.shared import FEATURES, RATES, RULES, SETS, cases, file_of, sequences
from jaxlocal.data.tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINEAR_SPLITS = "train", "test"
ONCE = Budget(epochs=1, seeds=1)
LINEAR = {"linear": "TF-IDF, linear", "linear_cut": "the same, on the networks' tokens"}  # the columns, by rows
DROPOUT = 0.3
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
        for net, (make, words) in NETS.items():
            made = make(read.vocabulary, read.classes)
            row, words = f"{name}_{net}", f"{words}; dropout {DROPOUT}"
            found |= searched(partial(cases, row, name, made, words, RULES), RATES)
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


def tested(recorded: Recorded) -> Iterator[tuple[Row, dict[str, Row | None]]]:
    """Each set and network, and the test accuracy of each rule there; None where it is not run."""
    found = recorded.rows()
    for name in SETS:
        for net in NETS:
            tests = {rule: found.get(f"{name}_{net}_{rule}", {}).get("test") for rule in RULES}
            yield {"set": name, "network": net}, tests


def accuracies(recorded: Recorded) -> Iterator[Row]:
    """The test accuracy of each rule on each set and network, and of the linear model on the same texts."""
    found = recorded.rows()
    for line, tests in tested(recorded):
        shown = {rule: percent(test) if test else "not run" for rule, test in tests.items()}
        read = {words: found.get(f"{line['set']}_{row}", {}).get("test") for row, words in LINEAR.items()}
        linear = {words: percent(test) if test else "" for words, test in read.items()}
        yield line | shown | linear


def differences(recorded: Recorded) -> Iterator[Row]:
    """The test accuracy of each rule minus that of backpropagation, in points, seed by seed."""
    for line, tests in tested(recorded):
        bp = tests.pop("bp")
        yield line | {f"{rule} minus bp": _minus(test, bp) for rule, test in tests.items()}


def _minus(one: Row | None, other: Row | None) -> str:
    if not (one and other):
        return "not run"
    by_seed = records.over_seeds([a - b for a, b in zip(one["per_seed"], other["per_seed"], strict=True)])
    return f"{100 * by_seed['mean']:+.2f} ± {100 * by_seed['std']:.2f}"


EXPERIMENT = Experiment(
    module="papers.al_text.classification",
    name="al_text_classification",
    title="Associated Learning on texts and series",
    rows=rows(),
    note=(
        "Every rule trains the same blocks from the same random vectors; AL has a component for each block, with lean "
        f"codes. {rates_in_words(RATES)} The data: TREC questions in six classes, the Stanford Sentiment Treebank's "
        "sentences in two, 9,998 of the 120,000 training texts of AG News with all of its test texts, the reviews of "
        "IMDb, cut off after 128 tokens, and scikit-learn's digits, read as a series of eight rows. The published "
        "numbers are those of AL's successor (Wu et al., ICLR 2022) on AG News, with all training texts, larger "
        "networks, and word vectors that were trained on other texts; here they start at random. On IMDb it reports "
        "90.2 % for AL and 88.2 % for backpropagation. Its other sets of texts are not run. The linear model has no "
        "search; it reads whole texts or, in the last column, what the networks read. A difference to backpropagation "
        "is the mean of the differences of the seeds, with their deviation."
    ),
    tables=(accuracies, differences, partial(compared, {"published test %": PUBLISHED})),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
