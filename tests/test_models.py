"""The networks have the layer sizes that the papers print: the counts here come from those alone."""

import inspect
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlocal as jl
from jaxlocal import models
from jaxlocal.layers import Head, dense
from jaxlocal.network import Network, apply_layers, cross_entropy, init_layer, squared_error

MNIST, CIFAR, IMAGENET = (28, 28, 1), (32, 32, 3), (224, 224, 3)


def trace(net, image):
    """The number of weights of a network and the output shapes of its layers, without computing either."""

    def build(key, x):
        weights, outputs = [], []
        for layer in net.layers:
            w, _, x = init_layer(layer, key, x)
            weights.append(w)
            outputs.append(x)
        return weights, outputs

    x = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    weights, outputs = jax.eval_shape(build, jax.random.key(0), x)
    return sum(w.size for w in jax.tree.leaves(weights)), [y.shape[1:] for y in outputs]


def dense_count(*widths):
    return sum((n + 1) * m for n, m in pairwise(widths))


def conv_count(kernel, *channels):
    return sum((kernel**2 * n + 1) * m for n, m in pairwise(channels))


def local_count(kernel, inputs, outputs, size):
    return size**2 * (kernel**2 * inputs + 1) * outputs


def norm_count(*channels):
    return 2 * sum(channels)


VANILLA_CONVS = conv_count(3, 3, 32, 32, 32, 32, 64, 64, 64, 64)
VGG_BLOCKS = conv_count(3, 3, 128, 256, 256, 512, 512, 512) + dense_count(2 * 2 * 512, 1024, 1024)

# Residual stages: 3×3 convolutions without bias and their batch norm; 1×1 shortcuts where the shape changes.
RESNET20_BLOCKS = (
    (27 + 1 + 2) * 16
    + 6 * (9 * 16 * 16 + 2 * 16)
    + (9 * 16 * 32 + 2 * 32) + 5 * (9 * 32 * 32 + 2 * 32) + (16 * 32 + 2 * 32)
    + (9 * 32 * 64 + 2 * 64) + 5 * (9 * 64 * 64 + 2 * 64) + (32 * 64 + 2 * 64)
)  # fmt: skip
RESNET32_BLOCKS = RESNET20_BLOCKS + 4 * sum(9 * n * n + 2 * n for n in (16, 32, 64))

