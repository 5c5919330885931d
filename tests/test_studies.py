"""Every row of every paper's table can be made, and has the weights and settings that its paper gives it."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab_helpers import few_digits, main, tiny_rule

import jaxlocal as jl
from experiments.beyond import resnet, tuning
from experiments.lab import training
from experiments.lab.experiment import Budget
from experiments.lab.report import EXPERIMENTS
from experiments.lab.searched import Searched
from experiments.lab.training import Case, Steps
from experiments.papers.al import shared, table3, table7, tables5_6
from experiments.papers.al_text.classification import SETS

pytestmark = pytest.mark.usefixtures("drawn_once")

IMAGES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}
CASES = {
    f"{experiment.name}-{row}": case
    for experiment in EXPERIMENTS
    if experiment.name not in ("bartunov_figure4", "dkp_table2")  # which have tests of their own
    for row, entry in experiment.rows.items()
    if isinstance(case := entry.case if isinstance(entry, Searched) else entry, Case)
}
STEPS = Steps(10, 100)


def images(case):
    """A batch like that of a row of images."""
    shape = IMAGES[case.data] if case.size is None else (case.size, case.size, 3)
    return jnp.zeros((4, *shape)), jnp.zeros((4, 100 if case.data == "cifar100" else 10))


def sequences(name):
    """A batch like that of a row of texts, or of the digits as series of eight numbers."""
    read = SETS[name]
    x = jnp.zeros((4, read.length, 8)) if read.vocabulary is None else jnp.zeros((4, read.length), jnp.int32)
    return x, jnp.zeros((4, read.classes))


@cache
def started(row):
    """The rule of a row, the shapes of its parameters, and a batch for it."""
    case = CASES[row]
    rule = case.rule(STEPS)
    batch = sequences(case.data) if case.load else images(case)
    return rule, jax.eval_shape(rule.init, jax.random.key(0), batch), batch


# The same networks and rules as in other rows, on other data, for longer, deeper or wider.
LIKE_OTHERS = (
    "al_table3-resnet32",
    "al_table4-",
    *(f"al_depth-{rule}_{depth}" for rule in ("al", "bp") for depth in (5, 10, 20)),
    *(f"al_text_classification-{name}" for name in ("ag_news_10k", "sst2", "trec6")),
    "al_text_deep-ag_news_10k",
    "bartunov_section5_6-bp_50",
    "bartunov_section5_6-bp_75",
    *(f"al_table2-{name}" for name in ("mlp_256", "mlp_tuned", "mlp_al", "cnn_al")),
    *(f"al_tables5_6-{name}" for name in ("one", "three", "two_narrow")),
    *(f"beyond_resnet-{name}" for name in ("al_1", "al_2", "al_4_l2", "bp_elu")),
    "bartunov_section3_2-cifar_lc",
    "bartunov_table1-cifar_fc",
    "bartunov_table1-mnist_lc",
    *(f"bartunov_table1-mnist_fc_{name}" for name in ("dtp_parallel", "sdtp_parallel", "ao_sdtp_parallel")),
    "dkp_table1-",  # another test traces those on CIFAR-10
    "local_errors_cifar10-vgg8b_",
    *(f"al_text_classification-digits_{net}_{rule}" for net in ("lstm", "transformer") for rule in ("kp", "dfa")),
    *(f"beyond_label_loss-{loss}_0.01" for loss in ("squared", "cross_entropy")),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=pytest.mark.xdist_group(f"studies {row.partition('-')[0]}")) for row in CASES]
)
def test_every_row_can_be_trained(row):
    """One step is traced, or only the rule made if its network and rule are those of another row."""
    case = CASES[row]
    if row.startswith(LIKE_OTHERS) or row.endswith(("_long", "_means")):
        assert isinstance(case.rule(STEPS), jl.Rule)
    else:
        rule, params, batch = started(row)
        after, _ = jax.eval_shape(rule.step, params, batch)
        assert jax.tree.structure(after) == jax.tree.structure(params)
    assert case.quick is None or min(case.quick.values()) >= 1
    assert case.paper is None or case.full.covers({"epochs": (case.quick or case.full)["epochs"]})


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_both_rules_of_a_row_predict_by_as_many_weights(net):
    counts = [jl.diagnostics.parameter_counts(*started(f"al_table3-{net}_{rule}")[:2]) for rule in ("bp", "al")]
    assert counts[0].effective == counts[1].effective


@pytest.mark.parametrize("net", [shared.mlp(32), shared.cnn(), shared.resnet(8), shared.vgg()])
def test_associated_learning_has_elu_in_every_block(net, monkeypatch):
    rule = shared.al(net, STEPS)
    blocks = [block.activation for block in rule.net.blocks]
    assert {activation.__name__ for activation in blocks} == {"elu"}


def test_the_decay_is_on_the_kernels_of_the_blocks_alone():
    """Encoders and decoders have tiny gradients, which it would drown."""
    net = shared.mlp(16)._replace(decay=(0.1, 0.1))
    rule = shared.al(net, STEPS)
    without = shared.al(net._replace(decay=(0.0, 0.0)), STEPS)
    batch = jax.random.uniform(jax.random.key(1), (8, 20)), jax.nn.one_hot(jnp.arange(8), 10)
    params = rule.init(jax.random.key(0), batch)
    moved, plain = (jax.jit(one.update)(params, batch) for one in (rule, without))
    for here, there in zip(moved.components, plain.components, strict=True):
        for role in ("bridge", "encoder", "decoder"):
            jax.tree.map(np.testing.assert_array_equal, here.weights[role], there.weights[role])
        (here,), (there,) = here.weights["forward"], there.weights["forward"]
        assert not np.array_equal(here["linear"]["kernel"], there["linear"]["kernel"])
        np.testing.assert_array_equal(here["linear"]["bias"], there["linear"]["bias"])


@pytest.fixture
def on_digits(tmp_path, monkeypatch):
    """An experiment of the paper with small rows in place of its own."""
    monkeypatch.setattr(training, "images", lambda name, size=None: few_digits())
    monkeypatch.setattr(tuning, "images", lambda name: few_digits())

    def run(experiment, rules, measure):
        net = shared.mlp(16)
        cases = {
            row: Case(
                "digits", partial(rule, net), {}, Budget(epochs=1, seeds=1), prepare=shared.centred, measure=measure
            )
            for row, rule in rules.items()
        }
        small = experiment._replace(rows=cases)
        main(small, ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
        return small.recorded(tmp_path / "out").rows()

    return run


@pytest.mark.slow
def test_distances_between_classes_are_recorded_and_drawn(on_digits, tmp_path, monkeypatch):
    rows = on_digits(table3.EXPERIMENT, {"mlp_bp": shared.bp, "mlp_al": shared.al}, shared.distances)
    layers = rows["mlp_al"]["measured"][0]["distances"]
    assert list(layers) == ["raw data", "block 1", "block 2", "bridge", "decoder 2", "output"]
    assert layers["output"]["ratio"] > 0
    drawn = {}
    monkeypatch.setattr(jl.plots, "tsne", lambda panels, labels, title: drawn.update(panels) or "a figure")
    recorded = table7.EXPERIMENT.recorded(tmp_path / "out", tmp_path / "work")
    assert table7.draw(recorded) == {"al_figure5": "a figure"}
    assert list(drawn) == ["BP", "AL"] and list(drawn["AL"]) == ["raw data", "layer 2", "layer 4", "output"]
    found = [row for row in table7.distances(recorded) if row["data"] == "CIFAR-10" and row["network"] == "mlp_al"]
    ratios = [float(row["ratio"]) for row in found]
    assert ratios == pytest.approx([layers["decoder 2"]["ratio"], layers["output"]["ratio"]], abs=0.01)


@pytest.mark.slow
def test_associated_losses_are_recorded(on_digits, tmp_path):
    rows = on_digits(tables5_6.EXPERIMENT, {"two": shared.al}, tables5_6.associated_losses)
    losses = rows["two"]["measured"][0]["associated"]
    assert len(losses) == 2 and all(0 < loss < 1 for loss in losses)
    recorded = tables5_6.EXPERIMENT.recorded(tmp_path / "out")
    table = {row["row"]: row for row in tables5_6.losses(recorded)}
    assert float(table["two"]["loss 2"]) == pytest.approx(losses[1], rel=0.01)
    assert table["two"]["loss 3"] == "" and table["three"]["loss 1"] == "not run: no time"


def test_a_search_is_recorded_and_drawn_and_resumed(on_digits, tmp_path, monkeypatch, capsys):
    def tiny(rule, net, setting, steps):
        assert setting.rate > 0 and net.width == shared.NARROW
        return tiny_rule()

    trained = []
    train = tuning.train
    monkeypatch.setattr(tuning, "tuned", tiny)
    monkeypatch.setattr(
        tuning, "train", lambda rule, trial, *rest: trained.append((rule, trial)) or train(rule, trial, *rest)
    )

    def search(trials):
        flags = ["--trials", str(trials), "--epochs", "1", "--out", str(tmp_path), "--work", str(tmp_path / "work")]
        main(tuning.EXPERIMENT, flags)
        return {rule: tuning.EXPERIMENT.record(rule, tmp_path) for rule in ("bp", "al")}

    search(1)
    for rule, record in search(2).items():
        assert [row["trial"] for row in record["rows"]] == [0, 1]
        assert record["rows"][0]["rate"] == tuning.drawn(rule, 0).rate
    assert trained == [("bp", 0), ("al", 0), ("bp", 1), ("al", 1)]
    assert (tmp_path / "beyond_tuning.png").stat().st_size > 0
    capsys.readouterr()
    search(2)
    assert capsys.readouterr().out.count("already recorded") == 2


def test_resnets_bridges_take_the_spatial_mean():
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3))
    bridge = resnet.pooled(5)
    weights = bridge.init(jax.random.key(1), x)
    mirrored = x[:, ::-1]
    np.testing.assert_allclose(bridge.apply(weights, x), bridge.apply(weights, mirrored), rtol=1e-6)
