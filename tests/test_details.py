"""What no equation says, and what could go wrong unnoticed: optimizer states, modes, keys, masks, settings."""

import pickle
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from helpers import FAMILIES, HEADLESS, NETS, RULES, by_rule, drawn, make_batch, same, slow, start
from jax.test_util import check_grads

import jaxlocal as jl
from jaxlocal.network import apply_layer, apply_layers
from jaxlocal.rule import forward_stats, forward_weights

NET = NETS["dense"]
SGD = optax.sgd(0.1)
WITH_HEAD = [name for name in FAMILIES if name not in HEADLESS]


def assert_close(ours, theirs):
    """In float32, some twenty roundings of numbers of about one."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), ours, theirs)


def init(rule, batch):
    return rule.init(jax.random.key(0), batch)


def test_optimizers_keep_their_states():
    tx, batch = optax.sgd(0.1, momentum=0.9), make_batch(NET)
    rule = jl.rules.bp(NET, tx)
    params = drawn(rule, batch)
    weights = forward_weights(params)
    state = tx.init(weights)
    lessons, update = jax.jit(rule.lessons), jax.jit(rule.update)
    for _ in range(3):
        (lesson,) = lessons(params, batch)
        updates, state = tx.update(lesson.grads["forward"], state, weights)
        weights = optax.apply_updates(weights, updates)
        params = update(params, batch)
    assert_close(forward_weights(params), weights)


@by_rule(WITH_HEAD)
def test_predict_is_in_evaluation_mode_unless_it_has_a_key(name):
    rule, _, _, params, (x, _) = start(name, NETS["norm dropout"])
    for key in (None, jax.random.key(3)):
        expected, _ = apply_layers(rule.net.layers, forward_weights(params), forward_stats(params), x, key)
        assert_close(rule.predict(params, x, key), expected)


@pytest.mark.parametrize("net", ["dense", slow("conv"), slow("lstm")])
def test_the_average_is_over_the_predictions_of_all_components(net):
    """Component i predicts what Associated Learning on the first blocks predicts by the last of its components."""
    net = NETS[net]
    rule, batch = jl.rules.al(net, SGD), make_batch(net)
    params = drawn(rule, batch)
    alone = []
    for i in range(len(net.blocks)):
        below = jl.rules.al(jl.Network(net.blocks[: i + 1], net.head, net.loss), SGD, average=False)
        alone.append(below.predict(params.replace(components=params.components[: i + 1]), batch[0]))
    assert_close(rule.predict(params, batch[0]), sum(alone) / len(alone))
    assert not same(alone[0], alone[-1])


def test_with_the_papers_codes_the_last_component_predicts():
    net = NETS["dense"]
    paper, same_codes, mean = (
        jl.rules.al(net, SGD, codes=jl.codes.paper, average=average) for average in (None, False, True)
    )
    batch = make_batch(net)
    params = drawn(paper, batch)
    last = paper.predict(params, batch[0])
    assert same(last, same_codes.predict(params, batch[0]))
    assert not same(last, mean.predict(params, batch[0]))


@pytest.mark.parametrize("name", HEADLESS)
def test_the_head_of_a_rule_without_one_cannot_be_frozen(name):
    net = jl.models.mlp((4, 4))
    for head in 2, -1:
        with pytest.raises(ValueError, match=r"frozen: layer 2 is the head, which this rule does not use"):
            getattr(jl.rules, name)(net, SGD, frozen={head})


class DroppingHead(nn.Module):
    """Drops half of its input."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))(x))