COUNTS = [
    (models.mlp((1024, 1024)), MNIST, dense_count(784, 1024, 1024, 10)),
    (models.mlp((3000, 3000)), CIFAR, dense_count(3072, 3000, 3000, 10)),
    (models.mlp((), 3), (5,), dense_count(5, 3)),
    (models.mlp((8,), 3, norm=True), (5,), dense_count(5, 8, 3) + norm_count(8)),
    (models.vanilla_cnn(), CIFAR, VANILLA_CONVS + dense_count(8 * 8 * 64, 10)),
    (models.vgg(), CIFAR, VGG_BLOCKS + dense_count(1024, 10)),
    (models.vgg(100, norm=True), CIFAR, VGG_BLOCKS + dense_count(1024, 100)
        + norm_count(128, 256, 256, 512, 512, 512, 1024, 1024)),
    (models.vgg8b(), CIFAR, conv_count(3, 3, 128, 256, 256, 512, 512, 512) + dense_count(2 * 2 * 512, 1024, 10)
        + norm_count(128, 256, 256, 512, 512, 512, 1024)),
    (models.vgg8b(times=0.25), MNIST, conv_count(3, 1, 32, 64, 64, 128, 128, 128) + dense_count(128, 1024, 10)
        + norm_count(32, 64, 64, 128, 128, 128, 1024)),
    (models.vgg8b(times=2), MNIST, conv_count(3, 1, 256, 512, 512, 1024, 1024, 1024) + dense_count(1024, 1024, 10)
        + norm_count(256, 512, 512, 1024, 1024, 1024, 1024)),
    (models.vgg11b(100), CIFAR, conv_count(3, 3, 128, 128, 128, 256, 256, 512, 512, 512, 512)
        + dense_count(2 * 2 * 512, 1024, 100) + norm_count(128, 128, 128, 256, 256, 512, 512, 512, 512, 1024)),
    (models.resnet(20), CIFAR, RESNET20_BLOCKS + dense_count(64, 10)),
    (models.resnet(32, 100), CIFAR, RESNET32_BLOCKS + dense_count(64, 100)),
    (models.conv2(), CIFAR, conv_count(3, 3, 32, 32) + dense_count(8192, 128, 10) + norm_count(32, 32, 128)),
    (models.conv2(), MNIST, conv_count(3, 1, 32, 32) + dense_count(6272, 128, 10) + norm_count(32, 32, 128)),
    (models.conv2(padding="VALID", dense_norm=False), CIFAR,
        conv_count(3, 3, 32, 32) + dense_count(6272, 128, 10) + norm_count(32, 32)),
    (models.mnist_fc(), MNIST, dense_count(784, 256, 256, 256, 256, 256, 256, 10)),
    (models.cifar_fc(), CIFAR, dense_count(3072, 1024, 1024, 1024, 10)),
    (models.mnist_lc(), MNIST, local_count(3, 1, 32, 14) + local_count(3, 32, 64, 7)
        + dense_count(7 * 7 * 64, 1024, 10)),
    (models.cifar_lc(), CIFAR, local_count(5, 3, 64, 16) + local_count(5, 64, 128, 8)
        + local_count(3, 128, 256, 8) + dense_count(8 * 8 * 256, 1024, 10)),
    (models.imagenet_lc(), IMAGENET, local_count(9, 3, 48, 56) + local_count(3, 48, 48, 28)
        + local_count(5, 48, 96, 28) + local_count(3, 96, 96, 14) + local_count(3, 96, 192, 14)
        + local_count(3, 192, 192, 7) + local_count(3, 192, 384, 7) + dense_count(7 * 7 * 384, 1000)),
    (models.mnist_conv(), MNIST, conv_count(3, 1, 32, 64) + dense_count(7 * 7 * 64, 1024, 10)),
    (models.cifar_conv(), CIFAR, conv_count(5, 3, 64, 128) + conv_count(3, 128, 256)
        + dense_count(8 * 8 * 256, 1024, 10)),
    (models.imagenet_conv(), IMAGENET, conv_count(9, 3, 48) + conv_count(3, 48, 48) + conv_count(5, 48, 96)
        + conv_count(3, 96, 96, 192, 192, 384) + dense_count(7 * 7 * 384, 1000)),
    (models.autoencoder(), MNIST, dense_count(784, 512, 64, 512, 784)),
]  # fmt: skip


@pytest.mark.parametrize(("net", "image", "expected"), COUNTS)
def test_parameter_count(net, image, expected):
    assert trace(net, image)[0] == expected


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46)])
def test_resnets_have_the_size_that_he_et_al_print(depth, millions):
    assert trace(models.resnet(depth), CIFAR)[0] / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(("image_size", "classes"), [(32, 100), (64, 200)])
def test_alexnet_differs_with_the_image_size_in_the_first_stride_only(image_size, classes):
    widths = 64, 192, 384, 256, 256
    net = models.alexnet(classes, image_size=image_size)
    count, shapes = trace(net, (image_size, image_size, 3))
    expected = conv_count(3, 3, *widths) + dense_count(4 * 4 * 256, 4096, 4096, classes)
    assert count == expected + norm_count(*widths, 4096, 4096)
    assert shapes[:5] == [(16, 16, 64), (8, 8, 192), (8, 8, 384), (8, 8, 256), (4, 4, 256)]


def test_alexnet_width_and_dropout_are_those_of_the_dense_layers():
    blocks = models.alexnet(width=7, dropout=0.5).blocks
    assert [block.linear.features for block in blocks[5:]] == [7, 7]
    assert [block.dropout for block in blocks] == [0, 0, 0, 0, 0, 0.5, 0.5]


