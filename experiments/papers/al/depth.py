"""Deep networks of sigmoids: backpropagation's gradient vanishes in them, Associated Learning's does not.

The arXiv version claims this in its abstract and in section 3.1, and gives no numbers. The settings are ours: the same
layers, optimizer, batches and rates to choose from for both rules. Associated Learning has the codes of the paper and
one layer in a component.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.lab import figures
from experiments.lab.experiment import Budget, Experiment, Recorded, comparison
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.searched import rates_in_words, searched
from experiments.lab.training import Case, Steps, Trained
from experiments.papers.al.shared import COSINE, TUNED_BATCH, cosine_adam
from jaxlocal.data import floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, DEPTHS = 64, (2, 5, 10, 20)
FULL, QUICK = Budget(epochs=30, seeds=3), Budget(epochs=6, seeds=2)
COLOURS = {"bp": figures.ORANGE, "al": figures.BLUE}


def net(depth: int) -> jl.Network:
    """Layers of sigmoids, with He-normal weights."""
    return jl.models.mlp((WIDTH,) * depth, activation=nn.sigmoid)


def bp(depth: int, rate: float, steps: Steps) -> jl.Rule:
    """Backpropagation with cross entropy."""
    return jl.rules.bp(net(depth), cosine_adam(rate, steps))


def al(depth: int, rate: float, steps: Steps) -> jl.Rule:
    """Associated Learning, with twice the rate for encoders and decoders as in the authors' code."""
    tx, autoencoder_tx = (cosine_adam(times * rate, steps) for times in (1, 2))
    return jl.rules.al(net(depth), tx, autoencoder_tx=autoencoder_tx, codes=jl.codes.paper)


def gradients(trained: Trained) -> Mapping[str, Any]:
    """The norm of the gradient of each layer's kernel before the first step, for new weights and the first examples."""
    x, y = trained.splits.train
    batch = floats((x[:TUNED_BATCH], y[:TUNED_BATCH]))
    lessons = trained.rule.lessons(trained.rule.init(jax.random.key(trained.seed), batch), batch)
    layers = [layer for lesson in lessons for layer in lesson.grads["forward"]]
    hidden = layers[: len(trained.rule.net.blocks)]  # without the head of backpropagation
    return {"gradients": [float(f"{jnp.linalg.norm(layer['linear']['kernel']):.3g}") for layer in hidden]}


def rows(rate: float) -> dict[str, Case]:
    """All rows with a rate."""
    optimizer = {
        "bp": f"adam({rate:g}); {COSINE.words}",
        "al": f"adam({rate:g}), twice that for encoders and decoders; {COSINE.words}",
    }
    return {
        f"{rule}_{depth}": Case(
            "mnist",
            partial(make, depth, rate),
            {"net": f"{depth} layers of {WIDTH} sigmoids", "optimizer": optimizer[rule]},
            FULL,
            QUICK,
            batch_size=TUNED_BATCH,
            measure=gradients,
        )
        for depth in DEPTHS
        for rule, make in {"bp": bp, "al": al}.items()
    }


def table(recorded: Recorded) -> Iterator[Row]:
    """The gradient's norm in the first and in the last hidden layer before the first step, and their ratio."""
    lines = recorded.rows()
    for row in recorded.experiment.rows:
        norms = _over_seeds(lines[row]) if row in lines else None
        yield {
            "row": row,
            "first layer": norms[0] if norms else "not run",
            "last hidden layer": norms[-1] if norms else None,
            "ratio": norms[0] / norms[-1] if norms else None,
        }


def _over_seeds(line: Row) -> Sequence[float]:
    """Each layer's norm, the geometric mean over the seeds."""
    return np.exp(np.mean([np.log(one["gradients"]) for one in line["measured"]], axis=0)).tolist()


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figure of those rows that are recorded."""
    lines = recorded.rows()
    return {"al_depth": picture(lines)} if lines else {}


def picture(lines: Mapping[str, Row]) -> "Figure":
    """Test accuracy against depth, and the gradient's norm before the first step layer by layer."""
    figure, (reached, start) = figures.panels(2, size=(10, 4))
    for rule, colour in COLOURS.items():
        found = {depth: lines[f"{rule}_{depth}"] for depth in DEPTHS if f"{rule}_{depth}" in lines}
        accuracies = [100 * np.array(line["test"]["per_seed"]) for line in found.values()]
        for depth, values in zip(found, accuracies, strict=True):
            reached.scatter([depth] * len(values), values, color=colour, s=12)
        means = [values.mean() for values in accuracies]
        reached.plot(list(found), means, color=colour, label=rule)
        for line in found.values():
            norms = _over_seeds(line)
            start.plot(range(1, len(norms) + 1), norms, color=colour, marker=".")
    reached.set(xlabel="layers", title="test accuracy, %", xticks=DEPTHS)
    start.set(xlabel="layer", title="norm of its gradient before the first step", yscale="log", xticks=DEPTHS)
    reached.legend(frameon=False)
    figure.suptitle("Deep networks of sigmoids on MNIST")
    return figure


EXPERIMENT = Experiment(
    module="papers.al.depth",
    name="al_depth",
    title="Associated Learning in deep networks of sigmoids",
    source="Kao and Chen, first version on arXiv, abstract and section 3.1",
    rows=searched(rows),
    note=(
        "The paper's first version claims that a gradient which stays in its component is less likely to vanish, and "
        f"gives no numbers. MNIST, layers of {WIDTH} sigmoids; `bp_N` and `al_N` have N of them. In the paper only the "
        "codes of Associated Learning are sigmoids; here all layers of both rules are. Backpropagation trains these "
        "layers and a readout with cross entropy; Associated Learning predicts through as many decoders again. The "
        "norms are those of the kernels' gradients for new weights, each of its own loss: their sizes cannot be "
        f"compared between the rules, but their ratio from layer to layer can. {rates_in_words()}"
    ),
    tables=(comparison, table),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
