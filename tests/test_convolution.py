"""Our convolution is JAX's in value and gradients, and its gradients are in the form that loops can do fast."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlocal.layers import convolve

# kernel, stride, padding, image dilation, kernel dilation; XLA does not name a padding for dilated images
WINDOWS = [
    *itertools.product((1, 3), (1, 3), ("SAME",), (1,), (1, 2)),
    *itertools.product((2,), (2,), ((1, 2), (0, -1)), (1, 2), (1, 2)),
]


def arguments(axes, kernel, stride, padding, image_step, kernel_step):
    x = jax.random.normal(jax.random.key(0), (4, *(9, 7)[:axes], 3))
    w = jax.random.normal(jax.random.key(1), (kernel,) * axes + (3, 5))
    layout = lax.conv_dimension_numbers(x.shape, w.shape, (("NWC", "WIO", "NWC"), ("NHWC", "HWIO", "NHWC"))[axes - 1])
    padding = padding if isinstance(padding, str) else (padding,) * axes
    return (x, w), ((stride,) * axes, padding, (image_step,) * axes, (kernel_step,) * axes, layout)


@pytest.mark.parametrize("axes", [1, 2])
def test_values_and_gradients_are_jaxs(axes):
    with jax.enable_x64(True):
        for window in WINDOWS:
            arrays, options = arguments(axes, *window)
            ours, back = jax.vjp(lambda x, w, options=options: convolve(x, w, *options), *arrays)
            jaxs, jaxs_back = jax.vjp(lambda x, w, options=options: lax.conv_general_dilated(x, w, *options), *arrays)
            error = jax.random.normal(jax.random.key(2), jaxs.shape)
            for a, b in zip((ours, *back(error)), (jaxs, *jaxs_back(error)), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=str(window))


def test_gradients_of_gradients_too():
    arrays, options = arguments(2, 3, 2, "SAME", 1, 1)

    def curvature(convolve):
        def slope(x, w):
            dx, dw = jax.grad(lambda x, w: jnp.sum(jnp.tanh(convolve(x, w, *options))), (0, 1))(x, w)
            return jnp.sum(dx**2) + jnp.sum(dw**2)

        return jax.grad(slope, (0, 1))(*arrays)

    for a, b in zip(curvature(convolve), curvature(lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)  # sums of some thousand products of size 10


def test_every_convolution_of_the_gradient_has_examples_first_and_channels_last():
    """The one form in which XLA's CPU compiler has a fast routine inside a loop."""
    arrays, options = arguments(2, 3, 2, "SAME", 1, 1)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x, w: jnp.sum(convolve(x, w, *options) ** 2), (0, 1)))(*arrays)
    text = str(jaxpr)
    assert text.count("conv_general_dilated[") == 3
    assert text.count("lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2)") == 3


def test_grouped_convolutions_are_jaxs():
    x, w = jnp.ones((2, 5, 5, 4)), jax.random.normal(jax.random.key(0), (3, 3, 2, 6))
    layout = lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "HWIO", "NHWC"))
    options = {"dimension_numbers": layout, "feature_group_count": 2}
    np.testing.assert_array_equal(
        convolve(x, w, (1, 1), "SAME", **options), lax.conv_general_dilated(x, w, (1, 1), "SAME", **options)
    )
