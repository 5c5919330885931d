"""The networks of the Associated Learning paper, trained by its rule and by backpropagation, with their settings."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab.experiment import Budget, Paper
from experiments.lab.training import Case, Prepare, Steps, Trained
from experiments.papers.bartunov.shared import Best
from jaxlocal.codes import Coder, hidden_layer, one_layer
from jaxlocal.data import floats
from jaxlocal.decay import kernels
from jaxlocal.layers import Activation, InitMaker

FULL = Budget(epochs=200, seeds=3)  # the paper does not say over how many runs its deviations are
EXAMPLES = 1000  # of the test set, for distances between classes and t-SNE
DRAWN = {"raw data", "block 2", "block 4", "block 8", "block 12", "bridge", "decoder 3", "output"}  # by t-SNE

# What more than one experiment has.
TABLE3, TABLE4 = "al_table3", "al_table4"  # the records whose rows Table 7 measures
NARROW = 256  # units of the layers whose settings `beyond.tuning` searches for
TUNED_BATCH = 64


class Decrease(NamedTuple):
    """How a learning rate decreases over a number of steps."""

    make: Callable[[float, int], optax.Schedule]
    words: str


PAPERS_DECREASE = Decrease(
    jl.training.al_schedule, "times 0.1 after 40, 60 and 80 % of the steps, times 0.5 after 90 %"
)
COSINE = Decrease(optax.cosine_decay_schedule, "falling to zero by a cosine")


class Net(NamedTuple):
    """A network of the paper: the blocks that both rules train, and their settings."""

    make: Callable[[Activation, bool], jl.Network]  # takes the activation, and whether there is batch norm
    components: Sequence[int]  # the number of blocks of each
    width: int  # of the targets' codes
    words: str
    rate: float = 1e-4
    decrease: Decrease = PAPERS_DECREASE
    decay: tuple[float, float] = (0.0, 0.0)  # L2 in BP and in AL
    norm: tuple[bool, bool] = (False, False)  # whether BP and AL have batch norm, for blocks that may have it


def mlp(width: int, components: int = 2, classes: int = 10) -> Net:
    """Layers of `width` units, each of them a component."""

    def make(activation: Activation, norm: bool) -> jl.Network:
        return jl.models.mlp((width,) * components, classes, activation=activation, norm=norm)

    return Net(make, (1,) * components, width, f"{components} layers of {width} units")


def cnn(classes: int = 10) -> Net:
    """The vanilla CNN, two convolutions a component, as in the authors' code."""

    def make(activation: Activation, norm: bool) -> jl.Network:
        return jl.models.vanilla_cnn(classes, activation=activation, norm=norm)

    return Net(make, (2, 2, 2, 2), 256, "vanilla_cnn, 4 components, width 256")


def resnet(depth: int, classes: int = 10) -> Net:
    """One component for the stem, and one for each stage."""
    blocks = depth // 6
    components = (1, blocks, blocks, blocks)

    def make(activation: Activation, norm: bool) -> jl.Network:
        return jl.models.resnet(depth, classes, activation=activation)  # always has batch norm

    return Net(make, components, 300, f"resnet({depth}), components {components}, width 300", 1e-3, decay=(1e-4, 1e-4))


def vgg(classes: int = 10) -> Net:
    """The authors' VGG: batch norm for backpropagation only."""

    def make(activation: Activation, norm: bool) -> jl.Network:
        return jl.models.vgg(classes, activation=activation, norm=norm)

    return Net(make, (2, 2, 2, 2), 300, "vgg, 4 components, width 300", decay=(5e-4, 1e-5), norm=(True, False))


