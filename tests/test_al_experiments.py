"""Associated Learning's tables: networks and baselines, searches for the rate, bridges, and depth."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lab_helpers import few_digits, main

import jaxlocal as jl
from experiments.lab import searched, training
from experiments.lab.experiment import Budget, Experiment, Recorded
from experiments.lab.training import Case, Steps, Trained
from experiments.papers.al import bridges, depth, shared, table4, table7

pytestmark = pytest.mark.usefixtures("drawn_once")

STEPS = Steps(10, 100)


def traced(rule, shape, classes=10):
    """The shapes of a rule's parameters."""
    return jax.eval_shape(rule.init, jax.random.key(0), (jnp.zeros((2, *shape)), jnp.zeros((2, classes))))


def dense_count(*widths):
    return sum((below + 1) * above for below, above in pairwise(widths))


def conv_count(*widths):
    return sum((9 * below + 1) * above for below, above in pairwise(widths))


def test_the_vanilla_cnn_is_folded_as_in_the_code_and_as_in_the_letter():
    for components, sizes in (shared.CODES_FOLD, [2, 2, 2, 2]), (shared.LETTERS_FOLD, [1, 1, 1, 1, 1, 3]):
        net = shared.cnn(components=components)
        rule = shared.al(net, STEPS)
        params = traced(rule, (28, 28, 1))
        assert [len(component.weights["forward"]) for component in params.components] == sizes
        effective = jl.diagnostics.parameter_counts(rule, params).effective
        letters = conv_count(1, 32, 32, 32, 32, 64, 64, 64, 64) + dense_count(7 * 7 * 64, 1280, 256, 256, 256, 256, 10)
        baseline = shared.bp(net, STEPS)
        assert jl.diagnostics.parameter_counts(baseline, traced(baseline, (28, 28, 1))).effective == letters
        assert effective - letters == (len(sizes) - 4) * dense_count(256, 256)


@pytest.mark.parametrize("net", [shared.resnet(20), shared.vgg()])
def test_the_codes_baselines_have_dense_layers_with_batch_norm(net):
    """On CIFAR-10: the ResNet's on the mean of the image, VGG's on its convolutions. Counted by hand."""
    rule = shared.bp(net, STEPS)
    params = traced(rule, (32, 32, 3))
    units = 1500, 300, 300, 300, 300
    norms = 2 * sum(units)
    if net.rate == 1e-3:
        pairs = [(16, 16)] * 6 + [(16, 32)] + [(32, 32)] * 5 + [(32, 64)] + [(64, 64)] * 5
        convs = 9 * 3 * 16 + 16 + 32 + sum(9 * a * b + 2 * b for a, b in pairs)  # the stem has a bias
        shortcuts = 16 * 32 + 32 + 32 * 64 + 64  # with a bias, without a norm
        expected = convs + shortcuts + dense_count(64, *units, 10)
    else:
        features = 128, 256, 256, 512, 512, 512
        expected = conv_count(3, *features) + 2 * sum(features) + dense_count(2 * 2 * 512, *units, 10)
    effective = jl.diagnostics.parameter_counts(rule, params).effective
    assert effective == expected + norms
    other = shared.al(net, STEPS)
    assert effective < jl.diagnostics.parameter_counts(other, traced(other, (32, 32, 3))).effective


def test_cifar100_has_wider_codes_and_another_decay():
    nets = {name: net for name, (net, _) in table4.NETS.items()}
    widths = {name: net.width for name, net in nets.items()}
    assert widths == {"mlp": 3000, "cnn": 500, "resnet20": 500, "resnet32": 500, "vgg": 500}
    assert nets["resnet20"].decay == (5e-4, 1e-4) and shared.resnet(20).decay == (1e-4, 1e-4)
    params = traced(shared.al(nets["cnn"], STEPS), (32, 32, 3), 100)
    assert params.components[0].weights["encoder"]["linear"]["kernel"].shape == (100, 500)


def rule_with(rate, steps):
    return jl.rules.bp(jl.models.mlp(()), optax.sgd(rate))


def cases(rates, epochs=3):
    budget = Budget(epochs=epochs, seeds=2)
    return {rate: Case("digits", partial(rule_with, rate), {"rate in words": f"{rate}"}, budget) for rate in rates}


@pytest.fixture
def search(monkeypatch, tmp_path):
    """A function that runs a row with these rates on a few digits, and returns its record."""
    monkeypatch.setattr(training, "images", lambda name, size=None: few_digits())

    def run(rates, *flags):
        rows = {"row": searched.Searched(cases(rates))}
        experiment = Experiment("none", "none", "None", "None.", rows)
        main(experiment, ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *flags])
        return experiment.record("row", tmp_path / "out")

    return run


def test_a_row_is_trained_with_the_best_of_its_rates(search, tmp_path):
    record = search((1e-5, 0.3))
    (row,) = record["rows"]
    assert [trial["rate"] for trial in row["trials"]] == [1e-5, 0.3]
    assert row["trials"][1]["validation"] > row["trials"][0]["validation"]
    assert row["rate"] == 0.3 and record["settings"]["rate in words"] == "0.3"
    assert record["settings"]["rates"] == [1e-5, 0.3] and record["settings"]["epochs for each rate"] == 1
    assert len(row["history"]) == 3 and len(row["test"]["per_seed"]) == 2
    assert not list((tmp_path / "work").rglob("trials.json"))