def test_direct_feedback_has_the_error_of_the_network_that_the_head_learns_from():
    """All activities are 1 and B has a one for class 0 alone, so both see the sum of the errors of class 0."""
    net = jl.Network((jl.layers.dense(16),), DroppingHead(), jl.cross_entropy)
    rule, batch = jl.rules.dfa(net, SGD), (jnp.ones((4, 5)), jax.nn.one_hot(jnp.array([0, 1, 2, 0]), 3))
    params = drawn(rule, batch)
    weights = jl.get_weights(rule, params)
    ones = {"layers.0/forward/linear/kernel": np.zeros((5, 16)), "layers.0/forward/linear/bias": np.ones(16)}
    feedback = {"components.0/feedback": np.eye(3)[:, :1] @ np.ones((1, 16))}
    assert {*ones, *feedback} <= {*weights}
    block, head = jax.jit(rule.lessons)(jl.set_weights(rule, params, ones | feedback), batch)
    bias = head.grads["forward"][0]["Dense_0"]["bias"]
    np.testing.assert_allclose(block.losses["projection"] / 16, bias[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["al", "ff"])
def test_each_block_has_a_dropout_of_its_own_in_prediction(name):
    """All units of two alike blocks are positive, so those that are zero were dropped."""
    block = jl.layers.dense(64, dropout=0.5, init=partial(nn.initializers.constant, 1.0))
    rule = RULES[name](jl.Network((block, block), jl.layers.dense(3), jl.cross_entropy), SGD)
    batch = jnp.ones((2, 5)), jnp.eye(3)[:2]
    params = rule.init(jax.random.key(0), batch)
    dropped = []

    def watch(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if isinstance(context.module, nn.Dropout):
            dropped.append(np.asarray(output == 0))
        return output

    with nn.intercept_methods(watch):
        rule.predict(params, batch[0], jax.random.key(1))
    first, second, *_ = dropped
    assert first.shape == second.shape and (first != second).any()


@pytest.mark.parametrize("net", ["conv", slow("norm dropout")])
def test_forward_forward_scores_a_label_by_the_goodness_of_all_blocks_but_the_first(net):
    rule, _, _, params, (x, _) = start("ff", NETS[net])

    @jax.jit
    def score(label):
        a, goodness = jnp.concatenate([jnp.broadcast_to(label, (*x.shape[:-1], 3)), x], -1), []
        for block, c in zip(rule.net.blocks, params.components, strict=True):
            units = tuple(range(1, a.ndim))
            a = a / jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(a), units, keepdims=True), 1e-8))
            a, _ = apply_layer(block, c.weights["forward"][0], c.stats[0], a)
            goodness.append(jnp.sum(jnp.square(a), tuple(range(1, a.ndim))))
        return goodness[1] + goodness[2]

    scores, predict = np.stack([score(label) for label in np.eye(3, dtype=np.float32)], 1), jax.jit(rule.predict)
    assert_close(predict(params, x), scores)
    in_training = predict(params, x, jax.random.key(3))  # with dropout, or the batch's own statistics
    assert not np.allclose(in_training, scores, rtol=0.01)


@by_rule(RULES)
def test_equal_layers_start_differently_and_draw_from_keys_of_their_own(name):
    batch = jnp.ones((5, 5)), jnp.eye(5)
    rule = RULES[name](jl.models.mlp((5, 5, 5), classes=5), SGD)
    params = init(rule, batch)
    assert same(params, init(rule, batch)) and not same(params, rule.init(jax.random.key(7), batch))
    leaves = jax.tree.leaves([component.weights for component in params.components])
    square = [tuple(np.ravel(leaf)) for leaf in leaves if leaf.shape == (5, 5)]
    assert len(set(square)) == len(square) > 1
    keys = [tuple(np.ravel(jax.random.key_data(component.key))) for component in params.components]
    assert len(set(keys)) == len(keys)


# In `usf` a unit with the same sign to all classes learns nothing, because the errors of the classes add up to zero.
# The blocks of `scpl` learn nothing from a single example.
@by_rule(
    ["bp", "dtp", "fa", "brsf", "wm", "dfa", "drtp", "pepita", "predsim", "dgl"],
    quick=("bp", "dtp", "dfa", "pepita", "dgl"),
)
def test_one_dropout_mask_a_step(name):
    """With a batch of one, a dropped unit of the last block teaches neither its own weights nor the head's."""
    net = jl.models.mlp((7, 6, 5), classes=3, dropout=0.3)
    batch = make_batch(net, batch_size=1)
    rule = RULES[name](net, SGD)
    learn, dropped = jax.jit(rule.lessons), 0
    for seed in range(3):
        params = drawn(rule, batch, seed)
        *_, last, head = (grads for lesson in learn(params, batch) for grads in lesson.grads["forward"])
        taught = np.any(head["linear"]["kernel"] != 0, 1)
        np.testing.assert_array_equal(np.any(last["linear"]["kernel"] != 0, 0), taught)
        dropped += np.sum(~taught)
    assert dropped


@partial(jax.jit, static_argnums=0)
def statistics(layers, weights, stats, x):
    """After the forward pass of a training step; they do not depend on the key."""
    return apply_layers(layers, weights, stats, x, jax.random.key(9))[1]


@by_rule(WITH_HEAD)
def test_statistics_move_once_a_step_by_those_of_the_forward_pass(name):
    """Those of the first layer, which has its batch norm before any dropout."""
    rule, _, step, params, batch = start(name, NETS["norm dropout"])
    expected = statistics(rule.net.layers[:1], forward_weights(params)[:1], forward_stats(params)[:1], batch[0])
    assert_close(forward_stats(step(params, batch)[0])[:1], expected)


class NormHead(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))


