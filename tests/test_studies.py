"""Every row of every paper's table can be made, and has the weights and settings that its paper gives it."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlocal as jl
from experiments.beyond import resnet as beyond_resnet
from experiments.beyond import tuning as beyond_tuning
from experiments.lab import records as results
from experiments.lab import study
from experiments.lab.study import Budget, Case, Steps
from experiments.papers.al import shared as associated
from experiments.papers.al import table3 as al_table3
from experiments.papers.al import table7 as al_table7
from experiments.papers.al import tables5_6 as al_tables5_6

TABLES = ("al_table2", "al_table3", "al_table4", "al_tables5_6", "bartunov_table1", "beyond_resnet", "dkp_table1")
CASES = {
    f"{name}-{row}": case
    for name in TABLES
    for row, case in importlib.import_module(f"experiments.{results.module(name)}").STUDY.cases.items()
}
SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}
STEPS = Steps(10, 100)


def traced(case):
    """The rule of a row and the shapes of its parameters, after a step that is traced."""
    shape = SHAPES[case.data] if case.size is None else (case.size, case.size, 3)
    rule = case.rule(STEPS)
    batch = jnp.zeros((4, *shape)), jnp.zeros((4, 100 if case.data == "cifar100" else 10))
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    after, _ = jax.eval_shape(rule.step, params, batch)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    return rule, params


@pytest.mark.parametrize("row", CASES)
def test_every_row_can_be_trained(row):
    case = CASES[row]
    traced(case)
    assert case.quick is None or min(case.quick) >= 1
    assert case.paper is None or case.full.epochs >= (case.quick or case.full).epochs


@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet20", "resnet32"])
def test_both_rules_of_a_row_predict_by_as_many_weights(net):
    counts = [jl.diagnostics.parameter_counts(*traced(al_table3.STUDY.cases[f"{net}_{rule}"])) for rule in ("bp", "al")]
    assert counts[0].effective == counts[1].effective


@pytest.mark.parametrize("net", [associated.mlp(32), associated.cnn(), associated.resnet(8), associated.vgg()])
def test_associated_learning_has_elu_in_every_block(net, monkeypatch):
    rule = associated.al(net, STEPS)
    blocks = [block.activation for block in rule.net.blocks]
    assert {activation.__name__ for activation in blocks} == {"elu"}


def test_the_decay_is_on_the_kernels_of_the_blocks_alone():
    """Encoders and decoders have tiny gradients, which it would drown."""
    net = associated.mlp(16)._replace(decay=(0.1, 0.1))
    rule = associated.al(net, STEPS)
    without = associated.al(net._replace(decay=(0.0, 0.0)), STEPS)
    batch = jax.random.uniform(jax.random.key(1), (8, 20)), jax.nn.one_hot(jnp.arange(8), 10)
    params = rule.init(jax.random.key(0), batch)
    moved, plain = (jax.jit(one.update)(params, batch) for one in (rule, without))
    for here, there in zip(moved.components, plain.components, strict=True):
        for role in ("bridge", "encoder", "decoder"):
            jax.tree.map(np.testing.assert_array_equal, here.weights[role], there.weights[role])
        (here,), (there,) = here.weights["forward"], there.weights["forward"]
        assert not np.array_equal(here["linear"]["kernel"], there["linear"]["kernel"])
        np.testing.assert_array_equal(here["linear"]["bias"], there["linear"]["bias"])


def short(make, **settings):
    return Case("digits", make, {"net": "a small one"}, Budget(1, 1), **settings)


@pytest.fixture
def on_digits(tmp_path, monkeypatch):
    """A study's measure and picture on two small rows."""
    splits = jl.data.digits()
    monkeypatch.setattr(study, "images", lambda name, size=None: splits)

    def run(made, rules):
        cases = {
            row: short(partial(rule, associated.mlp(16)), prepare=associated.centred) for row, rule in rules.items()
        }
        small = made._replace(cases=cases)
        study.main(small, ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
        return {row: study.read(small, row, tmp_path / "out") for row in cases}

    return run


def test_distances_between_classes_are_recorded_and_drawn(on_digits, tmp_path, monkeypatch):
    records = on_digits(al_table3.STUDY, {"mlp_bp": associated.bp, "mlp_al": associated.al})
    layers = records["mlp_al"]["rows"][0]["measured"][0]["distances"]
    assert list(layers) == ["raw data", "block 1", "block 2", "bridge", "decoder 2", "output"]
    assert layers["output"]["ratio"] > 0
    al_table7.main(["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    assert (tmp_path / "out" / "al_figure5.png").stat().st_size > 0
    shown = {row["network"]: row["ratio"] for row in al_table7.rows(tmp_path / "out") if row["data"] == "CIFAR-10"}
    assert float(shown["mlp_al"]) == pytest.approx(layers["decoder 2"]["ratio"], abs=0.01)
    assert shown["cnn_al"] == "not run"


def test_associated_losses_are_recorded(on_digits, tmp_path):
    records = on_digits(al_tables5_6.STUDY, {"two": associated.al})
    losses = records["two"]["rows"][0]["measured"][0]["associated"]
    assert len(losses) == 2 and all(0 < loss < 1 for loss in losses)
    table = {row["row"]: row for row in al_tables5_6.rows(tmp_path / "out")}
    assert float(table["two"]["loss 2"]) == pytest.approx(losses[1], rel=0.01)
    assert table["two"]["loss 3"] == "" and table["three"]["loss 1"] == "not run"


def test_a_search_is_recorded_and_drawn_and_done_once(on_digits, tmp_path, capsys):
    flags = ["--trials", "2", "--epochs", "1", "--out", str(tmp_path)]
    beyond_tuning.main(flags)
    made = {rule: results.load(tmp_path / "beyond_tuning" / f"{rule}.json") for rule in ("bp", "al")}
    for rule, record in made.items():
        assert [row["trial"] for row in record["rows"]] == [0, 1]
        assert record["rows"][0]["rate"] == beyond_tuning.drawn(rule, 0).rate
    assert (tmp_path / "beyond_tuning.png").stat().st_size > 0
    capsys.readouterr()
    beyond_tuning.main(flags)
    assert capsys.readouterr().out.count("recorded before") == 2


def test_resnets_bridges_take_the_spatial_mean():
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3))
    bridge = beyond_resnet.pooled(5)
    weights = bridge.init(jax.random.key(1), x)
    mirrored = x[:, ::-1]
    np.testing.assert_allclose(bridge.apply(weights, x), bridge.apply(weights, mirrored), rtol=1e-6)
