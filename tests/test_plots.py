"""Pictures have the lines, points, bars and words that they should, and say what is wrong with what they are given."""

import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import NETS, start

import jaxlocal as jl
from jaxlocal.rule import forward_stats, forward_weights

RNG = np.random.default_rng(0)


def make_rows(epochs=5, components=3, seeds=None, accuracy=True):
    """The rows of a run as they are read from its metrics.jsonl."""

    def number(value):
        return value if seeds is None else [value * (1 + 0.1 * seed) for seed in range(seeds)]

    def scores(epoch):
        known = {"accuracy": number(1 - 0.5 / epoch)} if accuracy else {}
        return {"loss": number(1 / epoch), **known}

    return [
        {
            "epoch": epoch,
            "step": 34 * epoch,
            "lr": 1e-3,
            "losses": [number(0.5**i / epoch) for i in range(components)],
            "terms": [{"associated": number(0.5**i / epoch)} for i in range(components)],
            "train": scores(epoch),
            "validation": scores(epoch),
        }
        for epoch in range(1, epochs + 1)
    ]


def drawn(figure):
    """The figure, after it was drawn without a warning, but for its pixels."""
    figure.draw_without_rendering()
    return figure


def words(texts):
    return [text.get_text() for text in texts]


LABELS = np.arange(60) % 3
BLOBS = (RNG.normal(size=(60, 4)) + 8 * np.eye(4)[LABELS]).astype(np.float32)
PANELS = {"raw data": BLOBS.reshape(60, 2, 2, 1), "output": 2 * BLOBS}


# -------------------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize("seeds", [None, 1, 4])
def test_curves(seeds):
    rows = make_rows(seeds=seeds)
    figure = drawn(jl.plots.curves(rows))
    scores, local = figure.axes
    assert (scores.get_xlabel(), scores.get_ylabel(), local.get_ylabel()) == ("epoch", "accuracy", "local loss")
    assert words(scores.get_legend().get_texts()) == ["train", "validation"]
    assert words(local.get_legend().get_texts()) == ["component 0", "component 1", "component 2"]
    assert local.get_yscale() == "log"
    assert len(scores.collections) == (2 if seeds == 4 else 0)  # the bands
    validation = scores.get_lines()[1]
    np.testing.assert_array_equal(validation.get_xdata(), [1, 2, 3, 4, 5])
    means = [np.mean(row["validation"]["accuracy"]) for row in rows]
    np.testing.assert_allclose(validation.get_ydata(), means)
    np.testing.assert_allclose(local.get_lines()[2].get_ydata(), [np.mean(row["losses"][2]) for row in rows])
    deviation = f" ± {100 * np.std(rows[-1]['validation']['accuracy'], ddof=1):.1f} %" if seeds == 4 else ""
    assert figure.get_suptitle() == f"Validation accuracy {100 * means[-1]:.1f} %{deviation} at epoch 5"
    assert jl.plots.curves(rows, "mine").get_suptitle() == "mine"


def test_the_band_is_a_sample_standard_deviation_to_either_side():
    """As in the tables of results: with one less than the number of seeds in the denominator."""
    rows = make_rows(seeds=3)
    (band, _) = jl.plots.curves(rows).axes[0].collections
    values = np.array([row["train"]["accuracy"] for row in rows])
    low, high = values.mean(1) - values.std(1, ddof=1), values.mean(1) + values.std(1, ddof=1)
    edge = band.get_paths()[0].vertices
    for epoch in range(1, 6):
        at = edge[edge[:, 0] == epoch, 1]
        np.testing.assert_allclose([at.min(), at.max()], [low[epoch - 1], high[epoch - 1]])


def test_curves_of_real_targets_show_the_loss():
    figure = jl.plots.curves(make_rows(accuracy=False))
    assert figure.axes[0].get_ylabel() == "loss"
    assert figure.get_suptitle() == "Validation loss 0.200 at epoch 5"


def test_curves_of_one_epoch_are_points():
    figure = drawn(jl.plots.curves(make_rows(epochs=1, seeds=2)))
    assert all(line.get_marker() == "o" for axes in figure.axes for line in axes.get_lines())
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize(("components", "bar"), [(8, False), (9, True)])
def test_many_components_have_a_colour_bar(components, bar):
    figure = drawn(jl.plots.curves(make_rows(components=components)))
    lines = figure.axes[1].get_lines()
    assert len({line.get_color() for line in lines}) == len(lines) == components
    assert (figure.axes[1].get_legend() is None) == bar
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == ["component"] * bar