@by_rule([*WITH_HEAD, "drtp"], quick=("bp", "dtp", "drtp"))
def test_so_do_those_of_a_head(name):
    net, batch = jl.Network((jl.layers.dense(5, norm=True), jl.layers.dense(4)), NormHead()), make_batch(NET)
    rule = RULES[name](net, SGD)
    params = drawn(rule, batch)
    expected = statistics(net.layers, forward_weights(params), forward_stats(params), batch[0])
    assert_close(forward_stats(jax.jit(rule.update)(params, batch)), expected)


@pytest.mark.parametrize(("name", "net"), [("kp", "conv"), ("dkp", "norm dropout")])
def test_each_decay_is_its_own_and_spares_biases_and_scales(name, net):
    batch = make_batch(NETS[net])
    rule = RULES[name](NETS[net], optax.sgd(0.0), decay=0.1, feedback_decay=0.3)
    before = drawn(rule, batch)
    after = jax.jit(rule.update)(before, batch)
    for old, new in zip(before.components, after.components, strict=True):
        expected = jax.tree_util.tree_map_with_path(
            lambda path, w: w if path[-1].key in ("bias", "scale") else 0.9 * w, old.weights["forward"]
        )
        assert_close(new.weights["forward"], expected)
        if "feedback" in old.weights:
            assert_close(new.weights["feedback"], jax.tree.map(lambda b: 0.7 * b, old.weights["feedback"]))


def test_l2_is_the_gradient_of_half_the_square():
    weights = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.ones(3)}
    tx = jl.l2(0.5)
    grads, _ = tx.update(jax.tree.map(jnp.zeros_like, weights), tx.init(weights), weights)
    assert_close(grads, {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)})


def test_direct_feedback_has_the_scale_of_a_layer_from_its_block_to_the_output():
    batch = jnp.ones((2, 8)), jnp.eye(10)[:2]
    params = init(jl.rules.dfa(jl.models.mlp((400, 300)), SGD), batch)
    for component, n in zip(params.components, (400, 300), strict=False):
        # Kaiming: variance 2/n; from 3,000 draws it is known to about 2 %.
        np.testing.assert_allclose(np.std(component.weights["feedback"]), (2 / n) ** 0.5, rtol=0.05)


@pytest.mark.parametrize("name", ["fa", "kp", "usf", "frsf", "wm", "dfa", "dkp", "drtp", "pepita"])
def test_feedback_init_is_used(name):
    params = init(RULES[name](NET, SGD, feedback_init=nn.initializers.constant(3.0)), make_batch(NET))
    feedback = jax.tree.leaves([component.weights.get("feedback") for component in params.components])
    assert len(feedback) == (1 if name == "pepita" else 3)
    assert all(np.all(b == 3) for b in feedback)


def test_associated_learnings_second_rate_is_twice_the_first_by_default():
    batch = make_batch(NET)
    rules = jl.rules.al(NET, SGD), jl.rules.al(NET, SGD, autoencoder_tx=optax.sgd(0.2))
    assert_close(*([c.weights for c in jax.jit(rule.update)(drawn(rule, batch), batch).components] for rule in rules))


def test_the_bridge_has_an_optimizer_of_its_own():
    batch = make_batch(NET)
    rule = jl.rules.al(NET, SGD, bridge_tx=optax.sgd(0.0))
    before = drawn(rule, batch)
    after = jax.jit(rule.update)(before, batch)
    for old, new in zip(before.components, after.components, strict=True):
        assert same(old.weights["bridge"], new.weights["bridge"])
        assert not same(old.weights["forward"], new.weights["forward"])


@pytest.mark.parametrize(
    ("settings", "shapes", "codes"),
    [
        ({}, [[(4, 7)], [(7, 6)], [(6, 5)]], [7, 6, 5]),
        ({"components": 2}, [[(4, 7), (7, 6)], [(6, 5)]], [6, 5]),
        ({"components": (1, 2)}, [[(4, 7)], [(7, 6), (6, 5)]], [7, 5]),
        ({"width": 8}, [[(4, 7)], [(7, 6)], [(6, 5)]], [8, 8, 8]),
        ({"width": (6, 4, 9)}, [[(4, 7)], [(7, 6)], [(6, 5)]], [6, 4, 9]),
    ],
    ids=["default", "even", "sizes", "width", "widths"],
)
def test_associated_learnings_components_and_widths(settings, shapes, codes):
    batch = make_batch(NET)
    rule = jl.rules.al(NET, SGD, codes=jl.codes.paper, **settings)
    components = jax.eval_shape(rule.init, jax.random.key(0), batch).components
    assert [[w["linear"]["kernel"].shape for w in c.weights["forward"]] for c in components] == shapes
    assert [c.weights["encoder"]["linear"]["kernel"].shape for c in components] == list(
        zip([3, *codes], codes, strict=False)
    )
    assert [c.weights["decoder"]["linear"]["kernel"].shape for c in components] == list(
        zip(codes, [3, *codes], strict=False)
    )
    assert [c.weights["bridge"]["layers_0"]["linear"]["kernel"].shape[1] for c in components] == [5 * n for n in codes]


