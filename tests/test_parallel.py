"""The transforms: a member of an ensemble is a run by itself, devices share a batch, fewer bits change little."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FAMILIES, NETS, by_case, by_rule, drawn, make_batch, same, slow, start
from jax.sharding import NamedSharding, PartitionSpec

import jaxlocal as jl

MESH = jl.pipeline.mesh(data=4)
BP = jl.rules.bp(NETS["dense"], optax.sgd(0.1))


def weights(params):
    return [np.asarray(leaf) for component in params.components for leaf in jax.tree.leaves(component.weights)]


# One that draws noise, and one for which each member also has a batch of its own.
@by_rule(["dtp", "al"], quick=("dtp",))
def test_every_member_of_an_ensemble_is_the_rule(name):
    check_members(name, "norm dropout")


# Ensembles of `bp`, `al`, `dtp` and `dfa` are compiled in other tests, and those like these are made by the same code.
@by_rule([name for name in (*FAMILIES, "brsf", "wm") if name not in ("bp", "al", "dtp")])
def test_a_rule_can_be_mapped_over(name):
    """What the members are is asked above and in the slow tests; here the program is only traced."""
    one = start(name, NETS["norm dropout"])
    many = jl.ensemble(one.rule, 2)
    params = jax.eval_shape(many.init, jax.random.key(0), one.batch)
    after, info = jax.eval_shape(many.step, params, one.batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params)
    assert info.losses.shape == (2, len(params.components))


ON_SEQUENCES = [("al", "tagger")]


@by_case(ON_SEQUENCES)
def test_every_member_of_an_ensemble_on_sequences_is_the_rule(name, net):
    check_members(name, net)


def stacked(*leaves):
    """By NumPy, as JAX would compile a program for each shape; random keys by JAX."""
    is_key = jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key)
    return jnp.stack(leaves) if is_key else np.stack(leaves)


def check_members(name, net):
    """With one batch for all members; and, for one of the rules, with a batch for each member."""
    one = start(name, NETS[net])
    many = jl.ensemble(one.rule, 2)
    batches = one.batch, make_batch(one.rule.net, seed=1)
    members = [drawn(one.rule, one.batch, seed) for seed in (2, 3)]
    params = jax.tree.map(stacked, *members)
    shared, info = jax.jit(many.step)(params, one.batch)
    steps = [(shared, (one.batch, one.batch))]
    if name == "al":
        steps.append((jax.jit(many.update)(params, jax.tree.map(stacked, *batches)), batches))
    for i, alone in enumerate(members):
        for updated, own in steps:
            stepped, info_alone = one.step(alone, own[i])
            # Batched products sum in another order.
            for a, b in zip(weights(updated), weights(stepped), strict=True):
                np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)
        assert info.losses.shape == (2, len(info_alone.losses))


def test_members_of_an_ensemble_drop_units_of_their_own():
    """Two members with the same weights: their predictions differ only if a key is given."""
    net = jl.Network((jl.layers.dense(32, dropout=0.5),), jl.layers.dense(3), jl.cross_entropy)
    both, batch = jl.ensemble(jl.rules.bp(net, optax.sgd(0.1)), 2), (jnp.ones((4, 5)), jnp.eye(4, 3))
    params = both.init(jax.random.split(jax.random.key(0)), batch)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf[0], leaf[0]]), params)
    first, second = both.predict(params, batch[0])
    assert same(first, second)
    first, second = both.predict(params, batch[0], jax.random.key(1))
    assert not same(first, second)


def test_the_parts_of_an_ensemble():
    many = jl.ensemble(BP, 3)
    batch = make_batch(NETS["dense"])
    init, predict = jax.jit(BP.init), jax.jit(BP.predict)
    params = jax.jit(many.init)(jax.random.key(0), batch)
    alone = [init(key, batch) for key in jax.random.split(jax.random.key(0), 3)]
    assert same(params, jax.tree.map(stacked, *alone))
    scores = jax.jit(many.predict)(params, batch[0])
    np.testing.assert_allclose(scores[1], predict(alone[1], batch[0]), rtol=1e-5, atol=1e-6)
    assert jax.eval_shape(many.lessons, params, batch)[0].losses["task"].shape == (3,)
    assert many.placement.members == 3 and many.learn is None


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("al", "conv"),
        slow("dtp", "norm dropout"),
        slow("bp", "conv"),
        slow("al", "transformer"),
        slow("kp", "lstm"),
        slow("al", "tagger"),
    ],
)
def test_devices_that_share_a_batch_compute_the_same(name, net):
    """Batch norm is over the whole batch, and dropout is drawn as on one device."""
    one = start(name, NETS[net])
    split = jl.data_parallel(one.rule, MESH)
    wanted = one.params
    params = jax.device_put(wanted, NamedSharding(MESH, PartitionSpec()))
    step = jax.jit(split.step).lower(params, one.batch).compile()  # it takes what it gives
    for _ in range(3):
        (params, info), (wanted, info_alone) = step(params, one.batch), one.step(wanted, one.batch)
    # Sums over the devices have another order.
    for a, b in zip(weights(params), weights(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(info.losses, info_alone.losses, rtol=1e-5, atol=1e-6)
    assert "all-reduce" in step.as_text()  # the work was divided, and its parts were summed


def loops(text, depth):
    """The bodies of the loops inside of `depth` others, from the text of a compiled program."""
    parts = {part.removeprefix("ENTRY ").split(maxsplit=1)[0]: part for part in text.split("\n\n") if "{" in part}
    calls = [
        (name, called, bool(body))
        for name, part in parts.items()
        for body, called in re.findall(r"(body=)?(%[\w.-]+)", part)
        if called in parts and called != name
    ]
    found = dict.fromkeys(parts, 0)
    for _ in parts:  # how deep a computation is spreads to those that it calls
        for name, called, is_body in calls:
            found[called] = max(found[called], found[name] + is_body)
    return [parts[name] for name in found if found[name] > depth]


IMAGES = jl.Network((jl.layers.conv(4), jl.layers.conv(5, stride=2)), jl.layers.Head(3))


def test_a_mesh_of_jax_will_do():
    rule = jl.rules.bp(NETS["dense"], optax.sgd(0.1))
    params = rule.init(jax.random.key(0), BATCH)
    split = jl.data_parallel(rule, jax.make_mesh((4,), ("data",)))
    for a, b in zip(weights(split.update(params, BATCH)), weights(rule.update(params, BATCH)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_first_parameters_are_on_every_device_that_shares_a_batch():
    params = jl.data_parallel(BP, MESH).init(jax.random.key(0), BATCH)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(params)} == {4}


@pytest.mark.parametrize(
    ("net", "batch"),
    [(IMAGES, (jnp.ones((64, 20, 20, 3)), jnp.ones((64, 3)) / 3)), (NETS["lstm"], make_batch(NETS["lstm"]))],
    ids=["convolutions", "lstm"],
)
def test_devices_that_share_a_batch_sum_outside_of_loops(net, batch):
    """The loops are over a convolution's examples and over tokens. A device needs no examples but its own."""
    rule = jl.rules.bp(net, optax.sgd(0.1))
    split = jl.data_parallel(rule, MESH)
    everywhere, apart = (NamedSharding(MESH, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    params, batch = jax.device_put(rule.init(jax.random.key(0), batch), everywhere), jax.device_put(batch, apart)
    text = jax.jit(split.update).lower(params, batch).compile().as_text()
    assert "all-reduce(" in text
    assert "all-gather(" not in text
    assert not [body for body in loops(text, 0) if "all-reduce(" in body]


@pytest.mark.slow
def test_a_pipeline_that_shares_batches_sums_outside_of_loops():
    """The outer loops are that over the ticks, and one of a single turn if the stage has something to learn from."""
    batch = make_batch(NETS["lstm"])
    pipe = jl.pipelined(jl.rules.al(NETS["lstm"], optax.sgd(0.1)), jl.pipeline.mesh(component=2, data=4))
    params = pipe.place(drawn(pipe.rule, batch), batch)
    text = jax.jit(pipe.update).lower(params, batch).compile().as_text()
    assert "all-reduce(" in text
    assert not [body for body in loops(text, 2) if "all-reduce(" in body]


@pytest.mark.slow
def test_a_pipeline_takes_what_shares_batches():
    rule = jl.rules.al(NETS["norm dropout"], optax.sgd(0.5))
    mesh = jl.pipeline.mesh(component=2, data=4)
    pipe = jl.pipelined(jl.data_parallel(rule, mesh), mesh, stages=(1, 2))
    batch = make_batch(NETS["norm dropout"])
    wanted, update, piped = drawn(rule, batch), jax.jit(rule.update), jax.jit(pipe.update)
    params = pipe.place(wanted, batch)
    for seed in range(2):
        batch = make_batch(NETS["norm dropout"], seed=seed)
        params, wanted = piped(params, batch), update(wanted, batch)
    for a, b in zip(weights(pipe.drain(params)), weights(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@by_rule(["bp", "al", "dtp", "predsim", "dgl", "scpl"], quick=("bp", "predsim"))
def test_layers_compute_in_fewer_bits_and_nothing_else_does(name):
    check_fewer_bits(name, "conv")


@by_case(ON_SEQUENCES)
def test_sequences_in_fewer_bits_and_nothing_else(name, net):
    check_fewer_bits(name, net)


def check_fewer_bits(name, net):
    one = start(name, NETS[net])
    batch = make_batch(NETS[net], seed=1)  # in the first one a unit is so close to zero that fewer bits switch it on
    half = jl.mixed_precision(one.rule)
    step = jax.jit(half.step)
    params, info = step(one.params, batch)
    wanted, info_alone = one.step(one.params, batch)
    assert jax.tree.map(lambda leaf: leaf.dtype, params) == jax.tree.map(lambda leaf: leaf.dtype, wanted)
    np.testing.assert_allclose(info.losses, info_alone.losses, rtol=0.05, atol=0.02)  # bfloat16 has eight bits
    moved = [np.linalg.norm(a - b) for a, b in zip(weights(params), weights(one.params), strict=True)]
    apart = [np.linalg.norm(a - b) for a, b in zip(weights(params), weights(wanted), strict=True)]
    assert any(apart)
    # Similarities are differences from a mean, where few bits cost more.
    assert sum(apart) < (0.2 if name == "predsim" else 0.1) * sum(moved)
    products = re.compile(r":(bf16|f32)\[[\d,]*\] = (?:dot_general|conv_general_dilated)")
    found = products.findall(str(jax.make_jaxpr(half.step)(one.params, batch)))
    assert "bf16" in found
    assert name != "bp" or "f32" not in found  # the other rules also compute between the layers
    plain = jax.make_jaxpr(lambda *args: one.rule.step(*args))(
        one.params, batch
    )  # a new function, which jit has not cached
    assert "bf16" not in str(plain)  # the transform left nothing switched on


@pytest.mark.slow
def test_a_pipeline_in_fewer_bits():
    rule = jl.mixed_precision(jl.rules.al(NETS["dense"], optax.sgd(0.5)))
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=3))
    batch = make_batch(NETS["dense"])
    learnt = pipe.drain(pipe.update(pipe.init(jax.random.key(0), batch), batch))
    assert same(learnt, jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch))


def test_transforms_of_transforms():
    """Each member is the rule up to the precision of bfloat16, which has eight bits."""
    rule = jl.ensemble(jl.data_parallel(jl.mixed_precision(BP), MESH), 2)
    batch = make_batch(NETS["dense"])
    members = [drawn(BP, batch, seed) for seed in (2, 3)]
    params, update = jax.tree.map(stacked, *members), jax.jit(BP.update)
    started = jax.eval_shape(rule.init, jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, params)
    after = jax.jit(rule.update)(params, batch)
    for i, alone in enumerate(members):
        before, wanted = weights(alone), weights(update(alone, batch))
        moved = [np.linalg.norm(a - b) for a, b in zip(wanted, before, strict=True)]
        apart = [np.linalg.norm(a[i] - b) for a, b in zip(weights(after), wanted, strict=True)]
        assert 0 < sum(apart) < 0.1 * sum(moved)
    assert jax.jit(rule.predict)(after, batch[0]).shape == (2, 8, 3)


BATCH = make_batch(NETS["dense"])


@pytest.mark.parametrize(
    ("wrong", "error", "complaint"),
    [
        (lambda: jl.ensemble(BP, 0), ValueError, "n=0: must be at least 1"),
        (lambda: jl.ensemble("bp", 2), TypeError, "rule='bp': ensemble needs a rule"),
        (lambda: jl.ensemble(jl.ensemble(BP, 2), 2), ValueError, "rule: is already an ensemble of 2"),
        (
            lambda: jl.data_parallel(jl.ensemble(BP, 2), MESH),
            ValueError,
            "pass data_parallel the rule that it is made of",
        ),
        (
            lambda: jl.ensemble(BP, 2).update(jl.ensemble(BP, 2).init(jax.random.key(0), BATCH), ()),
            TypeError,
            r"batch=\(\): must be a pair \(x, y\) of arrays",
        ),
        (lambda: jl.data_parallel(BP, 4), TypeError, "mesh=4: must be a jax.sharding.Mesh"),
        (lambda: jl.data_parallel(BP, MESH, "model"), ValueError, "axis='model': the mesh has the axes data"),
        (lambda: jl.mixed_precision(BP, jnp.int8), ValueError, "must be a floating-point type of 16 bits or more"),
        (lambda: jl.mixed_precision(BP, jnp.float8_e4m3fn), ValueError, "must be a floating-point type of 16 bits"),
        (
            lambda: jl.ensemble(BP, 2).init(jax.random.split(jax.random.key(0), 3), BATCH),
            ValueError,
            "key: 3 keys for an ensemble of 2",
        ),
        (
            lambda: jl.ensemble(BP, 2).predict(
                jl.ensemble(BP, 2).init(jax.random.key(0), BATCH), BATCH[0], jax.random.split(jax.random.key(0), 3)
            ),
            ValueError,
            "key: 3 keys for an ensemble of 2",
        ),
        (
            lambda: jl.ensemble(BP, 2).update(
                jl.ensemble(BP, 2).init(jax.random.key(0), BATCH), tuple(jnp.stack([leaf] * 3) for leaf in BATCH)
            ),
            ValueError,
            r"x has shape \(3, .*, but an ensemble of 2 takes one batch \(B, …\) for all, or a batch for each",
        ),
        (
            lambda: jl.ensemble(BP, 2).update(
                jl.ensemble(BP, 2).init(jax.random.key(0), BATCH), (jnp.stack([BATCH[0]] * 2), BATCH[1])
            ),
            ValueError,
            r"y has shape \(.*, but an ensemble of 2 takes one batch",
        ),
        (
            lambda: jl.ensemble(BP, 2).update(
                jl.ensemble(BP, 2).init(jax.random.key(0), BATCH),
                (jnp.full((2, *BATCH[0].shape), jnp.nan), jnp.stack([BATCH[1]] * 2)),
            ),
            ValueError,
            "batch: x holds NaN or infinity",
        ),
        (
            lambda: jl.data_parallel(BP, MESH).update(BP.init(jax.random.key(0), BATCH), tuple(a[:6] for a in BATCH)),
            ValueError,
            "6 examples cannot be split evenly over the 4 devices of axis 'data'",
        ),
        (
            lambda: jl.pipelined(jl.ensemble(jl.rules.al(NETS["dense"], optax.sgd(0.1)), 2), MESH, axis="data"),
            ValueError,
            "ensemble",
        ),
    ],
)
def test_a_mistake_is_explained_in_one_sentence(wrong, error, complaint):
    with pytest.raises(error, match=complaint):
        wrong()
