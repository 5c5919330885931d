"""Direct Kolen-Pollack's Table 2 and Figure 2, and the pipeline beside the sequence: small networks on the digits."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlocal as jl
from experiments.beyond import pipeline as beyond_pipeline
from experiments.lab import records as results
from experiments.lab import study
from experiments.lab.study import Steps
from experiments.papers.dkp import figure2 as dkp_figure2
from experiments.papers.dkp import table2 as dkp_table2
from jaxlocal.rule import Component

EXPERIMENTS = {"dkp_table2": dkp_table2, "dkp_figure2": dkp_figure2, "beyond_pipeline": beyond_pipeline}
STEPS = Steps(10, 100)
NAMES = list(dkp_table2.IMAGES["cifar100"].paper)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """The digits for every data set, small networks, and nothing that touches the committed records."""
    splits, mlp = jl.data.digits(), jl.models.mlp
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(study, "images", lambda name, size=None: splits)
    monkeypatch.setattr(dkp_figure2, "HIDDEN", (32,) * 4)
    monkeypatch.setattr(beyond_pipeline, "DATA", "digits")
    monkeypatch.setattr(jl.models, "alexnet", lambda *args, **settings: mlp((8,), norm=True))
    return tmp_path


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("row", [*(f"cifar100_{name}" for name in NAMES), "tiny_imagenet_dkp"])
def test_every_rule_of_table_2_trains_alexnet(row, monkeypatch):
    monkeypatch.undo()
    case, images = dkp_table2.STUDY.cases[row], dkp_table2.IMAGES["tiny_imagenet" if "tiny" in row else "cifar100"]
    batch = jnp.ones((2, images.size, images.size, 3)), jnp.ones((2, images.classes))
    rule = case.rule(STEPS)
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    after, info = jax.eval_shape(rule.step, params, batch)
    assert jax.tree.structure(after) == jax.tree.structure(params) and info.losses.shape == (len(params.components),)
    assert [block.norm for block in rule.net.blocks] == [True] * 7
    momenta = {leaf.ndim for component in params.components for leaf in jax.tree.leaves(component.opt)}
    assert 2 in momenta and (4 in momenta) == (row != "cifar100_bp_fc")  # its convolutions do not learn


def test_budgets_and_rates_of_table_2():
    cases = dkp_table2.STUDY.cases
    assert {(case.full, case.quick) for case in cases.values()} == {((90, 10), None)}
    rates = {row: case.told["optimizer"].split(",")[0] for row, case in cases.items()}
    assert rates["cifar100_bp"] == rates["cifar100_bp_fc"] == rates["tiny_imagenet_bp"] == "sgd(0.1"
    assert rates["cifar100_kp"] == rates["cifar100_dfa"] == "sgd(0.01"
    assert rates["tiny_imagenet_kp"] == rates["tiny_imagenet_dkp"] == "sgd(0.005"


def test_the_forward_weights_of_every_rule_decay_by_lambda(monkeypatch):
    """Whatever the rate; and biases, scales and feedback that does not learn have no decay."""
    batch, names = tuple(leaf[:32] for leaf in jl.data.digits().train), [name for name in NAMES if name != "bp_fc"]
    rules = {}
    for decay in (0.0, 1e-4):
        monkeypatch.setattr(dkp_table2, "DECAY", decay)
        rules |= {(name, decay): dkp_table2.make(dkp_table2.IMAGES["cifar100"], name, STEPS) for name in names}

    @jax.jit
    def weights(key):
        """Of every rule, before and after a step."""
        starts = {name: rule.init(key, batch) for name, rule in rules.items()}
        runs = {name: (starts[name], rule.update(starts[name], batch)) for name, rule in rules.items()}
        return {name: [[c.weights for c in params.components] for params in run] for name, run in runs.items()}

    found = weights(jax.random.key(0))
    for name in names:
        (before, plain), (_, decayed) = found[name, 0.0], found[name, 1e-4]
        leaves = jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(plain), jax.tree.leaves(decayed)
        for (path, start), without, with_decay in zip(*leaves, strict=True):
            fixed = "feedback" in jax.tree_util.keystr(path) and name not in ("kp", "dkp")
            decay = 0 if fixed or start.ndim == 1 else 1e-4
            np.testing.assert_allclose(without - with_decay, decay * start, atol=2e-7, err_msg=name)


def test_table_2_is_recorded_row_by_row(small, capsys):
    flags = ["--rows", "cifar100_dkp", "--epochs", "1", "--seeds", "1", "--work", str(small / "work")]
    dkp_table2.main(flags)
    record = study.read(dkp_table2.STUDY, "cifar100_dkp")
    assert record["rows"][0]["paper"]["test"] == pytest.approx(0.5262)
    assert record["settings"]["feedback"] == "adam(0.0005); decay 0.0001"
    assert is_picture(small / "pictures" / "dkp_figure4.png")
    dkp_table2.main(flags)
    assert "cifar100_dkp: recorded before" in capsys.readouterr().out


def test_no_row_of_table_2_is_for_two_cores(small):
    dkp_table2.main(["--quick", "--work", str(small / "work")])
    assert not list(small.iterdir())


def test_a_missing_tiny_imagenet_is_one_line(monkeypatch, small, capsys):
    monkeypatch.setattr(study, "images", lambda name, size=None: jl.data.load(name, size=size))
    monkeypatch.setenv("HOME", str(small))
    with pytest.raises(SystemExit) as stop:
        dkp_table2.main(["--rows", "tiny_imagenet_bp", "--work", str(small / "work")])
    assert stop.value.code == 1
    error, summary = capsys.readouterr().err.splitlines()
    assert "tiny_imagenet_bp: name='~/tiny-imagenet-200'" in error
    assert summary == "python -m experiments.papers.dkp.table2: not trained: tiny_imagenet_bp"


def test_figure_2_is_drawn_from_records(small, capsys):
    flags = ["--epochs", "35", "--seeds", "2"]
    dkp_figure2.main(flags)
    paths = {name: small / "results" / "dkp_figure2" / f"{name}.json" for name in dkp_figure2.RULES}
    records = {name: results.load(path) for name, path in paths.items()}
    for name, record in records.items():
        assert record["settings"]["seeds"] == [0, 1] and record["command"].endswith("--epochs 35 --seeds 2")
        (row,) = record["rows"]
        angles = np.array(row["angles"])
        assert row["method"] == name and angles.shape == (2, len(row["steps"]), 4) == (2, 60, 4)
        assert row["steps"] == list(range(0, 600, 10))  # of 17 an epoch, 595 in all
        assert row["test"]["mean"] > 0.9
    fixed, learnt, slow = (np.array(record["rows"][0]["angles"]).mean(0) for record in records.values())
    np.testing.assert_array_equal(fixed[0], learnt[0])  # the same start
    assert np.all(fixed[-1] < fixed[0] - 20)  # the forward weights align themselves with the feedback
    assert np.all(learnt[-1, 1:] < fixed[-1, 1:] - 1)  # and more where it learns
    np.testing.assert_allclose(slow[-1], fixed[-1], atol=1)  # but not where it learns too slowly
    printed = capsys.readouterr().out
    assert f"{fixed[0, 0]:.1f}° → {fixed[-1, 0]:.1f}°" in printed
    assert is_picture(small / "pictures" / "dkp_figure2.png")

    dkp_figure2.main(["--quick"])
    assert capsys.readouterr().out.count("recorded before") == 3
    assert {name: results.load(path) for name, path in paths.items()} == records


def test_what_is_not_run_of_figure_2_is_in_its_table(small):
    rows = list(dkp_figure2.rows(small))
    assert [row["method"] for row in rows] == ["dfa", "dkp", "dkp_slow"]
    assert {row["layer 4"] for row in rows} == {"not run"}
    assert "| dkp | not run |" in results.as_markdown(rows)


@pytest.fixture
def one_device(monkeypatch):
    """A machine that has to make four devices out of its cores."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="pins devices to cores")