def decayed_adam(rate: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
    """Adam for f and b, with the gradient of decay/2 · ‖W‖² on the kernels of f, as in the authors' code.

    Encoders and decoders have no decay: their gradients are so small that Adam would follow the decay alone.
    """

    def of_layers(tree: Any) -> Any:  # the forward weights are a tuple over the layers; those of the bridge are not
        return kernels(tree) if isinstance(tree, tuple) else jax.tree.map(lambda leaf: False, tree)

    return optax.chain(optax.add_decayed_weights(decay, mask=of_layers), optax.adam(rate))


def bp(net: Net, steps: Steps) -> jl.Rule:
    """Backpropagation, the baseline, with ReLU and cross entropy."""
    blocks = net.make(nn.relu, net.norm[0])
    tx = decayed_adam(net.decrease.make(net.rate, steps.total), net.decay[0])
    return jl.rules.bp(jl.models.matched(blocks, len(net.components), net.width), tx)


def al(net: Net, steps: Steps) -> jl.Rule:
    """Associated Learning with ELU, and twice the rate for encoders and decoders."""
    blocks = net.make(nn.elu, net.norm[1])
    slow, fast = (net.decrease.make(times * net.rate, steps.total) for times in (1, 2))
    return jl.rules.al(
        blocks,
        decayed_adam(slow, net.decay[1]),
        autoencoder_tx=optax.adam(fast),
        components=net.components,
        codes=jl.codes.paper._replace(width=net.width),
    )


def dtp(width: int, best: Best, steps: Steps) -> jl.Rule:
    """Alternating difference target propagation on the baseline's layers with tanh, with Bartunov et al.'s settings."""
    assert best.inverse and best.alpha and best.noise
    net = jl.models.mlp(
        (width, width, 5 * width, width, width), activation=nn.tanh, init=nn.initializers.glorot_uniform
    )
    forward, inverse = best.forward.tx(), best.inverse.tx()
    return jl.rules.dtp(net, forward, inverse_tx=inverse, alpha=best.alpha, noise=best.noise, alternate=steps.epoch)


def dtp_row(data: str, width: int, best: Best, paper: Paper | None, prepare: Prepare) -> Case:
    """The row of difference target propagation, for which the paper names no settings."""
    return Case(
        data,
        partial(dtp, width, best),
        {
            "net": f"layers of {width}, {width}, {5 * width}, {width}, {width} tanh units",
            "Bartunov's Table 5": str(best),
        },
        FULL,
        paper=paper,
        prepare=prepare,
    )


class Setting(NamedTuple):
    """What the authors left open; None for a setting that a rule does not have."""

    rate: float
    activation: str = "elu"
    init: str = "he_normal"
    ratio: float | None = None  # of the rate of encoders and decoders to the other rate
    bridge: int | None = None  # the hidden layer's units for each unit of the code; without a hidden layer 0
    width: int | None = None  # of the codes
    dropout: float | None = None


ACTIVATIONS: Mapping[str, Activation] = {"elu": nn.elu, "relu": nn.relu, "tanh": nn.tanh}
INITS: Mapping[str, InitMaker] = {
    "he_normal": nn.initializers.he_normal,
    "glorot_uniform": nn.initializers.glorot_uniform,
    "lecun_normal": nn.initializers.lecun_normal,
}


def bridge(times: int) -> Coder:
    """A bridge with a hidden layer of `times` the code's width, or a single layer if `times` is 0."""
    return partial(hidden_layer, times=times) if times else one_layer


def tuned(rule: str, net: Net, setting: Setting, steps: Steps) -> jl.Rule:
    """The rule on dense layers, with a setting of `beyond.tuning`, and Adam whose rate falls to zero by a cosine."""
    hidden, times = (net.width,) * len(net.components), setting.bridge or 0
    activation, init = ACTIVATIONS[setting.activation], INITS[setting.init]

    def tx(rate: float) -> optax.GradientTransformation:
        return optax.adam(COSINE.make(rate, steps.total))

    if rule == "bp":
        wide = (*hidden, 5 * net.width, *hidden)  # the widths of `jl.models.matched`, with one kind of layer
        blocks = jl.models.mlp(wide, activation=activation, init=init, dropout=setting.dropout or 0.0)
        return jl.rules.bp(blocks, tx(setting.rate))
    return jl.rules.al(
        jl.models.mlp(hidden, activation=activation, init=init),
        tx(setting.rate),
        autoencoder_tx=tx((setting.ratio or 1.0) * setting.rate),
        codes=jl.codes.paper._replace(width=setting.width, bridge=bridge(times)),
    )


# The best trials of `beyond.tuning` on the validation set.
TUNED = {
    "bp": Setting(0.00242, "relu", "he_normal", dropout=0.0),
    "al": Setting(0.00228, "relu", "he_normal", ratio=2, bridge=5, width=256),
}


def in_words(rule: str, net: Net) -> dict[str, str]:
    """The settings of a rule, in words."""
    decay = net.decay[rule == "al"]
    twice = ", twice that for encoders and decoders" if rule == "al" else ""
    activations = {
        "bp": "relu, cross entropy; the blocks, flattened, and dense layers as in al",
        "al": "elu, sigmoid codes and bridges",
    }
    return {
        "net": net.words,
        "activation": activations[rule],
        "optimizer": f"adam({net.rate}){twice}; {net.decrease.words}",
        "L2": f"{decay:g}, on the kernels of the blocks" if decay else "none",
    }


def pair(
    name: str,
    net: Net,
    data: str,
    papers: tuple[Paper | None, Paper | None],
    prepare: Prepare,
    quick: Budget | None = None,
) -> dict[str, Case]:
    """Two rows with the settings of the network, by backpropagation and by Associated Learning."""
    return {
        f"{name}_{rule}": Case(data, partial(make, net), in_words(rule, net), FULL, quick, paper, prepare=prepare)
        for (rule, make), paper in zip({"bp": bp, "al": al}.items(), papers, strict=True)
    }


def tuned_pair(
    name: str,
    width: int,
    data: str,
    budget: Budget,
    papers: tuple[Paper | None, Paper | None] = (None, None),
    slower: float = 1.0,
) -> dict[str, Case]:
    """Two rows with the settings that the search found, the rates divided by `slower`, and with the same budget."""
    net = mlp(width)
    settings = {rule: setting._replace(rate=setting.rate / slower) for rule, setting in TUNED.items()}
    return {
        f"{name}_{rule}": Case(
            data,
            partial(tuned, rule, net, setting),
            {"net": net.words, "optimizer": f"adam, its rate {COSINE.words}", "setting": str(setting)},
            FULL if paper else budget,
            budget,
            paper,
            TUNED_BATCH,
        )
        for (rule, setting), paper in zip(settings.items(), papers, strict=True)
    }


def centred(splits: jl.data.Splits) -> jl.augmentation.Augmentation:
    """The paper's preparation of MNIST: the training set's mean image is subtracted."""
    return jl.augmentation.subtract(jl.augmentation.mean_image(np.asarray(splits.train[0])))


def jittered(splits: jl.data.Splits) -> jl.augmentation.Augmentation:
    """The paper's preparation of CIFAR: two-pixel jitter, and the mean image is subtracted."""
    return jl.augmentation.chain(jl.augmentation.jitter(2), centred(splits))


def distances(trained: Trained) -> dict[str, Any]:
    """Inter- and intra-class distance, and their ratio, in every layer; the first seed's layers are kept for t-SNE."""
    images, labels = trained.splits.test
    x, y = map(jnp.asarray, floats((images[:EXAMPLES], labels[:EXAMPLES])))
    x = trained.augmentation.test(x) if trained.augmentation else x
    outputs = jl.diagnostics.layer_outputs(trained.rule, trained.params, x)
    if trained.seed == 0:
        trained.folder.mkdir(parents=True, exist_ok=True)
        shown = {name: np.asarray(output) for name, output in outputs.items() if name in DRAWN}
        np.savez_compressed(trained.folder / "layers.npz", labels=jnp.argmax(y, -1), **shown)  # type: ignore[arg-type]
    measured = {name: jl.diagnostics.class_distances(output, y) for name, output in outputs.items()}
    return {
        "distances": {
            name: {field: float(f"{value:.4g}") for field, value in layer._asdict().items()}
            for name, layer in measured.items()
        }
    }
