"""Direct Kolen-Pollack, Table 1: the 2-conv net on CIFAR-10 and Fashion-MNIST; Figure 3 from its curves."""

from functools import partial

import optax

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Budget, Experiment
from experiments.lab.main import main
from experiments.lab.training import Case, Steps
from experiments.papers.dkp.shared import DECAY, FEEDBACK_RATE, RATE, sgd, sgd_in_words
from jaxlocal.decay import decayed

FEEDBACK_FACTOR = 0.85
PAPER = {
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


def make(name: str, steps: Steps) -> jl.Rule:
    """The rule of a row."""
    net = jl.models.conv2()
    if name == "kp":
        return jl.rules.kp(net, sgd(RATE), decay=DECAY)
    if name == "dkp_fast":
        return jl.rules.dkp(net, sgd(RATE), decay=DECAY)
    if name == "dkp":
        slow = optax.exponential_decay(FEEDBACK_RATE, steps.epoch, FEEDBACK_FACTOR, staircase=True)
        return jl.rules.dkp(net, sgd(RATE), feedback_tx=sgd(slow), decay=DECAY)
    tx = decayed(sgd(RATE), DECAY)
    return jl.rules.bp(net, tx, frozen={0, 1}) if name == "bp_fc" else jl.rules.ALL[name](net, tx)


def in_words(name: str) -> dict[str, str]:
    """The settings of a row for a reader."""
    optimizer = f"{sgd_in_words(RATE)}; decay {DECAY}"
    feedback = {
        "kp": f"the moves of the forward weights; decay {DECAY}",
        "dkp": f"{sgd_in_words(f'{FEEDBACK_RATE} times {FEEDBACK_FACTOR} every epoch')}; decay {DECAY}",
        "dkp_fast": optimizer,
    }
    settings = {
        "net": "conv2",
        "optimizer": optimizer,
        "preparation": "each image by its own mean and deviation",
    }
    return settings | ({"feedback": feedback[name]} if name in feedback else {})


def case(data: str, name: str) -> Case:
    """A row: the rule `name` on a data set."""
    return Case(
        data,
        partial(make, name),
        in_words(name),
        full=Budget(epochs=50, seeds=10),
        quick=Budget(epochs=2, seeds=3) if data == "cifar10" else None,
        paper=PAPER[data].get(name),
        batch_size=128,
        prepare=lambda splits: jl.augmentation.standardise(),
    )


EXPERIMENT = Experiment(
    module="papers.dkp.table1",
    name="dkp_table1",
    title="Direct Kolen-Pollack, Table 1 and Figure 3: the 2-conv net",
    source="Learning the Connections in Direct Feedback Alignment, Table 1",
    rows={f"{data}_{name}": case(data, name) for data, rows in PAPER.items() for name in [*rows, "dkp_fast"]},
    note=(
        "The paper's net, optimizers, rates and decay, which is not multiplied by the rate; the batch size, 128, and "
        "the preparation of the images are ours, for it names none. `bp_fc` leaves the convolutions at their random "
        "start. `dkp` lowers its feedback's rate every epoch, for the paper does not say when, and `kp`'s feedback "
        "takes the moves of the forward weights. `dkp_fast` is ours: the feedback learns at the rate of the forward "
        "weights."
    ),
    draw=figures.curves(
        "dkp_figure3",
        "The 2-conv net on CIFAR-10 (JPEG copies), as the direct Kolen-Pollack paper's Figure 3",
        prefix="cifar10_",
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)
