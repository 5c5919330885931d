"""Bartunov et al., Figures 6 and 7: an autoencoder of MNIST by backpropagation and by target propagation.

Its layers have 784-512-64-512-784 units, and its targets, the images, are as many as the examples.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab import study
from experiments.lab.study import Budget, Steps
from experiments.papers.bartunov import table1 as bartunov_table1
from experiments.papers.bartunov.table1 import BATCH, MNIST_FC, Best, Part
from jaxlocal import flags
from jaxlocal.data import Splits, floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "bartunov_figures6_7"
TITLE = "Bartunov et al., Figures 6 and 7: an autoencoder"
FULL, QUICK = Budget(500, 1), Budget(3, 1)
DATA = "mnist"
METHODS = "bp", "dtp_parallel", "sdtp_parallel"
COLOURS = dict(zip(METHODS, ("#ffa90e", "#3f90da", "#bd1f01"), strict=True))
NOTE = (
    "Errors are ‖x - x̂‖², summed over the pixels (0 to 1) and averaged over the images, after the last epoch; the "
    "mean image has 52.7. The paper names no settings: these are of its Table 5, MNIST, fully connected, "
    "but all β₁ are 0.9, as Table 4 says. With the 0.99 that Table 5 has for target propagation, neither method came "
    f"below 50 on the validation set in three epochs. The batch size ({BATCH}) is ours."
)


class Run(NamedTuple):
    """One seed, trained."""

    history: list[dict[str, float]]  # of each epoch, on the first training examples and on the validation set
    errors: dict[str, float]  # at the end, by split
    params: jl.Params


def best(method: str) -> Best:
    """The settings of a method."""
    forward, inverse, alpha, noise = MNIST_FC[method]
    return Best(forward._replace(b1=0.9), inverse and inverse._replace(b1=0.9), alpha, noise)


def make(method: str, pixels: int) -> jl.Rule:
    """The rule of a method."""
    net = partial(jl.models.autoencoder, units=pixels)
    part = Part(DATA, net, {method: best(method)}, errors={}, quick=None)
    return bartunov_table1.make(part, method, Steps(0, 0))


def autoencoding(splits: Splits) -> Splits:
    """Each image, and the same as a vector to come to."""
    images = (floats(pair)[0] for pair in splits)
    return Splits(*((x, x.reshape(len(x), -1)) for x in images))


def train(rule: jl.Rule, splits: Splits, epochs: int, seed: int) -> Run:
    """One seed."""

    def watch(progress: jl.training.Progress) -> None:
        if progress.state:
            row = progress.state.history[-1]
            print(f"  seed {seed} epoch {row['epoch']}: validation {_error(row['validation']):.2f}", flush=True)

    state = jl.training.fit(rule, splits, epochs=epochs, batch_size=BATCH, seed=seed, watch=watch).state
    parts = "train", "validation"
    history = [{"epoch": row["epoch"], **{part: _error(row[part]) for part in parts}} for row in state.history]
    errors = {
        name: _error(jl.training.evaluate(rule, state.params, split))
        for name, split in zip(results.SPLITS, splits, strict=True)
    }
    return Run(history, errors, state.params)


def _error(measured: Mapping[str, Any]) -> float:
    """The squared distance: the loss is half of it."""
    return float(f"{2 * measured['loss']:.6g}")


def record(method: str, splits: Splits, shown: Sequence[int], budget: Budget, out: Path | None) -> None:
    """Train all seeds of a method; write down the errors, and what the first seed makes of some test images."""
    began = time.perf_counter()
    rule = make(method, splits.train[1].shape[1])
    runs = [train(rule, splits, budget.epochs, seed) for seed in range(budget.seeds)]
    pixels = np.asarray(rule.predict(runs[0].params, splits.test[0][np.asarray(shown)]))
    row = {
        "method": method,
        **{split: results.over_seeds([run.errors[split] for run in runs]) for split in results.SPLITS},
        "seconds": round(time.perf_counter() - began, 1),
        "history": study.merged([run.history for run in runs]),
        "shown": list(shown),
        "reconstructions": (255 * pixels.clip(0, 1)).round().astype(np.uint8).tobytes().hex(),
    }
    settings = {
        "seeds": list(range(budget.seeds)),
        "data": DATA,
        "net": "autoencoder",
        "settings": str(best(method)),
        "batch_size": BATCH,
        "epochs": budget.epochs,
    }
    prog = f"python -m experiments.{results.module(NAME)}"
    command = f"{prog} --methods {method} --epochs {budget.epochs} --seeds {budget.seeds}"
    name = f"{NAME}/{method}"
    results.record(name, [row], command, settings, note=NOTE, out=results.place(name, out))


def rows(out: Path | None = None) -> Iterator[results.Row]:
    """The table: errors after the last epoch, with their deviation over the seeds."""
    columns = [f"{split} error" for split in results.SPLITS]
    for method in METHODS:
        made = read(method, out)
        if made is None:
            yield {"method": method, **dict.fromkeys((*columns, *Budget._fields, "seconds")), columns[0]: "not run"}
            continue
        (row,) = made["rows"]
        errors = [_told(row[split]) for split in results.SPLITS]
        told = {"method": method, **dict(zip(columns, errors, strict=True)), **study.spent(made)._asdict()}
        yield told | {"seconds": row["seconds"]}


def _told(errors: Mapping[str, Any]) -> str:
    return f"{errors['mean']:.2f}" + ("" if errors["std"] is None else f" ± {errors['std']:.2f}")


def read(method: str, out: Path | None = None) -> dict[str, Any] | None:
    """A method's record."""
    return results.found(f"{NAME}/{method}", out)