@pytest.mark.parametrize(("loss", "spread"), [(jl.cross_entropy, True), (jl.squared_error, False)])
def test_only_the_codes_of_classes_are_spread(loss, spread):
    """Large first weights would keep the sign of a real target and not its size."""
    rule = jl.rules.al(NET._replace(loss=loss), SGD)
    for component in init(rule, make_batch(NET)).components:
        kernel = component.weights["encoder"]["linear"]["kernel"]
        assert (np.std(kernel) * np.sqrt(len(kernel)) > 8) == spread


def test_cross_entropy_has_the_derivatives_of_optaxs_own():
    """By scores and by targets, also for targets that are no distribution; of both kinds, and second ones."""
    scores, y = jax.random.normal(jax.random.key(0), (3, 4)), jax.random.uniform(jax.random.key(1), (3, 4))
    ours, optaxs = (
        jax.jit(lambda scores, y, loss=loss: (loss(scores, y), *jax.jacrev(loss, (0, 1))(scores, y)))(scores, y)
        for loss in (jl.cross_entropy.value, optax.softmax_cross_entropy)
    )
    for a, b in zip(ours, optaxs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # sums of four
    check_grads(jl.cross_entropy.value, (scores, y), order=2, atol=1e-2, rtol=1e-2)  # by finite differences


def test_codes_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(jl.codes.lean)).width == 64


def test_settings_may_be_numpy_numbers():
    net = jl.models.mlp(tuple(np.array([7, 6])), classes=np.int64(3))
    rule = jl.rules.al(net, SGD, width=np.int64(5), frozen={np.int64(0)})
    assert init(rule, make_batch(NET)).components[0].weights["bridge"]["layers_1"]["linear"]["bias"].shape == (5,)
    jl.rules.dkp(net, SGD, decay=np.float32(1e-4))
    jl.rules.tp(net, SGD, noise=np.float32(0.1))


class NormFirst(nn.Module):
    """Weights in front of the first linear map, which feedback alignment must carry an error to."""

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(7)(nn.LayerNorm()(x)))


@pytest.mark.parametrize("name", ["fa", "kp"])
def test_weights_before_the_first_linear_map_learn_through_a_feedback_of_its_own(name):
    batch = make_batch(NET)
    rule = RULES[name](jl.Network((NormFirst(), jl.layers.dense(6)), jl.layers.Head(3)), SGD)
    params = drawn(rule, batch)
    assert list(params.components[0].weights["feedback"][0]) == ["Dense_0"]
    (lesson,) = jax.jit(rule.lessons)(params, batch)
    assert np.abs(lesson.grads["forward"][0]["LayerNorm_0"]["scale"]).max() > 1e-3


def test_frozen_weights_and_what_stands_for_them_stay_together_in_kolen_pollack():
    batch = make_batch(NET)
    rule = jl.rules.kp(NET, SGD, frozen={1})
    before = drawn(rule, batch)
    after = jax.jit(rule.update)(before, batch)
    moved = [
        not np.array_equal(old["linear"], new["linear"])
        for old, new in zip(*(params.components[0].weights["feedback"][1:] for params in (before, after)), strict=True)
    ]
    assert moved == [False, True, True]


@pytest.mark.parametrize("name", ["tp", "sdtp"])
def test_targets_of_another_precision_than_the_weights(name):
    x, y = make_batch(NET)
    rule = RULES[name](NET, SGD)
    with jax.numpy_dtype_promotion("standard"):
        after = jax.jit(rule.update)(drawn(rule, (x, y)), (x, y.astype(jnp.bfloat16)))
    assert jax.tree.leaves(after)[0].dtype == jnp.float32


@pytest.mark.slow
def test_orbax_saves_the_parameters_as_they_stand(tmp_path):
    rule, batch = jl.rules.al(NET, optax.adam(1e-2)), make_batch(NET)
    params = jax.jit(rule.update)(drawn(rule, batch), batch)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", params)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "run", jax.eval_shape(lambda: params))
    assert isinstance(restored, jl.Params)
    assert same(restored, params)


def test_every_epoch_has_an_order_of_its_own():
    rule, batch = jl.rules.bp(NET, SGD), make_batch(NET)
    a, b = (jl.training.epoch(rule, drawn(rule, batch), batch, jax.random.key(seed), 4)[1].losses for seed in (0, 1))
    assert not np.array_equal(a, b)
