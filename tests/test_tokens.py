"""A target for each token: every rule learns from it or names one that does; padding does not count.

The equations are in test_sequences_reference; the contract, the identities and the transforms are tested where they are
for other networks.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    KINDS_ON_TOKENS,
    NETS,
    ON_TOKENS,
    by_rule,
    drawn,
    make_batch,
    same,
    slow,
    start,
    tags,
    token_ids,
)

import jaxlocal as jl
from jaxlocal.sequences import Convolution, Embedding, Readout, Recurrent, Steps

SGD = optax.sgd(0.1)
NET = NETS["tagger"]
IDS, Y = make_batch(NET)
SERIES = jax.random.normal(jax.random.key(0), (8, 5, 2))
OF_SERIES = jl.models.lstm_classifier(None, 3, features=4, hidden=(3,), pool=None)
EVERY_STEP = jax.nn.one_hot(jnp.argmax(Y, -1), 3)  # a series has no padding
QUICK = "al", "tp", "ff"
LIKE_OTHERS = "fa", "usf", "frsf", "brsf", "dkp"  # their errors go the ways of `kp`, `wm` and `dfa`
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        *(
            (name, "texts") if name in QUICK else slow(name, "texts")
            for name in jl.rules.ALL
            if name not in LIKE_OTHERS
        ),
        *(slow(name, "series") for name in ("bp", "al")),
    ],
)
def test_every_rule_learns_a_tag_for_each_token_or_names_one_that_does(name, inputs):
    """Token k has the tag k mod 3; a step of the series that of its sign."""
    if inputs == "texts":
        net, batch = NET, (IDS, jax.nn.one_hot(jnp.where(IDS > 0, IDS % 3, -1), 3))
    else:
        net, batch = OF_SERIES, (SERIES, jax.nn.one_hot((SERIES[..., 0] > 0).astype(jnp.int32), 3))
    if name not in ON_TOKENS:
        with pytest.raises(ValueError, match=r"(target|learn|label|inverse|error).*, such as jl\.rules\.") as error:
            jl.rules.ALL[name](net, SGD).init(jax.random.key(0), batch)
        assert "\n" not in str(error.value)
        return
    rule = jl.rules.ALL[name](net, optax.adam(3e-2))
    step, params = jax.jit(rule.step), drawn(rule, batch)
    before = jl.training.evaluate(rule, params, batch)
    for _ in range(80):
        params, _ = step(params, batch)
    after = jl.training.evaluate(rule, params, batch)
    assert after["loss"] < before["loss"] and after["accuracy"] >= max(0.7, before["accuracy"])


# What counts, and what does not.


def plain_loss(scores, y):
    """The mean of -log p over the tokens that have a class, in loops."""
    losses = []
    for row, targets in zip(np.asarray(scores, np.float64), np.asarray(y), strict=True):
        for z, target in zip(row, targets, strict=True):
            if target.any():
                losses.append(np.log(np.exp(z).sum()) - z[target.argmax()])
    return np.mean(losses)


def test_the_cross_entropy_is_the_mean_over_all_tokens_that_have_a_target():
    scores = jax.random.normal(jax.random.key(1), Y.shape)
    close(jl.cross_entropy.mean(scores, Y), plain_loss(scores, Y))
    error = jl.cross_entropy.error(scores, Y)
    count = int(jnp.sum(IDS > 0))
    wanted = np.where(np.asarray(IDS)[..., None] > 0, (jax.nn.softmax(scores) - Y) / count, 0)
    close(error, wanted)
    assert not jl.cross_entropy.mean(scores, jnp.zeros_like(Y)).any()  # no token at all


def test_the_squared_error_sums_over_the_tokens():
    scores = jax.random.normal(jax.random.key(1), Y.shape)
    close(jl.squared_error.mean(scores, Y), 0.5 * np.sum((np.asarray(scores) - Y) ** 2) / len(Y))


@by_rule([name for name in KINDS_ON_TOKENS if name != "kp"], quick=("al",))
def test_what_a_padded_place_holds_changes_no_weight_by_a_bit(name):
    """The vector of padding is changed. It is the only thing that stands there, and no text has it inside."""
    rule = jl.rules.ALL[name](NET, SGD)
    params = drawn(rule, (IDS, Y))
    path = "layers.0/forward/embed/embedding"
    table = jl.get_weights(rule, params)[path]
    table[0] = 7.0
    other = jl.set_weights(rule, params, {path: table})
    step = jax.jit(rule.step)
    (one, info), (two, other_info) = (step(p, (IDS, Y)) for p in (params, other))
    assert same(info, other_info)
    ours, theirs = (jl.get_weights(rule, p) for p in (one, two))
    for weights in (ours, theirs):
        weights[path] = weights[path][1:]
    assert same(ours, theirs)
    predict = jax.jit(rule.predict)
    scores = predict(one, IDS)
    np.testing.assert_array_equal(scores, predict(two, IDS))
    assert not np.any(scores[IDS == 0])


@pytest.mark.parametrize("name", [slow("bp"), "al", slow("dfa"), "dgl"])
def test_real_targets_at_padded_places_teach_nothing(name):
    """As above, with the squared error, whose zeros are targets like others. No text holds token 0 inside."""
    rule = jl.rules.ALL[name](NET._replace(loss=jl.squared_error), SGD)
    params, path = drawn(rule, (IDS, Y)), "layers.0/forward/embed/embedding"
    table = jl.get_weights(rule, params)[path]
    table[0] = 7.0
    step = jax.jit(rule.step)
    one, two = (step(p, (IDS, Y))[0] for p in (params, jl.set_weights(rule, params, {path: table})))
    ours, theirs = (jl.get_weights(rule, p) for p in (one, two))
    for weights in (ours, theirs):
        weights[path] = weights[path][1:]
    assert same(ours, theirs)


def test_zeros_are_real_targets_like_others():
    """What `drtp` moves its blocks by is linear in the targets, wherever these are zero."""
    rule = jl.rules.drtp(NET._replace(loss=jl.squared_error), SGD)
    params = drawn(rule, (IDS, Y))
    before, first = jl.get_weights(rule, params), (np.arange(Y.shape[1])[None, :, None] < 2).astype(np.float32)
    moves = [
        {name: w - before[name] for name, w in jl.get_weights(rule, jax.jit(rule.update)(params, (IDS, y))).items()}
        for y in (Y, Y * first, Y * (1 - first))
    ]
    for name in (name for name in before if name.startswith(("layers.0/", "layers.1/"))):
        close(moves[0][name], moves[1][name] + moves[2][name])


@by_rule(["bp", "al", "dgl"], quick=("bp",))
def test_longer_padding_changes_no_prediction_and_no_update(name):
    """Other blocks are in test_sequences."""
    rule = jl.rules.ALL[name](jl.Network((Embedding(7, 4), Convolution(3)), Readout(3, pool=None)), SGD)
    found = []
    for x, y in ((IDS, Y), (jnp.pad(IDS, ((0, 0), (0, 3))), jnp.pad(Y, ((0, 0), (0, 3), (0, 0))))):
        both = jax.jit(lambda params, x, y: (rule.update(params, (x, y)), rule.predict(params, x)))
        after, scores = both(drawn(rule, (x, y)), x, y)
        found.append((jl.get_weights(rule, after), scores[:, :5]))
    jax.tree.map(close, *found)


@pytest.mark.parametrize("settings", [{}, {"by_class": True}, {"codes": jl.codes.paper}], ids=["", "by class", "paper"])
def test_a_token_without_a_target_teaches_nothing(settings):
    """Where blocks read each token by itself, its last token may as well not be there."""
    net = jl.Network((Embedding(7, 4), Convolution(3, kernel=1)), Readout(3, pool=None))
    rule = jl.rules.al(net, SGD, **settings)
    without, fewer = Y.at[0, -1].set(0), IDS.at[0, -1].set(0)
    update = jax.jit(rule.update)
    ours, theirs = (jl.get_weights(rule, update(drawn(rule, (IDS, Y)), (x, without))) for x in (IDS, fewer))
    jax.tree.map(close, ours, theirs)
    complete = jl.get_weights(rule, update(drawn(rule, (IDS, Y)), (IDS, Y)))
    assert not all(np.allclose(complete[name], ours[name], atol=1e-6) for name in ours)


@pytest.mark.slow
def test_codes_by_class_are_those_of_every_token():
    """The gradients differ by rounding alone."""
    found = []
    for by_class in (False, True):
        rule = jl.rules.al(NET, SGD, by_class=by_class)
        found.append(jl.get_weights(rule, jax.jit(rule.update)(drawn(rule, (IDS, Y)), (IDS, Y))))
    jax.tree.map(close, *found)


@by_rule(KINDS_ON_TOKENS, quick=("al",))
def test_with_one_token_a_target_of_the_token_is_that_of_the_sequence(name):
    x, y = SERIES[:, :1], EVERY_STEP[:, 0]
    found = []
    for pool, targets in ((None, y[:, None]), (jl.sequences.mean, y)):
        net = jl.Network((Steps(4), Convolution(3, kernel=1)), Readout(3, pool))
        rule = jl.rules.ALL[name](net, SGD)
        params, info = jax.jit(rule.step)(drawn(rule, (x, targets)), (x, targets))
        found.append((jl.get_weights(rule, params), info.losses, jax.jit(rule.predict)(params, x).reshape(8, 3)))
    jax.tree.map(close, *found)


def test_blocks_may_hand_on_arrays_whose_steps_all_count():
    """Flax's own recurrent module is the block of this library, on a series without padding."""
    found = []
    for block in (nn.RNN(nn.GRUCell(3)), Recurrent(nn.GRUCell(3))):
        rule = jl.rules.al(jl.Network((block,), Readout(3, pool=None)), SGD)
        params, _ = jax.jit(rule.step)(drawn(rule, (SERIES, EVERY_STEP)), (SERIES, EVERY_STEP))
        found.append((jax.tree.leaves(params.components[0].weights), jax.jit(rule.predict)(params, SERIES)))
    jax.tree.map(close, *found)


