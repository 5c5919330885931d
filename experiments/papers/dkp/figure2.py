"""Direct Kolen-Pollack, Figure 2: how well fixed feedback, and feedback that learns, fits the network.

The figure shows, against training steps, the angle between a Bᵀ and the output's pre-activation, where a is the output
of a hidden layer and B the feedback that leads to it. One program trains a seed and measures the angles on the way.
"""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.lab import figures, records
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task, spent
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.tables import percent
from experiments.lab.training import images
from experiments.papers.dkp.shared import DECAY, FEEDBACK_RATE, RATE, sgd, sgd_in_words
from jaxlocal.data import Splits, floats
from jaxlocal.decay import decayed
from jaxlocal.plots import style
from jaxlocal.rule import Batch, Params, Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL, QUICK = Budget(epochs=21, seeds=3), Budget(epochs=21, seeds=1)
DATA = "mnist"
HIDDEN = (256,) * 4
BATCH = 64
PROBES = 500  # the number of examples over which an angle is averaged
POINTS = 59  # the number of measurements after the one at the start
PANELS = {"dfa": "DFA: B stays as it is", "dkp": "DKP: B learns"}
FEEDBACK_RATES = {"dkp": RATE, "dkp_slow": FEEDBACK_RATE}
LAYERS = [f"layer {i + 1}" for i in range(len(HIDDEN))]


class Run(NamedTuple):
    """The run of one seed."""

    steps: list[int]
    angles: list[list[float]]  # at each of the steps, of each layer
    accuracy: float  # on the test set


def make(name: str) -> Rule:
    """The rule of a row."""
    net = jl.models.mlp(HIDDEN, activation=nn.relu, norm=True)
    if name == "dfa":
        return jl.rules.dfa(net, decayed(sgd(RATE), DECAY))
    return jl.rules.dkp(net, sgd(RATE), feedback_tx=sgd(FEEDBACK_RATES[name]), decay=DECAY)


def in_words(name: str) -> dict[str, str]:
    """The settings of a row for a reader."""
    learns = name in FEEDBACK_RATES
    return {
        "net": f"mlp({HIDDEN}, activation=relu, norm=True)",
        "optimizer": f"{sgd_in_words(RATE)}; decay {DECAY}",
        "feedback": f"{sgd_in_words(FEEDBACK_RATES[name])}; decay {DECAY}" if learns else "fixed",
    }


def run(name: str, task: Task) -> Iterator[Outcome]:
    """Train all seeds of a rule, and record every angle."""
    began = time.perf_counter()
    splits, epochs, seeds = images(DATA), task.budget["epochs"], list(range(task.budget["seeds"]))
    rule = make(name)
    runs = [train(rule, splits, epochs, seed) for seed in seeds]
    row: Row = {
        "method": name,
        "test": records.over_seeds([run.accuracy for run in runs]),
        "seconds": round(time.perf_counter() - began, 1),
        "steps": runs[0].steps,
        "angles": [run.angles for run in runs],
    }
    settings = {"seeds": seeds, "data": DATA, **in_words(name), "batch_size": BATCH, "epochs": epochs}
    yield Outcome([row], settings, task.budget, f"{name}: test {percent(row['test'])} %")


