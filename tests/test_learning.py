"""Every rule with its defaults learns the digits: a network of two hidden layers of 256 reaches a known accuracy."""

import jax
import optax
import pytest

import jaxlocal as jl

LEAST = dict.fromkeys(jl.rules.ALL, 0.95) | dict.fromkeys(("tp", "sdtp", "ao_sdtp", "drtp"), 0.90)


@pytest.mark.slow
@pytest.mark.parametrize("name", jl.rules.ALL)
def test_digits(name):
    data = jl.data.digits()
    rule = jl.rules.ALL[name](jl.models.mlp((256, 256), classes=10), optax.adam(1e-3))
    params = rule.init(jax.random.key(0), data.train)
    for epoch in range(40):
        params, _ = jl.training.epoch(rule, params, data.train, jax.random.key(epoch), 32)
    assert jl.training.accuracy(rule, params, data.test) >= LEAST[name]