@pytest.mark.parametrize("name", [slow("bp"), slow("al"), slow("dfa")])
def test_real_targets_of_each_step(name):
    rule = jl.rules.ALL[name](OF_SERIES._replace(loss=jl.squared_error), optax.adam(3e-2))
    batch = SERIES, jnp.stack([SERIES[..., 0], SERIES[..., 1] - 1, jnp.zeros((8, 5))], axis=-1)
    params, step = jax.jit(rule.init)(jax.random.key(0), batch), jax.jit(rule.step)
    before = jl.training.evaluate(rule, params, batch)["loss"]
    for _ in range(160):
        params, _ = step(params, batch)
    assert jl.training.evaluate(rule, params, batch)["loss"] < before / 8


# Training, evaluation, transforms.


def test_evaluation_counts_tokens_that_have_a_class():
    rule, _, _, params, _ = start("bp", NET)
    without = Y.at[0, 2].set(0)
    scores = jax.jit(rule.predict)(params, IDS)
    found = jl.training.evaluate(rule, params, (IDS, without))
    has = np.asarray(without).any(-1)
    close(found["accuracy"], np.mean((np.argmax(scores, -1) == np.argmax(without, -1))[has]))
    close(found["loss"], plain_loss(scores, without))
    close(jl.training.accuracy(rule, params, (IDS, without)), found["accuracy"])
    arrays = np.asarray(IDS), np.asarray(without).astype(np.uint8)
    jax.tree.map(close, jl.training.evaluate(rule, params, arrays), found)
    many = jl.ensemble(rule, 2)
    members = jl.training.evaluate(many, jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params), (IDS, without))
    jax.tree.map(close, members, {name: [value, value] for name, value in found.items()})


