"""Every layer against NumPy loops, matrices built column by column, and closed forms."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlocal.fast.pooling import max_pool
from jaxlocal.layers import Block, Head, Residual, Transposed, conv, dense, he_normal, identity, local
from jaxlocal.network import Network, apply_layer, apply_layers, init_layer

glorot_normal = nn.initializers.glorot_normal


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def init(layer, seed, shape):
    """Weights and statistics for inputs of this shape; compiled, so that the output is never computed."""
    make = jax.jit(lambda key: init_layer(layer, key, jnp.zeros((1, *shape)))[:2])
    return make(jax.random.key(seed))


def perturbed(tree, seed=7):
    """The same tree with every number random, biases and scales too."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [normal(seed + i, *leaf.shape) for i, leaf in enumerate(leaves)])


def random_weights(layer, shape):
    """Weights for inputs of this shape with nothing left at zero, and the shape of the output."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    weights, _, y = jax.eval_shape(partial(init_layer, layer), jax.random.key(0), x)
    return perturbed(weights), y.shape[1:]


def output(layer, weights, x):
    """The output of a layer without statistics, compiled as a whole."""
    return jax.jit(lambda w, x: apply_layer(layer, w, {}, x)[0])(weights, x)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: dense(8, dropout=1.5), "dropout=1.5: must be zero or more and less than one"),
        (lambda: conv(8, pool=0), "pool=0: must be at least 1"),
        (lambda: local(8, activation="relu"), "activation='relu': must be a function"),
        (lambda: dense(8, init=he_normal()), "init=.*: must make an initializer when it is called"),
    ],
)
def test_bad_options_of_a_block_are_one_sentence(call, complaint):
    with pytest.raises((ValueError, TypeError), match=complaint):
        call()


def receptive_fields(x, kernels, stride):
    """A locally connected map; kernels (height, width, k, k, inputs, features), one for each output place."""
    height, width, k, _, _, features = kernels.shape
    padded = x
    for axis, size in ((1, height), (2, width)):
        total = max((size - 1) * stride + k - x.shape[axis], 0)
        pad = [(0, 0)] * 4
        pad[axis] = (total // 2, total - total // 2)
        padded = np.pad(padded, pad)
    y = np.zeros((len(x), height, width, features), x.dtype)
    for i in range(height):
        for j in range(width):
            patch = padded[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.einsum("bhwc,hwcf->bf", patch, kernels[i, j])
    return y


def kernels_by_place(linear, kernel, out_shape):
    """A Flax kernel as `receptive_fields` takes it."""
    kernel, k = np.asarray(kernel), linear.kernel_size[0]
    if isinstance(linear, nn.ConvLocal):  # the patch is one axis in Flax: channel by channel, row by row
        height, width, patch, features = kernel.shape
        return kernel.reshape(height, width, patch // k**2, k, k, features).transpose(0, 1, 3, 4, 2, 5)
    return np.broadcast_to(kernel, (*out_shape[:2], *kernel.shape))


# Image size, kernel, stride.
GEOMETRIES = [((4, 4), 3, 1), ((5, 5), 3, 2), ((5, 4), 3, 2), ((7, 2), 5, 1), ((4, 5), 5, 2)]


@pytest.mark.parametrize("make", [conv, local])
@pytest.mark.parametrize(("size", "kernel", "stride"), GEOMETRIES)
def test_receptive_fields_equal_a_numpy_loop(make, size, kernel, stride):
    block = make(3, kernel, stride, identity)
    x = normal(0, 2, *size, 2)
    weights, shape = random_weights(block, x.shape[1:])
    assert shape == (-(-size[0] // stride), -(-size[1] // stride), 3)
    kernels = kernels_by_place(block.linear, weights["linear"]["kernel"], shape)
    expected = receptive_fields(np.asarray(x), kernels, stride) + np.asarray(weights["linear"]["bias"])
    np.testing.assert_allclose(output(block, weights, x), expected, rtol=1e-5, atol=1e-5)


def test_a_local_layer_has_weights_and_biases_of_its_own_at_every_place():
    weights, _ = random_weights(local(3, 3, 2), (5, 5, 2))
    assert jax.tree.map(jnp.shape, weights) == {"linear": {"kernel": (3, 3, 18, 3), "bias": (3, 3, 3)}}


@pytest.mark.parametrize("make", [conv, local])
@pytest.mark.parametrize(("size", "kernel", "stride"), GEOMETRIES)
def test_transposed_is_the_transposed_matrix(make, size, kernel, stride):
    block, shape = make(3, kernel, stride), (*size, 2)
    _, out_shape = random_weights(block, shape)
    inverse = block.inverse(shape, jnp.tanh)
    weights, in_shape = random_weights(inverse, out_shape)
    assert in_shape == shape
    assert weights["bias"].shape == (shape[-1:] if make is conv else shape)

    kernels, units = kernels_by_place(block.linear, weights["kernel"], out_shape), int(np.prod(shape))
    basis = np.eye(units, dtype=np.float32).reshape(units, *shape)
    transposed_matrix = receptive_fields(basis, kernels, stride).reshape(units, -1)  # row i: what unit i reaches
    v = normal(1, 2, *out_shape)
    expected = (np.asarray(v).reshape(2, -1) @ transposed_matrix.T).reshape(2, *shape)
    expected = np.tanh(expected + np.asarray(weights["bias"]))
    np.testing.assert_allclose(output(inverse, weights, v), expected, rtol=1e-5, atol=1e-5)


def test_transposed_dense_is_the_transposed_matrix():
    inverse = dense(5).inverse((2, 3, 2), jnp.tanh)
    weights, shape = random_weights(inverse, (5,))
    assert shape == (2, 3, 2)
    assert weights["kernel"].shape == (12, 5)
    v = normal(1, 4, 5)
    expected = (np.asarray(v) @ np.asarray(weights["kernel"]).T).reshape(4, 2, 3, 2)
    expected = np.tanh(expected + np.asarray(weights["bias"]))
    np.testing.assert_allclose(output(inverse, weights, v), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [conv, local])
def test_transposed_learns_its_kernel(make):
    # uᵀ Aᵀ v is linear in the kernel, so along any direction D its derivative is its value at D.
    inverse = make(3, 3, 2).inverse((5, 5, 2), identity)
    u, v = normal(0, 2, 5, 5, 2), normal(1, 2, 3, 3, 3)
    weights, _ = random_weights(inverse, (3, 3, 3))

    @jax.jit
    def value(kernel):
        unbiased = {"kernel": kernel, "bias": jnp.zeros_like(weights["bias"])}
        return jnp.vdot(u, apply_layer(inverse, unbiased, {}, v)[0])

    direction = normal(3, *weights["kernel"].shape)
    slope = jnp.vdot(jax.grad(value)(weights["kernel"]), direction)
    np.testing.assert_allclose(slope, value(direction), rtol=1e-4)


def test_an_inverse_has_weights_of_its_own():
    block = dense(4, init=glorot_normal)
    forward, _ = init(block, 0, (6,))
    backward, _ = init(block.inverse((6,), nn.tanh), 1, (4,))
    assert backward["kernel"].shape == forward["linear"]["kernel"].shape
    assert not jnp.allclose(backward["kernel"], forward["linear"]["kernel"])


def test_the_head_flattens_or_averages_over_space():
    x = normal(0, 2, 3, 4, 5)
    for head, features in (Head(6), x.reshape(2, 60)), (Head(6, average=True), x.mean(axis=(1, 2))):
        weights, _ = random_weights(head, (3, 4, 5))
        kernel, bias = np.asarray(weights["linear"]["kernel"]), np.asarray(weights["linear"]["bias"])
        np.testing.assert_allclose(output(head, weights, x), np.asarray(features) @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_a_dense_block_flattens_row_by_row():
    x = normal(0, 2, 3, 4, 5)
    weights, _ = random_weights(dense(6), (3, 4, 5))
    flat = output(dense(6), weights, x.reshape(2, 60))
    np.testing.assert_array_equal(output(dense(6), weights, x), flat)


@pytest.mark.parametrize("name", ["pool", "pool_input"])
def test_a_pooled_block_has_no_inverse(name):
    with pytest.raises(ValueError, match=f"{name}=2: max pooling has no inverse; give the linear map a stride"):
        conv(3, **{name: 2}).inverse((4, 4, 2), nn.tanh)


def test_pooling_the_input_is_pooling_the_output_of_the_block_below():
    x = normal(0, 2, 6, 6, 3)
    weights, _ = random_weights(dense(5), (3, 3, 3))
    np.testing.assert_array_equal(output(dense(5, pool_input=2), weights, x), output(dense(5), weights, max_pool(x, 2)))
    for pooled in dense(5, pool_input=2), dense(5, pool=2):
        with pytest.raises(ValueError, match="max pooling needs images"):
            output(pooled, weights, x.reshape(2, -1)[:, :27])


INPUTS = {"dense": (400, (400,), 512), "conv": (9 * 16, (4, 4, 16), 64), "local": (9 * 16, (4, 4, 16), 64)}


@pytest.mark.parametrize("make", [dense, conv, local])
def test_standard_deviation_of_the_weights(make):
    fan_in, shape, features = INPUTS[make.__name__]
    fan_out = features * (1 if make is dense else 9)
    for scheme, variance in (he_normal, 2 / fan_in), (glorot_normal, 2 / (fan_in + fan_out)):
        block = make(features, init=scheme)
        weights, _ = init(block, 0, shape)
        assert jnp.std(weights["linear"]["kernel"]) == pytest.approx(variance**0.5, rel=0.03)
        assert jnp.all(weights["linear"]["bias"] == 0)


def test_standard_deviation_of_head_inverse_and_residual():
    weights, _ = init(Head(64, kernel_init=he_normal), 0, (400,))
    assert jnp.std(weights["linear"]["kernel"]) == pytest.approx((2 / 400) ** 0.5, rel=0.03)
    weights, _ = init(dense(64).inverse((400,), nn.tanh), 0, (64,))
    assert jnp.std(weights["kernel"]) == pytest.approx((2 / 400) ** 0.5, rel=0.03)  # as its forward map is drawn
    weights, _ = init(Residual(64, 2), 0, (4, 4, 32))
    for name, fan_in in ("conv_1", 9 * 32), ("conv_2", 9 * 64), ("conv_shortcut", 32):
        assert jnp.std(weights[name]["kernel"]) == pytest.approx((2 / fan_in) ** 0.5, rel=0.04)


def train(layer, weights, stats, x):
    """`apply_layer` as in training, compiled as a whole."""
    return jax.jit(partial(apply_layer, layer))(weights, stats, x, jax.random.key(5))


def numpy_norm(a, scale=1.0, bias=0.0):
    """Batch norm by the batch's own statistics, channel by channel."""
    axes = tuple(range(a.ndim - 1))
    return (a - a.mean(axes)) / np.sqrt(a.var(axes) + 1e-5) * scale + bias


