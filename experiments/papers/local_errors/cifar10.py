"""VGG8B on CIFAR-10 by local losses and by backpropagation."""

from collections.abc import Callable, Mapping
from functools import partial

import optax

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Budget, Entry, Experiment, Paper
from experiments.lab.main import main
from experiments.lab.searched import rates_in_words, searched
from experiments.lab.training import Case, Steps
from experiments.papers.al.shared import COSINE, cosine_adam

Make = Callable[[jl.Network, optax.GradientTransformation], jl.Rule]
RULES: Mapping[str, Make] = {
    "bp": jl.rules.bp,
    "predsim": jl.rules.predsim,
    "pred": partial(jl.rules.predsim, beta=0.0),
    "dgl": jl.rules.dgl,
}
PAPER: Mapping[str, Paper] = {"bp": (94.01, None), "predsim": (94.42, None)}
RATES = 5e-4, 2e-3, 8e-3
FULL, SHORT = Budget(epochs=400, seeds=1), Budget(epochs=9, seeds=2)
SMALL, SIZE, EXAMPLES, BATCH = 0.25, 16, 10_000, 128


def make(rule: str, times: float, rate: float, steps: Steps) -> jl.Rule:
    """The rule on VGG8B with this many times its features."""
    return RULES[rule](jl.models.vgg8b(times=times), cosine_adam(rate, steps))


def case(rule: str, times: float, rate: float, full: Budget, quick: Budget | None) -> Case:
    """A row: the whole network with the paper's number, or a small one on a part of the images."""
    whole = times == 1
    return Case(
        "cifar10",
        partial(make, rule, times, rate),
        {"net": f"vgg8b, {times:g} times its features", "rule": rule, "optimizer": f"adam({rate:g}), {COSINE.words}"},
        full,
        quick,
        PAPER.get(rule) if whole else None,
        batch_size=BATCH,
        size=None if whole else SIZE,
        examples=None if whole else EXAMPLES,
    )


def small(rate: float) -> Mapping[str, Case]:
    """The rows that a small machine can train."""
    return {f"small_{rule}": case(rule, SMALL, rate, SHORT, SHORT) for rule in RULES}


def rows() -> dict[str, Entry]:
    """VGG8B as in the paper, and with a quarter of its features."""
    whole: dict[str, Entry] = {f"vgg8b_{rule}": case(rule, 1, RATES[0], FULL, None) for rule in PAPER}
    return whole | searched(small, RATES)


EXPERIMENT = Experiment(
    module="papers.local_errors.cifar10",
    name="local_errors_cifar10",
    title="VGG8B on CIFAR-10 by local losses",
    source="Nøkland and Eidnes 2019",
    rows=rows(),
    note=(
        "`vgg8b` is the paper's network, without its dropout and its changes of the images. The schedule, a cosine, is "
        "ours; the authors' code divides the rate by four after 200, 300, 350 and 375 epochs, subtracts the mean of "
        "each channel, and has leaky ReLUs for predsim. The paper's tables of other sets and networks are not run. "
        "`small` has a quarter of "
        f"the features, and learns from the first {EXAMPLES:,} images, at {SIZE} x {SIZE} pixels. "
        f"{rates_in_words(RATES)} `pred` is predsim with β = 0, the prediction losses alone. "
        "CIFAR-10 is from JPEG copies."
    ),
    draw=figures.curves("local_errors_cifar10", "A quarter of VGG8B on CIFAR-10", prefix="small_", loss=False),
)

if __name__ == "__main__":
    main(EXPERIMENT)
