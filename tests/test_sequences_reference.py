"""Associated Learning on sequences agrees with a NumPy reference, which is itself proven by finite differences.

The reference reads every sequence by itself and without its padding, so agreement also shows that padding counts
nowhere: neither in the gates of a backward LSTM, nor in the attention, nor in the mean that a bridge reads.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_sequences as ref
from helpers import slow
from test_reference import slopes

import jaxlocal as jl
from jaxlocal.sequences import Embedding, Encoder, Readout, Recurrent, Steps, sinusoidal

RATE, CLASSES, VOCABULARY = 0.5, 3, 7
SQUARED = jl.codes.lean._replace(label_loss=None)
IDS = [[1, 2, 3, 2, 5], [3, 0, 6], [4], []]  # token 0 inside a sequence is a token; the last sequence is empty
Y = np.eye(CLASSES)[[0, 1, 2, 1]]
POST = partial(ref.encoder, norm_first=False)
WITH_POSITIONS = partial(ref.embedding, with_positions=True)
# The blocks of a network, and the same as functions of the reference.
CASES = {
    "lstm": ((Embedding(VOCABULARY, 4), Recurrent(nn.LSTMCell(3))), (ref.embedding, ref.lstm)),
    "lstm both": ((Embedding(VOCABULARY, 4), Recurrent(nn.LSTMCell(3), bidirectional=True)), (ref.embedding, ref.lstm)),
    "encoder": (
        (Embedding(VOCABULARY, 4, sinusoidal), Encoder(2, 5)),
        (WITH_POSITIONS, ref.encoder),
    ),
    "encoder post": (
        (Embedding(VOCABULARY, 4, sinusoidal), Encoder(2, 5, norm_first=False)),
        (WITH_POSITIONS, POST),
    ),
}


def drawn(tree, seed=0):
    """A tree of the same shapes, whose numbers are drawn, biases and scales too."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / 2, tree)


def padded(ids):
    return jnp.asarray([row + [0] * (6 - len(row)) for row in ids], jnp.int32)


def components_of(params):
    """The weights of each component, with the names that the reference gives them."""
    weights = jax.tree.map(np.asarray, [c.weights for c in params.components])
    return [w | {"forward": w["forward"][0], "bridge": w["bridge"]["layers_1"]} for w in weights]


def start(name):
    """A rule and parameters whose numbers are all drawn, in float64."""
    blocks, _ = CASES[name]
    rule = jl.rules.al(jl.Network(blocks, Readout(CLASSES)), optax.sgd(RATE), codes=SQUARED, width=5)
    return rule, drawn_params(rule, (padded(IDS), jnp.asarray(Y, jnp.float32)))


def drawn_params(rule, batch):
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    components = tuple(
        c.replace(weights=drawn(c.weights, i), key=jax.random.key(i), count=jnp.zeros((), jnp.int32))
        for i, c in enumerate(params.components)
    )
    return params.replace(components=jax.tree.map(jnp.asarray, components))


def assert_close(ours, theirs, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), ours, theirs)


@pytest.mark.parametrize("name", ["lstm both", "encoder", slow("encoder post")])
def test_associated_learning_is_the_reference(name):
    """Local losses, predictions, and all weights after each of three steps, to 1e-10 in float64."""
    _, fs = CASES[name]
    promotion = "standard" if name.startswith("encoder") else "strict"  # Flax's layer norm mixes float32 and float64
    with jax.enable_x64(True), jax.numpy_dtype_promotion(promotion):
        rule, params = start(name)
        batch = padded(IDS), jnp.asarray(Y)
        step, theirs = jax.jit(rule.step), components_of(params)
        rows = [np.array(row, int) for row in IDS]
        # The encoder and the decoder have twice the rate by default, as in the paper.
        rates = {"forward": RATE, "bridge": RATE, "encoder": 2 * RATE, "decoder": 2 * RATE}
        for _ in range(3):
            params, info = step(params, batch)
            losses, grads = ref.al_gradients(fs, theirs, rows, Y)
            theirs = [
                {role: jax.tree.map(lambda w, g, rate=rates[role]: w - rate * g, w[role], g[role]) for role in w}
                for w, g in zip(theirs, grads, strict=True)
            ]
            np.testing.assert_allclose(info.losses, np.sum(losses, axis=1), rtol=1e-10)
            assert_close(components_of(params), theirs, 1e-10)
        scores, predicted = jax.jit(rule.predict)(params, batch[0]), ref.al_predict(fs, theirs, rows)
        np.testing.assert_allclose(scores, sum(predicted) / len(predicted), rtol=1e-10)
        alone = jl.rules.al(rule.net, optax.sgd(RATE), codes=SQUARED, width=5, average=False)
        np.testing.assert_allclose(jax.jit(alone.predict)(params, batch[0]), predicted[-1], rtol=1e-10)


