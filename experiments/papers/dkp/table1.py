"""Direct Kolen-Pollack, Table 1: the 2-conv net on CIFAR-10 and Fashion-MNIST; Figure 3 from its curves.

The paper's text and the authors' public code differ in the net and in nearly every setting. Each has rows of its own.
"""

from functools import partial

import flax.linen as nn
import jax
import optax

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Budget, Experiment, Paper
from experiments.lab.main import main
from experiments.lab.searched import searched
from experiments.lab.training import Case, Steps
from experiments.papers.dkp.shared import DECAY, FEEDBACK_RATE, RATE, Recipe, recipes, sgd, sgd_in_words

FEEDBACK_FACTOR = 0.85
# The authors' public code, whose other numbers are those of the text. Its layers start as PyTorch's do by default.
CODE_README = "the README of the authors' public code, github.com/webstah/dkp-gist"
CODE_RATE, CODE_FEEDBACK_FACTOR = 5e-4, 0.8
CODE_INIT = partial(nn.initializers.variance_scaling, 1 / 3, "fan_in", "uniform")  # up to 1 / √fan_in
CODE_FEEDBACK_INIT = nn.initializers.he_uniform()
PAPER: dict[str, dict[str, Paper]] = {
    "cifar10": {
        "bp_fc": (60.01, 1.32),
        "bp": (70.70, 0.96),
        "kp": (70.08, 0.37),
        "fa": (60.45, 1.13),
        "drtp": (55.32, 6.14),
        "dfa": (62.70, 0.36),
        "dkp": (64.69, 0.72),
    },
    "fashion_mnist": {
        "bp_fc": (91.33, 0.18),
        "bp": (92.18, 0.13),
        "kp": (91.25, 0.18),
        "fa": (91.12, 0.39),
        "drtp": (89.58, 0.05),
        "dfa": (91.54, 0.14),
        "dkp": (91.66, 0.27),
    },
}
PAPER_TRAIN: dict[str, dict[str, Paper]] = {
    "cifar10": {
        "bp_fc": (99.34, 0.63),
        "bp": (99.82, 0.49),
        "kp": (99.98, 0.01),
        "fa": (95.36, 1.46),
        "drtp": (72.90, 0.08),
        "dfa": (97.72, 1.24),
        "dkp": (99.09, 0.29),
    },
    "fashion_mnist": {
        "bp_fc": (99.97, 0.02),
        "bp": (100.00, 0.00),
        "kp": (99.47, 0.14),
        "fa": (99.41, 0.26),
        "drtp": (94.86, 0.02),
        "dfa": (99.88, 0.05),
        "dkp": (99.89, 0.06),
    },
}
CODE: dict[str, Paper] = {"bp": (70.47, 0.4), "dfa": (61.02, 0.6), "dkp": (67.52, 0.2)}
NO_NORM_RATES = 1e-2, 1e-3, 1e-4  # which the rows without batch norm choose from that are searched
LONG = "_long"  # at the end of a row's name: the same settings, for a training of more epochs and fewer seeds
QUICK = Budget(epochs=2, seeds=3)


def dkp(net: jl.Network, tx: optax.GradientTransformation, decay: float, steps: Steps) -> jl.Rule:
    """Direct Kolen-Pollack with the paper's rate of the feedback, which falls every epoch."""
    rate = optax.exponential_decay(FEEDBACK_RATE, steps.epoch, FEEDBACK_FACTOR, staircase=True)
    return jl.rules.dkp(net, tx, feedback_tx=sgd(rate), decay=decay)


