"""Associated Learning with bridges and without: equation 4.3 beside equation 4.2.

The authors report that without bridges s_i hardly fits t_i, and give no numbers. Here the codes are as wide as the
layers, so that a component can do without a bridge; a convolution's code would have to be as large as its image. The
settings are ours: ELU and one-hot targets as in the letter, and a rate that each row has searched for.
"""

from collections.abc import Mapping
from functools import partial

import flax.linen as nn

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Budget, Experiment
from experiments.lab.main import main
from experiments.lab.searched import rates_in_words, searched
from experiments.lab.training import Case, Steps
from experiments.papers.al.shared import COSINE, NARROW, TUNED_BATCH, cosine_adam
from jaxlocal.codes import Coder, hidden_layer, one_layer

COMPONENTS = 2
SHORT = Budget(epochs=10, seeds=3)


def nothing(width: int) -> nn.Module:
    """No bridge: s_i itself is compared with t_i."""
    return nn.Sequential([jl.layers.identity])


BRIDGES: Mapping[str, tuple[Coder, str]] = {
    "hidden": (hidden_layer, "a hidden layer of five times the code's width, and the code, as in the authors' code"),
    "layer": (one_layer, "the code alone, one layer"),
    "none": (nothing, "none: equation 4.2"),
}


def make(bridge: Coder, rate: float, steps: Steps) -> jl.Rule:
    """The rule with a bridge."""
    return jl.rules.al(
        jl.models.mlp((NARROW,) * COMPONENTS, activation=nn.elu),
        cosine_adam(rate, steps),
        autoencoder_tx=cosine_adam(2 * rate, steps),
        codes=jl.codes.paper._replace(bridge=bridge),
    )


def rows(rate: float) -> dict[str, Case]:
    """All rows with a rate."""
    optimizer = f"adam({rate:g}), twice that for encoders and decoders; {COSINE.words}"
    net = f"{COMPONENTS} layers of {NARROW} units, elu, sigmoid codes as wide as the layers"
    return {
        name: Case(
            "mnist",
            partial(make, bridge, rate),
            {"net": net, "bridge": words, "optimizer": optimizer},
            SHORT,
            SHORT,
            batch_size=TUNED_BATCH,
        )
        for name, (bridge, words) in BRIDGES.items()
    }


EXPERIMENT = Experiment(
    module="papers.al.bridges",
    name="al_bridges",
    title="Associated Learning with bridges and without",
    source="Kao and Chen 2021, equations 4.2 and 4.3",
    rows=searched(rows),
    note=(
        f"MNIST, {COMPONENTS} layers of {NARROW} units, each a component, codes of as many units. `hidden` has the "
        "bridges of the authors' code, `layer` bridges without their hidden layer, and `none` no bridges. "
        f"{rates_in_words()}"
    ),
    draw=figures.curves("al_bridges", "Associated Learning with bridges and without, on MNIST", loss=False),
)

if __name__ == "__main__":
    main(EXPERIMENT)