AFTER_AL = dense_count(5 * 256, 256, 256, 256, 256, 10)  # last bridge's second layer, decoders of components 4 to 1
MATCHED = [
    (models.mlp((1024, 1024)), 2, 1024, MNIST, dense_count(784, 1024, 1024, 5120, 1024, 1024, 10)),
    (models.mlp((3000, 3000)), 2, 3000, CIFAR, dense_count(3072, 3000, 3000, 15000, 3000, 3000, 10)),
    (models.vanilla_cnn(), 4, 256, CIFAR, VANILLA_CONVS + dense_count(8 * 8 * 64, 1280) + AFTER_AL),
    (models.vgg(100), 4, 300, CIFAR, VGG_BLOCKS + dense_count(1024, 1500, 300, 300, 300, 300, 100)),
    (models.resnet(20), 4, 300, CIFAR, RESNET20_BLOCKS + dense_count(4096, 1500, 300, 300, 300, 300, 10)),
]


@pytest.mark.parametrize(("net", "components", "width", "image", "expected"), MATCHED)
def test_matched_has_the_effective_parameters_of_associated_learning(net, components, width, image, expected):
    assert trace(models.matched(net, components, width), image)[0] == expected


def test_matched_with_one_component_adds_the_bridge_alone():
    net = models.matched(models.mlp((6,), 3), 1, 4)
    assert trace(net, (5,)) == (dense_count(5, 6, 20, 4, 3), [(6,), (20,), (4,), (3,)])


def test_matched_keeps_blocks_loss_and_readout_of_the_net():
    net = models.autoencoder((6,), units=5)
    same = models.matched(net, 2, 4, activation=nn.tanh)
    assert same.blocks[:1] == net.blocks
    assert same.loss is squared_error
    assert same.head == net.head
    assert all(block.activation is nn.tanh for block in same.blocks)


SHAPES = [
    (models.vanilla_cnn(), CIFAR,
        [*[(32, 32, 32)] * 3, (16, 16, 32), *[(16, 16, 64)] * 3, (8, 8, 64), (10,)]),
    (models.vgg(), CIFAR, [(32, 32, 128), (16, 16, 256), (16, 16, 256), (8, 8, 512), (4, 4, 512), (2, 2, 512),
        (1024,), (1024,), (10,)]),
    (models.resnet(8, 3), CIFAR, [(32, 32, 16), (32, 32, 16), (16, 16, 32), (8, 8, 64), (3,)]),
    (models.resnet(20, 3), CIFAR, [*[(32, 32, 16)] * 4, *[(16, 16, 32)] * 3, *[(8, 8, 64)] * 3, (3,)]),
    (models.conv2(), MNIST, [(28, 28, 32), (28, 28, 32), (128,), (10,)]),
    (models.conv2(padding="VALID"), CIFAR, [(30, 30, 32), (28, 28, 32), (128,), (10,)]),
    (models.mnist_lc(), MNIST, [(14, 14, 32), (7, 7, 64), (1024,), (10,)]),
    (models.cifar_lc(), CIFAR, [(16, 16, 64), (8, 8, 128), (8, 8, 256), (1024,), (10,)]),
    (models.imagenet_lc(), IMAGENET, [(56, 56, 48), (28, 28, 48), (28, 28, 96), (14, 14, 96), (14, 14, 192),
        (7, 7, 192), (7, 7, 384), (1000,)]),
    (models.autoencoder(), (784,), [(512,), (64,), (512,), (784,)]),
]  # fmt: skip


@pytest.mark.parametrize(("net", "image", "expected"), SHAPES)
def test_output_shapes(net, image, expected):
    assert trace(net, image)[1] == expected


