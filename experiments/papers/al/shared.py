"""The networks of the Associated Learning papers, trained by its rule and by backpropagation, with their settings.

Where the settings come from. The letter is Kao and Chen 2021, arXiv its first version of 2019, and the code is theirs,
at github.com/SamYWK/Associated_Learning.

- The letter: the layers on MNIST and of the vanilla CNN, He-normal weights, Adam, ELU and sigmoids in AL, the rates,
  the epochs after which they are reduced, the ResNets' L2 on CIFAR-10, and the two-pixel jitter.
- arXiv: ReLU in backpropagation, batches of 32, 200 epochs. Of these the letter names the epochs alone, and only beside
  its Tables 5 and 6.
- The code: the mean image that is subtracted, twice the rate for encoders and decoders, the factors by which the rates
  are reduced, a bridge in every component, 3000 units on CIFAR, the strides, the components of ResNets and VGG, the
  widths of their codes, and which weights have L2.
- Ours: 5,000 examples of each training set are held out for validation, which leaves 55,000 of MNIST and 45,000 of
  CIFAR (the authors train on all and have no validation set); the examples are shuffled; the momentum of batch norm is
  0.9 (0.99 in the code); Adam adds its ε to the square root of the corrected second moment (in the code, as in
  TensorFlow, before the correction, where it weighs about thirty times as much in the first step); in a shorter run
  the rates are reduced after the same shares of the steps.

Where the letter and the code differ:

- Images of CIFAR: the letter shifts them by up to two pixels, and so do we. The code shifts them by up to four, flips
  them left to right, changes brightness and contrast, and standardises each. Neither version of the paper has flips.
- The vanilla CNN: see `cnn`. The ResNets' baseline and L2 on CIFAR-100: see `resnet`. VGG's L2 and baseline: see `vgg`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab.experiment import Budget, Paper, Recorded, comparison
from experiments.lab.records import Row
from experiments.lab.tables import accuracy
from experiments.lab.training import Case, Prepare, Steps, Trained
from experiments.papers.bartunov.shared import Best
from jaxlocal.codes import Coder, hidden_layer, one_layer
from jaxlocal.data import floats
from jaxlocal.decay import kernels
from jaxlocal.layers import Activation, InitMaker, dense

FULL = Budget(epochs=200, seeds=3)  # the letter does not say over how many runs its deviations are
EXAMPLES = 1000  # of the test set, for distances between classes and t-SNE
DRAWN = {"raw data", "block 2", "block 4", "block 8", "block 12", "bridge", "decoder 3", "output"}  # by t-SNE

# What more than one experiment has.
Papers = tuple[Paper | None, Paper | None]  # of backpropagation and of AL
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
    """A network of the paper: what either rule trains, and the settings."""

    al: jl.Network
    bp: jl.Network
    components: Sequence[int]  # the number of AL's blocks in each
    width: int  # of the targets' codes
    words: str
    rate: float = 1e-4
    decrease: Decrease = PAPERS_DECREASE
    decay: tuple[float, float] = (0.0, 0.0)  # L2 in BP and in AL
    baseline: str = "the blocks, flattened, and dense layers as in al"  # what BP trains, in words
    sources: str = ""  # of the settings that are not the letter's


def mlp(width: int, components: int = 2, classes: int = 10) -> Net:
    """Layers of `width` units, each of them a component."""
    al, bp = (jl.models.mlp((width,) * components, classes, activation=activation) for activation in (nn.elu, nn.relu))
    bp = jl.models.matched(bp, components, width)
    return Net(al, bp, (1,) * components, width, f"{components} layers of {width} units")


CODES_FOLD = 2, 2, 2, 2
LETTERS_FOLD = 1, 1, 1, 1, 1, 3


def cnn(classes: int = 10, width: int = 256, components: Sequence[int] = CODES_FOLD) -> Net:
    """The vanilla CNN, in the components of the code, or of the letter: layers 1 to 5 singly, and 6 to 8 together.

    The baseline is the letter's network of 14 layers. It has as many weights as AL uses in prediction with the code's
    four components; the letter's six use two more decoders.
    """
    words = f"vanilla_cnn, {len(components)} components, width {width}"
    bp = jl.models.matched(jl.models.vanilla_cnn(classes, activation=nn.relu), len(CODES_FOLD), width)
    sources = "components by the letter, bridges and widths by the code" if components == LETTERS_FOLD else ""
    return Net(jl.models.vanilla_cnn(classes, activation=nn.elu), bp, components, width, words, sources=sources)


def resnet(depth: int, classes: int = 10, width: int = 300, decay: tuple[float, float] = (1e-4, 1e-4)) -> Net:
    """A ResNet: one component for the stem, and one for each stage. Its shortcuts have no batch norm, as in the code.

    The L2 is that of the letter; for backpropagation on CIFAR-100 the code has 5e-4. The baseline is the code's, which
    averages over the image before its dense layers. So it has far fewer weights than AL predicts with, although the
    letter says that both have the same number.
    """
    blocks = depth // 6
    components = (1, blocks, blocks, blocks)
    al, bp = (jl.models.resnet(depth, classes, activation=one, shortcut_norm=False) for one in (nn.elu, nn.relu))
    words = f"resnet({depth}), components {components}, width {width}"
    baseline = "the blocks, averaged over the image, and dense layers as in al, with batch norm"
    return Net(
        al,
        with_normed_layers(bp, width, mean),
        components,
        width,
        words,
        rate=1e-3,
        decay=decay,
        baseline=baseline,
        sources="the rate by the letter; components, width and baseline by the code",
    )


def vgg(classes: int = 10, width: int = 300) -> Net:
    """VGG, as in the code: batch norm for backpropagation only, whose net has no layers of 1024 units.

    In another version of the code AL has batch norm, too.

    The L2 is the code's: 5e-4 for backpropagation and 1e-5 for AL. The letter has 5e-4 and names no rule, but the
    code is what made its numbers. There the L2 is on the convolutions, here on the dense layers, too.
    """
    words = f"vgg, 4 components, width {width}"
    bp = jl.models.vgg(classes, activation=nn.relu, norm=True)
    bp = with_normed_layers(bp._replace(blocks=bp.blocks[:6]), width)
    baseline = "the convolutions, flattened, and dense layers as in al, with batch norm everywhere"
    al = jl.models.vgg(classes, activation=nn.elu)
    return Net(al, bp, (2, 2, 2, 2), width, words, decay=(5e-4, 1e-5), baseline=baseline, sources="all by the code")


def mean(image: jax.Array) -> jax.Array:
    """The mean of each channel."""
    return jnp.mean(image, axis=(1, 2))


def with_normed_layers(net: jl.Network, width: int, *before: Callable[[jax.Array], jax.Array]) -> jl.Network:
    """The code's baseline for ResNets and VGG: dense layers with batch norm, of the widths by which AL predicts."""
    layers = (dense(units, norm=True) for units in (5 * width, width, width, width, width))
    blocks = *net.blocks, *(nn.Sequential([function]) for function in before), *layers
    return net._replace(blocks=blocks, head=net.head.clone(average=False))


