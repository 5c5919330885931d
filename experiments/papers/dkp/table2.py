"""Direct Kolen-Pollack, Table 2: AlexNet on CIFAR-100 and TinyImageNet200; Figure 4 from its curves.

TinyImageNet200 is not in TFDS: the folder that its archive unpacks to, tiny-imagenet-200, is read from the home folder,
where it may also be a link.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import optax

import jaxlocal as jl
from experiments.lab import figures, study
from experiments.lab import records as results
from experiments.lab.study import Budget, Case, Steps, Study
from experiments.papers.dkp.table1 import sgd
from jaxlocal.data.augmentation import chain, crop, flip, standardise
from jaxlocal.decay import decayed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BACKPROP_RATE = 0.1
FEEDBACK_RATE = 5e-4
DECAY = 1e-4
DROPOUT = 0.5
CONVOLUTIONS = frozenset(range(5))


class Images(NamedTuple):
    """A data set of the table, and what differs between the two."""

    data: str  # for jl.data.load
    classes: int
    size: int
    rate: float  # of all rules but backpropagation
    padding: int  # that crops are taken out of
    paper: Mapping[str, tuple[float, float]]


IMAGES = {
    "cifar100": Images(
        "cifar100",
        classes=100,
        size=32,
        rate=1e-2,
        padding=4,
        paper={
            "bp_fc": (47.72, 0.73),
            "bp": (65.88, 1.02),
            "kp": (66.78, 0.47),
            "fa": (19.49, 0.97),
            "drtp": (5.84, 0.65),
            "dfa": (48.03, 0.61),
            "dkp": (52.62, 0.48),
        },
    ),
    "tiny_imagenet": Images(
        "~/tiny-imagenet-200",
        classes=200,
        size=64,
        rate=5e-3,
        padding=8,
        paper={
            "bp_fc": (29.78, 0.45),
            "bp": (49.53, 0.61),
            "kp": (51.36, 1.50),
            "fa": (9.98, 1.44),
            "drtp": (2.86, 0.59),
            "dfa": (32.116, 0.66),
            "dkp": (35.78, 1.92),
        },
    ),
}


def rate(images: Images, name: str) -> float:
    """That of the forward weights."""
    return BACKPROP_RATE if name in ("bp", "bp_fc") else images.rate


def make(images: Images, name: str, steps: Steps) -> jl.Rule:
    """The rule of a row."""
    net = jl.models.alexnet(images.classes, image_size=images.size, dropout=DROPOUT)
    tx = sgd(rate(images, name))
    if name == "kp":
        return jl.rules.kp(net, tx, decay=DECAY)
    if name == "dkp":
        return jl.rules.dkp(net, tx, feedback_tx=optax.adam(FEEDBACK_RATE), decay=DECAY)
    settings: dict[str, Any] = {"frozen": CONVOLUTIONS} if name == "bp_fc" else {}
    return jl.rules.ALL[name.removesuffix("_fc")](net, decayed(tx, DECAY), **settings)


def told(images: Images, name: str) -> dict[str, str]:
    """The settings of a row, in words."""
    feedback = {
        "kp": f"the moves of the forward weights; decay {DECAY}",
        "dkp": f"adam({FEEDBACK_RATE}); decay {DECAY}",
    }
    settings = {
        "net": f"alexnet({images.classes}, image_size={images.size}, dropout={DROPOUT})",
        "optimizer": f"sgd({rate(images, name)}, momentum 0.9, nesterov); decay {DECAY}",
        "preparation": f"crop({images.padding}), flip; each image by its own mean and deviation",
    }
    return settings | ({"feedback": feedback[name]} if name in feedback else {})


def draw(rows: Mapping[str, results.Row]) -> dict[str, "Figure"]:
    """Figure 4."""
    of_cifar = {name: row for name, row in rows.items() if name.startswith("cifar100_")}
    runs = {name.removeprefix("cifar100_"): row["history"] for name, row in of_cifar.items()}
    title = "AlexNet on CIFAR-100, as the direct Kolen-Pollack paper's Figure 4"
    return {"dkp_figure4": figures.learning(runs, title)} if runs else {}


def case(images: Images, name: str) -> Case:
    """A row: the rule `name` on a data set."""
    return Case(
        images.data,
        partial(make, images, name),
        told(images, name),
        full=Budget(90, 10),
        paper=images.paper[name],
        batch_size=128,
        prepare=lambda splits: chain(crop(images.padding), flip(), standardise()),
    )


STUDY = Study(
    name="dkp_table2",
    title="Direct Kolen-Pollack, Table 2 and Figure 4: AlexNet with batch norm",
    source="Learning the Connections in Direct Feedback Alignment, Table 2",
    cases={f"{data}_{name}": case(images, name) for data, images in IMAGES.items() for name in images.paper},
    note=(
        "The paper's optimizers, rates and decay. As in its equations, λ is not multiplied by the rate; all rules' "
        "forward weights have it, feedback that does not learn has none. KP's feedback takes the moves of the forward "
        "weights, for only so do W and Bᵀ converge (eq. 11); the Adam of the backward weights is taken to be DKP's. "
        "Backpropagation has the rate 0.1 on both sets, for the paper lowered it for the other rules only. The paper's "
        "training accuracies are below its test accuracies, so it must have used dropout or augmentation, of which it "
        "says nothing: AlexNet's own dropout of 0.5, crops and flips are ours, and so are the batch size (128), the "
        "preparation, and the kernels and strides for small images. `bp_fc` leaves the convolutions at their random "
        "start. No row is one for two cores."
    ),
    draw=draw,
)
main = partial(study.main, STUDY)

if __name__ == "__main__":
    main()
