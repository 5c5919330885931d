"""Bartunov et al.'s figures and the table of ImageNet: each runs, records what it should, resumes and draws."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lab_helpers import few_digits, main
from PIL import Image

import jaxlocal as jl
from experiments.lab import records, training
from experiments.lab.experiment import Recorded
from experiments.lab.training import Steps
from experiments.papers.bartunov import (
    figure4,
    figure5,
    figures6_7,
    imagenet,
    section3_2,
    section5_6,
    shared,
    table1,
    table2,
)
from jaxlocal.data.splits import autoencoding

pytestmark = [pytest.mark.usefixtures("drawn_once"), pytest.mark.xdist_group("bartunov")]


@cache
def tiny_net():
    """The same network for all tests, so that its rules differ no more than they must."""
    return jl.models.mlp((16, 8), activation=jnp.tanh)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few digits for every set, and networks of some units."""
    for module in (training, figure5, figures6_7):
        monkeypatch.setattr(module, "images", lambda name, size=None: few_digits())
    monkeypatch.setattr(jl.models, "mnist_fc", tiny_net)
    monkeypatch.setattr(jl.models, "cifar_fc", tiny_net)


@pytest.fixture
def run(tmp_path, capsys):
    """Run an experiment in a folder, and return what it printed."""

    def run(module, *flags):
        main(module.EXPERIMENT, [*flags, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("module", [figure5, figures6_7])
def test_missing_images_are_one_line_for_each_method(module, run, monkeypatch, capsys):
    def missing(name):
        raise FileNotFoundError(f"name={name!r}: prepare it")

    monkeypatch.setattr(module, "images", missing)
    with pytest.raises(SystemExit) as stop:
        run(module, "--rows", "bp")
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[0] == f"{module.EXPERIMENT.command}: bp: name='mnist': prepare it"


@pytest.mark.slow
def test_figure4(run, tmp_path):
    run(figure4, "--rows", "aux_16", "--epochs", "1", "--seeds", "2")
    ((name, row),) = figure4.EXPERIMENT.recorded(tmp_path / "out").rows().items()
    assert name == "aux_16" and len(row["test"]["per_seed"]) == 2 and row["paper"] is None
    assert "already recorded" in run(figure4, "--rows", "aux_16", "--epochs", "1", "--seeds", "1")
    assert (tmp_path / "out" / "bartunov_figure4.png").stat().st_size > 0


def test_figure4_draws_errors_against_sizes(tmp_path):
    def record(train, test):
        return {"rows": [{"train": {"mean": train, "std": None}, "test": {"mean": test, "std": 0.01}}]}

    def draw(found):
        return figure4.draw(Recorded(figure4.EXPERIMENT, found, None, tmp_path))

    found = {"aux_16": record(0.5, 0.4), "aux_64": record(0.7, 0.45), "sdtp": record(0.5, 0.375)}
    (axes,) = draw(found)["bartunov_figure4"].axes
    train, test = (container.lines[0] for container in axes.containers)
    np.testing.assert_allclose(train.get_xydata(), [[16, 50], [64, 30]])
    np.testing.assert_allclose(test.get_xydata(), [[16, 60], [64, 55]])
    assert axes.lines[-1].get_ydata() == [62.5, 62.5]
    assert draw({"sdtp": found["sdtp"]}) == {}


def test_figure4_changes_the_size_of_the_auxiliary_output_alone():
    batch = tuple(leaf[:2] for leaf in jl.data.digits().train)

    def affiliated(size):
        rule = figure4.make(size, Steps(1, 1))
        params = jax.eval_shape(rule.init, jax.random.key(0), batch)
        return jl.diagnostics.parameter_counts(rule, params).affiliated

    # Weights and biases from the 8 units of the last layer to z, and weights from z back.
    assert affiliated(16) - affiliated(None) == 8 * 16 + 16 + 16 * 8


@pytest.mark.slow
def test_figure5_resumes_where_it_was_cut_off(run, tmp_path, monkeypatch, capsys):
    search = jl.search.search

    def cut_off(make, settings, *rest, **options):
        search(make, settings[:2], *rest, **options)
        raise KeyboardInterrupt

    flags = "--rows", "fa", "--trials", "3", "--epochs", "1"
    monkeypatch.setattr(jl.search, "search", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(figure5, *flags)
    monkeypatch.setattr(jl.search, "search", search)
    capsys.readouterr()
    assert "2 settings done" in (printed := run(figure5, *flags)) and "0 settings done" not in printed
    (row,) = figure5.EXPERIMENT.record("fa", tmp_path / "out")["rows"]
    drawn = jl.search.draw(jl.search.bartunov("fa"), 3)
    assert [{name: trial[name] for name in drawn[0]} for trial in row["trials"]] == drawn
    assert row["seconds"] is None
    assert not list((tmp_path / "work" / "bartunov_figure5" / "fa").iterdir())


@pytest.fixture
def searched(monkeypatch):
    """What a search was asked for, in place of the search."""
    asked = []

    def search(make, settings, splits, *, epochs, batch_size, augmentation, group, folder, report):
        assert isinstance(make(settings[0]), jl.Rule) and (batch_size, group) == (shared.BATCH, 1)
        folder.mkdir(parents=True)
        asked.append({"settings": settings, "epochs": epochs, "augmented": augmentation is not None, "data": splits})
        accuracies = np.linspace(0, 0.9, len(settings)).tolist()
        return [
            jl.search.Trial(setting, (accuracy,), 0.5 if accuracy else None)
            for setting, accuracy in zip(settings, accuracies, strict=True)
        ]

    monkeypatch.setattr(jl.search, "search", search)
    return asked


@pytest.mark.slow
def test_figure5_has_a_row_for_every_method_of_every_panel(run, tmp_path, searched):
    made = figure5.EXPERIMENT
    assert len(made.rows) == 3 * len(figure5.METHODS) + 2 * (len(figure5.METHODS) + 1)
    last = [row for row in made.rows if row.startswith("cifar_lc_")]  # the panel with a part of the images
    others = [row for row in made.rows if row not in last]
    assert run(figure5, "--quick", "--rows", *others).count("not run") == len(last) == 9
    assert "not run" not in run(figure5, "--quick", "--rows", *last, "--examples", "96")
    assert [asked["epochs"] for asked in searched] == [1 + row.endswith("_alternating") for row in made.rows]
    assert [asked["augmented"] for asked in searched] == [row.startswith("cifar") for row in made.rows]
    assert [len(asked["data"].train[0]) for asked in searched] == [128] * len(others) + [96] * len(last)
    assert run(figure5, "--rows", *others, "--trials", "4", "--epochs", "1").count("already recorded") == len(others)
    recorded = made.recorded(tmp_path / "out")
    table = list(figure5.summary(recorded))
    assert [row["row"] for row in table] == list(made.rows)
    assert [row["row"] for row in table if row["ranges"] == figure5.EXACT] == [f"table4_{m}" for m in figure5.METHODS]
    seconds = table[0].pop("seconds")
    assert seconds >= 0 and table[0] == {
        "row": "bp",
        "best validation %": "90.00",
        "median validation %": "45.00",
        "median below best": "45.00",
        "diverged": 1,
        "ranges": figure5.WIDENED,
        "trials": figure5.QUICK["trials"],
        "epochs": 1,
        "examples": None,
    }
    assert [row["examples"] for row in table if row["row"] in last] == [96] * len(last)
    drawn = figure5.draw(recorded)
    assert {name: len(figure.axes) for name, figure in drawn.items()} == {
        "bartunov_figure5": 8,
        "bartunov_figure5_table4": 8,
        "bartunov_figure5_mnist_lc": 9,
        "bartunov_figure5_cifar_fc": 8,
        "bartunov_figure5_cifar_lc": 9,
    }
    assert all((tmp_path / "out" / f"{name}.png").stat().st_size > 0 for name in drawn)


def test_figure5_draws_from_exactly_table_4(run, tmp_path, searched):
    flags = "--rows", "mnist_lc_dtp_alternating", "--epochs", "1", "--trials", "4"
    run(figure5, *flags)
    assert "already recorded" in run(figure5, *flags, "--table4")
    run(figure5, *flags, "--table4", "--again")
    assert [asked["settings"] for asked in searched] == [
        jl.search.draw(jl.search.bartunov("dtp", table4=exact), 4) for exact in (False, True)
    ]
    record = figure5.EXPERIMENT.record("mnist_lc_dtp_alternating", tmp_path / "out")
    assert record["settings"]["ranges"] == "Table 4" and record["settings"]["net"] == "mnist_lc"
    assert record["command"] == f"python -m experiments.papers.bartunov.figure5 {' '.join(flags)} --table4"


def test_older_records_of_figure5_have_the_widened_ranges():
    rows = [row for row in figure5.summary(figure5.EXPERIMENT.recorded()) if row["ranges"]]
    assert {"bp", "fa"} <= {row["row"] for row in rows}
    assert all(row["ranges"] in (figure5.WIDENED, figure5.EXACT) and row["median below best"] for row in rows)


@pytest.mark.slow
def test_figures6_and_7(run, tmp_path, monkeypatch):
    net = jl.models.autoencoder
    monkeypatch.setattr(jl.models, "autoencoder", lambda units: net((8, 4), units))
    monkeypatch.setattr(figures6_7, "make", cache(figures6_7.make))
    assert "not run" in run(figures6_7, "--rows", "bp", "--epochs", "3", "--seeds", "2")
    assert run(figures6_7, "--epochs", "3").count("already recorded") == 1
    splits = autoencoding(few_digits())
    rows = figures6_7.EXPERIMENT.recorded(tmp_path / "out").rows()
    for row, seeds in zip(rows.values(), (2, 1, 1), strict=True):
        first = row["history"][0]["train"]
        assert len(first) == seeds and row["train"]["mean"] < np.mean(first)
        assert row["validation"]["per_seed"] == row["history"][-1]["validation"]
    row = rows["bp"]
    pixels = np.frombuffer(bytes.fromhex(row["reconstructions"]), np.uint8).reshape(10, 64)
    rule = figures6_7.make("bp", 64)
    params = jl.training.fit(rule, splits, epochs=3, batch_size=shared.BATCH).params
    again = rule.predict(params, splits.test[0][np.array(row["shown"])])
    np.testing.assert_allclose(pixels / 255, again.clip(0, 1), atol=0.01)
    x, y = splits.test
    distance = jnp.mean(jnp.sum(jnp.square(rule.predict(params, x) - y), 1))
    assert row["test"]["per_seed"][0] == pytest.approx(float(distance), rel=1e-4)
    labels = few_digits().test[1].argmax(1)
    assert labels[np.array(row["shown"])].tolist() == list(range(10))
    for number in (6, 7):
        assert (tmp_path / "out" / f"bartunov_figure{number}.png").stat().st_size > 0


def test_the_autoencoder_has_the_settings_of_table_5_but_for_b1():
    theirs, ours = shared.MNIST_FC["dtp_parallel"], figures6_7.best("dtp_parallel")
    assert theirs.forward.b1 == 0.99 and ours.forward == theirs.forward._replace(b1=0.9)
    assert ours.inverse == theirs.inverse._replace(b1=0.9)
    assert ours[2:] == theirs[2:]
    assert figures6_7.best("bp") == shared.MNIST_FC["bp"]


# As printed in the paper: by network and method, the numbers of Table 5 that Table 4's ranges do not hold.
OUTSIDE = {
    "MNIST_FC": {
        "dtp_parallel": {"lr", "b1", "b2", "eps", "inverse_lr", "inverse_b1", "noise"},
        "dtp_alternating": {"lr", "b1", "inverse_lr", "inverse_b1", "alpha"},
        "sdtp_parallel": {"lr", "b1", "inverse_lr", "inverse_b1"},
        "sdtp_alternating": {"lr", "b2", "inverse_lr", "inverse_b2", "inverse_eps"},
        "dfa": {"lr", "b2", "eps"},
    },
    "MNIST_LC": {
        "dtp_parallel": {"lr", "inverse_lr"},
        "dtp_alternating": {"lr", "alpha", "noise"},
        "sdtp_parallel": {"inverse_lr"},
        "sdtp_alternating": {"lr", "inverse_lr"},
        "dfa": {"lr"},
    },
    "CIFAR_FC": {},
    "CIFAR_LC": {"dtp_parallel": {"inverse_lr"}, "dtp_alternating": {"inverse_lr", "alpha"}},
    "IMAGENET_LC": {},
}


@pytest.mark.parametrize("net", OUTSIDE)
def test_what_of_table_5_lies_outside_table_4(net):
    bests = getattr(imagenet if net == "IMAGENET_LC" else shared, net)
    assert {method: set(numbers) for method, numbers in shared.outside_table4(bests).items()} == OUTSIDE[net]


def test_the_note_of_table1_counts_what_lies_outside():
    count = sum(len(names) for net, methods in OUTSIDE.items() if net != "IMAGENET_LC" for names in methods.values())
    assert f"MNIST and CIFAR, {count} lie outside" in table1.EXPERIMENT.note


def test_adam_does_not_tell_a_larger_epsilon_from_means_over_units():
    setting, gradient, units = shared.MNIST_FC["sdtp_alternating"], jnp.asarray([1.0, -0.03, 2e-4]), 256

    @jax.numpy_dtype_promotion("standard")  # as optax wants it
    def move(adam, gradient):
        return adam.tx().update(gradient, adam.tx().init(gradient))[0]

    for ours, theirs in zip(setting.as_for_means(units)[:2], setting[:2], strict=True):
        np.testing.assert_allclose(move(ours, gradient), move(theirs, gradient / units), rtol=1e-5)  # a few roundings
    setup = table1.SETUPS["mnist_fc"]
    assert shared.best(setup, "ao_sdtp_alternating_means") == setting.as_for_means(units)
    rule = shared.make(setup, "sdtp_alternating_means", Steps(10, 100))
    like = jax.eval_shape(rule.init, jax.random.key(0), (jnp.zeros((2, 28, 28, 1)), jnp.zeros((2, 10))))
    widths = [component.weights["forward"][0]["linear"]["bias"].size for component in like.components]
    assert set(widths[:-1]) == {units} and widths[-1] == 10


def test_rows_with_another_b1_differ_in_nothing_else():
    printed = shared.MNIST_FC["sdtp_parallel"]
    assert printed.forward.b1 == printed.inverse.b1 == 0.99
    setup = table1.SETUPS["mnist_fc"]
    both, inverse, auxiliary = (
        shared.best(setup, f"{name}_b1") for name in ("sdtp_parallel", "sdtp_parallel_inverse", "ao_sdtp_parallel")
    )
    assert both == auxiliary == printed.as_in_table4()
    assert inverse == (printed.forward, printed.inverse._replace(b1=0.9), None, printed.noise)
    assert (both.forward.b1, both.inverse.b1) == (0.9, 0.9)
    assert all(not table1.EXPERIMENT.rows[f"mnist_fc_{name}_parallel_b1"].paper for name in ("sdtp", "ao_sdtp"))


def test_table1_has_both_accuracies_of_the_paper():
    """Two of its lines, as printed: errors on the training and on the test set."""
    rows = table1.EXPERIMENT.rows
    for row, train, test in (("cifar_lc_bp_convnet", 1.39, 31.87), ("cifar_fc_ao_sdtp_parallel", 4.28, 47.11)):
        case = rows[row]
        assert case.paper_train == (pytest.approx(100 - train), None) and case.paper == (
            pytest.approx(100 - test),
            None,
        )


def test_every_method_names_its_rule():
    for setup in table1.SETUPS.values():
        for method in setup.errors:
            name = shared.rule_of(method)
            assert method in (name, "bp_convnet") or method.startswith((f"{name}_parallel", f"{name}_alternating"))
    assert shared.turns("sdtp_alternating", 7) == {"alternate": 7}
    assert shared.turns("sdtp_parallel", 7) == shared.turns("bp", 7) == {}


def test_table1_shows_the_best_epoch_by_validation_beside_the_last(tmp_path):
    def record(*validation):
        last = [accuracies[-1] for accuracies in validation]
        epochs = [{"validation": {"accuracy": list(accuracies)}} for accuracies in zip(*validation, strict=True)]
        line = {"history": epochs, "validation": records.over_seeds(last)}
        return {"rows": [line]}

    def table(found):
        return table1.epochs(Recorded(table1.EXPERIMENT, found, None, tmp_path))

    curves = [0.25, 0.75, 0.5], [0.25, 0.5, 0.5]
    assert table({"mnist_fc_dfa": record(*curves), "mnist_fc_sdtp_parallel_b1": record([0.5])}) == [
        {
            "row": "mnist_fc_dfa",
            "validation %": "50.00 ± 0.00",
            "best validation %": "62.50 ± 17.68",
            "best epoch, by seed": "2, 2",
            "epochs": 3,
        },
        {
            "row": "mnist_fc_sdtp_parallel_b1",
            "validation %": "50.00",
            "best validation %": "50.00",
            "best epoch, by seed": "1",
            "epochs": 1,
        },
    ]
    assert table({}) == [{"row": "not run"}]


@pytest.mark.parametrize("net", section3_2.SETUPS)
def test_more_expressive_inverses_reach_farther_and_have_the_shape_of_what_they_invert(net):
    """One unit of the layer above alone: how many units of the input it reaches."""
    setup, kernels = section3_2.SETUPS[net], {"mnist_lc": [3], "cifar_lc": [5, 3]}[net]

    def reached(module, layer):
        above = jnp.zeros((1, layer.shape[0] // layer.stride, layer.shape[1] // layer.stride, layer.features))
        out, _ = module.init_with_output(jax.random.key(0), above.at[0, 3, 3, 0].set(1.0))
        assert out.shape[1:] == layer.shape
        return int(jnp.sum(jnp.any(out[0] != 0, -1)))

    layers = section3_2.inverted(setup)
    assert [layer.kernel for layer in layers.values()] == kernels
    for number, layer in layers.items():
        small = layer._replace(shape=(*layer.shape[:2], 2), features=3)  # to save time
        assert reached(section3_2.wider(small), small) == (layer.kernel + 4) ** 2
        assert reached(section3_2.dense(small), small) == layer.shape[0] * layer.shape[1]
        linear = setup.net().blocks[number].linear
        assert (linear.kernel_size, linear.strides) == ((layer.kernel, layer.kernel), layer.stride)


def test_the_inverses_of_a_row_are_the_rules():
    batch = jnp.zeros((2, 28, 28, 1)), jnp.zeros((2, 10))

    def shapes(name):
        rule = section3_2.build(section3_2.SETUPS["mnist_lc"], section3_2.INVERSES[name], Steps(1, 1))
        params = jax.eval_shape(rule.init, jax.random.key(0), batch)
        return [leaf.shape for leaf in jax.tree.leaves(params.components[1].weights["inverse"])]

    assert shapes("same") == [(14, 14, 32), (7, 7, 3 * 3 * 32, 64)]
    assert shapes("wider") == [(14, 14, 32), (7, 7, 7 * 7 * 32, 64)]
    assert shapes("dense") == [(14 * 14 * 32,), (7 * 7 * 64, 14 * 14 * 32)]


@pytest.mark.slow
def test_hybrid_targets_are_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(section5_6, "SETUP", section5_6.SETUP._replace(net=tiny_net))
    rows = {f"bp_{100 * share:.0f}": section5_6.case(share) for share in (0.0, 1.0)}
    monkeypatch.setattr(section5_6, "EXPERIMENT", section5_6.EXPERIMENT._replace(rows=rows))
    run(section5_6, "--epochs", "2", "--seeds", "1")
    found = section5_6.EXPERIMENT.recorded(tmp_path / "out").rows()
    assert set(found) == set(rows) and found["bp_0"]["history"] != found["bp_100"]["history"]


@pytest.fixture
def tiny(monkeypatch):
    """Two of the methods on a net of one layer, and images of 32 pixels a side."""
    rows = table2.EXPERIMENT.rows
    kept = {row: rows[row] for row in ("steps/dtp_alternating", "steps/bp_convnet", "loader")}
    monkeypatch.setattr(table2, "EXPERIMENT", table2.EXPERIMENT._replace(rows=kept))
    monkeypatch.setattr(table2, "SIZE", 32)
    monkeypatch.setattr(table2, "REPEATS", 1)
    monkeypatch.setattr(jl.models, "imagenet_lc", lambda classes: jl.models.mlp((8, 4), classes))
    monkeypatch.setattr(jl.models, "imagenet_conv", lambda classes: jl.models.mlp((8,), classes))


@pytest.mark.slow
def test_table2(run, tmp_path, tiny):
    printed = run(table2, "--quick", "--images", "80")
    assert "98.34" in printed and "97.15" in printed and "not run: no data" in printed
    recorded = table2.EXPERIMENT.recorded(tmp_path / "out")
    alternating, convnet = (recorded.rows()[f"steps/{name}"] for name in ("dtp_alternating", "bp_convnet"))
    inputs = 32 * 32 * 3
    assert alternating["effective weights, millions"] == (inputs * 8 + 8 + 8 * 4 + 4 + 4 * 1000 + 1000) / 1e6
    assert (alternating["affiliated, millions"], convnet["affiliated, millions"]) == ((4 * 8 + 8) / 1e6, 0)
    assert alternating["memory, GiB"] >= 0 and alternating["images/s"] > 0
    assert [row["what"] for row in table2.loading(recorded)] == [
        "decoding, by the first call of load",
        "streaming",
        "fit, streamed",
        "fit, all on the device",
    ]
    assert run(table2, "--batch-size", "1", "--images", "70").count("already recorded") == 3


def test_the_older_record_of_all_steps_is_read():
    rows = table2.steps(table2.EXPERIMENT.recorded())
    assert [row["method"] for row in rows] == list(table2.PAPER) and all(row["memory, GiB"] for row in rows)
    assert {row["batch"] for row in rows} == {2}


def test_a_step_that_needs_too_much_memory_is_not_timed(tiny):
    row = table2.measure("bp_convnet", 2, gigabytes=1e-6)
    assert row["memory, GiB"] >= 0 and row["a step, s"] is None and row["images/s"] is None


def test_the_memory_of_a_step_counts_what_is_overwritten_once(tiny):
    method = table2.compiled("bp_convnet", 2)
    parameters = (32 * 32 * 3 * 8 + 8 + 8 * 1000 + 1000) * 3 * 4  # weights and Adam's two moments
    inputs = 2 * (32 * 32 * 3 + 1000) * 4
    assert parameters + inputs < method.gigabytes * 2**30 < 1.7 * parameters + inputs


def test_the_loader_needs_a_batch_of_images(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run(table2, "--rows", "loader", "--images", "63")
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "python -m experiments.papers.bartunov.table2: loader: --images=63: too few for a batch of 32; take 64 or more"
    )


def test_settings_of_table2_are_whole():
    assert imagenet.IMAGENET_LC.keys() == imagenet.PAPER.keys()
    tx = imagenet.IMAGENET_LC["bp"].forward.tx()
    assert isinstance(tx, optax.GradientTransformation)


COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 20), (20, 240, 240), (240, 20, 240), (250, 250, 250)]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder of tiny JPEG files of seven classes, each of its own colour; and small nets."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for label, colour in enumerate(COLOURS):
            folder = tmp_path / "photographs" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((10, 12, 3), colour) + rng.integers(-20, 20, (10, 12, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpeg")
    monkeypatch.setenv("JAXLOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(imagenet, "SIZE", 8)
    monkeypatch.setattr(imagenet, "BATCH", 8)
    monkeypatch.setattr(imagenet, "PIECE", 16)
    for name in ("imagenet_lc", "imagenet_conv"):
        monkeypatch.setattr(jl.models, name, lambda classes: jl.models.mlp((16, 8), classes, activation=jnp.tanh))
    return tmp_path / "photographs"


def test_a_row_of_imagenet_is_trained_from_a_folder(run, tmp_path, photographs, monkeypatch):
    """Its errors are those of the trained parameters, image by image, by the first and by the first five classes."""
    runs, numbers = [], imagenet.numbers

    def watched(rule, session, splits):
        runs.append((rule, session.state.params, splits.test))
        return numbers(rule, session, splits)

    monkeypatch.setattr(imagenet, "numbers", watched)
    flags = "--rows", "train/dtp_alternating", "--data", str(photographs), "--epochs", "2", "--seeds", "2"
    printed = run(table2, *flags)
    record = table2.EXPERIMENT.record("train/dtp_alternating", tmp_path / "out")
    (row,) = record["rows"]
    assert record["settings"].items() >= {"classes": 7, "image size": 8, "epochs": 2, "seeds": [0, 1]}.items()
    assert "--data" in record["command"] and [len(history) for history in row["history"]] == [2, 2]
    for seed, (rule, params, (x, y)) in enumerate(runs):
        assert len(x) == 21 and rule.net.head.features == 7
        scores = rule.predict(params, imagenet.STANDARDISED.test(jnp.asarray(jl.data.floats((x, y))[0])))
        right = np.argsort(-scores, axis=1) == np.argmax(y, 1)[:, None]
        assert row["test"]["per_seed"][seed] == pytest.approx(right[:, 0].mean())
        assert row["top5"]["per_seed"][seed] == pytest.approx(right[:, :5].any(1).mean())
    assert f"{100 * (1 - row['top5']['mean']):.2f}" in printed
    (figure,) = imagenet.draw(table2.EXPERIMENT.recorded(tmp_path / "out")).values()
    (line,) = figure.axes[0].get_lines()
    wrong = [[1 - epoch["validation"]["accuracy"] for epoch in history] for history in row["history"]]
    np.testing.assert_allclose(line.get_ydata(), 100 * np.mean(wrong, 0))


def test_a_search_on_imagenet_whose_starts_all_diverge_is_one_sentence(tmp_path, photographs, monkeypatch, capsys):
    monkeypatch.setattr(jl.search, "bartunov", lambda rule, table4: {"lr": jl.search.choice(1e30)})
    flags = ["--rows", "search/bp", "--data", str(photographs), "--epochs", "1", "--trials", "2"]
    with pytest.raises(SystemExit):
        main(table2.EXPERIMENT, [*flags, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    assert "search/bp: all 2 settings diverged; take more --trials" in capsys.readouterr().err
    assert table2.EXPERIMENT.record("search/bp", tmp_path / "out") is None


@pytest.mark.slow
def test_the_search_on_imagenet_lets_only_its_best_start_continue(run, tmp_path, photographs, monkeypatch):
    """Three starts of two epochs; the best goes on to the fourth. It resumes where it was cut off."""
    monkeypatch.setattr(imagenet, "START_EPOCHS", 2)
    spaces, trained, asked = [], imagenet.trained, []
    monkeypatch.setattr(
        jl.search,
        "bartunov",
        lambda rule, table4: spaces.append((rule, table4)) or {"lr": jl.search.log_uniform(1e-5, 1e-1)},
    )

    def cut_off(task, rule, splits, folder, epochs, seed=0):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append((folder.name, epochs))
        return trained(task, rule, splits, folder, epochs, seed)

    flags = "--rows", "search/bp", "--data", str(photographs), "--epochs", "4", "--trials", "3"
    monkeypatch.setattr(imagenet, "trained", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(table2, *flags)
    kept = [path.parent.name for path in (tmp_path / "work").rglob("checkpoints")]
    assert len(kept) == 1  # the checkpoints of the other start are gone
    asked = [*asked, None]  # no longer cut off
    run(table2, *flags)
    (row,) = table2.EXPERIMENT.record("search/bp", tmp_path / "out")["rows"]
    accuracies = [trial["validation"] for trial in row["trials"]]
    assert set(spaces) == {("bp", True)} and len(set(accuracies)) > 1
    assert row["best"] == int(np.argmax(accuracies))
    assert [name for name, _ in filter(None, asked)] == ["start-0", "start-1", "start-2", f"start-{row['best']}"]
    assert asked[-1][1] == 4 and len(row["history"][0]) == 4
    assert not list((tmp_path / "work").rglob("start-*"))


def test_without_the_images_a_row_says_what_it_needs(run, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    with pytest.raises(SystemExit):
        run(table2, "--rows", "train/bp")
    error = capsys.readouterr().err.splitlines()[0]
    assert "train/bp: name='imagenet2012'" in error and "tfds build imagenet2012" in error and "--data" in error
    with pytest.raises(SystemExit):
        run(table2, "--rows", "search/fa", "--data", "/nowhere/images")
    assert "there is no such folder" in capsys.readouterr().err
    rows = list(imagenet.errors(table2.EXPERIMENT.recorded()))
    assert {row["top-1 error %"] for row in rows} == {"not run: no data"}
    assert (rows[0]["paper's top-1 error %"], rows[0]["paper's top-5 error %"]) == ("98.34", "94.56")