def test_the_pipeline_trains_the_same_network(one_device, small):
    beyond_pipeline.main(["--epochs", "1", "--seeds", "2"])
    record = results.load(small / "results" / "beyond_pipeline" / "al.json")
    assert record["command"] == "python -m experiments.beyond.pipeline --epochs 1 --seeds 2"
    assert record["settings"]["devices"] == "4, of the CPU's cores"
    assert [row["seed"] for row in record["rows"]] == record["settings"]["seeds"] == [0, 1]
    for row in record["rows"]:
        assert row["largest difference"] == 0 and row["bit-identical"]
        assert row["sequential, test %"] == row["pipeline, test %"]
    assert is_picture(small / "pictures" / "al_table1.png")


def test_the_comparison_goes_on_where_it_stopped(small, monkeypatch, capsys):
    asked = []

    def comparisons(data, epochs, seeds):
        asked.append((data, epochs, list(seeds)))
        return iter([{"seed": seed} for seed in seeds]).__next__

    monkeypatch.setattr(beyond_pipeline, "comparisons", comparisons)
    for flags in (["--seeds", "2"], ["--seeds", "3"], ["--quick"], ["--seeds", "3", "--again"]):
        beyond_pipeline.main(["--epochs", "2", *flags])
    assert asked == [("digits", 2, [0, 1]), ("digits", 2, [2]), ("digits", 2, [0, 1, 2])]
    assert capsys.readouterr().out.count("recorded before") == 1
    record = results.load(small / "results" / "beyond_pipeline" / "al.json")
    assert record["rows"] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert record["settings"]["devices"] == "4, cpu"