@pytest.mark.parametrize("block", [dense(5, norm=True), conv(5, norm=True)], ids=["dense", "conv"])
def test_batch_norm_stands_before_the_activation_and_keeps_running_statistics(block):
    x = normal(0, 16, *((6,) if isinstance(block.linear, nn.Dense) else (4, 4, 2)))
    weights, stats = init(block, 1, x.shape[1:])
    weights = perturbed(weights)
    linear = np.asarray(block.linear.apply({"params": weights["linear"]}, x))
    scale, bias = np.asarray(weights["norm"]["scale"]), np.asarray(weights["norm"]["bias"])

    y, new_stats = train(block, weights, stats, x)
    np.testing.assert_allclose(y, np.maximum(numpy_norm(linear, scale, bias), 0), rtol=1e-4, atol=1e-5)

    axes = tuple(range(linear.ndim - 1))
    mean, var = 0.1 * linear.mean(axes), 0.9 + 0.1 * linear.var(axes)  # from 0 and 1, a tenth of the way
    running = new_stats["batch_stats"]["norm"]
    np.testing.assert_allclose(running["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(running["var"], var, rtol=1e-4, atol=1e-5)

    y, same_stats = apply_layer(block, weights, new_stats, x)
    expected = np.maximum((linear - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert same_stats is new_stats


def test_making_a_layer_leaves_its_statistics_at_zero_and_one():
    _, stats = init(dense(5, norm=True), 1, (6,))
    np.testing.assert_array_equal(stats["batch_stats"]["norm"]["mean"], np.zeros(5))
    np.testing.assert_array_equal(stats["batch_stats"]["norm"]["var"], np.ones(5))


def test_dropout_in_training_only():
    x, plain, block = normal(0, 64, 6), dense(50), dense(50, dropout=0.25)
    weights, stats = init(block, 1, x.shape[1:])
    full, _ = apply_layer(plain, weights, stats, x)
    evaluated, _ = apply_layer(block, weights, stats, x)
    np.testing.assert_array_equal(evaluated, full)

    first, _ = apply_layer(block, weights, stats, x, jax.random.key(2))
    again, _ = apply_layer(block, weights, stats, x, jax.random.key(2))
    other, _ = apply_layer(block, weights, stats, x, jax.random.key(3))
    np.testing.assert_array_equal(first, again)
    assert not jnp.array_equal(first, other)
    active, kept = full > 0, first > 0
    assert jnp.mean(kept[active], dtype=jnp.float32) == pytest.approx(0.75, abs=0.05)
    np.testing.assert_allclose(first[kept], full[kept] / 0.75, rtol=1e-6)


def test_layers_of_one_network_drop_different_units():
    layers, x = (dense(40, identity, dropout=0.5),) * 2, jnp.ones((8, 40))
    weights = ({"linear": {"kernel": jnp.eye(40), "bias": jnp.zeros(40)}},) * 2
    both, _ = apply_layers(layers, weights, ({}, {}), x, jax.random.key(0))
    # The same units twice would leave one half.
    assert jnp.mean(both > 0, dtype=jnp.float32) == pytest.approx(0.25, abs=0.1)


def test_pooling_comes_after_the_activation():
    x = normal(0, 2, 4, 6, 2)
    pooled, unpooled = conv(3, activation=jnp.square, pool=2), conv(3, activation=jnp.square)
    weights, shape = random_weights(pooled, x.shape[1:])
    assert shape == (2, 3, 3)
    expected = np.asarray(output(unpooled, weights, x)).reshape(2, 2, 2, 3, 2, 3).max(axis=(2, 4))
    np.testing.assert_allclose(output(pooled, weights, x), expected, rtol=1e-6)


def test_a_residual_block_adds_its_input_before_the_last_relu():
    block, x = Residual(3), normal(0, 4, 5, 5, 3)
    weights, stats = init(block, 1, x.shape[1:])
    assert weights.keys() == {"conv_1", "norm_1", "conv_2", "norm_2"}
    y, _ = train(block, weights, stats, x)

    def conv_norm(x, i):
        kernel = np.asarray(weights[f"conv_{i}"]["kernel"])
        return numpy_norm(receptive_fields(x, np.broadcast_to(kernel, (5, 5, *kernel.shape)), 1))

    h = np.asarray(x)
    expected = np.maximum(conv_norm(np.maximum(conv_norm(h, 1), 0), 2) + h, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("features", "stride"), [(4, 2), (3, 2), (4, 1)])
def test_a_residual_block_projects_its_input_where_the_shape_changes(features, stride):
    block, x = Residual(features, stride), normal(0, 4, 5, 5, 3)
    weights, stats = init(block, 1, x.shape[1:])
    weights["norm_2"] = jax.tree.map(jnp.zeros_like, weights["norm_2"])  # the shortcut alone remains
    y, new_stats = train(block, weights, stats, x)
    kernel = np.asarray(weights["conv_shortcut"]["kernel"])[0, 0]
    expected = np.maximum(numpy_norm(np.asarray(x)[:, ::stride, ::stride] @ kernel), 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert new_stats["batch_stats"].keys() == {"norm_1", "norm_2", "norm_shortcut"}


def test_a_shortcut_without_batch_norm_has_a_bias():
    block, x = Residual(4, 2, shortcut_norm=False), normal(0, 4, 5, 5, 3)
    weights, stats = init(block, 1, x.shape[1:])
    weights["norm_2"] = jax.tree.map(jnp.zeros_like, weights["norm_2"])  # the shortcut alone remains
    weights["conv_shortcut"]["bias"] = normal(2, 4)
    y, new_stats = train(block, weights, stats, x)
    kernel, bias = np.asarray(weights["conv_shortcut"]["kernel"])[0, 0], np.asarray(weights["conv_shortcut"]["bias"])
    np.testing.assert_allclose(y, np.maximum(np.asarray(x)[:, ::2, ::2] @ kernel + bias, 0), rtol=1e-4, atol=1e-4)
    assert new_stats["batch_stats"].keys() == {"norm_1", "norm_2"}


class Doubling(nn.Module):
    """A user's module that behaves differently in training."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(x) * (2 if train else 1)


class Own(nn.Module):
    """A user's linear map without a bias."""

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", he_normal(), (x.shape[-1], 3))


def test_any_flax_module_is_a_block():
    sequential = nn.Sequential([nn.Dense(5), nn.relu])
    net = Network((Doubling(), sequential, Block(Own(), identity, norm=True)), Head(2))
    x, shapes = normal(0, 4, 6), [(6,), (3,), (5,), (3,)]
    made = [init(layer, i, shape) for i, (layer, shape) in enumerate(zip(net.layers, shapes, strict=True))]
    weights, stats = zip(*made, strict=True)
    prediction, _ = apply_layer(net.blocks[0], weights[0], stats[0], x)
    training, _ = apply_layer(net.blocks[0], weights[0], stats[0], x, jax.random.key(1))
    np.testing.assert_allclose(training, 2 * prediction, rtol=1e-6)

    scores, new_stats = apply_layers(net.layers, weights, stats, x, jax.random.key(1))
    assert scores.shape == (4, 2)
    assert [s.keys() for s in new_stats] == [set(), set(), {"batch_stats"}, set()]
    first = np.asarray(prediction)
    second = np.maximum(first @ weights[1]["layers_0"]["kernel"] + weights[1]["layers_0"]["bias"][None], 0)
    third = second @ weights[2]["linear"]["kernel"] / np.sqrt(1 + 1e-5)  # running mean 0, variance 1
    fourth = third @ weights[3]["linear"]["kernel"] + weights[3]["linear"]["bias"][None]
    np.testing.assert_allclose(apply_layers(net.layers, weights, stats, x)[0], fourth, rtol=1e-4, atol=1e-5)


def test_transposed_takes_any_map_with_a_kernel():
    inverse = Transposed(nn.Conv(3, (2, 3), (1, 2), padding="VALID"), (4, 7, 2))
    assert random_weights(inverse, (3, 3, 3))[1] == (4, 7, 2)