def curves(recorded: Mapping[str, results.Row]) -> "Figure":
    """Figure 6: the training set's first images solid, the validation set dashed; the mean over the seeds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for method, row in recorded.items():
        epochs = [one["epoch"] for one in row["history"]]
        for split, style in (("train", "-"), ("validation", "--")):
            errors = np.array([one[split] for one in row["history"]]).mean(1)
            marker = "o" if len(epochs) == 1 else None
            axes.plot(epochs, errors, style, color=COLOURS[method], marker=marker, label=f"{method}, {split}")
    axes.set(xlabel="epoch", ylabel="squared distance", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.suptitle("The autoencoder of MNIST, as Bartunov et al.'s Figure 6")
    return figure


def reconstructions(recorded: Mapping[str, results.Row], images: np.ndarray) -> "Figure":
    """Figure 7: test images, and below them what each method makes of them."""
    from matplotlib.figure import Figure

    lines = {"test images": images}
    for method, row in recorded.items():
        pixels = np.frombuffer(bytes.fromhex(row["reconstructions"]), np.uint8)
        lines[method] = pixels.reshape(images.shape) / 255
    height = images.shape[1]
    figure = Figure(figsize=(1.2 + 0.8 * len(images), 0.6 + 0.8 * len(lines)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.vstack([np.hstack(list(line)) for line in lines.values()]), cmap="gray")
    axes.set_yticks(height * np.arange(len(lines)) + height / 2, list(lines))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle("Reconstructions, as Bartunov et al.'s Figure 7")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Train the methods that are not recorded yet, record each, print the table, and draw the figures."""
    parser = flags.Parser(f"python -m experiments.{results.module(NAME)}", description=f"{__doc__} {NOTE}")
    only = f"train these only: {' '.join(METHODS)}"
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=only)
    study.add_budget(parser, quick=f"{QUICK.epochs} epochs, what two cores can do")
    args = parser.parse_args(argv)
    results.code()  # of now: the code may be edited while it runs
    budget = study.asked(args, FULL, QUICK)
    try:
        splits = study.images(DATA)
    except FileNotFoundError as error:
        parser.error(str(error))
    images, labels = map(np.asarray, floats(splits.test))
    shown = np.unique(labels.argmax(1), return_index=True)[1].tolist()  # the first of each digit
    for method in args.methods or METHODS:
        if not args.again and study.covers(read(method, args.out), budget):
            print(f"{method}: recorded before; --again trains it anew", flush=True)
            continue
        record(method, autoencoding(splits), shown, budget, args.out)
        print(f"{method}: recorded", flush=True)
    print(f"\n{results.table(list(rows(args.out)))}\n\n{NOTE}")
    recorded = {method: made["rows"][0] for method in METHODS if (made := read(method, args.out))}
    results.draw(curves(recorded), "bartunov_figure6", args.out)
    results.draw(reconstructions(recorded, images[shown, ..., 0]), "bartunov_figure7", args.out)


if __name__ == "__main__":
    main()