def decayed_adam(rate: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
    """Adam for f and b, with the gradient of decay/2 · ‖W‖² on the kernels of f, as in the authors' code.

    Encoders and decoders have no decay: their gradients are so small that Adam would follow the decay alone.
    """

    def of_layers(tree: Any) -> Any:  # the forward weights are a tuple over the layers; those of the bridge are not
        return kernels(tree) if isinstance(tree, tuple) else jax.tree.map(lambda leaf: False, tree)

    return optax.chain(optax.add_decayed_weights(decay, mask=of_layers), optax.adam(rate))


def bp(net: Net, steps: Steps) -> jl.Rule:
    """Backpropagation, the baseline, with ReLU and cross entropy."""
    return jl.rules.bp(net.bp, decayed_adam(net.decrease.make(net.rate, steps.total), net.decay[0]))


def al(net: Net, steps: Steps) -> jl.Rule:
    """Associated Learning with ELU, and twice the rate for encoders and decoders."""
    slow, fast = (net.decrease.make(times * net.rate, steps.total) for times in (1, 2))
    return jl.rules.al(
        net.al,
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


def cosine_adam(rate: float, steps: Steps) -> optax.GradientTransformation:
    """Adam whose rate falls to zero by a cosine."""
    return optax.adam(COSINE.make(rate, steps.total))


def tuned(rule: str, net: Net, setting: Setting, steps: Steps) -> jl.Rule:
    """The rule on dense layers, with a setting of `beyond.tuning`, and Adam whose rate falls to zero by a cosine."""
    hidden, times = (net.width,) * len(net.components), setting.bridge or 0
    activation, init = ACTIVATIONS[setting.activation], INITS[setting.init]
    tx = partial(cosine_adam, steps=steps)
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


RULES = {"bp": bp, "al": al}


def in_words(rule: str, net: Net) -> dict[str, str]:
    """The settings of a rule, in words."""
    decay = net.decay[rule == "al"]
    twice = ", twice that for encoders and decoders" if rule == "al" else ""
    activations = {
        "bp": f"relu, cross entropy; {net.baseline}",
        "al": "elu, sigmoid codes and bridges",
    }
    return {
        "net": net.words,
        "activation": activations[rule],
        "optimizer": f"adam({net.rate}){twice}; {net.decrease.words}",
        "L2": f"{decay:g}, on the kernels of the blocks" if decay else "none",
        **({"sources": net.sources} if net.sources else {}),
    }


def one(rule: str, net: Net, data: str, paper: Paper | None, prepare: Prepare, quick: Budget | None = None) -> Case:
    """A row with the settings of the network."""
    return Case(data, partial(RULES[rule], net), in_words(rule, net), FULL, quick, paper, prepare=prepare)


def pair(
    name: str,
    net: Net,
    data: str,
    papers: Papers,
    prepare: Prepare,
    quick: Budget | None = None,
) -> dict[str, Case]:
    """Two rows, by backpropagation and by Associated Learning."""
    return {
        f"{name}_{rule}": one(rule, net, data, paper, prepare, quick) for rule, paper in zip(RULES, papers, strict=True)
    }


def tuned_pair(
    name: str,
    width: int,
    data: str,
    budget: Budget,
    papers: Papers = (None, None),
    rate: float | None = None,
) -> dict[str, Case]:
    """Two rows with the settings that the search found, or with another rate, and with the same budget."""
    net = mlp(width)
    settings = {rule: setting._replace(rate=rate or setting.rate) for rule, setting in TUNED.items()}
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
    """The code's preparation of MNIST: the training set's mean image is subtracted."""
    return jl.augmentation.subtract(jl.augmentation.mean_image(np.asarray(splits.train[0])))


def jittered(splits: jl.data.Splits) -> jl.augmentation.Augmentation:
    """The letter's two-pixel jitter of CIFAR, and the code's mean image, which is subtracted."""
    return jl.augmentation.chain(jl.augmentation.jitter(2), centred(splits))


def compared(columns: Mapping[str, Mapping[str, float]], recorded: Recorded) -> Iterator[Row]:
    """The rows beside the paper's, and further columns of printed numbers, by row."""
    for line in comparison(recorded):
        printed = {title: numbers.get(line["row"]) for title, numbers in columns.items()}
        yield line | {title: accuracy((number, None) if number else None) for title, number in printed.items()}


def of_rows(numbers: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The numbers of backpropagation and of AL, network by network, as those of the rows."""
    return {f"{net}_{rule}": number for net, pair in numbers.items() for rule, number in zip(RULES, pair, strict=True)}


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


def measured(cases: Mapping[str, Case]) -> dict[str, Case]:
    """The rows, with the distances between classes, of which Table 7 is made."""
    return {row: case._replace(measure=distances) for row, case in cases.items()}


def rows_on_cifar(nets: Mapping[str, tuple[Net, Papers]], six: tuple[Net, Paper], data: str) -> dict[str, Case]:
    """Both rows of every network, and that of the vanilla CNN in the letter's six components."""
    pairs = [pair(name, net, data, papers, jittered) for name, (net, papers) in nets.items()]
    net, paper = six
    every = {row: case for rows in pairs for row, case in rows.items()}
    return measured(every | {"cnn_six_al": one("al", net, data, paper, jittered)})