def test_a_rate_that_diverges_is_not_chosen(search, monkeypatch):
    run = Case.run

    def diverging(case, task):
        if case.settings["rate in words"] == "2.0":
            return iter([case._diverged(task, [0], "its loss is nan")])
        return run(case, task)

    monkeypatch.setattr(Case, "run", diverging)
    (row,) = search((2.0, 0.3))["rows"]
    assert row["rate"] == 0.3 and row["trials"][0] == {"rate": 2.0, "validation": 0.0}


def test_a_search_resumes_after_its_last_trial(search, monkeypatch, tmp_path):
    tried, attempt = [], searched._tried

    def until(rate):
        """Trials of this rate and of those after it do not end in time."""
        monkeypatch.setattr(
            searched,
            "_tried",
            lambda case, one, *rest: tried.append(one) or (attempt(case, one, *rest) if one < rate else None),
        )
        return search((1e-5, 0.3), "--minutes", "60")

    assert until(0.0) is None and until(0.3) is None
    record = until(1.0)
    assert tried == [1e-5, 1e-5, 0.3, 0.3] and record["rows"][0]["rate"] == 0.3


def test_both_rules_choose_among_the_same_rates():
    for experiment in bridges.EXPERIMENT, depth.EXPERIMENT:
        assert {tuple(row.cases) for row in experiment.rows.values()} == {searched.RATES}


def test_printed_numbers_stand_beside_the_comparison(tmp_path):
    recorded = table4.EXPERIMENT.recorded(tmp_path)
    (table,) = table4.EXPERIMENT.tables
    lines = {line["row"]: line for line in table(recorded)}
    assert lines["vgg_bp"]["paper's test %"] == "65.80 ± 0.30" and lines["vgg_bp"]["arXiv's test %"] == "70.80"
    assert lines["cnn_six_al"]["arXiv's test %"] == ""


def test_without_a_bridge_the_layers_output_is_the_code():
    """Equation 4.2: the associated loss of the first component is the mean of (s_1 - t_1)²."""
    rule = bridges.make(bridges.nothing, 1e-3, STEPS)
    batch = jax.random.uniform(jax.random.key(1), (4, 20)), jax.nn.one_hot(jnp.arange(4), 10)
    params = jax.jit(rule.init)(jax.random.key(0), batch)
    weights = params.components[0].weights
    assert not jax.tree.leaves(weights["bridge"])
    (f,) = weights["forward"]
    s = nn.elu(batch[0] @ f["linear"]["kernel"])  # the biases are zero
    t = nn.sigmoid(batch[1] @ weights["encoder"]["linear"]["kernel"])
    params, info = jax.jit(rule.step)(params, batch)
    assert float(info.terms[0]["associated"]) == pytest.approx(float(jnp.mean((s - t) ** 2)), rel=1e-5)
    assert jax.eval_shape(rule.predict, params, batch[0]).shape == (4, 10)


def start(rule, layers):
    """The recorded gradients of a rule of `depth`."""
    splits = few_digits()
    made = rule(layers, 1e-3, STEPS)
    return depth.gradients(Trained(made, None, splits, None, 0, Path()))["gradients"]


@pytest.mark.slow
def test_the_gradient_vanishes_in_deep_sigmoids_by_backpropagation_alone():
    bp, al = start(depth.bp, 6), start(depth.al, 6)
    assert len(bp) == len(al) == 6
    assert bp[0] < 0.02 * bp[-1] and bp == sorted(bp)
    assert 0.3 < al[0] / al[-1] < 3


def test_the_depths_are_tabulated_and_drawn():
    def line(accuracy, *gradients):
        test = {"per_seed": [accuracy], "mean": accuracy, "std": None}
        return {"rows": [{"test": test, "measured": [{"gradients": list(gradients)}] * 2}]}

    records = {"bp_2": line(0.9, 0.25, 0.5), "al_2": line(0.8, 0.5, 0.5), "bp_5": line(0.1, 1e-3, 1, 1, 1, 1)}
    recorded = Recorded(depth.EXPERIMENT, records, None, Path())
    rows = {row["row"]: row for row in depth.table(recorded)}
    assert [rows[row]["ratio"] for row in records] == [pytest.approx(0.5), pytest.approx(1), pytest.approx(1e-3)]
    assert rows["al_20"]["first layer"] == "not run"
    (figure,) = depth.draw(recorded).values()
    reached, norms = figure.axes
    assert list(reached.lines[0].get_ydata()) == pytest.approx([90, 10])
    np.testing.assert_allclose([line.get_ydata()[0] for line in norms.lines], [0.25, 1e-3, 0.5])
    assert depth.draw(Recorded(depth.EXPERIMENT, {}, None, Path())) == {}


def test_table7_has_the_last_hidden_layer_and_the_output(tmp_path):
    def layer(ratio):
        return {"inter": 1.0, "intra": 1.0, "ratio": ratio}

    seeds = [{"distances": {"raw data": layer(0), "decoder 2": layer(one), "output": layer(5)}} for one in (1, 3)]
    path = tmp_path / "al_table3" / "mlp_al.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"rows": [{"measured": seeds}], "settings": {"epochs": 2}}))
    lines = list(table7.distances(table7.EXPERIMENT.recorded(tmp_path)))
    shown = {(line["network"], line["layer"]): line for line in lines if line["data"] == "CIFAR-10"}
    assert (
        shown["mlp_al", "last hidden"]["ratio"] == "2.00 ± 1.41" and shown["mlp_al", "output"]["ratio"] == "5.00 ± 0.00"
    )
    assert shown["mlp_al", "output"]["paper's ratio"] == "1.11"
    assert shown["cnn_al", "output"]["ratio"] == "not run: no time"
    assert {line["ratio"] for line in lines if line["data"] == "CIFAR-100"} == {"not run: no data"}
