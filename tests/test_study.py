"""Studies: rows are trained seed by seed, recorded by themselves, and go on where they stopped."""

import json

import jax
import optax
import pytest
from experiments.lab.study import Budget, Case, Study

import jaxlocal as jl
from experiments.lab import figures, study
from jaxlocal.training import session


def toy(steps):
    return jl.rules.dfa(jl.models.mlp((16,)), optax.adam(1e-2))


CASES = {
    "first": Case("digits", toy, {"net": "mlp"}, Budget(3, 2), quick=Budget(1, 2), paper=(98.5, 0.1)),
    "second": Case("digits", toy, {"net": "mlp"}, Budget(1, 1)),
}
TOY = Study(
    "toy",
    "A toy",
    "nowhere",
    CASES,
    "No table.",
    measure=lambda trained: {"norm": float(optax.tree.norm(jl.rule.forward_weights(trained.params)))},
    draw=lambda rows: {"toy": figures.learning({name: row["history"] for name, row in rows.items()}, "toys")},
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    splits = jl.data.digits()
    monkeypatch.setattr(study, "images", lambda name, size: splits)

    def run(*flags):
        study.main(TOY, [*flags, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
        return {row: study.read(TOY, row, tmp_path / "out") for row in CASES}

    return run


def test_a_quick_run_records_the_rows_that_have_a_quick_budget(run, tmp_path):
    records = run("--quick")
    assert records["second"] is None
    record = records["first"]
    (row,) = record["rows"]
    assert record["command"] == "python -m experiments.demos.toy --rows first --epochs 1 --seeds 2"
    assert record["settings"]["seeds"] == [0, 1] and study.spent(record) == (1, 2)
    assert row["paper"] == {"test": 0.985, "std": 0.001, "source": "nowhere"}
    assert row["full"] == {"epochs": 3, "seeds": 2}
    first, second = (measured["norm"] for measured in row["measured"])
    assert first != second
    assert [len(epoch["validation"]["accuracy"]) for epoch in row["history"]] == [2]
    assert row["test"]["std"] is not None and 0.3 < row["test"]["mean"] <= 1
    assert (tmp_path / "out" / "toy.png").stat().st_size > 0


def test_a_record_of_a_larger_budget_stays(run, capsys):
    longer = run("--rows", "first", "--epochs", "2", "--seeds", "2")["first"]
    assert run("--rows", "first", "--epochs", "2", "--seeds", "1")["first"] == longer
    assert "recorded before" in capsys.readouterr().out
    assert study.spent(run("--rows", "first", "--epochs", "1", "--seeds", "1", "--again")["first"]) == (1, 1)


def test_more_epochs_of_fewer_seeds_take_no_place(run, capsys):
    more_seeds = run("--rows", "first", "--epochs", "1", "--seeds", "2")["first"]
    assert run("--rows", "first", "--epochs", "2", "--seeds", "1")["first"] == more_seeds
    assert "--again puts this one in its place" in capsys.readouterr().out
    assert study.spent(run("--rows", "first", "--epochs", "2", "--seeds", "2")["first"]) == (2, 2)


def test_a_seed_that_diverges_does_not_stop_the_other_rows(run, monkeypatch, capsys):
    fit = session.fit

    def diverge(rule, *args, seed, **kwargs):
        if kwargs["epochs"] == 3:
            raise jl.training.DivergedError("component 0: its loss is nan")
        return fit(rule, *args, seed=seed, **kwargs)

    monkeypatch.setattr(session, "fit", diverge)
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "python -m experiments.demos.toy: first: component 0: its loss is nan",
        "python -m experiments.demos.toy: not trained: first",
    ]
    assert "second: test" in printed.out


def test_other_code_begins_anew(run, monkeypatch, capsys):
    cut = ("--rows", "first", "--epochs", "2", "--seeds", "1", "--minutes", "1")
    clock = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(study.time, "monotonic", lambda: 10.0 * next(clock))
        run(*cut)
    monkeypatch.setattr(study.results, "code", lambda: {"commit": "another", "source": "another"})
    run(*cut)
    assert "epoch 1" in capsys.readouterr().out.rpartition("the same command goes on")[2]


def test_the_seeds_are_those_of_single_runs(run):
    (row,) = run("--rows", "first", "--epochs", "2", "--seeds", "2")["first"]["rows"]
    data = jl.data.digits()
    rule = toy(None)
    params = jl.training.fit(rule, data, epochs=2, seed=1).params
    assert row["test"]["per_seed"][1] == pytest.approx(jl.training.evaluate(rule, params, data.test)["accuracy"], 1e-5)


def test_an_accelerator_trains_all_seeds_at_once(run, monkeypatch):
    by_turns = run("--rows", "first", "--epochs", "2", "--seeds", "2")["first"]["rows"][0]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = run("--rows", "first", "--epochs", "2", "--seeds", "2", "--again")["first"]["rows"][0]
    for name in ("measured", "test"):
        close = jax.tree.map(lambda a, b: a == pytest.approx(b, rel=1e-2), together[name], by_turns[name])
        assert all(jax.tree.leaves(close)), name
    same = jax.tree.map(lambda a, b: a == pytest.approx(b, rel=1e-3), together["history"], by_turns["history"])
    assert all(jax.tree.leaves(same))


def test_what_the_minutes_cut_off_goes_on(run, monkeypatch, capsys):
    whole = run("--rows", "first", "--epochs", "2", "--seeds", "1")["first"]["rows"][0]
    clock = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(study.time, "monotonic", lambda: 10.0 * next(clock))  # ten seconds a look
        run("--rows", "first", "--epochs", "2", "--seeds", "1", "--again", "--minutes", "1")
        assert "the same command goes on" in capsys.readouterr().out
    again = run("--rows", "first", "--epochs", "2", "--seeds", "1", "--again")["first"]["rows"][0]
    printed = capsys.readouterr().out
    assert "epoch 1" not in printed and "epoch 2" in printed
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}


def test_a_row_without_its_data_is_one_line(run, monkeypatch, capsys):
    def missing(name, size):
        raise FileNotFoundError(f"name={name!r}: prepare it")

    monkeypatch.setattr(study, "images", missing)
    with pytest.raises(SystemExit):
        run("--rows", "second")
    assert capsys.readouterr().err.startswith("python -m experiments.demos.toy: second: name='digits': prepare it\n")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--rows", "frist"], "argument --rows: there is no row 'frist'; did you mean first?"),
        (
            ["--rows", "second", "--quick"],
            "argument --quick: second has no budget for two cores; give --epochs and --seeds",
        ),
        (["--minutes", "0"], "argument --minutes: '0' is not a number above 0"),
    ],
)
def test_bad_flags_are_one_line(run, flags, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"python -m experiments.demos.toy: {complaint}\n"


def test_records_are_plain(run):
    run("--rows", "second")
    assert json.dumps(run("--rows", "second")["second"])


def test_a_budget_reaches_another_in_all_that_it_counts():
    assert study.reaches((3, 2), (3, 2)) and not study.reaches((4, 1), (3, 2)) and not study.reaches((2, 9), (3, 2))


@pytest.mark.parametrize(("epochs", "scale"), [(20, "linear"), (21, "log")])
def test_short_runs_are_seen_beside_far_longer_ones(epochs, scale):
    def history(length):
        numbers = {"loss": [0.5], "accuracy": [0.5]}
        return [{"epoch": epoch + 1, "train": numbers, "validation": numbers} for epoch in range(length)]

    figure = figures.learning({"short": history(1), "long": history(epochs)}, "toys")
    assert [axes.get_xscale() for axes in figure.axes] == [scale] * 3
