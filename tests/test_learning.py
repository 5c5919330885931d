"""Every rule with its defaults learns the digits, with two hidden layers of 64 units, up to a known accuracy."""

import jax
import optax
import pytest

import jaxlocal as jl
from jaxlocal.diagnostics import angle

LEAST = dict.fromkeys(jl.rules.ALL, 0.95) | dict.fromkeys(("tp", "ao_sdtp", "drtp", "pepita"), 0.92)


def trained(name, epochs):
    """The data, the rule, and its parameters after these epochs."""
    data = jl.data.digits()
    rule = jl.rules.ALL[name](jl.models.mlp((64, 64), classes=10), optax.adam(3e-3))
    params = jax.jit(rule.init)(jax.random.key(0), data.train)
    for epoch in range(epochs):
        params, _ = jl.training.epoch(rule, params, data.train, jax.random.key(epoch), 32)
    return data, rule, params


@pytest.mark.slow
@pytest.mark.parametrize("name", jl.rules.ALL)
def test_digits(name):
    data, rule, params = trained(name, epochs=15)
    assert jl.training.accuracy(rule, params, data.test) >= LEAST[name]


@pytest.mark.slow
def test_the_feedback_of_a_weight_mirror_comes_to_resemble_the_weights():
    """That of feedback alignment stays at some ninety degrees in the second layer."""
    _, _, params = trained("wm", epochs=40)
    weights = params.components[0].weights
    for forward, feedback in zip(weights["forward"][1:], weights["feedback"][1:], strict=True):
        assert angle(forward["linear"]["kernel"], feedback["linear"]) < 15