# A target for each token. Token 1 of the first sequence has none.
TAGS = [[0, -1, 2, 1, 0], [2, 1, 0], [1], []]
TAG_ROWS = [np.eye(CLASSES)[tags] * (np.array(tags, int) >= 0)[:, None] for tags in (np.array(t, int) for t in TAGS)]
TOKEN_CASES = {
    **{name: CASES[name] for name in ("lstm both", "encoder")},
    "steps": ((Embedding(VOCABULARY, 4), Steps(3)), (ref.embedding, ref.linear_layer)),
}
LABEL_LOSSES = {"squared": (SQUARED, ref.mse), "cross entropy": (jl.codes.lean, ref.softmax_cross_entropy)}


def tags():
    """The targets as an array, with rows of zeros where there is none."""
    y = np.zeros((len(TAG_ROWS), 6, CLASSES))
    for row, own in zip(y, TAG_ROWS, strict=True):
        row[: len(own)] = own
    return jnp.asarray(y)


def start_tokens(rule):
    """Parameters for targets of each token whose numbers are all drawn, in float64."""
    return drawn_params(rule, (padded(IDS), tags().astype(jnp.float32)))


def token_case(name, loss, by_class=False, quick=False):
    marks = [] if quick else [pytest.mark.slow]
    return pytest.param(name, loss, by_class, id=f"{name}-{loss}-{by_class}", marks=marks)


@pytest.mark.parametrize(
    ("name", "loss", "by_class"),
    [
        token_case("steps", "squared", quick=True),
        token_case("steps", "cross entropy", quick=True),
        token_case("lstm both", "cross entropy", quick=True),
        token_case("lstm both", "squared"),
        token_case("lstm both", "cross entropy", by_class=True),
        token_case("lstm both", "squared", by_class=True),
        token_case("encoder", "cross entropy"),
    ],
)
def test_associated_learning_of_tokens_is_the_reference(name, loss, by_class):
    """As above, where each token has a target but for padding and for one token: codes of each token."""
    (blocks, fs), (codes, label_loss) = TOKEN_CASES[name], LABEL_LOSSES[loss]
    promotion = "standard" if name == "encoder" else "strict"
    with jax.enable_x64(True), jax.numpy_dtype_promotion(promotion):
        net = jl.Network(blocks, Readout(CLASSES, pool=None))
        rule = jl.rules.al(net, optax.sgd(RATE), codes=codes, encoder=jl.codes.one_layer, width=5, by_class=by_class)
        params, batch = start_tokens(rule), (padded(IDS), tags())
        step, theirs = jax.jit(rule.step), components_of(params)
        rows = [np.array(row, int) for row in IDS]
        rates = {"forward": RATE, "bridge": RATE, "encoder": 2 * RATE, "decoder": 2 * RATE}
        for _ in range(3):
            params, info = step(params, batch)
            losses, grads = ref.al_gradients_of_tokens(fs, theirs, rows, TAG_ROWS, label_loss)
            theirs = [
                {role: jax.tree.map(lambda w, g, rate=rates[role]: w - rate * g, w[role], g[role]) for role in w}
                for w, g in zip(theirs, grads, strict=True)
            ]
            np.testing.assert_allclose(info.losses, np.sum(losses, axis=1), rtol=1e-10)
            assert_close(components_of(params), theirs, 1e-10)
        scores = jax.jit(rule.predict)(params, batch[0])
        for found, wanted in zip(scores, ref.al_predict_tokens(fs, theirs, rows, label_loss), strict=True):
            np.testing.assert_allclose(found[: len(wanted)], wanted, rtol=1e-10)
            assert not found[len(wanted) :].any()


