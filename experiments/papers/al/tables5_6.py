"""Associated Learning, Tables 5 and 6: associated losses and accuracy by the number of components, on MNIST."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab import study
from experiments.lab.study import Budget, Case, Study, Trained
from experiments.papers.al import shared as associated
from experiments.papers.al.shared import Setting
from jaxlocal.data import floats

PAPERS_TEST = {"one": 98.49, "two": 98.60, "three": 98.71}
PAPERS_LOSS = {
    "one": (1.2488e-5,),
    "two": (1.5469e-5, 3.5818e-7),
    "three": (1.2219e-5, 3.8033e-7, 6.7192e-10),
}
WIDTH, NARROW = 1024, 256
SETTING = Setting(1e-3, ratio=2, bridge=5)
PIECE = 1000  # examples


def measure(trained: Trained) -> Mapping[str, Any]:
    """The associated loss of every component over the training set."""
    rule, params, (x, y) = trained.rule, trained.params, trained.splits.train

    @jax.jit
    def losses(params: jl.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = floats((x, y))
        x = trained.augmentation.test(x) if trained.augmentation else x
        return jnp.stack([terms["associated"] for terms in jl.diagnostics.local_losses(rule, params, (x, y))])

    pieces = [losses(params, x[at : at + PIECE], y[at : at + PIECE]) for at in range(0, len(x), PIECE)]
    return {"associated": [float(f"{value:.4g}") for value in jnp.stack(pieces).mean(0)]}


def narrow(components: int, steps: study.Steps) -> jl.Rule:
    """What two cores can train in minutes."""
    return associated.tuned("al", associated.mlp(NARROW, components), SETTING, steps)


def cases() -> dict[str, Case]:
    """One, two and three components, with the paper's width and a quarter of it."""
    rows = {}
    for number, (name, paper) in enumerate(PAPERS_TEST.items(), 1):
        net = associated.mlp(WIDTH, number)
        full = Budget(associated.PAPERS_EPOCHS, 1)
        rows[name] = Case(
            "mnist",
            partial(associated.al, net),
            associated.told("al", net),
            full,
            paper=(paper, None),
            prepare=associated.centred,
        )
        told = {"net": associated.mlp(NARROW, number).told, "setting": str(SETTING)}
        told |= {"optimizer": "adam, its rate falling to zero by a cosine"}
        short = Budget(10, 3)
        rows[f"{name}_narrow"] = Case(
            "mnist", partial(narrow, number), told, short, short, batch_size=associated.TUNED_BATCH
        )
    return rows


STUDY = Study(
    name="al_tables5_6",
    title="Associated Learning, Tables 5 and 6: the number of components",
    source="Kao and Chen 2021, Table 6",
    cases=cases(),
    note=(
        "The associated loss is the mean over units and over the training set, after the last epoch. `narrow` has "
        "layers of 256 units in place of 1024, and Adam at 1e-3 with a cosine: what two cores can train."
    ),
    measure=measure,
)
main = partial(study.main, STUDY)


def rows(out: Path | None = None) -> Iterator[results.Row]:
    """Table 5: the associated loss of each component, the paper's and ours, the mean over the seeds."""
    for row in STUDY.cases:
        record = study.read(STUDY, row, out)
        theirs = PAPERS_LOSS.get(row, ())
        measured = record["rows"][0]["measured"] if record else []
        ours = np.mean([one["associated"] for one in measured], axis=0) if measured else []
        columns = {}
        for component in range(len(PAPERS_LOSS)):
            columns[f"paper's loss {component + 1}"] = _written(theirs, component)
            columns[f"loss {component + 1}"] = _written(ours, component) if record else "not run"
        yield {"row": row, **columns}


def _written(losses: Sequence[float], component: int) -> str:
    return f"{losses[component]:.3g}" if component < len(losses) else ""


if __name__ == "__main__":
    main()