@pytest.mark.parametrize("nothing", [float("nan"), float("inf"), None])
def test_curves_have_a_gap_where_there_is_no_number(nothing):
    rows = make_rows(seeds=2)
    rows[3]["losses"][1] = [0.1, nothing]
    rows[4]["validation"]["accuracy"] = [nothing, 0.5]
    scores, local = drawn(jl.plots.curves(rows)).axes
    np.testing.assert_array_equal(np.isnan(local.get_lines()[1].get_ydata()), [0, 0, 0, 1, 0])
    np.testing.assert_array_equal(np.isnan(scores.get_lines()[1].get_ydata()), [0, 0, 0, 0, 1])


def test_negative_local_losses_are_on_a_linear_axis():
    """As those of direct feedback, a projection."""
    rows = make_rows()
    rows[2]["losses"][0] = -1.0
    assert drawn(jl.plots.curves(rows)).axes[1].get_yscale() == "linear"


def without(rows, key):
    return [*rows[:-1], {k: v for k, v in rows[-1].items() if k != key}]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "epoch"),
        ("metrics.jsonl", "epoch"),
        (7, "epoch"),
        (without(make_rows(), "losses"), "losses"),
        (without(make_rows(), "train"), "'train' 'accuracy'"),
        (without(make_rows(), "validation"), "'validation' 'loss'"),
        (make_rows() + make_rows(components=2), "losses"),
    ],
    ids=["empty", "path", "number", "no losses", "no train", "no validation", "two runs"],
)
def test_curves_of_what_is_no_run(rows, named):
    with pytest.raises(ValueError, match=r"^rows=.*metrics\.jsonl") as error:
        jl.plots.curves(rows)
    assert named in str(error.value)


# ------------------------------------------------------------------------------------------------------- compare


@pytest.mark.parametrize("count", [3, 13])
def test_compare(count):
    runs = {f"rule {i}": make_rows(epochs=3 + i, seeds=2) for i in range(count)}
    (axes,) = drawn(jl.plots.compare(runs)).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "accuracy")
    lines = axes.get_lines()
    assert [len(line.get_xdata()) for line in lines] == [3 + i for i in range(count)]
    assert len({str(line.get_color()) for line in lines}) == len(axes.collections) == count
    legend = words(axes.get_legend().get_texts())
    assert [text.split("  ")[0] for text in legend] == list(runs)[::-1]  # longer runs are better here
    assert "±" in legend[0]
    assert f"(rule {count - 1})" in axes.get_title()
    assert jl.plots.compare(runs, "mine").axes[0].get_title() == "mine"


def test_differences_have_intervals_and_effect_sizes_at_their_right():
    theirs = [95.0, 95.0, 96.0]
    values = {"fa": [93.0, 98.0, 97.0], "al": [98.0, 97.0, 98.0], "kp": theirs}
    against = {name: jl.statistics.paired(ours, theirs) for name, ours in values.items()}
    (axes,) = drawn(jl.plots.differences(against, "minus bp", "points")).axes
    assert words(axes.get_yticklabels()) == ["kp", "fa", "al"]
    assert words(axes.texts) == [f"d {against[name].effect:+.1f}" for name in ("fa", "al")]
    interval = axes.get_lines()[-2].get_xdata()
    np.testing.assert_allclose(interval, [against["al"].low, against["al"].high])


def test_compare_takes_the_loss_where_a_run_has_no_accuracy_and_puts_the_diverged_last():
    diverged = make_rows()
    diverged[-1]["validation"]["loss"] = float("nan")
    runs = {"diverged": diverged, "worse": make_rows(epochs=2, accuracy=False), "better": make_rows(accuracy=False)}
    (axes,) = jl.plots.compare(runs).axes
    assert axes.get_ylabel() == "loss"
    assert [text.split()[0] for text in words(axes.get_legend().get_texts())] == ["better", "worse", "diverged"]


@pytest.mark.parametrize("runs", [{}, [make_rows()]])
def test_compare_without_names(runs):
    with pytest.raises(ValueError, match=r"^runs=.*by its name"):
        jl.plots.compare(runs)


def test_compare_names_the_bad_run():
    with pytest.raises(ValueError, match=r"^runs\['al'\]=.*metrics\.jsonl"):
        jl.plots.compare({"bp": make_rows(), "al": []})


# ------------------------------------------------------------------------------------------- t-SNE and distances


