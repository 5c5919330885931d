"""Modules of flax.nnx as blocks, through Flax's bridge: a run is that of the same network in flax.linen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.nnx.bridge import to_linen

import jaxlocal as jl
from jaxlocal.training import State


class Dense(nnx.Module):
    """`jl.layers.dense(features, norm=True)`, or with dropout."""

    def __init__(self, inputs, features, *, dropout=0.0, rngs):
        self.linear = nnx.Linear(inputs, features, rngs=rngs)
        self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x, train=False):
        a = nnx.relu(self.norm(self.linear(x.reshape(len(x), -1)), use_running_average=not train))
        return self.dropout(a, deterministic=not train)


class Readout(nnx.Module):
    def __init__(self, inputs, features, *, rngs):
        self.linear = nnx.Linear(inputs, features, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


def network(dropout=0.0):
    blocks = to_linen(Dense, 64, 16, dropout=dropout), to_linen(Dense, 16, 8)
    return jl.Network(blocks, to_linen(Readout, 8, 10))


def test_a_run_is_that_of_the_same_network_in_linen():
    """From the same weights, with batch norm, through `fit`: names of weights, statistics, losses and metrics."""
    linen = jl.models.mlp(hidden=(16, 8), classes=10, activation=jax.nn.relu, norm=True)
    data = jl.data.Splits(*(tuple(leaf[:96] for leaf in pair) for pair in jl.data.digits()))
    rules = [jl.rules.al(net, optax.adam(1e-2)) for net in (linen, network())]
    start, other = (jax.jit(rule.init)(jax.random.key(1), data.train) for rule in rules)
    starts = start, jl.set_weights(rules[1], other, jl.get_weights(rules[0], start))
    theirs, ours = (
        jl.training.fit(rule, data, epochs=2, start=State(params, 0, (), ())).state
        for rule, params in zip(rules, starts, strict=True)
    )
    weights = jl.get_weights(rules[1], ours.params)
    assert "layers.0/batch_stats/norm/mean" in weights
    for name, value in jl.get_weights(rules[0], theirs.params).items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(ours.history[-1]["losses"], theirs.history[-1]["losses"], rtol=1e-5)
    assert ours.history[-1]["validation"] == pytest.approx(theirs.history[-1]["validation"], rel=1e-5)
    assert str(network()) == "Network(Dense → Dense → Readout)"


def test_dropout_and_batch_norm_act_in_training_alone():
    x, y = jax.random.normal(jax.random.key(0), (8, 64)), jax.nn.one_hot(jnp.arange(8) % 10, 10)
    rule = jl.rules.dfa(network(dropout=0.5), optax.sgd(0.0))
    params = jax.jit(rule.init)(jax.random.key(1), (x, y))
    predict = jax.jit(rule.predict)
    one, again, other = (predict(params, x, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    without = jl.rules.dfa(network(), optax.sgd(0.0)).predict
    np.testing.assert_allclose(predict(params, x), without(params, x), rtol=1e-5, atol=1e-6)
    moved = jax.jit(rule.update)(params, (x, y)).components[0].stats[0]["batch_stats"]["norm"]["mean"]
    linear = params.components[0].weights["forward"][0]["linear"]
    np.testing.assert_allclose(moved, 0.1 * (x @ linear["kernel"]).mean(0), rtol=1e-4, atol=1e-6)  # its bias is 0


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        (
            nnx.Linear(4, 4, rngs=nnx.Rngs(0)),
            "is a module of flax.nnx; wrap its class, flax.nnx.bridge.to_linen(CLASS,",
        ),
        (type("Linear", (), {"__module__": "equinox.nn._linear"})(), "is made with equinox; write it as a module of"),
        (type("Mine", (type("Layer", (), {"__module__": "keras.src"}),), {})(), "is made with keras; write it as"),
        (type("Transformed", (tuple,), {"__module__": "haiku._src.transform"})(), "is made with haiku; write it as"),
        (jnp.tanh, "must be an instance of a Flax module (flax.linen.Module)"),
    ],
)
def test_modules_of_other_libraries_are_one_sentence(layer, complaint):
    with pytest.raises(TypeError, match=r"^net.layers\[0\]=") as raised:
        jl.rules.bp(jl.Network((layer,), jl.layers.Head(10)), optax.adam(1e-3))
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_feedback_cannot_be_carried_through_a_module_of_nnx():
    rule = jl.rules.fa(network(), optax.adam(1e-3))
    with pytest.raises(ValueError, match=r"net.layers\[0\] has weights 'linear/kernel' outside Flax's linear modules"):
        rule.init(jax.random.key(0), (jnp.ones((2, 64)), jnp.ones((2, 10))))