def test_a_difference_is_seen():
    def params(weight=1.0, count=0):
        weights = {"forward": (np.full(3, weight, np.float32),)}
        return jl.Params((Component(weights, {}, (), np.zeros(2, np.uint32), np.int32(count)),), ())

    def difference(other):
        return beyond_pipeline._difference(params(), other)

    assert difference(params()) == {"largest difference": 0, "bit-identical": True}
    assert difference(params(weight=0.75)) == {"largest difference": 0.25, "bit-identical": False}
    assert difference(params(count=1)) == {"largest difference": 0, "bit-identical": False}


@pytest.mark.parametrize(
    ("experiment", "flags", "complaint"),
    [
        ("dkp_table2", ["--rows", "cifar100_dpk"], "--rows: there is no row 'cifar100_dpk'; did you mean cifar100_dkp"),
        ("dkp_figure2", ["--seeds", "0"], "--seeds: '0' is not a whole number from 1"),
        ("dkp_figure2", ["--rows", "dfa"], "unrecognized arguments: --rows dfa"),
        ("beyond_pipeline", ["--epochs", "two"], "--epochs: 'two' is not a whole number from 1"),
        ("beyond_pipeline", ["--out", __file__], "is a file; name a folder"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(experiment, flags, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        EXPERIMENTS[experiment].main(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert (
        error.startswith(f"python -m experiments.{results.module(experiment)}: ")
        and complaint in error
        and error.count("\n") == 1
    )


@pytest.mark.parametrize("experiment", ["dkp_figure2", "beyond_pipeline"])
def test_missing_data_are_one_line_and_status_2(experiment, monkeypatch, capsys):
    def missing(name, size=None):
        raise FileNotFoundError(f"name={name!r}: prepare it")

    monkeypatch.setattr(study, "images", missing)
    monkeypatch.setattr(jl.data, "load", missing)
    with pytest.raises(SystemExit) as stop:
        EXPERIMENTS[experiment].main(["--quick"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(": prepare it\n")