def test_tsne():
    figure = drawn(jl.plots.tsne(PANELS, LABELS, names=["cat", "dog", "cow"]))
    assert [axes.get_title() for axes in figure.axes] == list(PANELS)
    for axes in figure.axes:
        (points,) = axes.collections
        assert points.get_offsets().shape == (60, 2)
        assert len(np.unique(points.get_facecolors(), axis=0)) == 3
        ratio = jl.diagnostics.class_distances(jnp.asarray(BLOBS), jnp.eye(3)[LABELS]).ratio
        assert axes.get_xlabel() == f"inter:intra {ratio:.2f}"  # a scale has no part in it
        # The blobs lie apart in the plane too: an example's nearest is of its own class.
        plane = np.asarray(points.get_offsets())
        apart = np.linalg.norm(plane[:, None] - plane[None], axis=-1) + 1e9 * np.eye(60)
        assert np.mean(LABELS[apart.argmin(1)] == LABELS) > 0.9
    (legend,) = figure.legends
    assert words(legend.get_texts()) == ["cat", "dog", "cow"]


def test_tsne_is_the_same_every_time_and_for_one_hot_labels():
    def points(labels):
        return jl.plots.tsne({"raw data": BLOBS}, labels).axes[0].collections[0].get_offsets()

    np.testing.assert_array_equal(points(LABELS), points(jnp.eye(3)[LABELS]))


def test_tsne_of_rules_has_a_row_for_each_and_breaks_long_ones():
    """Layers of one unit, or dead ones, are drawn as well; and so are six examples."""
    few, labels = BLOBS[:6], LABELS[:6]
    long = {f"block {i}": few for i in range(4)} | {"one unit": few[:, :1], "dead": 0 * few}
    figure = drawn(jl.plots.tsne({"bp": {"raw data": few}, "al": long}, labels))
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(figure.axes) == 9 and len(shown) == 7
    assert [axes.get_ylabel() for axes in shown] == ["bp", "al", *[""] * 5]
    assert "bp" in figure.get_suptitle() and "al" in figure.get_suptitle()
    assert shown[-1].get_xlabel() == "inter:intra nan"


def test_distances():
    figure = drawn(jl.plots.distances(PANELS, LABELS))
    assert [axes.get_xlabel() for axes in figure.axes] == ["inter-class distance", "intra-class distance", "ratio"]
    assert words(figure.axes[0].get_yticklabels()) == list(PANELS)
    expected = jl.diagnostics.class_distances(jnp.asarray(BLOBS), jnp.eye(3)[LABELS])
    for axes, one, scale in zip(figure.axes, expected, (2, 2, 1), strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [one, scale * one], rtol=1e-5)
        assert words(axes.texts) == [f"{bar.get_width():.2f}" for bar in axes.patches]


def test_distances_of_rules_and_of_classes_without_width():
    points = np.eye(3, dtype=np.float32)[LABELS]
    column = LABELS[:, None]  # as tables keep the numbers of the classes
    figure = drawn(jl.plots.distances({"bp": PANELS, "al": {"output": points}}, column))
    assert len(figure.axes) == 6
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["bp", "al"]
    assert words(figure.axes[-1].texts) == ["inf"]


@pytest.mark.parametrize(
    ("panels", "labels", "says"),
    [
        ({}, LABELS, "^panels=.*layer_outputs"),
        (BLOBS, LABELS, "^panels=array.*layer_outputs"),
        ({"al": {}}, LABELS, "^panels=.*layer_outputs"),
        ({"output": BLOBS[:50]}, LABELS, r"^panels\['output'\] has shape \(50, 4\), but NAME has 60 examples; "),
        ({"al": {"output": BLOBS[:50]}}, LABELS, r"^panels\['al'\]\['output'\] has shape"),
        ({"output": BLOBS * np.nan}, LABELS, r"^panels\['output'\] holds NaN"),
        (PANELS, LABELS.astype(float), "^NAME=array.*one-hot"),
        (PANELS, LABELS - 1, "^NAME=array.*one-hot"),
        (PANELS, LABELS[:, None, None], "^NAME=array.*one-hot"),
        (PANELS, 0 * LABELS, "^NAME: has 1 class,.*two classes or more"),
        (PANELS, np.arange(60), "^NAME: has 60 classes, the smallest with 1 example;"),
    ],
)
def test_panels_and_labels_that_do_not_fit(panels, labels, says):
    for draw, name in ((jl.plots.tsne, "labels"), (jl.plots.distances, "y")):
        with pytest.raises(ValueError, match=says.replace("NAME", name)):
            draw(panels, labels)


