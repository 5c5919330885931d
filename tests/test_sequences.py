"""Sequences: padding counts nowhere, empty ones do no harm, blocks learn, mistakes are explained in one sentence.

The contract, the identities, the transforms and the pipeline are tested on sequences where they are on other networks.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import NETS, by_rule, drawn, make_batch, same, slow, token_ids

import jaxlocal as jl
from jaxlocal.network import init_layer
from jaxlocal.sequences import (
    AttentionPool,
    Convolution,
    Embedding,
    Encoder,
    LearnedPositions,
    Readout,
    Recurrent,
    Steps,
    last,
    mean,
    sinusoidal,
)

SGD = optax.sgd(0.1)
BLOCKS = {
    "lstm": Recurrent(nn.LSTMCell(3)),
    "both directions": Recurrent(nn.LSTMCell(3), bidirectional=True),
    "gru": Recurrent(nn.GRUCell(3), bidirectional=True),
    "encoder": Encoder(2, 5),
    "encoder post": Encoder(2, 5, norm_first=False),
    "convolution": Convolution(3),
    "even convolution": Convolution(3, kernel=4),
    "steps": Steps(3, sinusoidal),
    "mean": Readout(3, mean),
    "last": Readout(3, last),
    "attention pool": Readout(3, AttentionPool()),
    "dense": jl.layers.dense(3),
    "bridge": jl.codes.lean.bridge(3),
}
LENGTHS = np.array([5, 3, 1, 0])


def sequences(steps=5, padding=0.0):
    """Four sequences, the last of them empty, in this number of steps; what stands at the padded places."""
    values = np.full((4, steps, 4), padding)
    values[:, :5] = np.random.default_rng(0).normal(size=(4, 5, 4))
    mask = np.arange(steps) < LENGTHS[:, None]
    values = np.where(mask[..., None], values, padding)
    return jl.Masked(jnp.asarray(values, jnp.float32), jnp.asarray(mask))


def of_tokens(y):
    """What a block says about the tokens, example by example: padding left out."""
    return jnp.where(y.mask[:, :5, None], y.values[:, :5], 0.0) if isinstance(y, jl.Masked) else y


# The slow ones differ little from another block, or are part of it.
SLOW_BLOCKS = "lstm", "gru", "encoder post", "even convolution"


@pytest.mark.parametrize("name", [slow(name) if name in SLOW_BLOCKS else name for name in BLOCKS])
def test_what_stands_in_padding_and_how_long_it_is_counts_nowhere(name):
    """Outputs, and gradients by the weights and by the tokens; the gradient by padded places is zero."""
    block = BLOCKS[name]
    weights, stats, _ = jax.jit(partial(init_layer, block))(jax.random.key(0), sequences())
    error = jax.random.normal(jax.random.key(1), (4, 5, 6))

    @jax.jit
    def outputs_and_gradients(x):
        def objective(weights, values):
            y = of_tokens(jl.apply_layer(block, weights, stats, jl.Masked(values, x.mask))[0])
            return jnp.vdot(y, error[:, :, : y.shape[-1]] if y.ndim == 3 else error[:, 0, : y.shape[-1]]), y

        (_, y), grads = jax.value_and_grad(objective, (0, 1), has_aux=True)(weights, x.values)
        return y, *grads

    plain, *others = (outputs_and_gradients(sequences(*case)) for case in ((5,), (5, 3e3), (8, -50.0)))
    for y, of_weights, of_values in others:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), (y, of_weights), plain[:2])
        np.testing.assert_allclose(of_values[:, :5], plain[2], rtol=1e-5, atol=1e-6)
        assert not np.any(of_values[~sequences(of_values.shape[1]).mask])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain))


@pytest.mark.parametrize("pool", [mean, last, AttentionPool()], ids=["mean", "last", "attention"])
def test_a_pool_of_an_empty_sequence_is_zero_and_of_one_token_that_token(pool):
    x = sequences(padding=7.0)
    if isinstance(pool, nn.Module):
        pool = partial(pool.apply, pool.init(jax.random.key(0), x))
    pooled = pool(x)
    np.testing.assert_allclose(pooled[2:], [x.values[2, 0], np.zeros(4)], rtol=1e-6)


def test_the_last_token_and_the_mean_against_plain_loops():
    x = sequences(padding=7.0)
    for row, n in enumerate(LENGTHS[:3]):
        np.testing.assert_array_equal(last(x)[row], x.values[row, n - 1])
        np.testing.assert_allclose(mean(x)[row], np.mean(x.values[row, :n], axis=0), rtol=1e-5, atol=1e-6)


def test_token_0_inside_a_text_is_a_token_and_after_it_padding():
    x, _ = Embedding(7, 4).init_with_output(jax.random.key(0), jnp.array([[3, 0, 2, 0, 0], [0] * 5]))
    np.testing.assert_array_equal(x.mask, [[True, True, True, False, False], [False] * 5])


# Those whose lessons look at all places of a sequence at once; the blocks are the same for all rules.
@by_rule(["bp", "al", "dfa", "predsim"], quick=("bp",))
def test_longer_padding_changes_no_prediction_and_no_update(name):
    """The same weights for five steps and for eight."""
    blocks = Embedding(7, 4, LearnedPositions(9)), Convolution(3)
    rule = jl.rules.ALL[name](jl.Network(blocks, Readout(3, AttentionPool())), SGD)
    ids, y = make_batch(NETS["lstm"], batch_size=4)
    found = []
    for x in (ids, jnp.pad(ids, ((0, 0), (0, 3)))):
        both = jax.jit(lambda params, x: (rule.update(params, (x, y)), rule.predict(params, x)))
        after, scores = both(drawn(rule, (x, y)), x)
        found.append((jl.get_weights(rule, after), scores))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), *found)


def test_a_frozen_embedding_keeps_its_given_vectors():
    vectors = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    net = jl.Network((Embedding(7, 4, vectors=jl.sequences.given(vectors)), Convolution(3)), Readout(3))
    rule, batch = jl.rules.bp(net, SGD, frozen={0}), make_batch(NETS["lstm"])
    before = jax.jit(rule.init)(jax.random.key(0), batch)
    old, new = (jl.rule.forward_weights(params) for params in (before, jax.jit(rule.update)(before, batch)))
    np.testing.assert_array_equal(new[0]["embed"]["embedding"], vectors)
    assert not same(old[1], new[1])


def test_a_step_may_overwrite_its_weights_but_not_the_vectors_that_were_given():
    vectors = jnp.ones((7, 4))
    layer = Embedding(7, 4, vectors=jl.sequences.given(vectors))
    weights = layer.init(jax.random.key(0), IDS)
    jax.jit(lambda weights: jax.tree.map(jnp.negative, weights), donate_argnums=0)(weights)
    assert jax.tree.leaves(weights)[0].is_deleted() and not vectors.is_deleted()


@by_rule(["al", "kp"], quick=("kp",))
def test_weights_by_name_out_and_in(name):
    rule, batch = jl.rules.ALL[name](NETS["lstm"], SGD), make_batch(NETS["lstm"])
    params = drawn(rule, batch)
    weights = jl.get_weights(rule, params)
    assert "layers.0/forward/embed/embedding" in weights
    assert "layers.1/forward/backward/cell/hf/kernel" in weights
    moved = jl.set_weights(rule, drawn(rule, batch, seed=1), weights)
    assert same([c.weights for c in moved.components], [c.weights for c in params.components])


def test_outputs_of_layers_are_means_over_tokens():
    rule, (x, y) = jl.rules.al(NETS["lstm"], SGD), make_batch(NETS["lstm"])
    params = drawn(rule, (x, y))
    outputs = jl.diagnostics.layer_outputs(rule, params, x)
    assert [(key, value.shape) for key, value in outputs.items()][:2] == [("block 1", (8, 4)), ("block 2", (8, 6))]
    assert list(outputs)[-1] == "output" and outputs["output"].shape == (8, 3)
    table = jl.rule.forward_weights(params)[0]["embed"]["embedding"]
    np.testing.assert_allclose(outputs["block 1"][0], table[x[0]].mean(0), rtol=1e-5, atol=1e-6)
    assert not outputs["block 1"][-1].any()  # an empty text


# What is refused.

IDS, Y = make_batch(NETS["lstm"])
PIXELS = jl.models.mlp((5,), classes=3)
TEXTS = jl.Network((Embedding(7, 4),), Readout(3))
INPUTS = {
    "an unknown token": (TEXTS, IDS, IDS + 5, ValueError, "x holds the token id .*, but the network's .* knows 0 to 6"),
    "a negative token": (TEXTS, IDS, IDS - 9, ValueError, "x holds the token id -9, but the network's first layer"),
    "real numbers for texts": (TEXTS, IDS, IDS.astype(jnp.float32), TypeError, "float32.* with x.astype"),
    "token ids for images": (PIXELS, IDS.astype(jnp.float32), IDS, TypeError, "x has dtype int32, .*with x.astype"),
    "texts of another length": (TEXTS, IDS, IDS[:, :3], ValueError, r"\(8, 3\).*\(B, 5\)"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_the_network_cannot_take(case):
    net, good, bad, kind, words = INPUTS[case]
    rule = jl.rules.bp(net, SGD)
    params = rule.init(jax.random.key(0), (good, Y))
    calls = [
        lambda: rule.step(params, (bad, Y)),
        lambda: rule.predict(params, bad),
        lambda: jl.training.evaluate(rule, params, (bad, Y)),
    ]
    if case != "texts of another length":
        calls += [lambda: rule.init(jax.random.key(0), (bad, Y)), lambda: fit(rule, bad)]
    for call in calls:
        with pytest.raises(kind, match=words):
            call()


def fit(rule, x):
    data = jl.data.Splits(train=(x, Y), validation=(x, Y), test=None)
    return jl.training.fit(rule, data, epochs=1, batch_size=8)


def test_bytes_are_pixels_for_training():
    """A rule takes token ids in any type of whole numbers; data sets of bytes are images, which are divided by 255."""
    rule, small = jl.rules.bp(TEXTS, SGD), IDS.astype(jnp.uint8)
    params = rule.init(jax.random.key(0), (IDS, Y))
    np.testing.assert_array_equal(rule.predict(params, small), rule.predict(params, IDS))
    for call in (lambda: fit(rule, small), lambda: jl.training.evaluate(rule, params, (small, Y))):
        with pytest.raises(TypeError, match=r"uint8, which stands for pixels; .* x.astype\(np.int32\)"):
            call()
    pixels = jl.rules.bp(PIXELS, SGD)
    with pytest.raises(TypeError, match=r"uint8, but must be floating point; .* divides the bytes of images by 255"):
        pixels.init(jax.random.key(0), (small, Y))


@pytest.mark.parametrize("name", ["tp", "dtp", "sdtp", "ao_sdtp"])
def test_target_propagation_has_no_inverse_of_sequences(name):
    with pytest.raises(ValueError, match=r"net.layers\[0\] is Embedding, .* jl.rules.al"):
        jl.rules.ALL[name](NETS["lstm"], SGD).init(jax.random.key(0), (IDS, Y))


def test_forward_forward_measures_the_mean_over_the_steps():
    """A series of equal steps is to it what one of them is, if its blocks treat each step alike."""
    net = jl.Network((Convolution(4, kernel=1), Convolution(3, kernel=1)), Readout(3))
    rule, step = jl.rules.ff(net, SGD), jax.random.normal(jax.random.key(0), (8, 1, 2))
    found = []
    for x in (step, jnp.repeat(step, 5, axis=1)):
        params, info = jax.jit(rule.step)(drawn(rule, (x, Y)), (x, Y))
        found.append((info.losses, jl.get_weights(rule, params), jax.jit(rule.predict)(params, x)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *found)


@pytest.mark.parametrize(
    ("blocks", "x", "words"),
    [
        ((Embedding(7, 4, LearnedPositions(3)),), IDS, r"x has 5 steps, but LearnedPositions\(length=3\) knows fewer"),
        ((Embedding(7, 4, vectors=jl.sequences.given(np.ones((6, 4)))),), IDS, r"given: .*\(6, 4\).*\(7, 4\)"),
        ((Embedding(7, 4),), IDS[..., None], r"\(8, 5, 1\).*token ids of shape \(B, T\)"),
        ((Recurrent(nn.LSTMCell(3)),), jnp.ones((8, 5)), r"\(8, 5\).*\(B, T, D\).*Embedding"),
        ((Encoder(2),), jnp.ones((8, 5, 4, 1)), r"\(8, 5, 4, 1\).*\(B, T, D\).*put series into jl.data.Splits"),
    ],
    ids=["positions", "given", "embedding", "recurrent", "encoder"],
)
def test_shapes_that_a_block_cannot_take(blocks, x, words):
    with pytest.raises(ValueError, match=words):
        jl.rules.bp(jl.Network(blocks, Readout(3)), SGD).init(jax.random.key(0), (x, Y))


def test_vectors_and_positions_are_functions():
    for wrong in ({"vectors": np.ones((7, 64))}, {"positions": "sinusoidal"}):
        (name,) = wrong
        with pytest.raises(TypeError, match=f"^{name}=.*: must be a function, such as jl.sequences"):
            jl.models.transformer_classifier(7, **wrong)


# Learning.

TASKS = {
    "whether token 7 occurs": lambda ids: (ids == 7).any(1),
    "whether the first token is odd": lambda ids: ids[:, 0] % 2 == 1,
}
CLASSIFIERS = {
    "lstm": partial(jl.models.lstm_classifier, features=16, hidden=(16,)),
    "transformer": partial(jl.models.transformer_classifier, features=16, depth=1, hidden=32),
}


@pytest.mark.parametrize(
    ("rule", "net", "task"),
    [
        slow("al", "lstm", "whether token 7 occurs"),
        slow("al", "transformer", "whether the first token is odd"),
        slow("dfa", "transformer", "whether the first token is odd"),
    ],
)
def test_texts_are_learned(rule, net, task):
    rng = np.random.default_rng(0)
    ids = token_ids(rng, 1024, steps=8, known=10)
    ids[rng.random(1024) < 0.3, 1] = 7  # so that both classes are frequent
    ids[-1] = 1
    data = jnp.asarray(ids), jnp.eye(2)[TASKS[task](ids).astype(int)]
    train, test = (jax.tree.map(lambda leaf, part=part: leaf[part], data) for part in (slice(768), slice(768, None)))
    learner = jl.rules.ALL[rule](CLASSIFIERS[net](10, 2), optax.adam(1e-2))
    params = jax.jit(learner.init)(jax.random.key(0), train)
    for epoch in range(15):
        params, _ = jl.training.epoch(learner, params, train, jax.random.key(epoch), 32)
    assert jl.training.accuracy(learner, params, test) >= 0.95


def test_sinusoidal_positions_are_told_apart_in_bfloat16():
    """Beyond 256, bfloat16 holds no odd number; what is left is the rounding of a sine, at most 2⁻⁹."""
    exact, coarse = (sinusoidal(jnp.zeros((1, 600, 8), dtype)) for dtype in (jnp.float32, jnp.bfloat16))
    assert coarse.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(coarse, np.float32), exact, atol=2**-8)
