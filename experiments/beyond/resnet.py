"""Why does Associated Learning lose to backpropagation on ResNets, and must it?

Much changes at once when a ResNet is trained by AL in the paper's way: each component has an objective of its own, the
network's readout of the spatial mean gives way to bridges on the flattened image, and squared errors between sigmoid
codes take the place of the cross entropy. Here they are taken apart as far as can be, on ResNet-8 and images of 16 by
16 pixels, which two cores can train: one to four components; bridges on the flattened image and on its spatial mean;
backpropagation with either readout and either activation; and L2 on all weights, as a careless reading of the paper
would have it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax

import jaxlocal as jl
from experiments.lab import study
from experiments.lab.study import Budget, Case, Steps, Study
from experiments.papers.al import shared as associated
from experiments.papers.al.shared import COSINE
from jaxlocal.layers import dense
from jaxlocal.rules.associated import Coder, bridge_code, code

DEPTH, WIDTH = 8, 100
RATE, DECAY = 1e-3, 1e-4


def pooled(width: int) -> nn.Module:
    """The paper's bridge on the mean over all places of the image."""
    return nn.Sequential([lambda s: jnp.mean(s, axis=(1, 2)), dense(5 * width, nn.sigmoid), code(width)])


class Way(NamedTuple):
    """A way to train the network: by AL in these components, or by backpropagation where there are none."""

    told: str
    components: Sequence[int] = ()
    bridge: Coder = bridge_code
    elu: bool = False  # in backpropagation, too, in the place of ReLU
    matched: bool = False  # with the layers that `al_4` predicts by in the place of the readout
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
LONG = "bp", "bp_elu", "bp_matched", "al_4"  # trained for thrice the epochs, too


def make(way: Way, steps: Steps) -> jl.Rule:
    """The rule of a row."""
    slow, fast = (COSINE.make(times * RATE, steps.total) for times in (1, 2))
    tx, autoencoder_tx = associated.decayed_adam(slow, DECAY), optax.adam(fast)
    if way.decay_all:
        tx, autoencoder_tx = (optax.chain(jl.l2(DECAY), optax.adam(rate)) for rate in (slow, fast))
    net = jl.models.resnet(DEPTH, activation=nn.elu if way.components or way.elu else nn.relu)
    if not way.components:
        return jl.rules.bp(jl.models.matched(net, 4, WIDTH) if way.matched else net, tx)
    return jl.rules.al(
        net, tx, autoencoder_tx=autoencoder_tx, components=way.components, width=WIDTH, bridge=way.bridge
    )


def case(way: Way, quick: Budget, full: Budget) -> Case:
    """A row."""
    optimizer = f"adam({RATE}), twice that for encoders and decoders in AL, {COSINE.told}; L2 {DECAY}"
    told = {"net": f"resnet({DEPTH})", "way": way.told, "optimizer": optimizer}
    return Case(
        "cifar10",
        partial(make, way),
        told,
        full,
        quick,
        batch_size=128,
        prepare=associated.jittered,
        size=16,
        examples=10_000,
    )


STUDY = Study(
    name="beyond_resnet",
    title="Why Associated Learning loses to backpropagation on ResNets, and whether it must",
    source="ours",
    cases={
        **{name: case(way, Budget(10, 2), full=Budget(30, 3)) for name, way in WAYS.items()},
        **{f"{name}_long": case(WAYS[name], Budget(30, 1), full=Budget(90, 3)) for name in LONG},
    },
    note=(
        "ResNet-8 on 10,000 images of CIFAR-10, 16 by 16 pixels, with two-pixel jitter. `bp` has the readout of the "
        "spatial mean, `bp_elu` has AL's ELU in the place of ReLU, `bp_matched` the layers that AL predicts by; "
        "`al_4`, `al_2`, `al_1` have so many components, `pooled` has bridges on the spatial mean in place of the "
        "flattened image, and `l2` has the decay, which the others have on the kernels of the blocks, on all kernels. "
        "`long` has thrice the epochs."
    ),
    draw=associated.curves("beyond_resnet", "ResNet-8 on 10,000 small images (CIFAR-10 from JPEG copies)"),
)
main = partial(study.main, STUDY)

if __name__ == "__main__":
    main()
