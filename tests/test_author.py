"""Each mistake of a rule's author is one sentence, where it would train in silence or confuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import NETS, drawn, layer_local, make_batch, start

import jaxlocal as jl

NET, TX = jl.models.mlp((4,), classes=3), optax.sgd(0.1)
BATCH = make_batch(NETS["dense"])
LOCALITY = {"forward": jl.upward(2)}
HEAD = jl.head_part(NET)


def block(init=None, teach=None):
    """The part of the first layer, which learns nothing."""

    def still(weights, stats, message, key):
        x, y = message
        a, stats = jl.apply_layer(NET.blocks[0], weights["forward"][0], stats[0], x, key)
        return jl.Lesson(jax.tree.map(jnp.zeros_like, weights), (stats,), {"none": jnp.zeros(())}), (a, y)

    return jl.Part((0,), init or jl.init_forward(NET.blocks), teach or still)


def alone(init=None, teach=None):
    """A rule whose first component is as given."""
    return jl.make_rule(NET, (block(init, teach), HEAD), {"forward": TX}, locality=LOCALITY)


def lesson(**other):
    """A rule whose first component gets a lesson with other entries."""
    still = block().teach

    def teach(weights, stats, message, key):
        found, onward = still(weights, stats, message, key)
        return found._replace(**{name: make(getattr(found, name)) for name, make in other.items()}), onward

    return alone(teach=teach)


def together(lessons):
    """A rule whose components are taught together, and get these lessons."""
    parts = block(), HEAD
    return jl.make_rule(NET, parts, {"forward": TX}, lambda *_: lessons, locality=LOCALITY)


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (jnp.zeros(()), r"objective: returned .*, but must return \(losses by name, stats, message\)"),
        ((jnp.zeros(()), (), None), r"objective: losses is .*, but must be a dict of scalars"),
        (({"local": jnp.zeros(3)}, (), None), r"the loss 'local' has shape \(3,\)"),
    ],
)
def test_an_objective_is_checked(found, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        jl.lesson_of(lambda weights: found, {})


def test_a_rule_without_mistakes_learns():
    rule = alone()
    params = drawn(rule, BATCH)
    after = jax.jit(rule.update)(params, BATCH)
    first, head = (
        [not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, pair), strict=True)]
        for pair in zip(jl.rule.forward_weights(params), jl.rule.forward_weights(after), strict=True)
    )
    assert not any(first) and all(head)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: jl.make_rule(NET, (HEAD,), {"forward": TX}, locality=LOCALITY),
            r"parts: have the layers \[1\].*\[0, 1\]",
        ),
        (lambda: jl.make_rule(NET, (HEAD, HEAD), {"forward": TX}, locality=LOCALITY), r"layers \[1, 1\]"),
        (
            lambda: jl.make_rule(NET, (block()._replace(teach=None), HEAD), {"forward": TX}, locality=LOCALITY),
            "parts: that of layer 0 has no teach",
        ),
        (
            lambda: jl.make_rule(NET, (block(), HEAD), {"foward": TX}, locality=LOCALITY),
            "locality: has no mask for the role 'foward'; did you mean forward",
        ),
        (
            lambda: jl.make_rule(NET, (block(), HEAD), {"forward": TX}, locality={"forward": jl.own(5)}),
            r"the mask of 'forward' has shape \(5, 5\), but must be \(2, 2\)",
        ),
        (
            lambda: jl.make_rule(NET, (block(), HEAD), TX, locality=LOCALITY),
            r"^txs=.*: must be a dict by role, such as \{'forward': optax.adam\(1e-3\)\}",
        ),
        (
            lambda: jl.make_rule(NET, (block(), HEAD), {"forward": TX}, locality=jl.upward(2)),
            r"^locality=array of shape \(2, 2\): must be a dict by role, such as \{'forward': jl.upward\(2\)\}",
        ),
        (
            lambda: jl.make_rule(NET, (jl.Part(0, *block()[1:]), HEAD), {"forward": TX}, locality=LOCALITY),
            r"parts: layers=0: must be a tuple of layer numbers, such as \(0,\)",
        ),
        (
            lambda: alone(init=lambda message: None),
            r"init of layer 0: too many positional arguments; it must take \(key, message\)",
        ),
        (
            lambda: alone(teach=lambda weights, stats, message: None),
            r"teach of layer 0: too many positional arguments; it must take \(weights, stats, message, key\)",
        ),
        (
            lambda: jl.make_rule(NET, (block(), HEAD), {"forward": TX}, lambda batch: (), locality=LOCALITY),
            r"teach: too many positional arguments; it must take \(components, batch, keys\)",
        ),
        (lambda: alone().locality("foward"), "role='foward': this rule has no mask for it; did you mean forward"),
    ],
)
def test_parts_and_masks_are_checked_at_once(make, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        make()


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({"foward": ()}, "weights has the role 'foward', which has no mask in locality; did you mean forward"),
        ({"readout": ({}, {})}, r"weights\['readout'\] is a tuple of 2, but a tuple has an entry for each layer"),
    ],
)
def test_a_role_is_declared_and_a_tuple_is_by_layer(weights, complaint):
    def init(key, message):
        made, stats, message = jl.init_forward(NET.blocks)(key, message)
        return made | weights, stats, message

    rule = jl.make_rule(
        NET, (block(init), HEAD), {"forward": TX}, locality={"forward": jl.own(2), "readout": jl.own(2)}
    )
    with pytest.raises((TypeError, ValueError), match=complaint):
        rule.init(jax.random.key(0), BATCH)


def first_message(message):
    """An `init` that hands on another message."""
    return lambda key, given: (*jl.init_forward(NET.blocks)(key, given)[:2], message)


@pytest.mark.parametrize(
    ("init", "complaint"),
    [
        (lambda key, message: None, r"init of layer 0: returned None, but must return \(weights, stats, message\)"),
        (lambda key, message: ({}, ((),), message), r'weights\["forward"\] is None, but must be a tuple'),
        (lambda key, message: ({"forward": ()}, ((),), message), r'weights\["forward"\] is \(\), but must be a tuple'),
        (lambda key, message: ({"forward": ({},)}, {}, message), "stats is {}, but must be a tuple"),
        (
            lambda key, message: ({"forward": ({"scale": 1.0},)}, ((),), message),
            r"weights\['forward'\] holds 1\.0, which is no array; make it one with jnp\.asarray",
        ),
        (first_message((1, 2, 3)), r"message=\(1, 2, 3\): must be \(x, y\) here"),
        (first_message(None), r"message=None: must be \(x, y\) here"),
    ],
)
def test_a_start_is_checked_by_init(init, complaint):
    with pytest.raises(TypeError, match=complaint):
        alone(init).init(jax.random.key(0), BATCH)


BAD_LESSONS = {
    "too few": (
        lambda: together(()),
        "teach: returned 0 lessons, but must return a lesson for each of the 2 components",
    ),
    "none": (lambda: together(None), "teach: returned None, but"),
    "numbers": (lambda: together((1, 2)), r"the lesson of layer 0 is 1, but must be a jl\.Lesson"),
    "no pair": (
        lambda: alone(teach=lambda *_: None),
        r"teach of layer 0: returned None, but must return \(lesson, message\)",
    ),
    "no gradients": (lambda: lesson(grads=lambda grads: None), "grads is None, but must be a dict by role, such as"),
    "gradients of a role": (
        lambda: lesson(grads=lambda grads: grads["forward"]),
        "but must be a dict by role, such as",
    ),
    "gradients of a layer": (lambda: lesson(grads=lambda grads: grads["forward"][0]), "no gradient for the role"),
    "gradients by number": (lambda: lesson(grads=lambda grads: {0: grads["forward"]}), "must be a dict by role"),
    "a role": (lambda: lesson(grads=lambda grads: {}), "layer 0 has no gradient for the role 'forward'"),
    "a shape": (
        lambda: lesson(grads=lambda grads: jax.tree.map(lambda leaf: leaf[:1], grads)),
        r"grads\['forward'\]\[0\]\['linear'\]\['bias'\] has shape \(1,\), but in the component it has shape \(4,\)",
    ),
    "statistics": (
        lambda: lesson(stats=lambda stats: ({"mean": jnp.zeros(4)},)),
        r"stats\[0\]\['mean'\] has .* it is missing",
    ),
    "empty statistics": (
        lambda: lesson(stats=lambda stats: stats[0]),
        r"the lesson of layer 0: stats is {}, but must be a tuple with an entry for each layer, such as \(entry,\)",
    ),
    "other statistics": (
        lambda: lesson(stats=lambda stats: ((),)),
        "stats is PyTreeDef.*, but in the component it is",
    ),
    "no losses": (lambda: lesson(losses=lambda losses: {}), "losses is {}, but must be a dict of scalars"),
    "a number": (lambda: lesson(losses=lambda losses: 0.5), r"losses is 0\.5, but must be a dict of scalars"),
    "a loss without a name": (
        lambda: lesson(losses=lambda losses: losses | {1: jnp.zeros(())}),
        "a loss is called 1, but its name must be a text",
    ),
    "losses of examples": (
        lambda: lesson(losses=lambda losses: {"each": jnp.zeros(8)}),
        r"the loss 'each' has shape \(8,\), but must be a scalar; take its mean",
    ),
    "a whole number": (
        lambda: lesson(losses=lambda losses: {"wrong": jnp.sum(jnp.ones(3, jnp.int32))}),
        "the loss 'wrong' is of type int32, but must be a real number",
    ),
}


@pytest.mark.parametrize(("make", "complaint"), BAD_LESSONS.values(), ids=BAD_LESSONS)
def test_a_lesson_is_checked_by_the_first_step(make, complaint):
    rule = make()
    params = rule.init(jax.random.key(0), BATCH)
    with pytest.raises((TypeError, ValueError), match=complaint):
        rule.step(params, BATCH)
    with pytest.raises((TypeError, ValueError), match=complaint):
        rule.lessons(params, BATCH)


@pytest.mark.parametrize("name", ["al", "dfa"])
def test_measured_locality_is_the_declared_one_where_there_are_weights(name):
    rule, _, _, params, batch = start(name, NETS["dense"])
    found = jl.diagnostics.locality(rule, params, batch)
    assert found.keys() == {role for component in params.components for role in component.weights}
    for role, mask in found.items():
        has = [bool(jax.tree.leaves(component.weights.get(role))) for component in params.components]
        np.testing.assert_array_equal(mask, rule.locality(role) & np.array(has))


def test_a_leak_that_the_mask_does_not_declare_is_measured():
    """Of the readout's gradient: the lower component's readout is part of what the upper one learns from."""
    rule = layer_local(NETS["dense"], TX)
    params = drawn(rule, BATCH)

    def leaking(params, batch):
        first, second, *others = rule.lessons(params, batch)
        readout = params.components[0].weights["readout"]["kernel"]
        return first, second._replace(grads=jax.tree.map(lambda leaf: leaf * readout.sum(), second.grads)), *others

    found = jl.diagnostics.locality(rule._replace(lessons=leaking), params, BATCH)
    assert found["readout"][1, 0] and not rule.locality("readout")[1, 0]
    assert (found["readout"] & ~rule.locality("readout")).sum() == 1
