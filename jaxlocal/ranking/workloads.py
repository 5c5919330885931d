"""What the rules are ranked on: a network, data, and how long they learn."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from jaxlocal.data import Splits, digits, load
from jaxlocal.layers import Head, conv, dense, he_normal
from jaxlocal.models import mlp
from jaxlocal.network import Network


class Workload(NamedTuple):
    """A network and the data that it learns."""

    words: str
    net: Callable[[], Network]
    load: Callable[[], Splits]
    epochs: int
    batch_size: int


def small_cnn() -> Network:
    """Two 3×3 convolutions of stride 2, a dense layer of 128 units and a linear readout; ReLU."""
    blocks = conv(16, 3, 2, nn.relu, he_normal), conv(32, 3, 2, nn.relu, he_normal), dense(128, nn.relu, he_normal)
    return Network(blocks, Head(10, kernel_init=he_normal))


def first(count: int, name: str, size: int | None = None) -> Splits:
    """A data set with only the first `count` of its training examples."""
    train, validation, test = load(name, size=size)
    return Splits((train[0][:count], train[1][:count]), validation, test)


SMALL = 10_000  # training images, so that a small machine can train all rules
CNN = f"the first {SMALL:,} training images, two convolutions of stride 2 and a dense layer"
WORKLOADS = {
    "digits": Workload(
        "scikit-learn's digits, two hidden layers of 64 tanh units", partial(mlp, hidden=(64, 64)), digits, 20, 32
    ),
    "mnist": Workload(
        "MNIST, two hidden layers of 256 tanh units", partial(mlp, hidden=(256, 256)), partial(load, "mnist"), 5, 64
    ),
    "fashion_mnist": Workload(f"Fashion-MNIST, {CNN}", small_cnn, partial(first, SMALL, "fashion_mnist"), 8, 64),
    "cifar10": Workload(
        f"CIFAR-10 at 16 x 16 pixels, {CNN}", small_cnn, partial(first, SMALL, "cifar10", size=16), 12, 64
    ),
}
