"""The networks of the papers.

References:
  Bartunov et al., Assessing the Scalability of Biologically-Motivated Deep Learning Algorithms and
    Architectures, 2018.
  He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2016.
  Kao and Chen, Associated Learning: Decomposing End-to-End Backpropagation Based on Autoencoders and Target
    Propagation, 2021.
  Krizhevsky, One Weird Trick for Parallelizing Convolutional Neural Networks, 2014.
  Nøkland and Eidnes, Training Neural Networks with Local Error Signals, 2019.
  Webster, Choi and Ahn, Learning the Connections in Direct Feedback Alignment, 2021 (direct Kolen-Pollack).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlocal import checks
from jaxlocal.layers import Activation, Block, Head, InitMaker, Residual, conv, dense, he_normal, local
from jaxlocal.network import Loss, Network, cross_entropy, squared_error
from jaxlocal.sequence_models import gru_classifier, lstm_classifier, transformer_classifier

DEEPEST = 1202  # layers of a ResNet
glorot_uniform = nn.initializers.glorot_uniform


def mlp(
    hidden: Sequence[int] = (256, 256),
    classes: int = 10,
    *,
    activation: Activation = jnp.tanh,
    norm: bool = False,
    dropout: float = 0.0,
    init: InitMaker = he_normal,
    loss: Loss = cross_entropy,
) -> Network:
    """A multilayer perceptron: one dense block for each hidden layer, and a linear readout.

    With `hidden=()` it is a linear model. Kao and Chen use `hidden=(1024, 1024)` for MNIST and `(3000, 3000)` for
    CIFAR-10.

    Reference: Kao and Chen, 2021, section 5.2.

    Example:
      >>> net = jl.models.mlp(hidden=(256, 128), classes=10)
      >>> len(net.blocks)
      2
    """
    checks.widths("hidden", hidden)
    if not isinstance(loss, Loss):
        raise TypeError(f"loss={checks.show(loss)}: must be a jl.Loss, such as jl.cross_entropy or jl.squared_error")
    blocks = (dense(width, activation, init, norm=norm, dropout=dropout) for width in hidden)
    return Network(tuple(blocks), _head(classes, init), loss)


def vanilla_cnn(
    classes: int = 10,
    *,
    activation: Activation = nn.relu,
    norm: bool = False,
    dropout: float = 0.0,
    init: InitMaker = he_normal,
) -> Network:
    """The convolutions of Kao and Chen's vanilla CNN: four 3×3×32, four 3×3×64, and a linear readout.

    The fourth and the eighth convolution have stride 2, as in the authors' code; the paper gives no strides. The dense
    layers that the paper lists after them belong to its baseline, `matched(net, components=4, width=256)`.

    Reference: Kao and Chen, 2021, section 5.2.

    Example:
      >>> net = jl.models.vanilla_cnn()
      >>> len(net.blocks)
      8
    """
    shapes = [(width, stride) for width in (32, 64) for stride in (1, 1, 1, 2)]
    options: dict[str, Any] = {"norm": norm, "dropout": dropout}
    blocks = (conv(width, 3, stride, activation, init, **options) for width, stride in shapes)
    return Network(tuple(blocks), _head(classes, init))


def vgg(
    classes: int = 10,
    *,
    activation: Activation = nn.relu,
    norm: bool = False,
    dropout: float = 0.0,
    init: InitMaker = he_normal,
) -> Network:
    """The VGG of Kao and Chen's code: six 3×3 convolutions, four of them with pooling, and two dense layers.

    The convolutions have 128, 256, 256, 512, 512 and 512 features, with 2×2 max pooling after the 2nd, 4th, 5th and
    6th; each dense layer has 1024 units. Their backpropagation baseline has batch norm, and associated learning none.

    Reference: Kao and Chen, 2021, section 5.2.

    Example:
      >>> net = jl.models.vgg()
      >>> [block.pool for block in net.blocks]
      [1, 2, 1, 2, 2, 2, 1, 1]
    """
    shapes = [(128, 1), (256, 2), (256, 1), (512, 2), (512, 2), (512, 2)]
    options: dict[str, Any] = {"norm": norm, "dropout": dropout}
    convs = [conv(width, 3, 1, activation, init, pool=pool, **options) for width, pool in shapes]
    denses = [dense(1024, activation, init, **options) for _ in range(2)]
    return Network((*convs, *denses), _head(classes, init))


def vgg8b(classes: int = 10, *, times: float = 1, dropout: float = 0.0) -> Network:
    """The VGG8B of local error signals: six 3×3 convolutions, a dense layer of 1024 units, and a linear readout.

    The convolutions have 128, 256, 256, 512, 512 and 512 features, `times` as many if that is given, such as 2 or 0.25.
    2×2 max pooling follows the 2nd, 4th, 5th and 6th. It belongs to the block above, which pools its input, so that
    local losses see the images before they are pooled, as in the authors' code. Batch norm, ReLU, He-normal weights.
    Dropout follows each activation; here it drops single units, in the authors' code whole feature maps.

    Reference: Nøkland and Eidnes, 2019, section 3.

    Example:
      >>> net = jl.models.vgg8b()
      >>> [block.pool_input for block in net.blocks]
      [1, 1, 2, 1, 2, 2, 2]
    """
    shapes = (128, 1), (256, 1), (256, 2), (512, 1), (512, 2), (512, 2)
    return _local_error_vgg(shapes, classes, times, dropout)


def vgg11b(classes: int = 10, *, times: float = 1, dropout: float = 0.0) -> Network:
    """The VGG11B of local error signals: nine 3×3 convolutions, a dense layer of 1024 units, and a linear readout.

    The convolutions have 128, 128, 128, 256, 256, 512, 512, 512 and 512 features, `times` as many if that is given, and
    2×2 max pooling follows the 4th, 6th, 8th and 9th. The rest is as in `vgg8b`.

    Reference: Nøkland and Eidnes, 2019, section 3.

    Example:
      >>> net = jl.models.vgg11b()
      >>> [block.pool_input for block in net.blocks]
      [1, 1, 1, 1, 2, 1, 2, 1, 2, 2]
    """
    shapes = (128, 1), (128, 1), (128, 1), (256, 1), (256, 2), (512, 1), (512, 2), (512, 1), (512, 2)
    return _local_error_vgg(shapes, classes, times, dropout)


def _local_error_vgg(shapes: Sequence[tuple[int, int]], classes: int, times: float, dropout: float) -> Network:
    """Convolutions by their numbers of features and the pooling before them, and a dense layer that pools, too."""
    checks.positive("times", times)
    if any(times * features % 1 for features, _ in shapes):
        raise ValueError(f"times={times}: does not give whole numbers of features; take 0.25, 0.5 or a whole number")
    checks.below_one("dropout", dropout)
    options: dict[str, Any] = {"norm": True, "dropout": dropout}
    convs = (conv(int(times * features), pool_input=pool, **options) for features, pool in shapes)
    return Network((*convs, dense(1024, pool_input=2, **options)), _head(classes, he_normal))


def resnet(
    depth: int = 20, classes: int = 10, *, activation: Activation = nn.relu, shortcut_norm: bool = True
) -> Network:
    """A ResNet for small images: a stem, three stages of residual blocks, and a readout of the spatial mean.

    The stem has 16 filters. The stages have 16, 32 and 64 filters, strides 1, 2 and 2, and (depth - 2) / 6 residual
    blocks each. Batch norm follows every convolution. Where the shape changes, the shortcut is a 1×1 convolution:
    option B of He et al., who use option A, without weights, on CIFAR. `shortcut_norm=False` leaves out the batch norm
    of this convolution, as Kao and Chen's code does.

    Reference: He et al., 2016, section 4.2; Kao and Chen, 2021, section 5.2, for depths 20 and 32.

    Example:
      >>> net = jl.models.resnet(depth=20)
      >>> len(net.blocks)
      10
    """
    checks.positive_int("depth", depth)
    if depth < 8 or depth % 6 != 2:
        raise ValueError(
            f"depth={depth}: must be 6n + 2, with n residual blocks in each stage; pass depth=20, 32, 44, 56 or 110"
        )
    if depth > DEEPEST:
        raise ValueError(f"depth={depth}: must be at most {DEEPEST}, the deepest that He et al. have trained")
    checks.function("activation", activation, "jax.nn.relu")
    checks.flag("shortcut_norm", shortcut_norm)
    stem = conv(16, activation=activation, norm=True)
    strides_after_first = (1,) * (depth // 6 - 1)
    residuals = [
        Residual(features, stride, activation, shortcut_norm=shortcut_norm)
        for features, first_stride in ((16, 1), (32, 2), (64, 2))
        for stride in (first_stride, *strides_after_first)
    ]
    return Network((stem, *residuals), _head(classes, he_normal, average=True))


def conv2(
    classes: int = 10,
    *,
    padding: str = "SAME",
    conv_norm: bool = True,
    dense_norm: bool = True,
    init: InitMaker = he_normal,
) -> Network:
    """The direct Kolen-Pollack paper's network of two convolutions, with batch norm before each activation.

    Two 3×3 convolutions of 32 features, a dense layer of 128 units, and a linear readout; ReLU, by default He-normal
    weights. The 2×2 max pooling belongs to the dense layer, so that feedback leads to the convolution's output before
    it is pooled.

    The convolutions pad their input by 1, as the paper's table says. For images of 32×32 the dense layer then has 8192
    inputs, but in the table 6272 = 14² · 32. That is right for images of 28×28, as those of Fashion-MNIST, and for the
    authors' public code, whose convolutions do not pad: 32 → 30 → 28 → 14. With `padding="VALID"` they do not pad here
    either. The code has no batch norm in the dense layer: `dense_norm=False`. `conv_norm=False` leaves that of the
    convolutions out.

    Reference: Learning the Connections in Direct Feedback Alignment, Table 3.

    Example:
      >>> net = jl.models.conv2()
      >>> len(net.blocks)
      3
    """
    if padding not in ("SAME", "VALID"):
        raise ValueError(
            f"padding={checks.show(padding)}: must be 'SAME', as in the paper's table, or 'VALID', as in its code"
        )
    checks.flag("conv_norm", conv_norm)
    checks.flag("dense_norm", dense_norm)
    convs = (conv(32, init=init, norm=conv_norm, padding=padding) for _ in range(2))
    return Network((*convs, dense(128, init=init, norm=dense_norm, pool_input=2)), _head(classes, init))


def alexnet(classes: int = 100, *, image_size: int = 32, width: int = 4096, dropout: float = 0.0) -> Network:
    """An AlexNet for small images, with batch norm before each activation.

    Convolutions of 64, 192, 384, 256 and 256 features with 3×3 kernels, 2×2 max pooling after the 1st, 2nd and 5th,
    then two dense layers of `width` units with `dropout`; ReLU, He-normal weights. The first convolution has stride 1
    for 32×32 images and 2 for 64×64, so the dense layers get 4×4×256 inputs either way.

    The paper names AlexNet and batch norm, but gives no table. The numbers of features here are those of the one-tower
    AlexNet. Kernels, strides, pooling and the absence of dropout are this library's choice for images of these sizes,
    so accuracies may differ from the paper's. The authors' public code enlarges the images to 224×224, and has batch
    norm on the convolutions alone.

    Reference: Learning the Connections in Direct Feedback Alignment, section 3.2; Krizhevsky, 2014.

    Example:
      >>> net = jl.models.alexnet(classes=200, image_size=64)
      >>> len(net.blocks)
      7
    """
    checks.positive_int("width", width)
    checks.below_one("dropout", dropout)
    if image_size not in (32, 64):
        raise ValueError(f"image_size={checks.show(image_size)}: must be 32 or 64; resize the images to one of them")
    shapes = [(64, image_size // 32, 2), (192, 1, 2), (384, 1, 1), (256, 1, 1), (256, 1, 2)]
    convs = [conv(features, 3, stride, norm=True, pool=pool) for features, stride, pool in shapes]
    denses = [dense(width, norm=True, dropout=dropout) for _ in range(2)]
    return Network((*convs, *denses), _head(classes, he_normal))


# Bartunov et al., Table 3: (kernel, features, stride) of the layers with receptive fields, then the dense widths.
_MNIST = ((3, 32, 2), (3, 64, 2)), (1024,)
_CIFAR = ((5, 64, 2), (5, 128, 2), (3, 256, 1)), (1024,)
_IMAGENET = ((9, 48, 4), (3, 48, 2), (5, 96, 1), (3, 96, 2), (3, 192, 1), (3, 192, 2), (3, 384, 1)), ()


def mnist_fc(classes: int = 10) -> Network:
    """Bartunov et al.'s fully connected network for MNIST: six tanh layers of 256 units, Glorot weights.

    Reference: Bartunov et al., 2018, Table 3.

    Example:
      >>> net = jl.models.mnist_fc()
      >>> len(net.blocks)
      6
    """
    return mlp((256,) * 6, classes, activation=nn.tanh, init=glorot_uniform)


def cifar_fc(classes: int = 10) -> Network:
    """Bartunov et al.'s fully connected network for CIFAR: three tanh layers of 1024 units, Glorot weights.

    Reference: Bartunov et al., 2018, Table 3.

    Example:
      >>> net = jl.models.cifar_fc()
      >>> len(net.blocks)
      3
    """
    return mlp((1024,) * 3, classes, activation=nn.tanh, init=glorot_uniform)


def mnist_lc(classes: int = 10) -> Network:
    """Bartunov et al.'s locally connected network for MNIST: 3×3×32, 3×3×64, then dense 1024.

    Both locally connected layers have stride 2 instead of pooling; tanh, Glorot weights.

    Reference: Bartunov et al., 2018, Table 3.

    Example:
      >>> net = jl.models.mnist_lc()
      >>> len(net.blocks)
      3
    """
    return _tanh_network(local, *_MNIST, classes)


def cifar_lc(classes: int = 10) -> Network:
    """Bartunov et al.'s locally connected network for CIFAR: 5×5×64, 5×5×128, 3×3×256, then dense 1024.

    The strides are 2, 2 and 1 (the table has none for the third); tanh, Glorot weights.

    Reference: Bartunov et al., 2018, Table 3.

    Example:
      >>> net = jl.models.cifar_lc()
      >>> len(net.blocks)
      4
    """
    return _tanh_network(local, *_CIFAR, classes)


def imagenet_lc(classes: int = 1000) -> Network:
    """Bartunov et al.'s locally connected network for ImageNet: seven layers and a readout.

    The layers are 9×9×48 (stride 4), 3×3×48 (2), 5×5×96, 3×3×96 (2), 3×3×192, 3×3×192 (2), 3×3×384; tanh, Glorot
    weights. The images are 224×224.

    Reference: Bartunov et al., 2018, Table 3.

    Example:
      >>> net = jl.models.imagenet_lc()
      >>> len(net.blocks)
      7
    """
    return _tanh_network(local, *_IMAGENET, classes)


def mnist_conv(classes: int = 10) -> Network:
    """`mnist_lc` with shared weights: the "BP ConvNet" of Bartunov et al.

    Reference: Bartunov et al., 2018, Table 1.

    Example:
      >>> net = jl.models.mnist_conv()
      >>> len(net.blocks)
      3
    """
    return _tanh_network(conv, *_MNIST, classes)


def cifar_conv(classes: int = 10) -> Network:
    """`cifar_lc` with shared weights: the "BP ConvNet" of Bartunov et al.

    Reference: Bartunov et al., 2018, Table 1.

    Example:
      >>> net = jl.models.cifar_conv()
      >>> len(net.blocks)
      4
    """
    return _tanh_network(conv, *_CIFAR, classes)


def imagenet_conv(classes: int = 1000) -> Network:
    """`imagenet_lc` with shared weights: the "BP ConvNet" of Bartunov et al.

    Reference: Bartunov et al., 2018, Table 2.

    Example:
      >>> net = jl.models.imagenet_conv()
      >>> len(net.blocks)
      7
    """
    return _tanh_network(conv, *_IMAGENET, classes)


def autoencoder(sizes: Sequence[int] = (512, 64, 512), units: int = 784) -> Network:
    """The autoencoder of Bartunov et al., 784-512-64-512-784, trained with the squared error.

    The hidden layers are tanh, the `units` outputs linear, the weights Glorot. The input is flat or an image; the
    target y is the flattened input.

    Reference: Bartunov et al., 2018, section 5.5.

    Example:
      >>> net = jl.models.autoencoder()
      >>> net.head.features
      784
    """
    checks.widths("sizes", sizes)
    checks.positive_int("units", units)
    return mlp(sizes, units, activation=nn.tanh, init=glorot_uniform, loss=squared_error)


def matched(net: Network, components: int, width: int, *, activation: Activation = nn.relu) -> Network:
    """A baseline for backpropagation that has as many parameters as associated learning on `net` uses in prediction.

    This is associated learning with the codes of its paper, `jl.codes.paper`. With `components` components and targets
    of `width` units it predicts with the blocks of `net`, the last bridge (dense 5·width, then dense width), a decoder
    of `width` units for every component but the first, and the first one's decoder to the classes. Here all of these
    are layers of one network. For lean codes, whose bridges are smaller, it is too large.

    Reference: Kao and Chen, 2021, sections 4.5 and 5.2.

    Example:
      >>> net = jl.models.matched(jl.models.mlp((1024, 1024)), components=2, width=1024)
      >>> [block.linear.features for block in net.blocks], net.head.features
      ([1024, 1024, 5120, 1024, 1024], 10)
    """
    if not isinstance(net, Network):
        raise TypeError(f"net={checks.show(net)}: must be a Network, such as jl.models.mlp((1024, 1024))")
    if not isinstance(net.head, Head):
        raise TypeError(f"net.head={type(net.head).__name__}: has an unknown number of classes; use a jl.layers.Head")
    checks.positive_int("components", components)
    checks.positive_int("width", width)
    if components > DEEPEST:
        raise ValueError(f"components={components}: must be at most {DEEPEST}")
    bridge = dense(5 * width, activation), dense(width, activation)
    decoders = (dense(width, activation) for _ in range(components - 1))
    head = Head(net.head.features, kernel_init=net.head.kernel_init)
    return Network((*net.blocks, *bridge, *decoders), head, net.loss)


# `matched` is not among the networks with a name, because it takes a network.
_BASIC = mlp, vanilla_cnn, vgg, vgg8b, vgg11b, resnet, conv2, alexnet
_BARTUNOV = mnist_fc, cifar_fc, mnist_lc, cifar_lc, imagenet_lc, mnist_conv, cifar_conv, imagenet_conv, autoencoder
_SEQUENCES = lstm_classifier, gru_classifier, transformer_classifier
ALL: dict[str, Callable[..., Network]] = {make.__name__: make for make in (*_BASIC, *_BARTUNOV, *_SEQUENCES)}


def _tanh_network(
    layer: Callable[..., Block], shapes: Iterable[tuple[int, int, int]], widths: Iterable[int], classes: int
) -> Network:
    """A network of Table 3. `layer` is `local`, or `conv` for shared weights."""
    images = [layer(features, kernel, stride, nn.tanh, glorot_uniform) for kernel, features, stride in shapes]
    vectors = [dense(width, nn.tanh, glorot_uniform) for width in widths]
    return Network((*images, *vectors), _head(classes, glorot_uniform))


def _head(classes: int, init: InitMaker, average: bool = False) -> Head:
    checks.positive_int("classes", classes)
    return Head(classes, average, init)
