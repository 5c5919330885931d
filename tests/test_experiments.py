"""All rules on the digits and on MNIST: each row can be trained, and the recorded numbers are good enough."""

import json
import statistics

import pytest
from lab_helpers import few_digits, main

import jaxlocal as jl
from experiments.demos import digits, mnist
from experiments.lab import records, training
from experiments.lab.experiment import Budget

RECORDS = sorted([*records.FOLDER.glob("digits/*.json"), *records.FOLDER.glob("mnist/*.json")])
FIELDS = {"experiment", "command", "commit", "source", "date", "versions", "device", "settings", "note", "rows"}

# What three seeds reach with the default settings, on average over the test sets of the digits.
AT_LEAST = dict.fromkeys(["bp", "al", "fa", "kp", "usf", "brsf", "frsf", "wm", "dfa", "dkp", "dtp"], 0.95)
AT_LEAST |= dict.fromkeys(["pepita", "predsim", "dgl", "scpl", "ff"], 0.95)
AT_LEAST |= dict.fromkeys(["tp", "sdtp", "ao_sdtp", "drtp"], 0.90)


def test_a_short_run_trains_a_rule(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "images", lambda name, size: few_digits())
    out = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    main(mnist.EXPERIMENT, ["--rows", "dfa", "--quick", "--epochs", "20", *out])
    record = mnist.EXPERIMENT.record("dfa", tmp_path / "out")
    assert record["command"] == "python -m experiments.demos.mnist --rows dfa --epochs 20 --seeds 1"
    assert record["settings"]["net"] == "mlp(hidden=(256, 256), classes=10)"
    (row,) = record["rows"]
    assert 0.2 < row["train"]["mean"] <= 1 and row["paper"] is not None
    assert "dfa: test" in capsys.readouterr().out


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_records_are_whole_and_add_up(path):
    record = json.loads(path.read_text())
    assert record.keys() >= FIELDS
    assert record["experiment"] == f"{path.parent.name}/{path.stem}"
    assert record["rows"], "a record without rows"
    for row in record["rows"]:
        for split in records.SPLITS:
            values = row[split]["per_seed"]
            assert len(values) == len(record["settings"]["seeds"])
            assert all(0 <= value <= 1 for value in values)
            assert row[split]["mean"] == pytest.approx(statistics.fmean(values), abs=1e-12)
            spread = statistics.stdev(values) if len(values) > 1 else None
            assert row[split]["std"] == (spread if spread is None else pytest.approx(spread, abs=1e-12))


@pytest.mark.parametrize(("module", "full"), [(digits, (40, 3)), (mnist, (5, 3))])
def test_every_rule_is_recorded_with_the_full_budget(module, full):
    experiment = module.EXPERIMENT
    assert list(experiment.recorded().records) == list(experiment.rows) == list(jl.rules.ALL)
    for entry in experiment.rows.values():
        assert entry.full == Budget(epochs=full[0], seeds=full[1])
    assert {record["settings"]["epochs"] for record in experiment.recorded().records.values()} == {full[0]}


def test_a_recorded_rule_is_not_trained_again(capsys):
    main(digits.EXPERIMENT, ["--rows", "bp"])
    assert capsys.readouterr().out.startswith("bp: already recorded")


def test_the_recorded_papers_numbers_are_those_of_the_rows():
    for rule, row in mnist.EXPERIMENT.recorded().rows().items():
        paper = mnist.EXPERIMENT.rows[rule].paper
        assert (row["paper"] and 100 * row["paper"]["test"]) == (paper and pytest.approx(paper[0]))


def test_the_recorded_digits_are_good_enough():
    assert AT_LEAST.keys() == jl.rules.ALL.keys()
    for rule, row in digits.EXPERIMENT.recorded().rows().items():
        assert len(row["test"]["per_seed"]) == 3
        mean = row["test"]["mean"]
        assert mean >= AT_LEAST[rule], f"{rule}: {mean:.4f} on the digits' test set, less than {AT_LEAST[rule]}"