def test_direct_feedback_of_tokens_is_the_reference():
    """Each token receives the error of its own, which is zero where it has no target."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        net = jl.Network((Embedding(VOCABULARY, 4), Steps(3)), Readout(CLASSES, pool=None))
        rule = jl.rules.dfa(net, optax.sgd(RATE))
        params = start_tokens(rule)
        _, block, head = (jax.tree.map(np.asarray, c.weights) for c in params.components)
        embeddings = [np.asarray(params.components[0].weights["forward"][0]["embed"]["embedding"])[row] for row in IDS]
        wanted = ref.dfa_gradients_of_tokens(
            embeddings, block["forward"][0], block["feedback"], head["forward"][0], TAG_ROWS
        )
        lessons = jax.jit(rule.lessons)(params, (padded(IDS), tags()))
        assert_close(tuple(lesson.grads["forward"][0] for lesson in lessons[1:]), wanted, 1e-10)


def assert_derivative(grads, value, weights):
    """The gradients are the derivatives of value() by the weights, a tree of arrays that are changed in place."""
    leaves, structure = jax.tree.flatten(weights)
    for array, grad in zip(leaves, structure.flatten_up_to(grads), strict=True):
        start = array.copy()

        def at(changed, array=array):
            array[...] = changed
            return value()

        for direction, slope in slopes(at, start):
            np.testing.assert_allclose(np.vdot(grad, direction), slope, rtol=1e-6, atol=1e-8)
        array[...] = start


@pytest.mark.parametrize("name", CASES)
def test_the_blocks_of_the_reference_by_finite_differences(name):
    """The derivatives of a random linear function of a block's output, by its input and by all of its weights."""
    _, (_, f) = CASES[name]
    with jax.enable_x64(True):
        w = components_of(start(name)[1])[1]["forward"]
    w = jax.tree.map(np.copy, w)
    x = np.random.default_rng(1).normal(size=(4, 4))
    out, back = f(w, x)
    v = np.random.default_rng(2).normal(size=out.shape)
    dx, grads = back(v)
    assert_derivative({"x": dx, "w": grads}, lambda: (f(w, x)[0] * v).sum(), {"x": x, "w": w})


def test_the_components_of_the_reference_by_finite_differences():
    """The first loss is that of f and b, with t as a constant; the second is that of g and h."""
    fs = CASES["lstm both"][1]
    with jax.enable_x64(True):
        components = jax.tree.map(np.copy, components_of(start("lstm both")[1]))
    s, t = [np.array(row, int) for row in IDS], Y
    for f, w in zip(fs, components, strict=True):
        _, grads, s_above, t_above = ref.al_component(f, w, s, t)
        for roles, term in ((("forward", "bridge"), 0), (("encoder", "decoder"), 1)):
            ours, theirs = ({role: tree[role] for role in roles} for tree in (grads, w))
            assert_derivative(ours, lambda w=w, f=f, s=s, t=t, i=term: ref.al_component(f, w, s, t)[0][i], theirs)
        s, t = s_above, t_above


def test_positions_are_those_of_the_equation_one_by_one():
    found = ref.positions(5, 4)
    for p, j in np.ndindex(5, 2):
        angle = p / 10000 ** (2 * j / 4)
        np.testing.assert_allclose(found[p, [j, 2 + j]], [np.sin(angle), np.cos(angle)])


@pytest.mark.parametrize("loss", LABEL_LOSSES)
def test_the_components_of_the_reference_of_tokens_by_finite_differences(loss):
    fs, (_, label_loss) = CASES["lstm both"][1], LABEL_LOSSES[loss]
    with jax.enable_x64(True):
        components = jax.tree.map(np.copy, components_of(start("lstm both")[1]))
    s, t, counted = [np.array(row, int) for row in IDS], TAG_ROWS, [row.any(1) for row in TAG_ROWS]
    for i, (f, w) in enumerate(zip(fs, components, strict=True)):
        own = label_loss if i == 0 else ref.mse
        found = ref.al_component_of_tokens(f, w, s, t, counted, own)
        for roles, term in ((("forward", "bridge"), 0), (("encoder", "decoder"), 1)):
            ours, theirs = ({role: tree[role] for role in roles} for tree in (found[1], w))
            value = partial(ref.al_component_of_tokens, f, w, s, t, counted, own)
            assert_derivative(ours, lambda value=value, term=term: value()[0][term], theirs)
        _, _, s, t = found
