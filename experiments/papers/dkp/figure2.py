"""Direct Kolen-Pollack, Figure 2: how well feedback that learns, and feedback that does not, comes to fit the network.

Against training steps, the angle between a Bᵀ and the output's pre-activation, where a is the output of a hidden layer
and B the feedback that leads to it. One program trains a seed and measures on the way.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab import study
from experiments.lab.study import Budget
from experiments.papers.dkp.table1 import DECAY, FEEDBACK_RATE, RATE, sgd
from jaxlocal import flags
from jaxlocal.data import Splits, floats
from jaxlocal.decay import decayed
from jaxlocal.rule import Batch, Params, Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "dkp_figure2"
TITLE = "Direct Kolen-Pollack, Figure 2: does the feedback fit the network?"
FULL, QUICK = Budget(21, 3), Budget(21, 1)
HIDDEN = (256,) * 4
BATCH = 64
PROBES = 500  # examples that the angle is the mean over
POINTS = 59  # measurements after the one at the start
PANELS = {"dfa": "DFA: B stays as it is", "dkp": "DKP: B learns"}
FEEDBACK_RATES = {"dkp": RATE, "dkp_slow": FEEDBACK_RATE}
RULES = ("dfa", *FEEDBACK_RATES)
LAYERS = [f"layer {i + 1}" for i in range(len(HIDDEN))]
NOTE = (
    "Angles at the start and at the end, the mean over 500 validation examples and the seeds. λ is the paper's, which "
    "tells no other setting but about 18,000 steps: the forward rate is that of its 2-conv net; the net and batch size "
    "64, of which 21 epochs have as many steps, are ours. In `dkp` the feedback learns at the rate of the forward "
    "weights, as it must to do in the last hidden layer what Kolen-Pollack learning does (section 2.5). In `dkp_slow` "
    f"it has the {FEEDBACK_RATE} of the 2-conv net: the paper warns that with too low a rate DKP behaves as DFA "
    "(section 3.1)."
)


class Run(NamedTuple):
    """One seed, trained."""

    steps: list[int]
    angles: list[list[float]]  # at each of the steps, of each layer
    accuracy: float  # on the test set


def make(name: str) -> Rule:
    """The rule of a row."""
    net = jl.models.mlp(HIDDEN, activation=nn.relu, norm=True)
    if name == "dfa":
        return jl.rules.dfa(net, decayed(sgd(RATE), DECAY))
    return jl.rules.dkp(net, sgd(RATE), feedback_tx=sgd(FEEDBACK_RATES[name]), decay=DECAY)


def told(name: str) -> dict[str, str]:
    """The settings of a row, in words."""
    learns = name in FEEDBACK_RATES
    return {
        "net": f"mlp({HIDDEN}, activation=relu, norm=True)",
        "optimizer": f"sgd({RATE}, momentum 0.9, nesterov); decay {DECAY}",
        "feedback": f"sgd({FEEDBACK_RATES[name]}, momentum 0.9, nesterov); decay {DECAY}" if learns else "fixed",
    }


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


def record(name: str, splits: Splits, budget: Budget, command: str, path: Path) -> None:
    """Train all seeds of a rule, and write down every angle."""
    began = time.perf_counter()
    rule, seeds = make(name), list(range(budget.seeds))
    runs = [train(rule, splits, budget.epochs, seed) for seed in seeds]
    row = {
        "method": name,
        "test": results.over_seeds([run.accuracy for run in runs]),
        "seconds": round(time.perf_counter() - began, 1),
        "steps": runs[0].steps,
        "angles": [run.angles for run in runs],
    }
    settings = {"seeds": seeds, "data": "mnist", **told(name), "batch_size": BATCH, "epochs": budget.epochs}
    results.record(f"{NAME}/{name}", [row], command, settings, note=NOTE, out=path)


def rows(out: Path | None = None) -> Iterator[results.Row]:
    """The table: of each layer the first angle and the last, the mean over the seeds."""
    for name in RULES:
        made = results.found(f"{NAME}/{name}", out)
        if made is None:
            yield {"method": name, **dict.fromkeys(LAYERS, "not run"), "test %": "", "epochs": None, "seeds": None}
            continue
        (row,), spent = made["rows"], study.spent(made)
        first, last = np.array(row["angles"]).mean(0)[[0, -1]]
        yield {
            "method": name,
            **{layer: f"{a:.1f}° → {b:.1f}°" for layer, a, b in zip(LAYERS, first, last, strict=True)},
            "test %": results.percent(row["test"]),
            **spent._asdict(),
        }


def picture(recorded: Mapping[str, results.Row]) -> "Figure":
    """A panel a rule, a line a layer: the mean over the seeds, and a band of a standard deviation to either side."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    panels: Any = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    for (name, title), axes in zip(PANELS.items(), panels, strict=True):
        steps, angles = recorded[name]["steps"], np.array(recorded[name]["angles"])
        mean, deviation = angles.mean(0).T, angles.std(0).T
        colours = colormaps["viridis"](np.linspace(0.85, 0, len(LAYERS)))
        for layer, middle, spread, colour in zip(LAYERS, mean, deviation, colours, strict=True):
            axes.plot(steps, middle, color=colour, label=layer)
            axes.fill_between(steps, middle - spread, middle + spread, color=colour, alpha=0.2, linewidth=0)
        axes.set(title=title, xlabel="step")
        axes.yaxis.set_major_formatter("{x:.0f}°")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
    panels[0].set(ylabel="angle between a Bᵀ and the output", ylim=(0, None))
    panels[-1].legend(frameon=False)
    figure.suptitle("An MLP on MNIST, as the direct Kolen-Pollack paper's Figure 2")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Train the rules that are not recorded yet, record each, draw the figure, and print the table."""
    parser = flags.Parser(f"python -m experiments.{results.module(NAME)}", description=f"{__doc__} {NOTE}")
    study.add_budget(parser, quick=f"{QUICK.seeds} seed, not {FULL.seeds}")
    args = parser.parse_args(argv)
    results.code()  # of now: the code may be edited while it runs
    budget = study.asked(args, FULL, QUICK)
    command = f"{parser.prog} --epochs {budget.epochs} --seeds {budget.seeds}"
    for name in RULES:
        if not args.again and study.covers(results.found(f"{NAME}/{name}", args.out), budget):
            print(f"{name}: recorded before; --again trains it anew", flush=True)
            continue
        try:
            splits = study.images("mnist")
        except FileNotFoundError as error:
            parser.error(str(error))
        record(name, splits, budget, command, results.place(f"{NAME}/{name}", args.out))
        print(f"{name}: recorded", flush=True)
    print(f"\n{results.table(list(rows(args.out)))}\n\n{NOTE}")
    results.draw(
        picture({name: results.load(results.place(f"{NAME}/{name}", args.out))["rows"][0] for name in PANELS}),
        NAME,
        args.out,
    )


def _taken(pair: Any, rows: Any) -> Batch:
    """Some examples, in floats."""
    x, y = pair
    return floats((x[rows], y[rows]))


if __name__ == "__main__":
    main()
