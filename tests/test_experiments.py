"""The experiments run, their records hold what a sceptic asks for, and the recorded numbers are good enough."""

import json
import statistics

import pytest
from helpers import ROOT

import jaxlocal as jl
from experiments.demos import digits, mnist
from experiments.lab import records as results

FIELDS = {"experiment", "command", "commit", "source", "date", "versions", "device", "settings", "note", "rows"}
RECORDS = sorted(results.RESULTS.glob("*.json"))
SHORT = ["--seeds", "1", "--epochs", "1"]

# What three seeds reach with the default settings, on average over the test sets of the digits.
AT_LEAST = dict.fromkeys(["bp", "al", "fa", "kp", "dfa", "dkp", "dtp"], 0.95)
AT_LEAST |= dict.fromkeys(["tp", "sdtp", "ao_sdtp", "drtp"], 0.90)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Nothing in these tests may touch the committed records."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    return tmp_path


@pytest.fixture
def small_mnist(elsewhere, monkeypatch):
    monkeypatch.setattr(jl.data, "images", lambda name: jl.data.digits())
    return elsewhere / "mnist.json"


def test_a_short_run_is_recorded_where_it_is_told_to(elsewhere, capsys):
    out = elsewhere / "new" / "short.json"
    digits.main(["--rules", "dfa", *SHORT, "--out", str(out)])
    record = results.load(out)
    assert record.keys() == FIELDS
    assert record["command"] == (
        "python -m experiments.demos.digits --rules dfa --seeds 1 --epochs 1 --batch-size 32 --rate 0.001"
    )
    assert record["settings"]["seeds"] == [0]
    assert record["versions"].keys() == {"python", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert record["device"].keys() == {"jax", "cpu", "cores"}
    (row,) = record["rows"]
    assert row.keys() == {"rule", *results.SPLITS, "seconds", "paper"}
    assert 0.5 < row["test"]["mean"] <= 1 and row["test"]["std"] is None
    assert [path.name for path in out.parent.iterdir()] == ["short.json"]  # and no draft beside it
    printed = capsys.readouterr().out
    assert printed.startswith("dfa ") and results.table(record["rows"]) in printed and str(out) in printed


def test_a_short_run_leaves_the_record_of_the_full_run_alone(elsewhere):
    digits.main(["--rules", "bp", *SHORT])
    assert not list(elsewhere.iterdir())


def test_an_interrupted_run_goes_on_where_it_was(small_mnist, capsys):
    def run(*flags):
        mnist.main([*flags, *SHORT, "--out", str(small_mnist)])
        return results.load(small_mnist)

    first = run("--rules", "dfa")
    second = run("--rules", "dfa", "bp")
    assert "dfa      done before" in capsys.readouterr().out
    assert [row["rule"] for row in second["rows"]] == ["bp", "dfa"]
    assert second["rows"][1] == first["rows"][0]
    assert "--rules bp dfa " in second["command"]
    assert second["rows"][0]["paper"]["test"] == 0.9852
    run("--rules", "dfa", "--again")
    assert "done before" not in capsys.readouterr().out
    assert [row["rule"] for row in run("--rules", "bp", "--rate", "0.01")["rows"]] == ["bp"]  # other settings


def test_rows_of_other_code_are_not_taken_over(small_mnist, monkeypatch):
    settings = {"seeds": [0]}
    row = results.row("bp", [dict.fromkeys(results.SPLITS, 0.5)], seconds=1.0)
    results.record("mnist", [row], "command", settings, out=small_mnist)
    assert results.finished(small_mnist, settings) == {"bp": row}
    assert results.finished(small_mnist, {"seeds": [1]}) == {}
    assert results.finished(small_mnist.with_name("nothing.json"), settings) == {}
    monkeypatch.setattr(results, "code", lambda: {"commit": "another", "source": "another"})
    assert results.finished(small_mnist, settings) == {}


def test_missing_images_are_one_line(monkeypatch):
    def missing(name):
        raise FileNotFoundError(f"name={name!r}: prepare it")

    monkeypatch.setattr(jl.data, "images", missing)
    with pytest.raises(SystemExit, match=r"^python -m experiments.demos.mnist: name='mnist': prepare it$"):
        mnist.main(SHORT)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--rules", "sdpt"], "there is no rule 'sdpt'; did you mean sdtp?"),
        (["--rules", "DFA"], "there is no rule 'DFA'; did you mean dfa?"),
        (["--rules", "zzz"], "there is no rule 'zzz'; the rules are bp, al, tp"),
        (["--seeds", "0"], "--seeds: '0' is not a whole number from 1"),
        (["--epochs", "few"], "--epochs: 'few' is not a whole number from 1"),
        (["--rate", "-1"], "--rate: '-1' is not a number above 0"),
        (["--rate", "nan"], "--rate: 'nan' is not a number above 0"),
        (["--batch-size", "2000"], "--batch-size: 2000 is more than the 1097 training examples"),
        (["--out", "."], "--out: '.' is a folder"),
        (["--sed", "3"], "unrecognized arguments: --sed 3"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(flags, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        digits.main(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("python -m experiments.demos.digits: ") and complaint in error and error.count("\n") == 1


def test_tables(tmp_path):
    accuracies = [{"train": 1.0, "validation": 0.9, "test": 0.8}, {"train": 1.0, "validation": 0.9, "test": 0.9}]
    paper = {"test": 0.9852, "source": "somewhere"}
    rows = [results.row("bp", accuracies, 12.34, paper), results.row("ao_sdtp", accuracies, 1.0)]
    assert rows[0]["test"] == {
        "per_seed": [0.8, 0.9],
        "mean": pytest.approx(0.85),
        "std": pytest.approx(0.05 * 2**0.5),
    }
    assert results.table(rows).splitlines()[2:] == [
        "     bp  100.00 ± 0.00  90.00 ± 0.00  85.00 ± 7.07           98.52     12.3",
        "ao_sdtp  100.00 ± 0.00  90.00 ± 0.00  85.00 ± 7.07                      1.0",
    ]
    path = results.record("tables", rows, "command", {}, out=tmp_path / "tables.json")
    assert results.markdown(path).splitlines() == [
        "| rule | train % | validation % | test % | paper's test % | seconds |",
        "| :-- | --: | --: | --: | --: | --: |",
        "| bp | 100.00 ± 0.00 | 90.00 ± 0.00 | 85.00 ± 7.07 | 98.52 | 12.3 |",
        "| ao_sdtp | 100.00 ± 0.00 | 90.00 ± 0.00 | 85.00 ± 7.07 |  | 1.0 |",
    ]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_records_are_whole_and_add_up(path):
    record = json.loads(path.read_text())
    assert record.keys() >= FIELDS
    assert record["experiment"] == path.stem
    assert record["rows"], "a record without rows"
    for row in record["rows"]:
        for split in results.SPLITS:
            values = row[split]["per_seed"]
            assert len(values) == len(record["settings"]["seeds"])
            assert all(0 <= value <= 1 for value in values)
            assert row[split]["mean"] == pytest.approx(statistics.fmean(values), abs=1e-12)
            spread = statistics.stdev(values) if len(values) > 1 else None
            assert row[split]["std"] == (spread if spread is None else pytest.approx(spread, abs=1e-12))


@pytest.mark.parametrize("experiment", ["digits", "mnist"])
def test_every_rule_is_recorded(experiment):
    rows = results.load(ROOT / "experiments" / "records" / f"{experiment}.json")["rows"]
    assert [row["rule"] for row in rows] == list(jl.rules.ALL)


def test_the_recorded_digits_are_good_enough():
    record = results.load(ROOT / "experiments" / "records" / "digits.json")
    assert AT_LEAST.keys() == jl.rules.ALL.keys()
    assert len(record["settings"]["seeds"]) == 3
    for row in record["rows"]:
        rule, mean = row["rule"], row["test"]["mean"]
        assert mean >= AT_LEAST[rule], f"{rule}: {mean:.4f} on the digits' test set, less than {AT_LEAST[rule]}"
        assert row["seconds"] <= 60, f"{rule}: {row['seconds']} s for three seeds, more than a minute"