def test_too_few_names_of_classes():
    with pytest.raises(ValueError, match=re.escape("names=['cat']: has 1 names for the classes 0 to 2; name")):
        jl.plots.tsne(PANELS, LABELS, names=["cat"])


# ------------------------------------------------------------------------------------------------- layer outputs


@pytest.mark.parametrize(
    ("name", "net", "above"), [("bp", "conv", []), ("al", "norm dropout", ["bridge", "decoder 3", "decoder 2"])]
)
def test_layer_outputs(name, net, above):
    net = NETS[net]
    rule, _, _, params, (x, _) = start(name, net)
    outputs = jl.diagnostics.layer_outputs(rule, params, x)
    assert list(outputs) == ["raw data", "block 1", "block 2", "block 3", *above, "output"]
    *blocks, scores = jl.diagnostics.activations(rule, params, x)
    a, by_layer = x, zip(net.blocks, forward_weights(params), forward_stats(params), strict=False)
    for i, (block, (layer, weights, stats)) in enumerate(zip(blocks, by_layer, strict=False), 1):
        a, _ = jl.apply_layer(layer, weights, stats, a)
        np.testing.assert_allclose(block, a, rtol=1e-5)
        np.testing.assert_allclose(outputs[f"block {i}"], a, rtol=1e-5)
    assert len(blocks) == 3
    np.testing.assert_array_equal(outputs["raw data"], x)
    np.testing.assert_allclose(outputs["output"], scores, rtol=1e-5)


def test_layer_outputs_of_an_average_are_those_of_the_last_component():
    rule, _, _, params, (x, _) = start("al", NETS["dense"])
    alone = jl.rules.al(NETS["dense"], optax.sgd(0.5), average=False)
    last, mean = (jl.diagnostics.layer_outputs(one, params, x) for one in (alone, rule))
    assert [*last] == [*mean]
    assert [name for name in last if not np.array_equal(last[name], mean[name])] == ["output"]


def test_layer_outputs_of_associated_learning_go_through_the_targets_side():
    rule, _, _, params, (x, _) = start("al", NETS["norm dropout"])
    outputs = jl.diagnostics.layer_outputs(rule, params, x)

    def sigmoid_layer(weights, a):
        return 1 / (1 + np.exp(-(np.asarray(a) @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"]))))

    below, last = params.components[-2:]
    bridge = last.weights["bridge"]
    np.testing.assert_allclose(
        outputs["bridge"], sigmoid_layer(bridge["layers_1"]["linear"], outputs["block 3"]), rtol=1e-5
    )
    decoded = sigmoid_layer(last.weights["decoder"]["linear"], outputs["bridge"])
    np.testing.assert_allclose(outputs["decoder 3"], decoded, rtol=1e-5)
    decoded = sigmoid_layer(below.weights["decoder"]["linear"], decoded)
    np.testing.assert_allclose(outputs["decoder 2"], decoded, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------- alignment


def test_alignment():
    figure = drawn(jl.plots.alignment(jnp.array([80.0, jnp.nan, 95.0, 0.0])))
    (axes,) = figure.axes
    border, line = axes.get_lines()
    np.testing.assert_array_equal(border.get_ydata(), [90, 90])
    np.testing.assert_array_equal(line.get_ydata(), [80, np.nan, 95, 0])
    assert words(axes.texts) == ["no angle"]
    assert words(axes.get_xticklabels()) == ["layer 0", "layer 1", "layer 2", "layer 3"]
    assert axes.get_title().endswith("2 of 3")
    assert axes.get_ylim() == (0, 180)
    assert axes.get_legend() is None


def test_alignment_of_rules_with_other_numbers_of_layers():
    rules = {"dfa": [80.0, 60.0, 0.0], "al": [89.0, np.nan]}
    (axes,) = drawn(jl.plots.alignment(rules, names=["first", "second", "head"])).axes
    assert words(axes.get_legend().get_texts()) == ["dfa", "al"]
    assert words(axes.get_xticklabels()) == ["first", "second", "head"]
    assert not axes.texts  # one of the rules has an angle everywhere


@pytest.mark.parametrize("angles", [[], {}, 3.0, [[1.0, 2.0]], {"dfa": []}])
def test_alignment_of_what_are_no_angles(angles):
    with pytest.raises(ValueError, match=r"^angles=.*one for each layer"):
        jl.plots.alignment(angles)


def test_alignment_with_too_few_names():
    with pytest.raises(ValueError, match=re.escape("names=['a']: has 1 names for 2 layers; name each layer")):
        jl.plots.alignment([1.0, 2.0], names=["a"])
