"""Direct Kolen-Pollack, Table 1: the 2-conv net on CIFAR-10 and Fashion-MNIST; Figure 3 from its curves."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import optax

import jaxlocal as jl
from experiments.lab import figures, study
from experiments.lab import records as results
from experiments.lab.study import Budget, Case, Steps, Study
from jaxlocal.decay import decayed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATE = 1e-2
FEEDBACK_RATE, FEEDBACK_FACTOR = 1e-4, 0.85
DECAY = 1e-6
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


def sgd(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """With Nesterov's momentum, as everywhere in the paper."""
    return optax.sgd(rate, momentum=0.9, nesterov=True)


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
    settings: dict[str, Any] = {"frozen": {0, 1}} if name == "bp_fc" else {}
    return jl.rules.ALL[name.removesuffix("_fc")](net, decayed(sgd(RATE), DECAY), **settings)


def told(name: str) -> dict[str, str]:
    """The settings of a row, in words."""
    optimizer = f"sgd({RATE}, momentum 0.9, nesterov)"
    feedback = {
        "kp": f"the moves of the forward weights; decay {DECAY}",
        "dkp": f"sgd({FEEDBACK_RATE} times {FEEDBACK_FACTOR} every epoch, momentum 0.9, nesterov); decay {DECAY}",
        "dkp_fast": f"{optimizer}; decay {DECAY}",
    }
    settings = {
        "net": "conv2",
        "optimizer": f"{optimizer}; decay {DECAY}",
        "preparation": "each image by its own mean and deviation",
    }
    return settings | ({"feedback": feedback[name]} if name in feedback else {})


def draw(rows: Mapping[str, results.Row]) -> dict[str, "Figure"]:
    """Figure 3."""
    runs = {name.removeprefix("cifar10_"): row["history"] for name, row in rows.items() if name.startswith("cifar10_")}
    title = "The 2-conv net on CIFAR-10 (JPEG copies), as the direct Kolen-Pollack paper's Figure 3"
    return {"dkp_figure3": figures.learning(runs, title)} if runs else {}


def case(data: str, name: str) -> Case:
    """A row: the rule `name` on a data set."""
    return Case(
        data,
        partial(make, name),
        told(name),
        full=Budget(50, 10),
        quick=Budget(2, 3) if data == "cifar10" else None,
        paper=PAPER[data].get(name),
        batch_size=128,
        prepare=lambda splits: jl.augmentation.standardise(),
    )


STUDY = Study(
    name="dkp_table1",
    title="Direct Kolen-Pollack, Table 1 and Figure 3: the 2-conv net",
    source="Learning the Connections in Direct Feedback Alignment, Table 1",
    cases={f"{data}_{name}": case(data, name) for data, rows in PAPER.items() for name in [*rows, "dkp_fast"]},
    note=(
        "The paper's net, optimizers, rates and decay, which is not multiplied by the rate; the batch size, 128, and "
        "the preparation of the images are ours, for it names none. `bp_fc` leaves the convolutions at their random "
        "start. `dkp` lowers its feedback's rate every epoch, for the paper does not say when, and `kp`'s feedback "
        "takes the moves of the forward weights. `dkp_fast` is ours: the feedback learns at the rate of the forward "
        "weights."
    ),
    draw=draw,
)
main = partial(study.main, STUDY)

if __name__ == "__main__":
    main()
