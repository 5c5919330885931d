"""Associated Learning on ResNet-8: components, bridges, longer training.

In the paper it is behind backpropagation on ResNets. Much changes at once when a ResNet is trained by AL as in the
paper: each component has an objective of its own, bridges on the flattened image take the place of the readout of the
spatial mean, and squared errors between sigmoid codes take the place of the cross entropy. Here these changes are
separated as far as possible, on ResNet-8 and images of 16 by 16 pixels: one to four components; bridges on the
flattened image and on its spatial mean; backpropagation with either readout and either activation; and L2 on all
weights, as one might misread the paper.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Budget, Experiment
from experiments.lab.main import main
from experiments.lab.training import Case, Steps
from experiments.papers.al.shared import COSINE, decayed_adam, jittered
from jaxlocal.codes import Coder, hidden_layer, one_layer
from jaxlocal.layers import dense

DEPTH, WIDTH = 8, 100
RATE, DECAY = 1e-3, 1e-4
SHORT, MIDDLE, LONG = Budget(epochs=10, seeds=2), Budget(epochs=30, seeds=3), Budget(epochs=90, seeds=3)


def pooled(width: int) -> nn.Module:
    """The paper's bridge on the spatial mean of the image."""
    return nn.Sequential([lambda s: jnp.mean(s, axis=(1, 2)), dense(5 * width, nn.sigmoid), one_layer(width)])


class Way(NamedTuple):
    """A way to train the network: by AL in these components, or by backpropagation if there are none."""

    words: str
    components: Sequence[int] = ()
    bridge: Coder = hidden_layer
    elu: bool = False  # backpropagation with ELU instead of ReLU
    matched: bool = False  # backpropagation with the layers by which `al_4` predicts instead of the readout
    decay_all: bool = False  # L2 on bridges, encoders and decoders, too


WAYS: Mapping[str, Way] = {
    "bp": Way("the network as it is, with its readout of the spatial mean"),
    "bp_elu": Way("the network as it is, with the ELU of AL", elu=True),
    "bp_matched": Way(
        "the layers that AL predicts by: the flattened image, dense 500, 100, 100, 100, 100", matched=True
    ),
    "al_4": Way("the paper's: stem and stages, bridges on the flattened image", (1, 1, 1, 1)),
    "al_4_l2": Way("the same, L2 on all weights", (1, 1, 1, 1), decay_all=True),
    "al_2": Way("two components", (2, 2)),
    "al_1": Way("one component: its gradient reaches all blocks", (4,)),
    "al_4_pooled": Way("stem and stages, bridges on the spatial mean", (1, 1, 1, 1), pooled),
    "al_2_pooled": Way("two components, bridges on the spatial mean", (2, 2), pooled),
    "al_1_pooled": Way("one component, its bridge on the spatial mean", (4,), pooled),
}
ALSO_LONG = "bp", "bp_elu", "bp_matched", "al_4"


def make(way: Way, steps: Steps) -> jl.Rule:
    """The rule of a row."""
    slow, fast = (COSINE.make(times * RATE, steps.total) for times in (1, 2))
    tx, autoencoder_tx = decayed_adam(slow, DECAY), optax.adam(fast)
    if way.decay_all:
        tx, autoencoder_tx = (optax.chain(jl.l2(DECAY), optax.adam(rate)) for rate in (slow, fast))
    net = jl.models.resnet(DEPTH, activation=nn.elu if way.components or way.elu else nn.relu)
    if not way.components:
        return jl.rules.bp(jl.models.matched(net, 4, WIDTH) if way.matched else net, tx)
    return jl.rules.al(
        net,
        tx,
        autoencoder_tx=autoencoder_tx,
        components=way.components,
        codes=jl.codes.paper._replace(width=WIDTH, bridge=way.bridge),
    )


def case(way: Way, quick: Budget, full: Budget) -> Case:
    """A row."""
    optimizer = f"adam({RATE}), twice that for encoders and decoders in AL, {COSINE.words}; L2 {DECAY}"
    return Case(
        "cifar10",
        partial(make, way),
        {"net": f"resnet({DEPTH})", "way": way.words, "optimizer": optimizer},
        full,
        quick,
        batch_size=128,
        prepare=jittered,
        size=16,
        examples=10_000,
    )


EXPERIMENT = Experiment(
    module="beyond.resnet",
    name="beyond_resnet",
    title="Associated Learning on ResNet-8: components, bridges, longer training",
    rows={
        **{name: case(way, SHORT, MIDDLE) for name, way in WAYS.items()},
        **{f"{name}_long": case(WAYS[name], Budget(epochs=30, seeds=1), LONG) for name in ALSO_LONG},
    },
    note=(
        "ResNet-8 on 10,000 images of CIFAR-10, 16 by 16 pixels, with two-pixel jitter. `bp` has the readout of the "
        "spatial mean, `bp_elu` has AL's ELU instead of ReLU, and `bp_matched` has the layers by which AL predicts. "
        "`al_4`, `al_2` and `al_1` have four, two and one components, `pooled` has bridges on the spatial mean instead "
        "of the flattened image, and `l2` has the decay, which the others have on the kernels of the blocks, on all "
        "kernels. `long` has three times the epochs."
    ),
    draw=figures.curves("beyond_resnet", "ResNet-8 on 10,000 small images (CIFAR-10 from JPEG copies)", loss=False),
)

if __name__ == "__main__":
    main(EXPERIMENT)