# Sequences that end in a pool, series, and a quick case are in test_pipeline.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "block"),
    [(partial(jl.rules.al, codes=jl.codes.paper), Convolution(5)), (jl.rules.dgl, Recurrent(nn.LSTMCell(5)))],
    ids=["al", "dgl"],
)
def test_the_pipeline_on_three_devices_is_the_sequence_bit_for_bit(make, block):
    net = jl.Network((Embedding(7, 4), block, Convolution(3)), Readout(3, None))
    rule, rng = make(net, optax.adam(1e-2)), np.random.default_rng(0)
    batches = []
    for _ in range(5):
        ids = token_ids(rng, 8)
        batches.append((ids, tags(rng, ids)))
    params = drawn(rule, batches[0])
    pipe, update = jl.pipelined(rule, jl.pipeline.mesh(component=3)), jax.jit(rule.update)
    placed = pipe.place(params, batches[0])
    for batch in batches:
        placed, params = pipe.update(placed, batch), update(params, batch)
    assert same(pipe.drain(placed), params)


@pytest.mark.slow
def test_devices_that_share_batches_in_a_pipeline_compute_the_same():
    """The means are over the tokens of the whole batch, whose texts differ in length."""
    rule = jl.rules.al(NET, SGD)
    pipe, update = jl.pipelined(rule, jl.pipeline.mesh(component=2, data=4)), jax.jit(rule.update)
    params = wanted = drawn(rule, (IDS, Y))
    placed = pipe.place(params, (IDS, Y))
    for _ in range(2):
        placed, wanted = pipe.update(placed, (IDS, Y)), update(wanted, (IDS, Y))
    jax.tree.map(close, jl.get_weights(rule, pipe.drain(placed)), jl.get_weights(rule, wanted))


