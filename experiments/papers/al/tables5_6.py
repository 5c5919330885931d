"""Associated Learning, Tables 5 and 6: associated losses and accuracy by the number of components, on MNIST."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.lab.experiment import Budget, Experiment, Recorded, comparison
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.training import Case, Steps, Trained
from experiments.papers.al.shared import (
    COSINE,
    NARROW,
    TUNED_BATCH,
    Setting,
    centred,
    mlp,
    one,
    tuned,
)
from jaxlocal.data import floats

PAPERS_TEST = {"one": 98.49, "two": 98.60, "three": 98.71}
PAPERS_TRAIN = 100.0, None  # in every row
PAPERS_LOSS = {
    "one": (1.2488e-5,),
    "two": (1.5469e-5, 3.5818e-7),
    "three": (1.2219e-5, 3.8033e-7, 6.7192e-10),
}
WIDTH = 1024
FULL, SHORT = Budget(epochs=200, seeds=1), Budget(epochs=10, seeds=3)
SETTING = Setting(1e-3, ratio=2, bridge=5)  # of the narrow rows
PIECE = 1000  # the number of examples that are measured at a time


def associated_losses(trained: Trained) -> Mapping[str, Any]:
    """The associated loss of every component over the training set."""
    rule, params, (x, y) = trained.rule, trained.params, trained.splits.train

    @jax.jit
    def losses(params: jl.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = floats((x, y))
        x = trained.augmentation.test(x) if trained.augmentation else x
        return jnp.stack([terms["associated"] for terms in jl.diagnostics.local_losses(rule, params, (x, y))])

    pieces = [losses(params, x[at : at + PIECE], y[at : at + PIECE]) for at in range(0, len(x), PIECE)]
    return {"associated": [float(f"{value:.4g}") for value in jnp.stack(pieces).mean(0)]}


def wide(components: int, paper: float) -> Case:
    """A row of the paper."""
    row = one("al", mlp(WIDTH, components), "mnist", (paper, None), centred)
    return row._replace(full=FULL, paper_train=PAPERS_TRAIN)


def make_narrow(components: int, steps: Steps) -> jl.Rule:
    """Associated Learning on narrower layers, which learns within minutes."""
    return tuned("al", mlp(NARROW, components), SETTING, steps)


def narrow(components: int) -> Case:
    """A row on narrower layers."""
    optimizer = f"adam, its rate {COSINE.words}"
    settings = {"net": mlp(NARROW, components).words, "setting": str(SETTING), "optimizer": optimizer}
    return Case("mnist", partial(make_narrow, components), settings, SHORT, SHORT, batch_size=TUNED_BATCH)


def losses(recorded: Recorded) -> Iterator[Row]:
    """Table 5: the associated loss of each component, the paper's and ours, the mean over the seeds."""
    for row, case in recorded.experiment.rows.items():
        theirs, line = PAPERS_LOSS.get(row, ()), recorded.rows().get(row)
        ours = np.mean([one["associated"] for one in line["measured"]], axis=0) if line else []
        columns = {}
        for component in range(len(PAPERS_LOSS)):
            columns[f"paper's loss {component + 1}"] = _written(theirs, component)
            columns[f"loss {component + 1}"] = _written(ours, component) if line else f"not run: {case.lacks}"
        yield {"row": row, **columns}


def _written(losses: Sequence[float], component: int) -> str:
    return f"{losses[component]:.3g}" if component < len(losses) else ""


ROWS = {
    row: case
    for components, (name, paper) in enumerate(PAPERS_TEST.items(), 1)
    for row, case in {name: wide(components, paper), f"{name}_narrow": narrow(components)}.items()
}

EXPERIMENT = Experiment(
    module="papers.al.tables5_6",
    name="al_tables5_6",
    title="Associated Learning, Tables 5 and 6: the number of components",
    source="Kao and Chen 2021, Table 6",
    rows={row: case._replace(measure=associated_losses) for row, case in ROWS.items()},
    note=(
        "Our associated loss is the mean over units and over the training set, after the last epoch, as in the "
        "authors' code. The paper writes a squared norm, which would be the sum over the units, and does not say on "
        "which set it was measured. It names no number of runs. `narrow` has "
        "layers of 256 units instead of 1024, and Adam at 1e-3 with a cosine, for a shorter budget; this rate was not "
        "searched for."
    ),
    tables=(comparison, losses),
)

if __name__ == "__main__":
    main(EXPERIMENT)
