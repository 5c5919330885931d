"""Associated Learning's networks with the paper's settings, and backpropagation's with as many weights that predict."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab import records as results
from experiments.lab.study import Budget, Case, Draw, Steps, Trained
from experiments.papers.bartunov.table1 import Best
from jaxlocal.data import floats
from jaxlocal.decay import kernels
from jaxlocal.layers import Activation, InitMaker, dense
from jaxlocal.rules.associated import Coder, code

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPERS_EPOCHS = 200
SEEDS = 3  # the paper does not say how many runs its spread is of

Prepare = Callable[[jl.data.Splits], jl.augmentation.Augmentation | None]
EXAMPLES = 1000  # of the test set, for distances between classes and t-SNE
DRAWN = {"raw data", "block 2", "block 4", "block 8", "block 12", "bridge", "decoder 3", "output"}  # by t-SNE


class Schedule(NamedTuple):
    """How a rate changes in a run of so many steps."""

    make: Callable[[float, int], optax.Schedule]
    told: str


PAPERS_SCHEDULE = Schedule(
    jl.training.al_schedule, "times 0.1 after 40, 60 and 80 % of the steps, times 0.5 after 90 %"
)
COSINE = Schedule(optax.cosine_decay_schedule, "falling to zero by a cosine")


class Net(NamedTuple):
    """A network of the paper: the blocks that either rule trains, and how."""

    make: Callable[[Activation, bool], jl.Network]  # of an activation, and of whether there is batch norm
    components: Sequence[int]  # blocks of each
    width: int  # of the targets' codes
    told: str
    rate: float = 1e-4
    schedule: Schedule = PAPERS_SCHEDULE
    decay: tuple[float, float] = (0.0, 0.0)  # L2, of BP and of AL
    norm: tuple[bool, bool] = (False, False)  # where the blocks leave it open: of BP and of AL


def mlp(width: int, components: int = 2, classes: int = 10) -> Net:
    """So many layers of `width` units, each a component."""
    told = f"{components} layers of {width} units"

    def make(activation: Activation, norm: bool) -> jl.Network:
        return jl.models.mlp((width,) * components, classes, activation=activation, norm=norm)

    return Net(make, (1,) * components, width, told)


def cnn(classes: int = 10) -> Net:
    """The vanilla CNN, two convolutions a component, as in the authors' code."""
    told = "vanilla_cnn, 4 components, width 256"

    def make(activation: Activation, norm: bool) -> jl.Network:
        return jl.models.vanilla_cnn(classes, activation=activation, norm=norm)

    return Net(make, (2, 2, 2, 2), 256, told)


def resnet(depth: int, classes: int = 10) -> Net:
    """The stem, then a component a stage."""
    blocks = depth // 6
    told = f"resnet({depth}), components (1, {blocks}, {blocks}, {blocks}), width 300"
    components = (1, blocks, blocks, blocks)

    def make(activation: Activation, norm: bool) -> jl.Network:
        return jl.models.resnet(depth, classes, activation=activation)  # has batch norm in any case

    return Net(make, components, 300, told, rate=1e-3, decay=(1e-4, 1e-4))


def vgg(classes: int = 10) -> Net:
    """The authors' VGG: batch norm for backpropagation only."""
    told = "vgg, 4 components, width 300"

    def make(activation: Activation, norm: bool) -> jl.Network:
        return jl.models.vgg(classes, activation=activation, norm=norm)

    return Net(make, (2, 2, 2, 2), 300, told, decay=(5e-4, 1e-5), norm=(True, False))


