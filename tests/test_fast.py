"""What is written for speed on CPUs computes what it stands for: products, pooling, one pass of an optimizer."""

import os
import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxlocal.fast import compiler, xla_flags
from jaxlocal.layers import max_pool, product

DENSE = (((1,), (0,)), ((), ()))


@pytest.fixture
def every_kernel_is_large(monkeypatch):
    monkeypatch.setattr("jaxlocal.fast.product.LARGE", 0)


@pytest.mark.usefixtures("every_kernel_is_large")
def test_a_product_and_its_gradients_are_jaxs():
    x, w, error = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(4, 7), (7, 5), (4, 5)]))

    def value_and_gradients(multiply):
        y, back = jax.vjp(lambda x, w: multiply(x, w, DENSE), x, w)
        return y, *back(error)

    for a, b in zip(value_and_gradients(product), value_and_gradients(lax.dot_general), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # sums of seven at most


@pytest.mark.usefixtures("every_kernel_is_large")
def test_gradients_of_a_products_gradients_too():
    x, w = jax.random.normal(jax.random.key(0), (4, 7)), jax.random.normal(jax.random.key(1), (7, 5))

    def curvature(multiply):
        def slope(x, w):
            dx, dw = jax.grad(lambda x, w: jnp.sum(jnp.tanh(multiply(x, w, DENSE))), (0, 1))(x, w)
            return jnp.sum(dx**2) + jnp.sum(dw**2)

        return jax.grad(slope, (0, 1))(x, w)

    for a, b in zip(curvature(product), curvature(lax.dot_general), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # two more products, of numbers up to 10


def test_the_gradients_products_run_along_the_rows_of_what_is_large():
    """A kernel's gradient is made as it lies, and not turned over; that of a small one is left to JAX."""
    x, error = jnp.ones((4, 1024)), jnp.ones((4, 512))

    def gradients(w):
        return jax.jit(lambda x, w: jax.vjp(product, x, w)[1](error[:, : w.shape[1]])).lower(x, w).as_text()

    assert "tensor<512x1024xf32>" not in gradients(jnp.ones((1024, 512)))
    assert "tensor<511x1024xf32>" in gradients(jnp.ones((1024, 511)))


def test_other_products_are_jaxs():
    x, w = jax.random.normal(jax.random.key(0), (2, 3, 7)), jax.random.normal(jax.random.key(1), (7, 5))
    layer = nn.Dense(5, use_bias=False, dot_general=product)
    np.testing.assert_array_equal(layer.apply({"params": {"kernel": w}}, x), x @ w)


@pytest.mark.parametrize(("size", "shape"), [(2, (3, 6, 4, 5)), (3, (2, 7, 9, 1)), (1, (1, 2, 2, 3))])
def test_max_pooling_and_its_gradient_are_flaxs(size, shape):
    x = jnp.round(2 * jax.random.normal(jax.random.key(0), shape))  # few values: most windows have equal ones
    error = jax.random.normal(jax.random.key(1), (shape[0], shape[1] // size, shape[2] // size, shape[3]))

    @partial(jax.jit, static_argnums=0)
    def value_and_gradient(pool, x, error):
        y, back = jax.vjp(pool, x)
        return y, *back(error)

    ours = value_and_gradient(lambda x: max_pool(x, size), x, error)
    flaxs = value_and_gradient(lambda x: nn.max_pool(x, (size, size), (size, size)), x, error)
    for a, b in zip(ours, flaxs, strict=True):
        np.testing.assert_array_equal(a, b)


TXS = {
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(optax.linear_schedule(1e-2, 0.0, 10)),
    "momentum": optax.sgd(1e-2, momentum=0.9, nesterov=True),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)),
}


@pytest.mark.parametrize("tx", TXS.values(), ids=TXS)
@pytest.mark.parametrize("fuses", [False, True])
def test_an_optimizer_in_one_pass_is_the_optimizer_bit_for_bit(tx, fuses, monkeypatch):
    monkeypatch.setattr(compiler, "fuses", lambda: fuses)

    def run(tx):
        @jax.jit
        def step(weights, state, grads):
            with jax.numpy_dtype_promotion("standard"):
                moves, state = tx.update(grads, state, weights)
            return optax.apply_updates(weights, moves), state

        weights = {"a": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.ones(4)}
        state = tx.init(weights)
        for i in range(4):
            grads = jax.tree.map(lambda w, i=i: jax.random.normal(jax.random.key(i), w.shape), weights)
            weights, state = step(weights, state, grads)
        return weights, state

    jax.tree.map(np.testing.assert_array_equal, run(compiler.one_pass(tx)), run(tx))


PROBE = """
import os, jax, jax.numpy as jnp, optax
from jaxlocal import compiler

def accesses(tx):
    def step(weight, state, grad):
        move, state = tx.update(grad, state, weight)
        return weight + move, state

    weight = jax.ShapeDtypeStruct((128, 32), jnp.float32)
    program = jax.jit(step).lower(weight, jax.eval_shape(tx.init, weight), weight).compile()
    return program.cost_analysis()["bytes accessed"] / (4 * 128 * 32)

adam = optax.adam(1e-3)
print(os.environ["XLA_FLAGS"])
print(compiler.fuses(), accesses(adam), accesses(compiler.one_pass(adam)))
"""


def compiled_with(flags):
    """XLA_FLAGS, whether the compiler fuses, and accesses to memory per weight in a step of Adam, plain and ours."""
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True)
    set_to, measured = result.stdout.splitlines()
    fuses, plain, ours = measured.split()
    return set_to, fuses == "True", float(plain), float(ours)


def test_a_step_of_adam_is_one_pass_where_the_compiler_fuses():
    """Four numbers are read and three are written; where the compiler does not fuse, the step is optax's own."""
    set_to, fuses, plain, ours = compiled_with("")
    assert set_to == " ".join(xla_flags.SETTINGS)
    if fuses:
        assert 7 <= ours < 7.1 < plain
    else:
        assert ours == plain


def test_flags_that_the_user_has_set_stay():
    given = "--xla_backend_extra_options=xla_cpu_optimize_for_size=false --xla_cpu_enable_fast_math=false"
    set_to, fuses, plain, ours = compiled_with(given)
    assert set_to == " ".join([given, *xla_flags.SETTINGS[:-1]])
    assert not fuses
    assert ours == plain


def test_a_flag_with_a_longer_name_is_another_flag(monkeypatch):
    longer = xla_flags.SETTINGS[0].replace("=", "_too=")
    monkeypatch.setenv("XLA_FLAGS", longer)
    xla_flags.configure()
    assert os.environ["XLA_FLAGS"].split() == [longer, *xla_flags.SETTINGS]
