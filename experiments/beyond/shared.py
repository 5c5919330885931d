"""What the experiments on accuracy against cost train: the data, the networks and the budgets."""

from typing import NamedTuple

import jaxlocal as jl
from experiments.lab.experiment import Budget
from experiments.lab.training import images, shortened

RATES = 5e-4, 1e-3, 2e-3, 4e-3, 8e-3
LOWER = 1.25e-4, 2.5e-4
LOW_RATES = *LOWER, *RATES
DEEP_RATES = {16: LOW_RATES, 32: LOW_RATES, 64: (6.25e-5, *LOW_RATES)}  # by the depth of the network


class Problem(NamedTuple):
    """What is learned, and by which blocks."""

    title: str
    data: str
    net: jl.Network
    words: str
    paper: int | None  # the number of components in the row of the paper's codes
    components: tuple[int, ...]  # the numbers of components in the rows of lean codes
    full: Budget
    quick: Budget
    size: int | None = None  # the height and width that images are reduced to
    examples: int | None = None  # the number of training examples; by default all
    batch: int = 64
    feedback: bool = True  # whether DFA and DRTP are among the contenders
    shorter: tuple[str, ...] = ()  # the contenders that are also trained for less time, in rows of their own
    longer: tuple[str, ...] = ()  # those that are also trained for twice the time
    averaged: tuple[int, ...] = ()  # the numbers of components in the rows whose prediction is the mean over them
    grids: tuple[int, ...] = ()  # the cells along each axis of the images that the bridges read, in rows of their own
    widths: tuple[tuple[int, int], ...] = ()  # numbers of components and of units of a code, in rows of their own
    fast_bridges: tuple[tuple[int, int], ...] = ()  # the same, with bridges that learn faster than the blocks
    low_rank: bool = False  # whether bridges of low rank have a row of their own
    bridge: bool = False  # whether backpropagation through the bridge of one component has a row of its own
    rates: tuple[float, ...] = RATES  # which each contender may choose from
    more_rates: tuple[float, ...] = ()  # which backpropagation may choose as well, in a row of its own

    def splits(self) -> jl.data.Splits:
        """The data."""
        return shortened(images(self.data, self.size), self.examples)


MLP, WIDE = jl.models.mlp((256,) * 8), jl.models.mlp((1024,) * 4)
LONGER_512 = "bp", "al_2_average", "al_2", "al_4_average", "al_4", "al_2_fast_bridges_256"
SHORTER_512 = "bp", "bp_more_rates", "al_2_fast_bridges_256"
SHORT, LONG = Budget(epochs=6, seeds=3), Budget(epochs=20, seeds=5)
PROBLEMS = {
    **{
        name: Problem(
            f"{title}, 8 dense layers",
            data,
            MLP,
            "8 layers of 256 units",
            8,
            (1, 2, 4, 8),
            LONG,
            SHORT,
            averaged=(2, 4, 8),
            widths=widths,
            fast_bridges=fast_bridges,
            low_rank=name == "mnist",
            bridge=True,
            more_rates=LOWER,
        )
        for name, title, data, widths, fast_bridges in (
            ("mnist", "MNIST", "mnist", (), ((4, 64),)),
            ("fashion", "Fashion-MNIST", "fashion_mnist", ((1, 256),), ((1, 64), (4, 64))),
        )
    },
    "cifar": Problem(
        "CIFAR-10, vanilla CNN",
        "cifar10",
        jl.models.vanilla_cnn(),
        "vanilla_cnn",
        4,
        (1, 2, 4, 8),
        LONG,
        SHORT,
        size=16,
        examples=10_000,
        shorter=("bp", "al_2_average"),
        longer=("bp", "al_2"),
        averaged=(2, 4, 8),
        grids=(1, 2, 4, 16),
        widths=((4, 128), (4, 256)),
        fast_bridges=((2, 64),),
        low_rank=True,
    ),
    **{
        f"cifar_{batch}": Problem(
            f"CIFAR-10, vanilla CNN, all images, batches of {batch}",
            "cifar10",
            jl.models.vanilla_cnn(),
            "vanilla_cnn",
            None,
            (),
            LONG,
            SHORT,
            size=16,
            batch=batch,
            feedback=False,
            averaged=(2,),
        )
        for batch in (64, 512)
    },
    **{
        f"wide_{batch}": Problem(
            f"MNIST, 4 wide layers, batches of {batch}",
            "mnist",
            WIDE,
            "4 layers of 1024 units",
            4,
            (2, 4),
            LONG,
            SHORT,
            batch=batch,
            feedback=False,
            shorter=shorter,
            longer=longer,
            averaged=(2, 4),
            fast_bridges=fast_bridges,
            more_rates=more_rates,
        )
        for batch, shorter, longer, fast_bridges, more_rates in (
            (64, (), (), ((2, 64),), ()),
            (512, SHORTER_512, LONGER_512, ((2, 256),), (7e-4, 1.4e-3)),
        )
    },
    **{
        f"deep_{depth}": Problem(
            f"MNIST, {depth} dense layers",
            "mnist",
            jl.models.mlp((256,) * depth),
            f"{depth} layers of 256 units",
            None,
            (),
            LONG,
            SHORT,
            feedback=False,
            averaged=(depth,),
            rates=rates,
        )
        for depth, rates in DEEP_RATES.items()
    },
    "resnet": Problem(
        "CIFAR-10, ResNet-8",
        "cifar10",
        jl.models.resnet(8),
        "resnet(8)",
        4,
        (1, 2, 4),
        LONG,
        SHORT,
        size=16,
        examples=10_000,
        averaged=(2, 4),
        grids=(1, 2, 4, 16),
        widths=((1, 256), (4, 128), (4, 256)),
        bridge=True,
        more_rates=(1.6e-2, 3.2e-2),
    ),
}