@pytest.mark.parametrize(
    ("local", "shared"),
    [
        (models.mnist_lc(), models.mnist_conv()),
        (models.cifar_lc(), models.cifar_conv()),
        (models.imagenet_lc(), models.imagenet_conv()),
    ],
)
def test_the_conv_net_is_the_locally_connected_one_with_shared_weights(local, shared):
    kinds = [(type(a.linear), type(b.linear)) for a, b in zip(local.blocks, shared.blocks, strict=True)]
    images = [pair for pair in kinds if pair != (nn.Dense, nn.Dense)]
    assert set(images) == {(nn.ConvLocal, nn.Conv)}
    assert trace(local, IMAGENET)[1] == trace(shared, IMAGENET)[1]


def test_networks_and_rules_are_printed_on_one_line():
    net = models.mlp((4, 5), 3)
    assert repr(net) == "Network(Dense 4 → Dense 5 → Head 3)"
    assert repr(models.resnet(20)) == "Network(Conv 16 → Residual 16 → … 7 more … → Residual 64 → Head 10)"
    al, bp = (make(net, optax.sgd(0.1)) for make in (jl.rules.al, jl.rules.bp))
    assert repr(al) == f"Rule(forward only in 2 components, {net!r})"
    one = jl.rules.al(net, optax.adam(1e-3), components=1)
    assert repr(one) == f"Rule(forward only in 1 component, {net!r})"
    assert repr(bp) == f"Rule({net!r})"
    assert repr(jl.ensemble(al, 3)) == f"Rule(3 members, {net!r})"


def test_recipes():
    assert {block.activation for block in models.cifar_lc().blocks} == {nn.tanh}
    assert {block.activation for block in models.autoencoder().blocks} == {nn.tanh}
    assert models.autoencoder().loss is squared_error
    assert models.mlp().loss is cross_entropy
    assert all(block.norm for block in (*models.conv2().blocks, *models.alexnet().blocks))
    assert [block.pool for block in models.alexnet().blocks] == [2, 2, 1, 1, 2, 1, 1]
    assert not any(block.norm or block.dropout for block in models.vgg().blocks)
    for make in models.mlp, models.vanilla_cnn, models.vgg:
        blocks = make(activation=nn.gelu, norm=True, dropout=0.25).blocks
        assert {(block.activation, block.norm, block.dropout) for block in blocks} == {(nn.gelu, True, 0.25)}


@pytest.mark.parametrize("make", [models.mlp, models.vanilla_cnn, models.vgg])
def test_init_is_that_of_every_layer(make):
    net = make(init=models.glorot_uniform)
    assert net.head.kernel_init is models.glorot_uniform
    key, expected = jax.random.key(0), models.glorot_uniform()(jax.random.key(0), (1, 3))
    assert all(jnp.array_equal(block.linear.kernel_init(key, (1, 3)), expected) for block in net.blocks)


def test_a_network_trains_and_predicts():
    net = Network((*models.conv2(3).blocks, dense(4, dropout=0.5)), Head(3))

    @jax.jit
    def run(x):
        weights, stats, h = [], [], x
        for i, layer in enumerate(net.layers):
            w, s, h = init_layer(layer, jax.random.key(i), h)
            weights.append(w)
            stats.append(s)
        training = apply_layers(net.layers, tuple(weights), tuple(stats), x, jax.random.key(9))
        prediction = apply_layers(net.layers, tuple(weights), training[1], x)
        return training, prediction

    x = jax.random.normal(jax.random.key(1), (4, 6, 6, 1))
    (scores, stats), (predicted, same_stats) = run(x)
    assert scores.shape == predicted.shape == (4, 3)
    assert [len(jax.tree.leaves(s)) for s in stats] == [2, 2, 2, 0, 0]
    jax.tree.map(np.testing.assert_array_equal, stats, same_stats)
    assert not jnp.allclose(scores, predicted)


def test_the_list_of_networks_is_complete():
    """All public functions of the module are in it, except `matched`, which takes a network."""
    functions = {
        name
        for name, value in vars(models).items()
        if inspect.isfunction(value) and value.__module__ == models.__name__ and not name.startswith("_")
    }
    sequences = {"lstm_classifier", "gru_classifier", "transformer_classifier"}
    assert set(models.ALL) == (functions | sequences) - {"matched"}
    assert all(name == make.__name__ for name, make in models.ALL.items())


