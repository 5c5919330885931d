"""The lab: rows are trained seed by seed, each is recorded by itself, and resumes where it stopped."""

import argparse
import contextlib
import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from lab_helpers import few_digits, one_line, tiny_rule

import jaxlocal as jl
from experiments.lab import figures, records, report, tables, training, workers
from experiments.lab import main as lab
from experiments.lab import minutes as driver
from experiments.lab.experiment import (
    Budget,
    CannotRun,
    Experiment,
    Job,
    Option,
    Outcome,
    Recorded,
    Task,
    comparison,
    spent,
)
from experiments.lab.main import main
from experiments.lab.training import Case
from jaxlocal import flags as types
from jaxlocal.training import session

pytestmark = [pytest.mark.usefixtures("drawn_once"), pytest.mark.xdist_group("lab")]

FIELDS = {"experiment", "command", "commit", "source", "date", "versions", "device", "settings", "note", "rows"}


def norm(trained):
    """A number beside the accuracies."""
    return {"norm": float(optax.tree.norm(jl.rule.forward_weights(trained.params)))}


def budget(epochs, seeds):
    return Budget(epochs=epochs, seeds=seeds)


ROWS = {
    "first": Case(
        "digits", tiny_rule, {"net": "mlp"}, budget(3, 2), quick=budget(1, 2), paper=(98.5, 0.1), measure=norm
    ),
    "second": Case("digits", tiny_rule, {"net": "mlp"}, budget(1, 1)),
}
TOY = Experiment(
    module="toy",
    name="toy",
    title="A toy",
    note="No table.",
    source="nowhere",
    rows=ROWS,
    draw=figures.curves("toy", "toys"),
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "images", lambda name, size: few_digits())

    def run(*flags):
        main(TOY, [*flags, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
        return {row: TOY.record(row, tmp_path / "out") for row in ROWS}

    return run


def short(row, epochs, seeds):
    return "--rows", row, "--epochs", str(epochs), "--seeds", str(seeds)


def test_a_quick_run_records_the_rows_that_have_a_quick_budget(run, tmp_path):
    found = run("--quick")
    assert found["second"] is None
    record = found["first"]
    assert record.keys() == FIELDS
    assert record["command"] == "python -m experiments.toy --rows first --epochs 1 --seeds 2"
    assert record["versions"].keys() == {"python", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert record["device"].keys() == {"jax", "cpu", "cores"}
    assert record["settings"]["seeds"] == [0, 1] and spent(record, ("epochs", "seeds")) == budget(1, 2)
    (row,) = record["rows"]
    assert row.keys() >= {"rule", *records.SPLITS, "seconds", "paper"}
    assert row["paper"] == {"test": 0.985, "std": 0.001, "source": "nowhere"}
    assert row["full"] == {"epochs": 3, "seeds": 2}
    first, second = (measured["norm"] for measured in row["measured"])
    assert first != second
    assert [len(epoch["validation"]["accuracy"]) for epoch in row["history"]] == [2]
    assert row["test"]["std"] is not None and 0 <= row["test"]["mean"] <= 1
    assert (tmp_path / "out" / "toy.png").stat().st_size > 0
    assert [path.name for path in (tmp_path / "out" / "toy").iterdir()] == ["first.json"]  # and no draft of it
    assert json.dumps(record)


def test_a_record_of_a_larger_budget_stays(run, capsys):
    longer = run(*short("first", 2, 2))["first"]
    assert run(*short("first", 2, 1))["first"] == longer
    assert "already recorded" in capsys.readouterr().out
    assert spent(run(*short("first", 1, 1), "--again")["first"], ("epochs", "seeds")) == budget(1, 1)


def test_more_epochs_of_fewer_seeds_do_not_replace_a_record(run, capsys):
    more_seeds = run(*short("first", 1, 2))["first"]
    assert run(*short("first", 2, 1))["first"] == more_seeds
    assert "--again replaces it" in capsys.readouterr().out
    assert spent(run(*short("first", 2, 2))["first"], ("epochs", "seeds")) == budget(2, 2)


def test_a_seed_that_diverges_ends_its_row_and_is_recorded(run, monkeypatch, capsys, tmp_path):
    fit = session.fit

    def diverge(rule, *args, seed, **kwargs):
        if (kwargs["epochs"], seed) == (3, 1):
            raise jl.training.DivergedError("component 0: its loss is nan")
        return fit(rule, *args, seed=seed, **kwargs)

    monkeypatch.setattr(session, "fit", diverge)
    record = run()["first"]
    assert record["rows"] == [{"rule": "first", "diverged at": "seed 1: component 0: its loss is nan"}]
    assert record["settings"]["seeds"] == [0, 1] and record["command"].endswith("--epochs 3 --seeds 2")
    printed = capsys.readouterr()
    assert "first: component 0: its loss is nan" in printed.out and "second: test" in printed.out
    run()
    assert "first: already recorded" in capsys.readouterr().out
    line, _ = comparison(TOY.recorded(tmp_path / "out"))
    assert (line["test %"], line["difference"], line["train %"], line["minutes"]) == ("diverged", "", "", "")
    assert report.filled("[[{toy/first}]] {toy/first}", tmp_path / "out") == " (not run)"


def slow_clock(monkeypatch):
    """Ten seconds pass between two looks at the clock."""
    clock = iter(range(10**6))
    monkeypatch.setattr(lab.time, "monotonic", lambda: 10.0 * next(clock))


def test_other_code_begins_anew(run, monkeypatch, capsys):
    cut = (*short("first", 2, 1), "--minutes", "1")
    with monkeypatch.context() as patch:
        slow_clock(patch)
        run(*cut)
    monkeypatch.setattr(records, "code", lambda: {"commit": "another", "source": "another"})
    run(*cut)
    assert "epoch 1" in capsys.readouterr().out.rpartition("the same command resumes")[2]


def test_the_seeds_are_those_of_single_runs(run):
    (row,) = run(*short("first", 2, 2))["first"]["rows"]
    data, rule = few_digits(), tiny_rule()
    params = jl.training.fit(rule, data, epochs=2, seed=1).params
    assert row["test"]["per_seed"][1] == pytest.approx(jl.training.evaluate(rule, params, data.test)["accuracy"], 1e-5)


def stops_at(epoch):
    """Ctrl-C comes at the end of this epoch."""

    def stop(run, progress):
        if progress.state and len(progress.state.history) == epoch:
            raise KeyboardInterrupt

    return stop


def worse_in_the_last_epoch(steps):
    """A rule that climbs the loss in its last epoch."""
    last = steps.total - steps.epoch
    rate = optax.join_schedules([optax.constant_schedule(rate) for rate in (0.3, -0.3)], [last])
    return jl.rules.bp(jl.models.mlp((16,)), optax.sgd(rate))


def test_the_best_epoch_on_the_validation_set_has_a_test_accuracy(run, monkeypatch, tmp_path):
    case = Case("digits", worse_in_the_last_epoch, {"net": "mlp"}, budget(3, 1))
    experiment = TOY._replace(rows={"only": case}, draw=None)
    main(experiment, ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    recorded = experiment.recorded(tmp_path / "out")
    (row,) = recorded.records["only"]["rows"]
    data, epoch = few_digits(), len(few_digits().train[0]) // 32
    rule = worse_in_the_last_epoch(training.Steps(epoch, 3 * epoch))
    params = jl.training.fit(rule, data, epochs=2).params
    assert row["best"]["epochs"] == [2]
    assert row["best"]["test"]["mean"] == pytest.approx(jl.training.evaluate(rule, params, data.test)["accuracy"], 1e-5)
    assert row["best"]["test"]["mean"] > row["test"]["mean"]
    (line,) = comparison(recorded)
    assert line["best epoch's test %"] == tables.percent(row["best"]["test"])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_test_accuracy_after_each_epoch_is_recorded_where_it_is_asked_for(backend, run, monkeypatch, tmp_path):
    """Also after an epoch that was trained once more, because it ended before it was saved."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    case = ROWS["second"]._replace(full=budget(2, 2), test_curve=True)
    experiment = TOY._replace(rows={"only": case}, draw=None)
    task = Task(experiment, "only", case.full, {}, tmp_path / "work", float("inf"), tmp_path, False)
    kept = jl.training.Session._save
    monkeypatch.setattr(jl.training.Session, "_save", lambda session, state: None)
    with contextlib.suppress(KeyboardInterrupt):
        monkeypatch.setattr(training, "print_epoch", stops_at(2))
        list(case.run(task))
    monkeypatch.setattr(training, "print_epoch", lambda run, progress: None)
    monkeypatch.setattr(jl.training.Session, "_save", kept)
    *_, outcome = case.run(task)
    (row,) = outcome.rows
    assert [epoch["epoch"] for epoch in row["history"]] == [1, 2]
    assert row["history"][-1]["test"]["accuracy"] == pytest.approx(row["test"]["per_seed"], rel=1e-5)
    assert row["history"][0]["test"] != row["history"][1]["test"]


def test_a_row_that_is_not_run_says_what_is_missing(tmp_path):
    rows = {"here": ROWS["first"], "elsewhere": ROWS["first"]._replace(data="cifar100")}
    here, elsewhere = comparison(TOY._replace(rows=rows).recorded(tmp_path))
    assert (here["test %"], elsewhere["test %"]) == ("not run: no time", "not run: no data")
    assert "paper's train %" not in here


def test_a_row_that_ends_as_the_time_does_clears_its_folder(tmp_path):
    """It clears it after its last outcome. Otherwise `--again` would find what it has just recorded."""
    cleared = []

    def train(task):
        yield Outcome([{}], {}, task.budget, "done")
        cleared.append(task.row)

    experiment = TOY._replace(rows={"only": Job(budget(1, 1), None, train)})
    assert lab.run_row(Task(experiment, "only", budget(1, 1), {}, tmp_path, float("-inf"), tmp_path, False))
    assert cleared == ["only"]


def test_an_accelerator_trains_all_seeds_at_once(run, monkeypatch):
    by_turns = run(*short("first", 2, 2))["first"]["rows"][0]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = run(*short("first", 2, 2), "--again")["first"]["rows"][0]
    for name in ("measured", "test"):
        close = jax.tree.map(lambda a, b: a == pytest.approx(b, rel=1e-2), together[name], by_turns[name])
        assert all(jax.tree.leaves(close)), name
    same = jax.tree.map(lambda a, b: a == pytest.approx(b, rel=1e-3), together["history"], by_turns["history"])
    assert all(jax.tree.leaves(same))


def test_a_row_that_the_minutes_cut_off_resumes(run, monkeypatch, capsys):
    whole = run(*short("first", 6, 1))["first"]["rows"][0]
    with monkeypatch.context() as patch:
        slow_clock(patch)
        run(*short("first", 6, 1), "--again", "--minutes", "1")
        assert "the same command resumes" in capsys.readouterr().out
    again = run(*short("first", 6, 1), "--again")["first"]["rows"][0]
    printed = capsys.readouterr().out
    assert "epoch 1:" not in printed and "epoch 6:" in printed
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}


PARTLY = TOY._replace(
    name="partly",
    rows={
        "all": Case("digits", tiny_rule, {"net": "mlp"}, budget(1, 2)),
        "some": Case("digits", tiny_rule, {"net": "mlp"}, Budget(epochs=1, seeds=2, examples=128)),
    },
    draw=None,
)


@pytest.fixture
def run_partly(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "images", lambda name, size: few_digits())

    def run(*flags, into="out"):
        main(PARTLY, [*flags, "--out", str(tmp_path / into), "--work", str(tmp_path / "work")])
        return PARTLY.recorded(tmp_path / into)

    return run


def test_a_budget_can_count_training_examples(run_partly):
    found = run_partly("--rows", "some", "--examples", "64", "--seeds", "1")
    assert found.records["some"]["settings"]["examples"] == 64
    assert found.records["some"]["command"].endswith("--rows some --epochs 1 --seeds 1 --examples 64")
    run_partly("--rows", "all", "--seeds", "1")
    assert [(line["row"], line["seeds"], line["examples"]) for line in comparison(run_partly("--rows", "some"))] == [
        ("all", "1 of 2", ""),
        ("some", "2 of 2", "128 of 128"),
    ]


def test_a_row_does_not_go_on_with_what_fewer_examples_taught_it(run_partly, monkeypatch):
    flags = "--rows", "some", "--epochs", "6"
    whole = run_partly(*flags, into="whole").records["some"]["rows"][0]
    with monkeypatch.context() as patch:
        slow_clock(patch)
        run_partly(*flags, "--examples", "96", "--minutes", "1")
    assert {**run_partly(*flags).records["some"]["rows"][0], "seconds": 0} == {**whole, "seconds": 0}


@pytest.mark.parametrize(
    ("flags", "status", "complaint"),
    [
        (
            ["--rows", "all", "--examples", "64"],
            2,
            "argument --examples: the budget of all does not count it; choose others by --rows",
        ),
        (
            ["--rows", "some", "--examples", "129"],
            1,
            "some: it asks for 129 training examples, and there are 128; give fewer",
        ),
    ],
)
def test_examples_that_cannot_be_are_refused(run_partly, flags, status, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        run_partly(*flags)
    assert stop.value.code == status
    assert capsys.readouterr().err.startswith(f"{PARTLY.command}: {complaint}\n")


def test_a_signal_ends_the_command(run, monkeypatch, capsys):
    def stop(self, **settings):
        raise session.Interrupted(15, 7)

    monkeypatch.setattr(jl.training.Session, "train", stop)
    with pytest.raises(SystemExit) as ended:
        run(*short("first", 1, 1))
    assert ended.value.code == 128 + 15
    assert "the same command resumes" in capsys.readouterr().err


def test_a_row_without_its_data_is_one_line(run, monkeypatch, capsys):
    def missing(name, size):
        raise FileNotFoundError(f"name={name!r}: prepare it")

    monkeypatch.setattr(training, "images", missing)
    with pytest.raises(SystemExit):
        run("--rows", "second")
    assert capsys.readouterr().err.startswith("python -m experiments.toy: second: name='digits': prepare it\n")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--rows", "frist"], "argument --rows: there is no row 'frist'; did you mean first?"),
        (["--rows", "FIRST"], "argument --rows: there is no row 'FIRST'; did you mean first?"),
        (["--rows", "zzz"], "argument --rows: there is no row 'zzz'; choose from first, second"),
        (
            ["--rows", "second", "--quick"],
            "argument --quick: second has no shorter budget; give --epochs and --seeds",
        ),
        (["--minutes", "0"], "argument --minutes: '0' is not a number above 0"),
        (["--seeds", "0"], "argument --seeds: '0' is not a whole number from 1"),
        (["--epochs", "few"], "argument --epochs: 'few' is not a whole number from 1"),
        (["--out", __file__], f"argument --out: {__file__!r} is a file; name a folder"),
        (["--sed", "3"], "unrecognized arguments: --sed 3; did you mean --seeds?"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(flags, complaint, capsys):
    assert one_line(main, TOY, flags, capsys) == complaint


def test_a_budget_covers_another_in_everything_that_it_counts():
    assert budget(3, 2).covers(budget(3, 2))
    assert not budget(4, 1).covers(budget(3, 2)) and not budget(2, 9).covers(budget(3, 2))


# Timings.


def timing(rounds=3, refuse=False):
    """A timing with an option, which counts its calls."""

    def measure(task):
        if refuse:
            raise CannotRun("needs a quiet machine")
        calls.append(task.options)
        settings = dict(task.options) | task.budget
        yield Outcome([{"case": "a", "ms": 1.5}], settings, task.budget, "measured")

    calls = []
    options = {"width": Option("units", types.whole, 8, 4), "few": Option("not all", bool, False)}
    row = Job(Budget(rounds=rounds), Budget(rounds=1), measure)
    made = Experiment(
        "timing", "timing", "A timing", "A note.", {"all": row}, tables=(), options=options, is_timing=True
    )
    return made, calls


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Nothing in these tests may touch the committed records."""
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    return tmp_path


def test_a_timing_is_measured_at_each_call_and_keeps_the_larger_record(elsewhere):
    made, calls = timing()
    main(made, [])
    full = made.record("all")
    assert full["command"] == "python -m experiments.timing --rounds 3" and full["settings"]["width"] == 8
    main(made, ["--quick"])
    assert [options["width"] for options in calls] == [8, 4]
    assert made.record("all") == full


def test_a_timing_with_other_options_is_recorded_elsewhere_only(elsewhere):
    made, _ = timing()
    main(made, ["--width", "5", "--few"])
    assert made.record("all") is None
    main(made, ["--width", "5", "--few", "--out", str(elsewhere / "other")])
    record = made.record("all", elsewhere / "other")
    assert record["command"] == "python -m experiments.timing --rounds 3 --width 5 --few"


def test_what_cannot_run_here_is_told_in_one_line(elsewhere, capsys):
    made, _ = timing(refuse=True)
    with pytest.raises(SystemExit) as stop:
        main(made, [])
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "python -m experiments.timing: all: needs a quiet machine",
        "python -m experiments.timing: not measured: all",
    ]


def test_turns_are_taken_round_by_round():
    calls = []

    def turn(name):
        calls.append(name)
        return float(len(calls))

    turns = {name: partial(turn, name) for name in "ab"}
    assert workers.take_turns(turns, 2, warm_up=1) == {"a": [3, 5], "b": [4, 6]}
    assert calls == list("ababab")


def test_a_worker_answers_and_an_error_in_it_is_an_error_here(capfd):
    with workers.Worker(str, "text") as worker:
        assert worker.ask("upper") == "TEXT" and worker.ask("replace", "t", "n") == "nexn"
    with pytest.raises(RuntimeError, match="a worker process stopped"), workers.Worker(int, "no number"):
        pass
    assert "invalid literal" in capfd.readouterr().err


# Records, tables and figures.


def test_tables(tmp_path):
    accuracies = [{"train": 1.0, "validation": 0.9, "test": 0.8}, {"train": 1.0, "validation": 0.9, "test": 0.9}]
    paper = {"test": 0.9852, "source": "somewhere"}
    rows = [records.row("bp", accuracies, 12.34, paper), records.row("ao_sdtp", accuracies, 1.0)]
    assert rows[0]["test"] == {
        "per_seed": [0.8, 0.9],
        "mean": pytest.approx(0.85),
        "std": pytest.approx(0.05 * 2**0.5),
    }
    assert tables.text(rows).splitlines()[2:] == [
        "     bp  100.00 ± 0.00  90.00 ± 0.00  85.00 ± 7.07           98.52",
        "ao_sdtp  100.00 ± 0.00  90.00 ± 0.00  85.00 ± 7.07",
    ]
    with pytest.raises(ValueError, match="a table has the columns a, b, but one of its lines a"):
        tables.markdown([{"a": 1, "b": 2}, {"a": 1}])
    path = records.write("tables", rows, "command", {}, out=tmp_path)
    assert tables.markdown(records.load(path)["rows"]).splitlines() == [
        "| rule | train % | validation % | test % | paper's test % |",
        "| :-- | --: | --: | --: | --: |",
        "| bp | 100.00 ± 0.00 | 90.00 ± 0.00 | 85.00 ± 7.07 | 98.52 |",
        "| ao_sdtp | 100.00 ± 0.00 | 90.00 ± 0.00 | 85.00 ± 7.07 |  |",
    ]


def test_a_record_is_found_by_its_name(tmp_path):
    rows = [records.row("bp", [dict.fromkeys(records.SPLITS, 0.5)], 1.0)]
    records.write("some/bp", rows, "command", {"seeds": [0], "epochs": 4}, out=tmp_path)
    record = records.found("some/bp", tmp_path)
    assert record["rows"] == rows and spent(record, ("epochs", "seeds")) == budget(4, 1)
    assert records.found("some/fa", tmp_path) is None


def test_rows_of_other_code_or_settings_are_not_continued(tmp_path, monkeypatch):
    record = records.load(records.write("a", [{"trial": 0}], "command", {"seeds": [0], "rate": 1}, out=tmp_path))
    assert records.continued(record, {"seeds": [0, 1], "rate": 1}) == [{"trial": 0}]
    assert records.continued(record, {"rate": 2}) == [] == records.continued(None, {"rate": 1})
    monkeypatch.setattr(records, "code", lambda: {"commit": "another", "source": "another"})
    assert records.continued(record, {"rate": 1}) == []


def numbers(value):
    """Those of a set after an epoch."""
    return {"loss": [value], "accuracy": [value]}


@pytest.mark.parametrize(("epochs", "scale"), [(20, "linear"), (21, "log")])
def test_short_runs_are_visible_beside_far_longer_ones(epochs, scale):
    def history(length):
        half = numbers(0.5)
        return [{"epoch": epoch + 1, "train": half, "validation": half} for epoch in range(length)]

    figure = figures.learning({"short": history(1), "long": history(epochs)}, "toys")
    assert [axes.get_xscale() for axes in figure.axes] == [scale] * 3


def test_curves_show_the_test_set_where_all_runs_have_it():
    own = [{"epoch": 1, "train": numbers(0.5), "validation": numbers(0.6), "test": {"accuracy": [0.7]}}]
    without = [{split: own[0][split] for split in ("epoch", "train", "validation")}]
    for runs, shown in [({"a": own}, "test"), ({"a": own, "b": without}, "validation")]:
        last = figures.learning(runs, "toys").axes[-1]
        assert last.get_title() == f"{shown} accuracy"
        assert last.lines[0].get_ydata() == pytest.approx([own[0][shown]["accuracy"][0]])


def test_curves_of_some_rows():
    history = [{"epoch": 1, "train": numbers(0.5), "validation": numbers(0.6)}]
    found = {name: {"rows": [{"history": history}]} for name in ("toy_a", "toy_a_long", "other_a_long")}
    (figure,) = figures.curves("toy", "toys", prefix="toy_", suffix="_long")(
        Recorded(TOY, found, None, Path())
    ).values()
    assert [line.get_label() for line in figure.axes[0].lines] == ["a"]


def test_bands_are_sample_deviations():
    numbers = {"loss": [0.25, 0.75], "accuracy": [0.25, 0.75]}
    history = [{"epoch": epoch, "train": numbers, "validation": numbers} for epoch in (1, 2)]
    for axes in figures.learning({"a": history}, "toys").axes:
        (band,) = axes.collections
        heights = band.get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], 0.5 + np.array([-1, 1]) * 0.125**0.5)


@pytest.fixture
def minutes(tmp_path, monkeypatch):
    """Run the driver on three rows of the digits."""
    quick = ROWS["first"]._replace(quick=budget(2, 1))
    rows = {"ours": quick._replace(paper=None), "long": quick._replace(full=budget(50, 1)), "short": quick}
    experiment = TOY._replace(rows=rows, draw=None)
    monkeypatch.setattr(training, "images", lambda name, size: few_digits())
    monkeypatch.setattr(report, "BY_NAME", {"toy": experiment, "none": TOY._replace(rows={})})
    monkeypatch.setattr(driver, "_keep_programs", lambda work: None)

    def run(*flags):
        driver.main(["toy", *flags, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
        return experiment.recorded(tmp_path / "out").records

    return run


def test_the_driver_trains_the_shortest_rows_of_a_paper_first(minutes, monkeypatch, capsys):
    prices = {"ours": 1.0, "long": 30.0, "short": 2.0}
    monkeypatch.setattr(Case, "price", lambda self, task: prices[task.row])
    assert minutes("--minutes", "5", "--quick").keys() == prices.keys()
    printed = capsys.readouterr().out
    places = [printed.index(f"{row}: test") for row in ("short", "long", "ours")]
    assert places == sorted(places)
    assert "not recorded: 0 rows that have begun, and 0 others" in printed
    minutes("--minutes", "5", "--quick")
    assert "test" not in capsys.readouterr().out


def test_several_drivers_train_each_row_once(minutes, monkeypatch):
    monkeypatch.setattr(Case, "price", lambda self, task: 1.0)
    assert minutes("--minutes", "5", "--quick", "--part", "1/2").keys() == {"ours", "short"}
    assert minutes("--minutes", "5", "--quick", "--part", "2/2").keys() == {"ours", "short", "long"}


@pytest.mark.parametrize("part", ["3/2", "0/2", "2", "a/b"])
def test_a_part_that_cannot_be_is_one_line(minutes, part, capsys):
    with pytest.raises(SystemExit) as stop:
        minutes("--minutes", "5", "--part", part)
    assert stop.value.code == 2
    assert f"argument --part: {part!r} is no part such as 2/4, the second of four" in capsys.readouterr().err


def test_the_driver_leaves_what_does_not_fit_and_goes_on_with_it(minutes, monkeypatch, capsys):
    prices = {"ours": 1.0, "long": 3000.0, "short": 2.0}
    monkeypatch.setattr(Case, "price", lambda self, task: prices[task.row])
    ran = []
    monkeypatch.setattr(driver, "run_row", lambda task: ran.append(task.row) or task.row != "long")
    minutes("--minutes", "5", "--quick")
    assert ran == ["short", "ours", "long"]
    assert "not recorded: 1 rows that have begun" in capsys.readouterr().out


def test_no_row_may_begin_for_longer_than_the_part_of_the_time_for_beginnings(minutes, monkeypatch):
    """Otherwise a long row could use up the time in which shorter ones would be trained."""
    left = []
    monkeypatch.setattr(Case, "price", lambda self, task: left.append(task.until - time.monotonic()) or float("inf"))
    trained = []
    monkeypatch.setattr(driver, "run_row", lambda task: trained.append(task.until - time.monotonic()))
    minutes("--minutes", "5", "--quick")
    assert left and max(left) <= driver.PRICING * 5 * 60 < min(trained)


def test_rows_of_convolutions_have_a_program_for_each_seed_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ROWS["first"]._groups(3) == [[0, 1, 2]]
    assert ROWS["first"]._replace(apart=True)._groups(3) == [[0], [1], [2]]


def test_a_price_is_the_time_of_the_epochs_that_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "images", lambda name, size: few_digits())
    args = argparse.Namespace(quick=False, epochs=6, seeds=2, out=tmp_path, work=tmp_path, again=False)
    task = lab.as_task(TOY, "first", args, until=float("inf"))
    clock = iter(range(100))
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: 10 * next(clock)))
    assert ROWS["first"].price(task) == 10 * (2 * 6 - 2)  # two epochs of twelve are trained
    assert ROWS["first"].price(task) == 10 * (2 * 6 - 4)
    assert lab.run_row(task)
    assert ROWS["first"].price(task) == 10 * (2 * 6 - 2)  # of a recorded row nothing is left in the folder


def test_a_row_that_the_driver_cannot_train_does_not_stop_the_others(minutes, monkeypatch, capsys):
    def price(self, task):
        if task.row == "long":
            raise CannotRun("needs what is not here")
        return 1.0

    monkeypatch.setattr(Case, "price", price)
    with pytest.raises(SystemExit) as stop:
        minutes("--minutes", "5", "--quick")
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "toy/long: needs what is not here",
        "python -m experiments.lab.minutes: not trained: long",
    ]
    assert "short: test" in printed.out and "ours: test" in printed.out


def test_an_experiment_without_trainings_is_one_line(minutes, capsys):
    with pytest.raises(SystemExit) as stop:
        driver.main(["none", "--minutes", "1"])
    assert stop.value.code == 2
    assert "there is no experiment 'none' with trainings" in capsys.readouterr().err
