"""Direct Kolen-Pollack's tables and Figure 2, and the pipeline beside the sequence: small networks on the digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab_helpers import few_digits, main, one_line

import jaxlocal as jl
from experiments.beyond import pipeline
from experiments.lab import training
from experiments.lab.experiment import Budget
from experiments.lab.training import Steps
from experiments.papers.dkp import figure2, table1, table2
from jaxlocal.rule import Component

pytestmark = [pytest.mark.usefixtures("drawn_once"), pytest.mark.xdist_group("dkp")]

STEPS = Steps(10, 100)
NAMES = list(table2.IMAGES["cifar100"].paper)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """The digits for every data set, and small networks."""
    mlp = jl.models.mlp
    for module in (training, pipeline):
        monkeypatch.setattr(module, "images", lambda name, size=None: few_digits())
    monkeypatch.setattr(figure2, "images", lambda name: jl.data.digits())
    monkeypatch.setattr(figure2, "HIDDEN", (32,) * 4)
    monkeypatch.setattr(pipeline, "DATA", "digits")
    monkeypatch.setattr(pipeline, "HIDDEN", (16,) * 4)
    monkeypatch.setattr(jl.models, "alexnet", lambda *args, **settings: mlp((8,), norm=True))
    return tmp_path


@pytest.fixture
def run(tmp_path):
    """Run an experiment in a folder."""

    def run(module, *flags):
        main(module.EXPERIMENT, [*flags, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
        return module.EXPERIMENT.recorded(tmp_path / "out", tmp_path / "work")

    return run


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("row", [*(f"cifar100_{name}" for name in NAMES), "tiny_imagenet_dkp"])
def test_every_rule_of_table_2_trains_alexnet(row, monkeypatch):
    monkeypatch.undo()
    case, images = table2.EXPERIMENT.rows[row], table2.IMAGES["tiny_imagenet" if "tiny" in row else "cifar100"]
    batch = jnp.ones((2, images.size, images.size, 3)), jnp.ones((2, images.classes))
    rule = case.rule(STEPS)
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    after, info = jax.eval_shape(rule.step, params, batch)
    assert jax.tree.structure(after) == jax.tree.structure(params) and info.losses.shape == (len(params.components),)
    assert [block.norm for block in rule.net.blocks] == [True] * 7
    momenta = {leaf.ndim for component in params.components for leaf in jax.tree.leaves(component.opt)}
    assert 2 in momenta and (4 in momenta) == (row != "cifar100_bp_fc")  # its convolutions do not learn


@pytest.mark.parametrize("row", [row for row in table1.EXPERIMENT.rows if row.startswith("cifar10")])
def test_every_rule_of_table_1_trains_the_2_conv_net(row):
    entry = table1.EXPERIMENT.rows[row]
    for rate, case in getattr(entry, "cases", {}).items():  # of a row that searches its rate
        assert case.settings["optimizer"].startswith(f"sgd({rate}, ") and case.rule.keywords["rate"] == rate
    case = getattr(entry, "case", entry)  # that with the first rate
    batch = jnp.ones((2, 32, 32, 3)), jnp.ones((2, 10))
    rule = case.rule(STEPS)
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    after, info = jax.eval_shape(rule.step, params, batch)
    assert jax.tree.structure(after) == jax.tree.structure(params) and info.losses.shape == (len(params.components),)
    norms = [block.norm for block in rule.net.blocks]
    assert norms == ([False] * 3 if "no_norm" in row else [True, True, "code" not in row])
    if "feedback" in params.components[0].weights and len(params.components) == 4:  # B leads to the unpooled images
        side = 28 if "code" in row else 32
        assert params.components[1].weights["feedback"].shape == (10, side * side * 32)


def test_images_and_weights_of_the_code_start_as_there():
    """Pixels from -1 to 1, and weights up to 1 / √fan_in, as in PyTorch's layers."""
    case = table1.EXPERIMENT.rows["cifar10_code_dkp"]
    assert case.prepare(None).test(jnp.array([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    weights = table1.CODE_INIT()(jax.random.key(0), (400, 100), jnp.float32)
    assert 0.99 / 20 < jnp.abs(weights).max() <= 1 / 20
    np.testing.assert_allclose(weights.std(), 1 / 20 / np.sqrt(3), rtol=0.02)  # of a uniform distribution


def test_decay_in_the_text_and_in_the_code_of_direct_kolen_pollack(monkeypatch):
    """In the text it is subtracted from the weights; in the code it is multiplied by the rate, and biases have it."""
    batch = tuple(jnp.asarray(leaf[:16]) for leaf in jl.data.digits().train)
    net = jl.models.mlp((8,), norm=True)
    monkeypatch.setattr(jl.models, "conv2", lambda **settings: net)

    def moves(make):
        """How much further the forward weights of the first block move with a large decay."""
        found = []
        for decay in (0.0, 0.5):
            rule = make("dkp", STEPS, decay=decay)
            start = rule.init(jax.random.key(0), batch)
            weights = jax.tree.map(jnp.ones_like, start.components[0].weights)  # biases, too
            start = start.replace(components=(start.components[0].replace(weights=weights), *start.components[1:]))
            found.append(jax.jit(rule.update)(start, batch).components[0].weights["forward"][0]["linear"])
        return jax.tree.map(lambda without, with_decay: without - with_decay, *found)

    text, code = moves(table1.make), moves(table1.make_of_code)
    np.testing.assert_allclose(text["kernel"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(text["bias"], 0, atol=1e-7)
    nesterov = 1 + 0.9  # the first step
    for leaf in code.values():
        np.testing.assert_allclose(leaf, 0.5 * table1.CODE_RATE * nesterov, rtol=1e-2)


def test_budgets_and_rates_of_table_2():
    cases = table2.EXPERIMENT.rows
    assert all((case.full, case.quick) == (Budget(epochs=90, seeds=10), None) for case in cases.values())
    rates = {row: case.settings["optimizer"].split(",")[0] for row, case in cases.items()}
    assert rates["cifar100_bp"] == rates["cifar100_bp_fc"] == rates["tiny_imagenet_bp"] == "sgd(0.1"
    assert rates["cifar100_kp"] == rates["cifar100_dfa"] == "sgd(0.01"
    assert rates["tiny_imagenet_kp"] == rates["tiny_imagenet_dkp"] == "sgd(0.005"


@pytest.mark.slow
def test_the_forward_weights_of_every_rule_decay_by_lambda():
    """Whatever the rate; and biases, scales and feedback that does not learn have no decay."""
    batch, names = tuple(leaf[:32] for leaf in jl.data.digits().train), [name for name in NAMES if name != "bp_fc"]
    rules = {}
    for decay in (0.0, 1e-4):
        rules |= {(name, decay): table2.make(table2.IMAGES["cifar100"], name, STEPS, decay) for name in names}

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


def test_table_2_is_recorded_row_by_row(run, small, capsys):
    flags = "--rows", "cifar100_dkp", "--epochs", "1", "--seeds", "1"
    record = run(table2, *flags).records["cifar100_dkp"]
    assert record["rows"][0]["paper"]["test"] == pytest.approx(0.5262)
    assert record["settings"]["feedback"] == "adam(0.0005); decay 0.0001"
    assert is_picture(small / "out" / "dkp_figure4.png")
    run(table2, *flags)
    assert "cifar100_dkp: already recorded" in capsys.readouterr().out


def test_no_row_of_table_2_has_a_shorter_budget(run, small, capsys):
    assert not run(table2, "--quick").records
    assert "no row has a shorter budget" in capsys.readouterr().out
    assert not list(small.iterdir())


def test_a_missing_tiny_imagenet_is_one_line(run, monkeypatch, small, capsys):
    monkeypatch.setattr(training, "images", lambda name, size=None: jl.data.load(name, size=size))
    monkeypatch.setenv("HOME", str(small))
    with pytest.raises(SystemExit) as stop:
        run(table2, "--rows", "tiny_imagenet_bp")
    assert stop.value.code == 1
    error, summary = capsys.readouterr().err.splitlines()
    assert "tiny_imagenet_bp: name='~/tiny-imagenet-200'" in error
    assert summary == "python -m experiments.papers.dkp.table2: not trained: tiny_imagenet_bp"


@pytest.mark.slow
def test_figure_2_is_drawn_from_records(run, small, capsys):
    found = run(figure2, "--epochs", "35", "--seeds", "2").records
    assert list(found) == ["dfa", "dkp", "dkp_slow"]
    for name, record in found.items():
        assert record["settings"]["seeds"] == [0, 1]
        assert record["command"].endswith(f"--rows {name} --epochs 35 --seeds 2")
        (row,) = record["rows"]
        angles = np.array(row["angles"])
        assert row["method"] == name and angles.shape == (2, len(row["steps"]), 4) == (2, 60, 4)
        assert row["steps"] == list(range(0, 600, 10))  # of 17 an epoch, 595 in all
        assert row["test"]["mean"] > 0.9
    fixed, learnt, slow = (np.array(record["rows"][0]["angles"]).mean(0) for record in found.values())
    np.testing.assert_array_equal(fixed[0], learnt[0])  # the same start
    assert np.all(fixed[-1] < fixed[0] - 20)  # the forward weights align themselves with the feedback
    assert np.all(learnt[-1, 1:] < fixed[-1, 1:] - 1)  # and more where it learns
    np.testing.assert_allclose(slow[-1], fixed[-1], atol=1)  # but not where it learns too slowly
    printed = capsys.readouterr().out
    assert f"{fixed[0, 0]:.1f}° → {fixed[-1, 0]:.1f}°" in printed
    assert is_picture(small / "out" / "dkp_figure2.png")
    assert run(figure2, "--quick").records == found
    assert capsys.readouterr().out.count("already recorded") == 3


def test_the_bands_of_figure_2_are_sample_deviations():
    angles = [[[10.0] * 4], [[20.0] * 4]]  # of two seeds, at one step
    rows = {name: {"steps": [0], "angles": angles} for name in figure2.PANELS}
    for axes in figure2.picture(rows).axes:
        assert len(axes.collections) == 4
        for band in axes.collections:
            heights = band.get_paths()[0].vertices[:, 1]
            np.testing.assert_allclose([heights.min(), heights.max()], 15 + np.array([-1, 1]) * 50**0.5, rtol=1e-6)


def test_what_is_not_run_of_figure_2_is_in_its_table(small):
    rows = list(figure2.angles(figure2.EXPERIMENT.recorded(small)))
    assert [row["method"] for row in rows] == ["dfa", "dkp", "dkp_slow"]
    assert {row["layer 4"] for row in rows} == {"not run"}


@pytest.mark.slow
def test_the_pipeline_trains_the_same_network(run, small):
    record = run(pipeline, "--epochs", "1", "--seeds", "1").records["al"]
    assert record["command"] == "python -m experiments.beyond.pipeline --epochs 1 --seeds 1"
    assert record["settings"]["devices"] == "4, cpu"
    assert [row["seed"] for row in record["rows"]] == record["settings"]["seeds"] == [0]
    for row in record["rows"]:
        assert row["largest difference"] == 0 and row["bit-identical"]
        assert row["sequential, test %"] == row["pipeline, test %"]
    assert is_picture(small / "out" / "al_table1.png")


def test_the_comparison_resumes_where_it_stopped(run, monkeypatch, capsys):
    compared = []

    def comparing(data, epochs):
        def compare(seed):
            compared.append((data, epochs, seed))
            return {"seed": seed}

        return compare

    monkeypatch.setattr(pipeline, "comparing", comparing)
    for flags in (["--seeds", "2"], ["--seeds", "3"], ["--quick"], ["--seeds", "3", "--again"]):
        record = run(pipeline, "--epochs", "2", *flags).records["al"]
    assert compared == [("digits", 2, seed) for seed in (0, 1, 2, 0, 1, 2)]
    assert capsys.readouterr().out.count("already recorded") == 1
    assert record["rows"] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert record["settings"]["devices"] == "4, cpu"


def test_a_difference_is_seen():
    def params(weight=1.0, count=0):
        weights = {"forward": (np.full(3, weight, np.float32),)}
        return jl.Params((Component(weights, {}, (), np.zeros(2, np.uint32), np.int32(count)),), ())

    def difference(other):
        return pipeline.difference(params(), other)

    assert difference(params()) == {"largest difference": 0, "bit-identical": True}
    assert difference(params(weight=0.75)) == {"largest difference": 0.25, "bit-identical": False}
    assert difference(params(count=1)) == {"largest difference": 0, "bit-identical": False}


def test_an_experiment_of_one_row_has_no_flag_for_rows(capsys):
    assert "unrecognized arguments: --rows al" in one_line(main, pipeline.EXPERIMENT, ["--rows", "al"], capsys)


@pytest.mark.parametrize("module", [figure2, pipeline])
def test_missing_data_are_one_line_for_each_row(module, run, monkeypatch, capsys):
    def missing(name, size=None):
        raise FileNotFoundError(f"name={name!r}: prepare it")

    monkeypatch.setattr(module, "images", missing)
    monkeypatch.setattr(jl.data, "load", missing)
    with pytest.raises(SystemExit) as stop:
        run(module, "--quick")
    assert stop.value.code == 1
    *rows, summary = capsys.readouterr().err.splitlines()
    assert len(rows) == len(module.EXPERIMENT.rows) and all(row.endswith(": prepare it") for row in rows)
    assert "not trained" in summary