def decayed_adam(rate: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
    """For f and b: with the gradient of decay/2 · ‖W‖² on the kernels of f, as in the authors' code.

    Encoders and decoders have tiny gradients, beside which such a decay would be all that Adam sees.
    """

    def of_layers(tree: Any) -> Any:  # the forward weights are a tuple over the layers, the bridge is none
        return kernels(tree) if isinstance(tree, tuple) else jax.tree.map(lambda leaf: False, tree)

    return optax.chain(optax.add_decayed_weights(decay, mask=of_layers), optax.adam(rate))


def bp(net: Net, steps: Steps) -> jl.Rule:
    """The baseline: ReLU, cross entropy."""
    blocks = net.make(nn.relu, net.norm[0])
    tx = decayed_adam(net.schedule.make(net.rate, steps.total), net.decay[0])
    return jl.rules.bp(jl.models.matched(blocks, len(net.components), net.width), tx)


def al(net: Net, steps: Steps) -> jl.Rule:
    """ELU, and twice the rate for encoders and decoders."""
    blocks = net.make(nn.elu, net.norm[1])
    slow, fast = (net.schedule.make(times * net.rate, steps.total) for times in (1, 2))
    return jl.rules.al(
        blocks,
        decayed_adam(slow, net.decay[1]),
        autoencoder_tx=optax.adam(fast),
        components=net.components,
        width=net.width,
    )


def dtp(width: int, best: Best, steps: Steps) -> jl.Rule:
    """Difference target propagation, alternating, on the baseline's layers with tanh, by Bartunov et al.'s settings."""
    assert best.inverse and best.alpha and best.noise
    net = jl.models.mlp(
        (width, width, 5 * width, width, width), activation=nn.tanh, init=nn.initializers.glorot_uniform
    )
    forward, inverse = best.forward.tx(), best.inverse.tx()
    return jl.rules.dtp(net, forward, inverse_tx=inverse, alpha=best.alpha, noise=best.noise, alternate=steps.epoch)


def dtp_row(data: str, width: int, best: Best, paper: tuple[float, float] | None, prepare: Prepare) -> Case:
    """The row of difference target propagation: the paper names no settings of it."""
    return Case(
        data,
        partial(dtp, width, best),
        {
            "net": f"layers of {width}, {width}, {5 * width}, {width}, {width} tanh units",
            "Bartunov's Table 5": str(best),
        },
        Budget(PAPERS_EPOCHS, SEEDS),
        paper=paper,
        prepare=prepare,
    )


class Setting(NamedTuple):
    """What the authors left open; None where a rule has no such thing."""

    rate: float
    activation: str = "elu"
    init: str = "he_normal"
    ratio: float | None = None  # of the rate of encoders and decoders to that of the rest
    bridge: int | None = None  # units of the bridges' hidden layer for each unit of the code; 0 is none
    width: int | None = None  # of the codes
    dropout: float | None = None


ACTIVATIONS: Mapping[str, Activation] = {"elu": nn.elu, "relu": nn.relu, "tanh": nn.tanh}
INITS: Mapping[str, InitMaker] = {
    "he_normal": nn.initializers.he_normal,
    "glorot_uniform": nn.initializers.glorot_uniform,
    "lecun_normal": nn.initializers.lecun_normal,
}


def bridge(times: int) -> Coder:
    """A bridge with a hidden layer of so many times the code's width; a single layer if 0."""
    return (lambda width: nn.Sequential([dense(times * width, nn.sigmoid), code(width)])) if times else code


def tuned(rule: str, net: Net, setting: Setting, steps: Steps) -> jl.Rule:
    """The rule with a setting of `beyond_tuning`: dense layers, Adam whose rate falls to zero by a cosine."""
    hidden, times = (net.width,) * len(net.components), setting.bridge or 0
    activation, init = ACTIVATIONS[setting.activation], INITS[setting.init]

    def tx(rate: float) -> optax.GradientTransformation:
        return optax.adam(COSINE.make(rate, steps.total))

    if rule == "bp":
        wide = (*hidden, 5 * net.width, *hidden)  # as `jl.models.matched`, all of one kind
        blocks = jl.models.mlp(wide, activation=activation, init=init, dropout=setting.dropout or 0.0)
        return jl.rules.bp(blocks, tx(setting.rate))
    return jl.rules.al(
        jl.models.mlp(hidden, activation=activation, init=init),
        tx(setting.rate),
        autoencoder_tx=tx((setting.ratio or 1.0) * setting.rate),
        bridge=bridge(times),
        width=setting.width,
    )


# The best trials of `beyond_tuning`, by the validation set.
TUNED = {
    "bp": Setting(0.00242, "relu", "he_normal", dropout=0.0),
    "al": Setting(0.00228, "relu", "he_normal", ratio=2, bridge=5, width=256),
}
TUNED_BATCH = 64


def told(rule: str, net: Net) -> dict[str, str]:
    """The settings of a rule, in words."""
    decay = net.decay[rule == "al"]
    twice = ", twice that for encoders and decoders" if rule == "al" else ""
    activations = {
        "bp": "relu, cross entropy; the blocks, flattened, and dense layers as in al",
        "al": "elu, sigmoid codes and bridges",
    }
    return {
        "net": net.told,
        "activation": activations[rule],
        "optimizer": f"adam({net.rate}){twice}; {net.schedule.told}",
        "L2": f"{decay:g}, on the kernels of the blocks" if decay else "none",
    }


def pair(
    name: str,
    net: Net,
    data: str,
    papers: tuple[tuple[float, float] | None, tuple[float, float] | None],
    prepare: Prepare,
    quick: Budget | None = None,
) -> dict[str, Case]:
    """Two rows with the settings of the network, by backpropagation and by Associated Learning."""
    full = Budget(PAPERS_EPOCHS, SEEDS)
    return {
        f"{name}_{rule}": Case(data, partial(make, net), told(rule, net), full, quick, paper, prepare=prepare)
        for (rule, make), paper in zip({"bp": bp, "al": al}.items(), papers, strict=True)
    }


def tuned_pair(
    name: str,
    width: int,
    data: str,
    budget: Budget,
    papers: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
    slower: float = 1.0,
) -> dict[str, Case]:
    """Two rows with the settings that the search found, their rates divided by `slower`, as long for either."""
    net = mlp(width)
    settings = {rule: setting._replace(rate=setting.rate / slower) for rule, setting in TUNED.items()}
    return {
        f"{name}_{rule}": Case(
            data,
            partial(tuned, rule, net, setting),
            {"net": net.told, "optimizer": f"adam, its rate {COSINE.told}", "setting": str(setting)},
            Budget(PAPERS_EPOCHS, SEEDS) if paper else budget,
            budget,
            paper,
            TUNED_BATCH,
        )
        for (rule, setting), paper in zip(settings.items(), papers, strict=True)
    }


def centred(splits: jl.data.Splits) -> jl.augmentation.Augmentation:
    """The paper's preparation: less the training set's mean image."""
    return jl.augmentation.subtract(jl.augmentation.mean_image(np.asarray(splits.train[0])))


def jittered(splits: jl.data.Splits) -> jl.augmentation.Augmentation:
    """The paper's preparation of CIFAR."""
    return jl.augmentation.chain(jl.augmentation.jitter(2), centred(splits))


def curves(name: str, title: str) -> Draw:
    """The learning curves of a table as its picture."""

    def draw(rows: Mapping[str, results.Row]) -> dict[str, "Figure"]:
        # The loss of scores that are no logits cannot be set beside that of logits.
        return {name: figures.learning({row: made["history"] for row, made in rows.items()}, title, loss=False)}

    return draw


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