def test_a_prediction_can_be_exported_for_batches_of_any_size():
    for name in ("al", "bp"):
        rule, _, _, params, _ = start(name, NET)
        (batch,) = jax.export.symbolic_shape("batch")
        anything = jax.ShapeDtypeStruct((batch, 5), jnp.int32)
        assert jax.eval_shape(rule.predict, params, anything).shape == (batch, 5, 3)


@pytest.mark.slow
def test_diagnostics_of_tokens():
    rule, _, _, params, batch = start("al", NET)
    outputs = jl.diagnostics.layer_outputs(rule, params, IDS)
    assert {name: value.shape for name, value in outputs.items()} == {
        "block 1": (8, 4),
        "block 2": (8, 6),
        "bridge": (8, 5, 64),
        "decoder 2": (8, 5, 64),
        "output": (8, 5, 3),
    }
    assert jl.diagnostics.alignment(rule, params, batch).shape == (2,)
    direct = jl.rules.dfa(NET, SGD)
    angles = jl.diagnostics.feedback_alignment(direct, drawn(direct, (IDS, Y)), IDS)
    assert angles.shape == (2,) and np.isfinite(angles).all()


# Learning.


def parity(count, steps=8):
    """Texts of bits, 1 and 2, of several lengths; the class of a token is whether the number of 2s so far is odd."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 3, size=(count, steps))
    lengths = rng.integers(steps // 2, steps + 1, size=count)
    inside = np.arange(steps) < lengths[:, None]
    odd = np.cumsum(ids == 2, axis=1) % 2
    x = np.where(inside, ids, 0).astype(np.int32)
    return x, np.asarray(jax.nn.one_hot(np.where(inside, odd, -1), 2))


@pytest.mark.parametrize("name", [slow("bp"), slow("al"), slow("dfa")])
def test_running_parity_is_learned(name):
    """An LSTM that reads onward must count; from one token alone half of the tags would be right."""
    x, y = parity(1024)
    data = jl.data.Splits(train=(x[:768], y[:768]), validation=(x[768:], y[768:]), test=None)
    net = jl.models.lstm_classifier(3, 2, features=8, hidden=(16,), bidirectional=False, pool=None)
    result = jl.training.fit(jl.rules.ALL[name](net, optax.adam(1e-2)), data, epochs=15)
    assert result.state.history[-1]["validation"]["accuracy"] >= 0.95


# What is refused.

POOLED = jl.models.lstm_classifier(7, 3, features=4, hidden=(3,))
REFUSED = {
    "a target for each token of a network that pools": (POOLED, IDS, Y, r"\(5, 3\) units.*Readout\(classes, pool=None"),
    "one target for a network that does not pool": (NET, IDS, Y[:, 0], r"each token a row of y, or end.* has a pool"),
    "other lengths": (NET, IDS, Y[:, :4], r"y has \(4, 3\).*\(5, 3\); give each token of x one row of y"),
    "classes as numbers": (NET, IDS, jnp.argmax(Y, -1), r"\(B, T, C\) for tokens.*jax.nn.one_hot\(y, classes\)"),
    "one class": (jl.models.lstm_classifier(7, 1, pool=None), IDS, Y[..., :1], "one class, whose cross entropy"),
    "a target at a padded place": (NET, IDS, jnp.ones_like(Y) / 3, r"y has a target at a padded place"),
}


# What `fit` says before the rule is asked.
OF_DATA = {
    "one target for a network that does not pool": r"data\.train: cross entropy needs class labels",
    "classes as numbers": r"data\.train: y has dtype int32, .*jax\.nn\.one_hot\(y, classes\)",
}


# The check is that of `make_rule`; one case shows that other rules have it.
@pytest.mark.parametrize(
    ("name", "case"),
    [*(("al", case) for case in REFUSED), *((name, "a target at a padded place") for name in ("bp", "dfa"))],
)
def test_targets_that_do_not_fit(name, case):
    net, x, y, words = REFUSED[case]
    rule = jl.rules.ALL[name](net, SGD)
    with pytest.raises((ValueError, TypeError), match=words) as error:
        rule.init(jax.random.key(0), (x, y))
    assert "\n" not in str(error.value)
    data = jl.data.Splits(train=(x, y), validation=(x, y), test=None)
    with pytest.raises((ValueError, TypeError), match=OF_DATA.get(case, words)):
        jl.training.fit(rule, data, epochs=1, batch_size=8)


@pytest.mark.parametrize("name", ["al", "tp", "sdtp", "ao_sdtp", "pepita", "predsim", "scpl", "ff"])
def test_a_target_for_each_place_of_an_image_is_refused(name):
    net = jl.Network((jl.layers.conv(4), jl.layers.conv(5)), jl.layers.conv(3))
    rng = np.random.default_rng(0)
    y = jax.nn.one_hot(rng.integers(0, 3, size=(4, 8, 8)), 3)
    with pytest.raises(ValueError, match=rf"\(B, 8, 8, 3\), a target for each place .*({name}|output itself) cannot"):
        jl.rules.ALL[name](net, SGD).init(jax.random.key(0), (jnp.ones((4, 8, 8, 3)), y))


@pytest.mark.parametrize("name", ["tp", "sdtp", "ao_sdtp"])
def test_a_target_for_each_token_is_refused_by_targets_from_the_output(name):
    net = jl.Network((nn.Dense(8), nn.Dense(8)), nn.Dense(3))
    rule = jl.rules.ALL[name](net, SGD, inverses={1: nn.Dense(8)})
    with pytest.raises(ValueError, match=r"\(B, 5, 3\), a target for each token, from which .* cannot learn"):
        rule.init(jax.random.key(0), (SERIES, EVERY_STEP))


def test_a_batch_for_each_member_is_checked_as_a_shared_one():
    rule = jl.ensemble(jl.rules.bp(NET, SGD), 2)
    params = rule.init(jax.random.key(0), (IDS, Y))
    for x, y, words in ((IDS, jnp.ones_like(Y) / 3, "y has a target at a padded place"), (IDS + 99, Y, "x holds")):
        for shared in True, False:
            batch = (x, y) if shared else (jnp.stack([IDS, x]), jnp.stack([Y, y]))
            with pytest.raises(ValueError, match=words):
                rule.update(params, batch)


def test_a_pipeline_refuses_targets_at_padded_places_as_the_rule_does():
    rule, _, _, params, batch = start("al", NET)
    pipe, wrong = jl.pipelined(rule, jl.pipeline.mesh(component=2)), (IDS, jnp.ones_like(Y) / 3)
    placed = pipe.place(params, batch)
    for call in (
        lambda: rule.step(params, wrong),
        lambda: pipe.init(jax.random.key(0), wrong),
        lambda: pipe.place(params, wrong),
        lambda: pipe.step(placed, wrong),
        lambda: pipe.feed(wrong),
        lambda: pipe.run(placed, tuple(leaf[None] for leaf in wrong)),
    ):
        with pytest.raises(ValueError, match="y has a target at a padded place"):
            call()


def test_data_that_do_not_fit():
    rule, _, _, params, _ = start("bp", NET)
    with pytest.raises(ValueError, match=r"y has shape \(8, 4, 3\).*\(N, 5, 3\).*targets of this shape"):
        jl.training.evaluate(rule, params, (IDS, Y[:, :4]))
    with pytest.raises(ValueError, match="data: y has a target at a padded place"):
        jl.training.evaluate(rule, params, (IDS, jnp.ones_like(Y) / 3))
    with pytest.raises(TypeError, match=r"class of each token, with jax.nn.one_hot"):
        jl.training.evaluate(rule, params, (IDS, jnp.argmax(Y, -1)))
    by_class = jl.rules.al(NET, SGD, by_class=True)
    with pytest.raises(ValueError, match="by_class=True: y has rows that are not one-hot"):
        by_class.update(drawn(by_class, (IDS, Y)), (IDS, Y / 2))
    with pytest.raises(TypeError, match=r"pool='none': .*None for a readout of each token"):
        jl.models.lstm_classifier(7, 3, pool="none")
