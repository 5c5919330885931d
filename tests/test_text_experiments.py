"""Associated Learning on texts and series: rows, their data, and the table of all rules."""

import csv
import gzip
import json

import numpy as np
import pytest
from lab_helpers import main

from experiments.lab.experiment import Recorded
from experiments.lab.searched import Searched
from experiments.papers.al_text import classification, shared
from experiments.papers.al_text.classification import EXPERIMENT, NETS
from experiments.papers.al_text.shared import RULES, SETS
from jaxlocal.data.sentences import sentences

FLAGS = ["--epochs", "1", "--seeds", "1"]


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A folder in which "sst2" are the sentences that come with the library."""
    (tmp_path / "sst2").mkdir()
    with gzip.open(tmp_path / "sst2" / "sst2.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "label", "text"])
        for split, rows in sentences().items():
            writer.writerows([split, row.label, row.text] for row in rows)
    monkeypatch.setenv("JAXLOCAL_TEXTS", str(tmp_path))
    shared.sequences.cache_clear()
    yield
    shared.sequences.cache_clear()


def test_a_row_without_its_texts_says_which_file_it_needs(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("JAXLOCAL_TEXTS", raising=False)
    flags = [*FLAGS, "--rows", "trec6_linear", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(EXPERIMENT, flags)
    assert (
        "needs trec6/trec6.csv.gz in the folder that the environment variable JAXLOCAL_TEXTS" in capsys.readouterr().err
    )


def test_the_linear_model_reads_words_and_no_order(texts, tmp_path):
    """In some of the sentences "not" turns the meaning round, which frequencies of words cannot see."""
    main(EXPERIMENT, [*FLAGS, "--rows", "sst2_linear", "--out", str(tmp_path / "out")])
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.json"))
    (row,) = record["rows"]
    assert all(0.5 < row[split]["mean"] < 0.9 for split in ("train", "test"))


def test_the_linear_model_can_read_what_the_networks_read(texts):
    """Of a network's tokens, without padding: the words that it knows, the unknown ones as one word."""
    cut, splits = classification.cut_off("sst2"), shared.sequences("sst2")
    documents, labels = cut["test"]
    assert len(documents) == len(splits.test[0]) and documents[0].split() == [
        f"w{token}" for token in splits.test[0][0].tolist() if token
    ]
    assert labels == splits.test[1].argmax(-1).tolist()


def test_the_digits_are_series_of_rows():
    series = shared.sequences("digits")
    assert series.train[0].shape == (1097, 8, 8)
    np.testing.assert_array_equal(series.train[0][0], classification.jl.data.digits().train[0][0, :, :, 0])


def test_every_rule_has_a_row_on_every_set_and_network():
    rows = {f"{name}_{net}_{rule}" for name in SETS for net in NETS for rule in RULES}
    linear = {f"{name}_{row}" for name in SETS for row in classification.LINEAR if name != "digits"}
    assert set(EXPERIMENT.rows) == rows | linear


def test_the_table_has_a_line_for_each_set_and_network():
    test = {"per_seed": [0.8, 0.9], "mean": 0.85, "std": 0.07}
    records = {row: {"rows": [{"test": test}]} for row in ("sst2_lstm_al", "sst2_linear")}
    lines = {
        (line["set"], line["network"]): line
        for line in classification.accuracies(Recorded(EXPERIMENT, records, None, None))
    }
    assert len(lines) == len(SETS) * len(NETS)
    assert lines["sst2", "lstm"]["al"] == lines["sst2", "transformer"]["TF-IDF, linear"] == "85.00 ± 7.00"
    assert lines["sst2", "lstm"]["bp"] == lines["imdb", "lstm"]["al"] == "not run"


def test_rules_are_compared_with_backpropagation_seed_by_seed():
    """The differences are 2 and 0 points, so their mean is 1 and their sample standard deviation √2."""
    tests = {"sst2_lstm_al": [0.82, 0.9], "sst2_lstm_bp": [0.8, 0.9]}
    records = {row: {"rows": [{"test": {"per_seed": seeds}}]} for row, seeds in tests.items()}
    lines = classification.differences(Recorded(EXPERIMENT, records, None, None))
    line = next(line for line in lines if (line["set"], line["network"]) == ("sst2", "lstm"))
    assert line["al minus bp"] == "+1.00 ± 1.41"
    assert line["kp minus bp"] == "not run"


@pytest.mark.slow
def test_a_row_of_texts_is_trained_and_drawn(texts, tmp_path, monkeypatch):
    """With two of its three rates, and on the first sentences."""
    monkeypatch.setattr("experiments.lab.figures.PICTURES", tmp_path)
    cases = EXPERIMENT.rows["sst2_lstm_al"].cases
    assert tuple(cases) == shared.RATES
    few = Searched({rate: cases[rate]._replace(examples=64) for rate in shared.RATES[1:]})
    made = EXPERIMENT._replace(rows={**EXPERIMENT.rows, "sst2_lstm_al": few})
    folders = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    main(made, [*FLAGS, "--rows", "sst2_lstm_al", *folders])
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.json"))
    assert record["settings"]["rates"] == list(shared.RATES[1:])
    assert len(record["rows"][0]["trials"]) == 2
