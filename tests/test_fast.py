"""What is written for speed on CPUs computes what it stands for: products, pooling, settings of the compiler."""

import os
import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlocal.fast import xla_flags
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


def process(code, **environment):
    """What a process prints that runs this code with no flags but the user's own."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "JAXLOCAL_XLA_FLAGS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_flags_that_the_user_has_set_stay():
    first, *others = xla_flags.SETTINGS
    given = f"{first.partition('=')[0]}=false --xla_cpu_enable_fast_math=false"
    flags = "import os, jaxlocal; print(os.environ['XLA_FLAGS'])"
    assert process(flags, XLA_FLAGS=given).split() == [*given.split(), *others]


GRADIENTS = """
import jax, jax.numpy as jnp, numpy as np, optax
import jaxlocal as jl

def fill(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key(0) if is_key else rng.normal(size=leaf.shape, scale=0.3).astype(leaf.dtype)

rng = np.random.default_rng(0)  # JAX's would take seconds to compile
batch = rng.random((16, 4, 4, 3), np.float32), np.eye(10, dtype=np.float32)[np.arange(16) % 10]
net = jl.Network([jl.layers.conv(16, norm=True), jl.layers.conv(16, pool_input=2, norm=True)], jl.layers.Head(10))
rule = jl.rules.bp(net, optax.sgd(1e-2))
params = jax.tree.map(fill, jax.eval_shape(rule.init, jax.random.key(0), batch))
lessons = jax.jit(rule.lessons)(params, batch)
print(*(float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(lessons[0].grads)))
"""


@pytest.mark.slow
def test_the_settings_do_not_change_gradients():
    """With multi-output fusion, which JAX 0.10 gets wrong, some of these are half as large again."""
    ours, plain = (np.fromstring(process(GRADIENTS, JAXLOCAL_XLA_FLAGS=given), sep=" ") for given in ("1", "0"))
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-6)  # that of a bias before batch norm is rounding alone


def test_a_flag_with_a_longer_name_is_another_flag(monkeypatch):
    longer = xla_flags.SETTINGS[0].replace("=", "_too=")
    monkeypatch.setenv("XLA_FLAGS", longer)
    xla_flags.configure()
    assert os.environ["XLA_FLAGS"].split() == [longer, *xla_flags.SETTINGS]


def test_another_jaxlib_gets_no_flags(monkeypatch):
    """XLA would end the process if it did not know one of them."""
    monkeypatch.setenv("XLA_FLAGS", "--of_the_user=1")
    monkeypatch.setattr(xla_flags, "version", lambda library: "0.99.0")
    xla_flags.configure()
    assert os.environ["XLA_FLAGS"] == "--of_the_user=1"