def train(rule: Rule, splits: Splits, epochs: int, seed: int) -> Run:
    """One seed; its examples come in the same order whatever the rule."""
    x, _ = splits.train
    per_epoch = len(x) // BATCH
    init_key, order_key = jax.random.split(jax.random.key(seed))

    def order(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, len(x))[: per_epoch * BATCH].reshape(per_epoch, BATCH)

    rows = jnp.concatenate([order(key) for key in jax.random.split(order_key, epochs)])
    every = max(1, len(rows) // POINTS)
    points = min(POINTS, len(rows) // every)
    some, (probe, _) = _taken(splits.train, slice(BATCH)), _taken(splits.validation, slice(PROBES))
    params = jax.jit(rule.init)(init_key, some)
    rows = rows[: points * every].reshape(points, every, BATCH)
    params, angles = _measured(rule, params, splits.train, rows, probe)
    accuracy = jl.training.evaluate(rule, params, splits.test)["accuracy"]
    assert isinstance(accuracy, float)
    measured = [[float(f"{angle:.2f}") for angle in layers] for layers in np.asarray(angles)]
    return Run([every * point for point in range(points + 1)], measured, accuracy)


@partial(jax.jit, static_argnums=0)
def _measured(rule: Rule, params: Params, data: Any, rows: jax.Array, probe: jax.Array) -> tuple[Params, jax.Array]:
    """Train on these rows, (points, steps, batch); the angles at the start and after each point's steps."""

    def angles(params: Params) -> jax.Array:
        return jl.diagnostics.feedback_alignment(rule, params, probe)

    def learn(params: Params, rows: jax.Array) -> tuple[Params, None]:
        return rule.update(params, _taken(data, rows)), None

    def go_on(params: Params, rows: jax.Array) -> tuple[Params, jax.Array]:
        params, _ = jax.lax.scan(learn, params, rows)
        return params, angles(params)

    trained, on_the_way = jax.lax.scan(go_on, params, rows)
    return trained, jnp.concatenate([angles(params)[None], on_the_way])


def _taken(pair: Any, rows: Any) -> Batch:
    """Some examples, in floats."""
    x, y = pair
    return floats((x[rows], y[rows]))


def angles(recorded: Recorded) -> Iterator[Row]:
    """The table: the first and the last angle of each layer, the mean over the seeds."""
    for name in recorded.experiment.rows:
        record = recorded.records.get(name)
        if record is None:
            yield {"method": name, **dict.fromkeys(LAYERS, "not run"), "test %": "", "epochs": None, "seeds": None}
            continue
        (row,) = record["rows"]
        first, last = np.array(row["angles"]).mean(0)[[0, -1]]
        yield {
            "method": name,
            **{layer: f"{a:.1f}° → {b:.1f}°" for layer, a, b in zip(LAYERS, first, last, strict=True)},
            "test %": percent(row["test"]),
            **spent(record, FULL),
        }


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figure, once its rules are recorded."""
    rows = recorded.rows()
    return {"dkp_figure2": picture(rows)} if rows.keys() >= PANELS.keys() else {}


def picture(rows: Mapping[str, Row]) -> "Figure":
    """A panel for each rule, and a line for each layer: the mean over the seeds, with the sample deviation."""
    from matplotlib import colormaps

    figure, panels = figures.panels(len(PANELS), size=(9.5, 4.2), sharex=True, sharey=True)
    for (name, title), axes in zip(PANELS.items(), panels, strict=True):
        angles = np.moveaxis(np.array(rows[name]["angles"]), 0, -1)  # by step, layer and seed
        colours = colormaps["viridis"](np.linspace(0.85, 0, len(LAYERS)))
        for layer, (label, colour) in enumerate(zip(LAYERS, colours, strict=True)):
            style.mean_and_band(axes, rows[name]["steps"], angles[:, layer], color=colour, label=label)
        axes.set(title=title, xlabel="step")
        axes.yaxis.set_major_formatter("{x:.0f}°")
    panels[0].set(ylabel="angle between a Bᵀ and the output", ylim=(0, None))
    panels[-1].legend(frameon=False)
    figure.suptitle("An MLP on MNIST, as the direct Kolen-Pollack paper's Figure 2")
    return figure


EXPERIMENT = Experiment(
    module="papers.dkp.figure2",
    name="dkp_figure2",
    title="Direct Kolen-Pollack, Figure 2: does the feedback fit the network?",
    source="Learning the Connections in Direct Feedback Alignment, Figure 2",
    rows={name: Job(FULL, QUICK, partial(run, name)) for name in ("dfa", *FEEDBACK_RATES)},
    note=(
        "Angles at the start and at the end, the mean over 500 validation examples and the seeds. λ is the paper's, "
        "and so are MNIST, ReLU, batch norm before it, the cross entropy and about 18,000 steps. It names nothing "
        "else: the forward rate is that of its 2-conv net; the widths of the layers and the batch size of 64, with "
        "which 21 epochs have as many steps, are ours. In `dkp` the feedback learns at the rate of the forward "
        "weights, as it must to do in the last hidden layer what Kolen-Pollack learning does (section 2.5). In "
        f"`dkp_slow` it has the {FEEDBACK_RATE} of the 2-conv net: the paper warns that with too low a rate DKP "
        "behaves as DFA (section 3.1). In Table 1 these two are called `dkp_fast` and `dkp`."
    ),
    tables=(angles,),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