ERRORS = [
    (lambda: models.mlp(hidden=256), TypeError, r"hidden=256: .*hidden=\(256,\)"),
    (lambda: models.mlp(hidden="256"), TypeError, r"hidden='256': .*such as hidden=\(256, 256\)"),
    (lambda: models.mlp(hidden=(256, 0)), ValueError, r"hidden\[1\]=0: .*at least 1"),
    (lambda: models.mlp(hidden=(2.5,)), TypeError, r"hidden\[0\]=2.5: .*whole number"),
    (lambda: models.mlp(classes=0), ValueError, "classes=0: .*at least 1"),
    (lambda: models.vgg(classes=10.0), TypeError, "classes=10.0: .*whole number"),
    (lambda: models.mlp(dropout=1.0), ValueError, "dropout=1.0: .*less than one"),
    (lambda: models.vgg(dropout=-0.1), ValueError, "dropout=-0.1: .*zero or more"),
    (lambda: models.vanilla_cnn(dropout=float("nan")), ValueError, "dropout=nan: "),
    (lambda: models.alexnet(dropout=True), TypeError, "dropout=True: .*number"),
    (lambda: models.alexnet(image_size=224), ValueError, "image_size=224: must be 32 or 64; resize"),
    (lambda: models.alexnet(width=-1), ValueError, "width=-1: "),
    (lambda: models.vgg8b(times=0), ValueError, "times=0: "),
    (lambda: models.vgg8b(times=0.3), ValueError, "times=0.3: does not give whole numbers of features"),
    (lambda: models.resnet(18), ValueError, r"depth=18: must be 6n \+ 2.*pass depth=20"),
    (lambda: models.resnet(2), ValueError, "depth=2: "),
    (lambda: models.resnet("20"), TypeError, "depth='20': .*whole number"),
    (lambda: models.autoencoder(sizes=64), TypeError, r"sizes=64: .*sizes=\(64,\)"),
    (lambda: models.autoencoder(units=0), ValueError, "units=0: "),
    (lambda: models.matched(models.mlp(), 0, 9), ValueError, "components=0: "),
    (lambda: models.matched(models.mlp(), 2, 0), ValueError, "width=0: "),
    (lambda: models.matched(10, 2, 9), TypeError, "net=10: must be a Network"),
    (lambda: models.matched(Network((), nn.Dense(3)), 2, 9), TypeError, "net.head=Dense: .*Head"),
]


@pytest.mark.parametrize(("make", "error", "message"), ERRORS)
def test_a_bad_argument_is_named_with_its_value_and_the_remedy(make, error, message):
    with pytest.raises(error, match=message):
        make()


PAPERS = [  # those that have no row in the experiments, whose tests trace all others
    ("predsim", "vgg11b", (32, 32, 3), 10),
    ("tp", "cifar_lc", (32, 32, 3), 10),
    *((name, "imagenet_lc", (224, 224, 3), 1000) for name in ("bp", "dtp", "sdtp", "fa")),
    ("al", "autoencoder", (28, 28, 1), 784),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model", "shape", "outputs"), PAPERS)
def test_a_rule_takes_the_networks_of_its_paper(name, model, shape, outputs):
    """Traced, not run: the shapes of a whole step fit together."""
    rule = jl.rules.ALL[name](getattr(jl.models, model)(), optax.adam(1e-3))
    batch = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2, outputs), jnp.float32)
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    after, _ = jax.eval_shape(rule.step, params, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params)
    assert jax.eval_shape(rule.predict, params, batch[0]).shape == (2, outputs)


def test_an_activation_by_its_name_is_refused():
    with pytest.raises(TypeError, match=r"activation='relu': must be a function, such as jax\.nn\.relu, not a str"):
        models.mlp(activation="relu")