def decayed_by_code(tx: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """The decay of PyTorch's optimizers: it is added to the gradient, so that it is multiplied by the rate.

    Biases and scales have it, too.
    """
    return optax.chain(optax.add_decayed_weights(decay), tx)


def dkp_of_code(net: jl.Network, tx: optax.GradientTransformation, decay: float, steps: Steps) -> jl.Rule:
    """Direct Kolen-Pollack of the authors' public code: its feedback learns by Adam, and decays as the weights do."""
    rate = optax.exponential_decay(FEEDBACK_RATE, steps.epoch, CODE_FEEDBACK_FACTOR, staircase=True)
    tx, feedback_tx = decayed_by_code(tx, decay), decayed_by_code(optax.adam(rate), decay)
    return jl.rules.dkp(net, tx, feedback_tx=feedback_tx, decay=0.0, feedback_init=CODE_FEEDBACK_INIT)


def bp_of_code(net: jl.Network, tx: optax.GradientTransformation, decay: float, steps: Steps) -> jl.Rule:
    """Backpropagation of the authors' public code."""
    return jl.rules.bp(net, decayed_by_code(tx, decay))


def dfa_of_code(net: jl.Network, tx: optax.GradientTransformation, decay: float, steps: Steps) -> jl.Rule:
    """Direct feedback alignment of the authors' public code."""
    return jl.rules.dfa(net, decayed_by_code(tx, decay), feedback_init=CODE_FEEDBACK_INIT)


DKP = Recipe(dkp, sgd_in_words(f"{FEEDBACK_RATE} times {FEEDBACK_FACTOR} every epoch"))
DKP_FAST = Recipe(  # ours
    lambda net, tx, decay, steps: jl.rules.dkp(net, tx, feedback_tx=sgd(RATE), decay=decay), sgd_in_words(RATE)
)
RECIPES = recipes({0, 1}, DKP) | {"dkp_fast": DKP_FAST}
CODE_RECIPES = {
    "bp": Recipe(bp_of_code),
    "dfa": Recipe(dfa_of_code),
    "dkp": Recipe(dkp_of_code, f"adam({FEEDBACK_RATE} times {CODE_FEEDBACK_FACTOR} every epoch)"),
}


def make(name: str, steps: Steps, rate: float = RATE, norm: bool = True, decay: float = DECAY) -> jl.Rule:
    """The rule of a row with the settings of the paper's text."""
    return RECIPES[name].make(jl.models.conv2(conv_norm=norm, dense_norm=norm), sgd(rate), decay, steps)


def make_of_code(name: str, steps: Steps, decay: float = DECAY) -> jl.Rule:
    """The rule of a row with the settings of the authors' public code."""
    net = jl.models.conv2(padding="VALID", dense_norm=False, init=CODE_INIT)
    return CODE_RECIPES[name].make(net, sgd(CODE_RATE), decay, steps)


def from_minus_one(x: jax.Array) -> jax.Array:
    """Pixels from -1 to 1 in place of 0 to 1."""
    return 2 * x - 1


def case(data: str, name: str, rate: float = RATE, norm: bool = True) -> Case:
    """A row with the settings of the paper's text, or with another rate of the forward weights, or without batch norm.

    The paper's numbers are beside the rows with batch norm alone.
    """
    net = "conv2" if norm else "conv2(conv_norm=False, dense_norm=False)"
    return Case(
        data,
        partial(make, name, rate=rate, norm=norm),
        RECIPES[name].in_words(net, sgd_in_words(rate), DECAY, "each image by its own mean and deviation"),
        full=Budget(epochs=50, seeds=10),
        quick=QUICK,
        paper=PAPER[data].get(name) if norm else None,
        paper_train=PAPER_TRAIN[data].get(name) if norm else None,
        batch_size=128,
        prepare=lambda splits: jl.augmentation.standardise(),
        apart=True,
    )


def case_of_code(name: str) -> Case:
    """A row with the settings of the authors' public code, on CIFAR-10."""
    return case("cifar10", name)._replace(
        rule=partial(make_of_code, name),
        settings=CODE_RECIPES[name].in_words(
            "conv2(padding='VALID', dense_norm=False), weights up to 1 / √fan_in at the start",
            sgd_in_words(CODE_RATE),
            f"{DECAY} times the rate",
            "pixels from -1 to 1",
        ),
        full=Budget(epochs=50, seeds=4),
        paper=CODE[name],
        printed=CODE_README,
        paper_train=None,
        batch_size=64,
        prepare=lambda splits: jl.augmentation.Augmentation(lambda key, x: from_minus_one(x), from_minus_one),
    )


def without_norm(rate: float) -> dict[str, Case]:
    """Rows without batch norm, with this rate of the forward weights."""
    names = "bp", "dfa", "dkp"
    return {f"cifar10_{name}_no_norm_searched": case("cifar10", name, rate, norm=False) for name in names}


def of_the_text(data: str) -> dict[str, Case]:
    """The rows with the settings of the paper's text; `dkp_fast` is ours, and the last two are without batch norm."""
    plain = {f"{name}_no_norm": case(data, name, norm=False) for name in ("dfa", "dkp")}
    return {name: case(data, name) for name in RECIPES} | plain


CIFAR10_LONG = {
    f"cifar10_{name}{LONG}": long._replace(quick=None, test_curve=True)
    for name, long in (
        *((name, case("cifar10", name)) for name in ("bp_fc", "bp", "dfa", "dkp")),
        *((f"code_{name}", case_of_code(name)) for name in CODE),
    )
}

EXPERIMENT = Experiment(
    module="papers.dkp.table1",
    name="dkp_table1",
    title="Direct Kolen-Pollack, Table 1 and Figure 3: the 2-conv net",
    source="Learning the Connections in Direct Feedback Alignment, Table 1",
    rows={
        **{f"{data}_{name}": entry for data in PAPER for name, entry in of_the_text(data).items()},
        **{f"cifar10_code_{name}": case_of_code(name) for name in CODE},
        **CIFAR10_LONG,
        **searched(without_norm, NO_NORM_RATES),
    },
    note=(
        "The paper's net, optimizers, rates and decay, which is not multiplied by the rate. The paper gives the rates "
        "and the decay where it describes direct Kolen-Pollack on CIFAR-10; it names none for the other rules, which "
        "have the same here. The batch size, 128, the preparation of the images and the He-normal start of the "
        "forward weights are ours, too, for it names none. By the paper's table the dense layer has 6272 inputs, "
        "which with its padding is right for Fashion-MNIST; on CIFAR-10 it has 8192 here. Direct feedback goes to the "
        "feature maps before they are pooled. Where errors go from layer to layer, as in `bp`, `bp_fc`, `kp` and "
        "`fa`, it makes no difference in which layer the pooling stands, and these rows on CIFAR-10 are of before it "
        "stood in the dense layer. `bp_fc` leaves the convolutions at their random start. `dkp` lowers its feedback's "
        "rate every epoch, for the paper does not say when. `kp`'s feedback takes the moves of the forward weights, "
        "for only so do W and Bᵀ converge (eq. 11), although eq. 6 gives it a rate of its own. `dkp_fast` is ours: "
        "the feedback learns at the rate of the forward weights. `no_norm` is without batch norm, which the paper "
        "calls necessary; with `searched` it has chosen the rate of its forward weights among "
        f"{', '.join(f'{rate:g}' for rate in NO_NORM_RATES)} on the validation set, after a third of the epochs, "
        "and at least one. "
        "The rows `code` have the settings of the authors' public code, which are others: pixels "
        "from -1 to 1, forward weights that start as in PyTorch's layers (but biases at zero), convolutions without "
        "padding, no batch norm in the dense layer, batches of 64 (50 in other versions of the code), a twentieth of "
        "the forward rate, feedback that starts He-uniform and learns by Adam, and a decay that is multiplied by the "
        "rate. The number beside them is printed in the README of the code, of four trials; we read its spread, such "
        "as 0.002, as 0.2 points. The rows that end in `long` have the same settings as those without it, and more "
        "epochs of one seed, to see which recipe gives the paper's numbers. The picture shows these; Kolen-Pollack, "
        "feedback alignment and random target projection are not among them. As the paper's does, it has the test "
        "accuracy after each epoch; nothing was chosen by it."
    ),
    draw=figures.curves(
        "dkp_figure3",
        "The 2-conv net on CIFAR-10 (JPEG copies), as the direct Kolen-Pollack paper's Figure 3",
        prefix="cifar10_",
        suffix=LONG,
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
