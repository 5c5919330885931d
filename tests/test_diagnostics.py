"""Diagnostics measure what they say, on cases whose answer is known."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import NETS, make_batch, slow, start

import jaxlocal as jl
import jaxlocal.costs
from jaxlocal.diagnostics import activations, alignment, angle, class_distances, feedback_alignment, parameter_counts

SGD = optax.sgd(0.1)


@pytest.mark.parametrize(("b", "degrees"), [([2.0, 0.0], 0), ([0.0, 3.0], 90), ([-1.0, 0.0], 180), ([1.0, 1.0], 45)])
def test_angle(b, degrees):
    np.testing.assert_allclose(angle({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array(b)}), degrees, atol=0.03)


@pytest.mark.parametrize("size", [1e-20, 1e-10, 1e10, 1e30])
def test_the_angle_does_not_depend_on_the_lengths(size):
    """Squares of these lengths are too small or too large for float32."""
    a, b = jnp.array([1.0, 0.0]) * size, jnp.array([1.0, 1.0]) * size
    np.testing.assert_allclose(angle(a, b), 45, atol=0.03)
    assert jnp.isnan(angle(a, 0 * b)) and jnp.isnan(angle({}, {}))


def first_alignment(rule, batch):
    """With the first parameters, in one program."""
    return np.asarray(jax.jit(lambda batch: alignment(rule, rule.init(jax.random.key(0), batch), batch))(batch))


@pytest.mark.parametrize("net", ["dense", slow("conv")])
def test_backprop_is_aligned_with_itself_and_feedback_rules_are_not(net):
    def angles(name):
        return first_alignment(jl.rules.ALL[name](NETS[net], SGD), make_batch(NETS[net]))

    # An arc cosine near one turns float32 rounding, 1e-7, into some hundredths of a degree.
    np.testing.assert_allclose(angles("bp"), 0, atol=0.1)
    for name in ("fa", "dkp"):
        *hidden, head = angles(name)
        assert min(hidden) > 1
        np.testing.assert_allclose(head, 0, atol=0.1)


def test_alignment_of_feedback_alignment_with_the_opposite_weights():
    """One hidden layer, B = -W: the first layer is taught exactly the wrong thing."""
    net = jl.models.mlp((7,), classes=3)
    batch = make_batch(NETS["dense"])
    rule = jl.rules.fa(net, SGD)
    params = jax.jit(rule.init)(jax.random.key(0), batch)
    (component,) = params.components
    opposite = ({}, {"linear": -component.weights["forward"][1]["linear"]["kernel"]})
    params = replace(params, components=(replace(component, weights=component.weights | {"feedback": opposite}),))
    angles = alignment(rule, params, batch)
    np.testing.assert_allclose(angles, [180, 0], atol=0.1)


def test_alignment_of_associated_learning_has_an_angle_for_each_of_its_blocks():
    angles = first_alignment(jl.rules.al(NETS["dense"], SGD), make_batch(NETS["dense"]))
    assert angles.shape == (3,)
    assert np.all((angles > 0) & (angles < 180))


def test_feedback_alignment_of_the_heads_own_weights_is_perfect():
    rule, _, _, params, (x, _) = start("dkp", NETS["dense"])
    *blocks, last, head = params.components
    head_bias_free = jax.tree.map(jnp.zeros_like, head.weights["forward"][0]["linear"]["bias"])
    kernel = head.weights["forward"][0]["linear"]["kernel"]
    head = replace(head, weights={"forward": ({"linear": {"kernel": kernel, "bias": head_bias_free}},)})
    last = replace(last, weights=last.weights | {"feedback": kernel.T})
    angles = feedback_alignment(rule, replace(params, components=(*blocks, last, head)), x)
    assert angles.shape == (3,)
    assert angles[0] > 1
    np.testing.assert_allclose(angles[-1], 0, atol=0.1)


def test_learning_the_feedback_aligns_it_with_the_output():
    """Figure 2 of the direct Kolen-Pollack paper, in small: DKP's angles fall below DFA's."""
    train = jl.data.digits().train
    net = jl.models.mlp((64, 64), classes=10, norm=True)

    def angles(make):
        rule = make(net, optax.sgd(0.05, 0.9))
        params = jax.jit(rule.init)(jax.random.key(0), train)
        for epoch in range(5):
            params, _ = jl.training.epoch(rule, params, train, jax.random.key(epoch), 32)
        return feedback_alignment(rule, params, train[0])

    # The first block gains little, in the paper too.
    dkp, dfa = angles(jl.rules.dkp), angles(jl.rules.dfa)
    assert dkp[0] < dfa[0]
    assert dkp[1] < dfa[1] - 5


def test_class_distances_against_plain_loops():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(15, 2, 3)), np.arange(15) % 3
    distances = class_distances(jnp.asarray(features, jnp.float32), jax.nn.one_hot(labels, 3))
    flat = features.reshape(15, 6)
    intra = np.mean(
        [
            np.mean([np.linalg.norm(a - b) for i, a in enumerate(members) for j, b in enumerate(members) if i != j])
            for members in (flat[labels == k] for k in range(3))
        ]
    )
    centroids = [flat[labels == k].mean(0) for k in range(3)]
    inter = np.mean([np.linalg.norm(centroids[i] - centroids[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    np.testing.assert_allclose(distances, [inter, intra, inter / intra], rtol=1e-5)


def test_class_distances_of_pixels_are_those_of_the_same_real_numbers():
    pixels, y = np.arange(240, dtype=np.uint8).reshape(12, 20), jax.nn.one_hot(np.arange(12) % 2, 2)
    np.testing.assert_array_equal(class_distances(pixels, y), class_distances(pixels.astype(np.float32), y))


def counts(rule, shape, classes=10):
    """Counted without a single weight made."""
    batch = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2, classes), jnp.float32)
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    return parameter_counts(rule, params)


def test_parameter_counts_of_the_papers_mnist_network():
    """AL and its matched baseline: 784-1024-1024-5120-1024-1024-10, counted by hand."""
    sizes = (784, 1024, 1024, 5120, 1024, 1024, 10)
    effective = sum(n * m + m for n, m in pairwise(sizes))
    lower_bridge = 1024 * 5120 + 5120 + 5120 * 1024 + 1024
    encoders = 10 * 1024 + 1024 + 1024 * 1024 + 1024
    net = jl.models.mlp((1024, 1024))
    assert counts(jl.rules.al(net, SGD, codes=jl.codes.paper), (784,)) == (effective, lower_bridge + encoders)
    assert counts(jl.rules.bp(jl.models.matched(net, components=2, width=1024), SGD), (784,)) == (effective, 0)


@pytest.mark.parametrize(
    ("net", "components", "width"),
    [
        (jl.models.vanilla_cnn(), 4, 256),  # two convolutions each
        slow(jl.models.vgg(), (2, 2, 2, 2), 300),
        slow(jl.models.resnet(20), (1, 3, 3, 3), 300),  # the stem and the stages
        slow(jl.models.resnet(32), (1, 5, 5, 5), 300),
    ],
    ids=["vanilla_cnn", "vgg", "resnet20", "resnet32"],
)
def test_associated_learning_and_its_baseline_have_the_same_number_of_effective_weights(net, components, width):
    rule = jl.rules.al(net, SGD, components=components, codes=jl.codes.paper._replace(width=width))
    baseline = jl.rules.bp(jl.models.matched(net, components=4, width=width), SGD)
    assert counts(rule, (32, 32, 3)).effective == counts(baseline, (32, 32, 3)).effective


def test_activations_are_the_blocks_outputs_and_the_scores():
    rule, batch = jl.rules.bp(NETS["conv"], SGD), make_batch(NETS["conv"])
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    shapes = [a.shape for a in jax.eval_shape(lambda params, x: activations(rule, params, x), params, batch[0])]
    assert shapes == [(8, 3, 3, 3), (8, 2, 2, 4), (8, 5), (8, 3)]


def test_the_outputs_of_forward_forward_are_those_of_each_label():
    rule, (x, y) = jl.rules.ff(NETS["dense"], SGD), make_batch(NETS["dense"])
    params = rule.init(jax.random.key(0), (x, y))
    outputs = jl.diagnostics.layer_outputs(rule, params, x)
    assert {name: output.shape for name, output in outputs.items()} == {
        "raw data": x.shape,
        **{f"block {i + 1}": (8, 3, block.linear.features) for i, block in enumerate(rule.net.blocks)},
        "output": (8, 3),
    }
    *blocks, scores = activations(rule, params, x)
    assert len(blocks) == len(rule.net.blocks) and len(blocks[0]) == 8 * 3
    np.testing.assert_array_equal(scores, outputs["output"])


@pytest.mark.parametrize("dtype", [jnp.int8, bool, "key"])
def test_weights_that_are_no_real_numbers_are_changed_too(dtype):
    """Each block learns by its own feedback, from 0 and 1, or drawn from its own key."""
    net = NETS["dense"]

    def part(i, block):
        def init(key, message):
            (weights, stats, a), y = jl.init_layer(block, key, message[0]), message[1]
            shape = y.shape[-1], a.shape[-1]
            feedback = key if dtype == "key" else jax.random.bernoulli(key, shape=shape).astype(dtype)
            return {"forward": (weights,), "feedback": feedback}, (stats,), (a, y)

        def teach(weights, stats, message, key):
            (x, y), feedback = message, weights["feedback"]

            def objective(forward):
                a, stats_after = jl.apply_layer(block, forward["forward"][0], stats[0], x, key)
                shape = y.shape[-1], a.shape[-1]
                signs = jax.random.normal(feedback, shape) if dtype == "key" else feedback.astype(jnp.float32)
                return {"local": jnp.vdot(a, y @ signs)}, (stats_after,), (a, y)

            return jl.lesson_of(objective, {"forward": weights["forward"]})

        return jl.Part((i,), init, teach)

    parts = (*map(part, range(len(net.blocks)), net.blocks), jl.head_part(net))
    n = len(parts)
    rule = jl.make_rule(net, parts, {"forward": SGD}, locality={"forward": jl.upward(n), "feedback": jl.own(n)})
    batch = make_batch(net)
    found = jl.diagnostics.locality(rule, rule.init(jax.random.key(0), batch), batch)["feedback"]
    np.testing.assert_array_equal(found[:-1, :-1], np.eye(n - 1, dtype=bool))


def test_the_locality_of_diverged_parameters_is_not_measured():
    rule, batch = jl.rules.al(NETS["dense"], SGD), make_batch(NETS["dense"])
    params = rule.init(jax.random.key(0), batch)
    first, *others = params.components
    diverged = first.replace(weights=jax.tree.map(lambda leaf: leaf * jnp.nan, first.weights))
    with pytest.raises(ValueError, match="NaN or infinite"):
        jl.diagnostics.locality(rule, params.replace(components=(diverged, *others)), batch)


def test_local_losses_are_those_that_step_reports():
    rule = jl.rules.al(NETS["dense"], SGD)

    @jax.jit
    def both(batch):
        params = rule.init(jax.random.key(0), batch)
        _, info = rule.step(params, batch)
        return jl.diagnostics.local_losses(rule, params, batch), info.terms

    losses, terms = both(make_batch(NETS["dense"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), losses, terms)


# ------------------------------------------------------------------------------------------------- costs


def test_costs_are_those_that_can_be_counted_by_hand():
    """A wide layer on many examples, so that everything but the matrix products and the weights counts little."""
    units, size = 512, 256
    net = jl.models.mlp((units, units), classes=units)
    batch = jax.ShapeDtypeStruct((size, units), jnp.float32), jax.ShapeDtypeStruct((size, units), jnp.float32)
    product, weights = 2 * size * units**2, units**2
    found = jl.diagnostics.costs(jl.rules.bp(net, SGD), batch, backprop=jl.rules.drtp(net, SGD))
    assert found.rule.operations == pytest.approx(8 * product, rel=0.05)  # three of each layer; none for x
    assert found.rule.weights == 3 * (weights + units)
    assert found.components == ()
    assert found.backprop.weights == 3 * (weights + units) + 2 * weights  # and the feedback
    assert found.times_backprop().weights == pytest.approx(3 / 5, rel=0.01)
    assert found.rule.words >= 2 * 3 * weights  # every weight is read and written
    assert found.rule.memory >= 4 * 3 * weights
    lines = str(found).splitlines()
    assert lines[0].split() == list(found.rule._fields) and lines[2].split()[0] == "rule"


def test_every_round_of_a_loop_counts_but_no_loop_that_nothing_needs():
    """Three rounds of five products each, in one branch of a condition, and four more whose result is not used."""
    size = 64

    def several(x, rounds, unroll=1):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=rounds, unroll=unroll)[0]

    def step(x, flag):
        several(x, 4)
        thrice = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: several(x, 5), x))
        return jax.lax.cond(flag, thrice, lambda x: x @ x, x), flag

    shapes = jax.ShapeDtypeStruct((size, size), jnp.float32), jax.ShapeDtypeStruct((), bool)
    found = jaxlocal.costs._cost(step, *shapes, weights=())
    assert found.operations == pytest.approx(3 * 5 * 2 * size**3, rel=0.01)
    assert found.words == pytest.approx(3 * 5 * 3 * size**2, rel=0.5)
    for unroll in (1, 3, 5, 10, 11):  # how many rounds stand in the program
        counted = jaxlocal.costs.operations(lambda x, unroll=unroll: several(x, 10, unroll), shapes[0])
        assert counted == pytest.approx(10 * 2 * size**3, rel=0.01)


def of_an_example(net, *shape):
    """The operations of backpropagation for one of a batch of examples of this shape."""
    batch = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((shape[0], 10), jnp.float32)
    return jl.diagnostics.costs(jl.rules.dfa(net, SGD), batch).backprop.operations / shape[0]


@pytest.mark.slow
def test_the_operations_for_an_image_do_not_depend_on_the_batch():
    """Convolutions take some images at a time, in a loop."""
    net = jl.models.vanilla_cnn()
    small, large = of_an_example(net, 2, 16, 16, 3), of_an_example(net, 128, 16, 16, 3)
    # The optimizer's step does not depend on the batch, and is a larger part of a small one.
    assert large < small < large * 1.1


@pytest.mark.slow
def test_the_operations_for_a_series_grow_with_its_length():
    net = jl.models.lstm_classifier(None, classes=10, features=8, hidden=(32,))
    short, long = of_an_example(net, 16, 8, 4), of_an_example(net, 16, 64, 4)
    assert 7 < long / short < 8.5


def test_costs_are_those_of_one_run_on_one_device():
    rule, batch = jl.rules.bp(jl.models.mlp((8,)), SGD), (jnp.zeros((8, 4)), jnp.zeros((8, 10)))
    for other in (jl.ensemble(rule, 2), jl.data_parallel(rule, jl.pipeline.mesh(data=2))):
        with pytest.raises(ValueError, match=r"^rule: .* costs takes one run on one device; pass the rule that it is"):
            jl.diagnostics.costs(other, batch)


def test_codes_by_class_cost_no_more_where_there_are_more_classes_than_examples():
    net, batch = jl.models.mlp((16, 16), classes=100), (jnp.zeros((8, 16)), jnp.zeros((8, 100)))
    each, by_class = (jl.diagnostics.costs(jl.rules.al(net, SGD, by_class=given), batch) for given in (False, True))
    assert by_class.rule.operations <= 1.01 * each.rule.operations  # a sum tells whether the labels are one-hot


def test_the_components_costs_of_a_forward_only_rule():
    net, batch = jl.models.mlp((64,) * 3), (jnp.zeros((8, 64)), jnp.zeros((8, 10)))
    found = jl.diagnostics.costs(jl.rules.al(net, SGD, width=16), batch)
    below, middle, above = found.components
    assert below.weights < middle.weights == above.weights  # its code of the target is made of ten units, not of 16
    assert sum(one.weights for one in found.components) == found.rule.weights
    assert sum(one.operations for one in found.components) == pytest.approx(found.rule.operations, rel=0.05)
    assert (
        max(one.memory for one in found.components)
        < found.rule.memory
        < sum(one.memory for one in found.components) + 4 * 8 * 74 * 3
    )
    assert [line.split()[0] for line in str(found).splitlines()[1:]] == ["backprop", "rule", *["component"] * 3]
