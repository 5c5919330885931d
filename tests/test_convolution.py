"""Our convolution is JAX's in value and gradients, and its gradients are in the form that loops can do fast."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlocal.fast import convolution
from jaxlocal.layers import convolve

# kernel, stride, padding, image dilation, kernel dilation; XLA does not name a padding for dilated images
WINDOWS = [
    *itertools.product((1,), (1, 3), ("SAME",), (1,), (1,)),
    *itertools.product((3,), (1, 3), ("SAME",), (1,), (1, 2)),
    *itertools.product((2,), (1,), ((1, 2), (0, -1)), (1,), (1,)),
    # each two of padding, image dilation and kernel dilation meet
    *((2, 2, (1, 2), dilation, dilation) for dilation in (1, 2)),
    *((2, 2, (0, -1), dilation, 3 - dilation) for dilation in (1, 2)),
]
WAYS = {"one product": 3, "shifted products": convolution.CHANNELS[0], "routine": 20}  # by the number of channels


def arguments(axes, kernel, stride, padding, image_step, kernel_step, channels=3):
    x = jax.random.normal(jax.random.key(0), (4, *(9, 7)[:axes], channels))
    w = jax.random.normal(jax.random.key(1), (kernel,) * axes + (channels, 5))
    layout = lax.conv_dimension_numbers(x.shape, w.shape, (("NWC", "WIO", "NWC"), ("NHWC", "HWIO", "NHWC"))[axes - 1])
    padding = padding if isinstance(padding, str) else (padding,) * axes
    return (x, w), ((stride,) * axes, padding, (image_step,) * axes, (kernel_step,) * axes, layout)


@pytest.mark.parametrize(
    ("way", "axes", "a_few"),  # the batch in one go, or some examples at a time
    [
        ("one product", 1, False),
        ("one product", 2, True),
        ("shifted products", 1, True),
        ("shifted products", 2, False),
        ("routine", 2, True),
    ],
)
def test_values_and_gradients_are_jaxs(way, axes, a_few, monkeypatch):
    if a_few:
        monkeypatch.setattr(convolution, "POSITIONS", 100)
        monkeypatch.setattr(convolution, "PRODUCTS", 2000)
    with jax.enable_x64(True):
        cases = {window: arguments(axes, *window, channels=WAYS[way]) for window in WINDOWS}

        @partial(jax.jit, static_argnums=0)
        def value_and_gradients(convolve, arrays):
            """For all windows in one program, which saves most of the compilation."""
            results = {}
            for window, (_, options) in cases.items():
                y, back = jax.vjp(lambda x, w, options=options: convolve(x, w, *options), *arrays[str(window)])
                results[str(window)] = y, *back(jnp.cos(y))
            return results

        inputs = {str(window): arrays for window, (arrays, _) in cases.items()}
        ours, jaxs = (value_and_gradients(one, inputs) for one in (convolve, lax.conv_general_dilated))
        for window in ours:
            for a, b in zip(ours[window], jaxs[window], strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=window)


def test_gradients_of_gradients_too():
    arrays, options = arguments(2, 3, 2, "SAME", 1, 1)

    def curvature(convolve):
        def slope(x, w):
            dx, dw = jax.grad(lambda x, w: jnp.sum(jnp.tanh(convolve(x, w, *options))), (0, 1))(x, w)
            return jnp.sum(dx**2) + jnp.sum(dw**2)

        return jax.jit(jax.grad(slope, (0, 1)))(*arrays)

    for a, b in zip(curvature(convolve), curvature(lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)  # sums of some thousand products of size 10


def test_every_convolution_of_the_gradient_has_examples_first_and_channels_last():
    """The one form in which XLA's CPU compiler has a fast routine inside a loop."""
    arrays, options = arguments(2, 3, 2, "SAME", 1, 1, channels=WAYS["routine"])
    jaxpr = jax.make_jaxpr(jax.grad(lambda x, w: jnp.sum(convolve(x, w, *options) ** 2), (0, 1)))(*arrays)
    text = str(jaxpr)
    assert text.count("conv_general_dilated[") == 3
    assert text.count("lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2)") == 3


def test_few_numbers_and_few_channels_are_multiplied():
    for channels, convolutions in ((WAYS["one product"], 0), (WAYS["shifted products"], 0), (WAYS["routine"], 1)):
        arrays, options = arguments(2, 3, 1, "SAME", 1, 1, channels=channels)
        text = str(jax.make_jaxpr(lambda x, w, options=options: convolve(x, w, *options))(*arrays))
        assert text.count("conv_general_dilated[") == convolutions
        assert ("dot_general" in text) == (convolutions == 0)


@pytest.mark.parametrize(
    ("examples", "size", "count"),
    [(128, 1024, 8), (128, 10, 128), (12, 3000, 2), (7, 3000, 1), (13, 1000, 13), (1, 10**6, 1)],
)
def test_examples_are_taken_in_equal_parts_that_stay_in_the_cache(examples, size, count):
    """Thirteen of a thousand would be one at a time, with too little in each."""
    assert convolution._at_a_time(examples, size, 8192) == count


def test_grouped_convolutions_are_jaxs():
    x, w = jnp.ones((2, 5, 5, 4)), jax.random.normal(jax.random.key(0), (3, 3, 2, 6))
    layout = lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "HWIO", "NHWC"))
    options = {"dimension_numbers": layout, "feature_group_count": 2}
    np.testing.assert_array_equal(
        convolve(x, w, (1, 1), "SAME", **options), lax.conv_general_dilated(x, w, (1, 1), "SAME", **options)
    )


@pytest.mark.parametrize("channels", WAYS.values(), ids=WAYS)
def test_a_convolution_of_no_images(channels):
    x, w = jnp.ones((0, 5, 5, channels)), jnp.ones((3, 3, channels, 7))
    layout = lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "HWIO", "NHWC"))
    assert convolve(x, w, (1, 1), "SAME", dimension_numbers=layout).shape == (0, 5, 5, 7)


def test_what_jax_refuses_is_refused():
    x, w = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 7))
    layout = lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "HWIO", "NHWC"))
    with pytest.raises(ValueError, match="String padding is not implemented for transposed"):
        convolve(x, w, (1, 1), "SAME", lhs_dilation=(2, 2), dimension_numbers=layout)


@pytest.mark.parametrize("channels", WAYS.values(), ids=WAYS)
def test_a_convolution_is_exported_for_batches_of_any_size(channels):
    """What `jax.export` makes of it is JAX's convolution."""
    (x, w), settings = arguments(2, 3, 1, "SAME", 1, 1, channels)
    (batch,) = jax.export.symbolic_shape("batch")
    anything = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    program = jax.export.export(jax.jit(lambda x: convolve(x, w, *settings)))(anything)
    np.testing.assert_allclose(program.call(x), convolve(x, w, *settings), rtol=1e-5, atol=1e-5)
