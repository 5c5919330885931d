"""Bartunov et al., Figures 6 and 7: an autoencoder of MNIST by backpropagation and by target propagation.

Its layers have 784-512-64-512-784 units. The targets are the images themselves, so each example has its own target.
"""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import jaxlocal as jl
from experiments.lab import figures, records
from experiments.lab.experiment import Budget, Experiment, Job, Outcome, Recorded, Task, spent
from experiments.lab.main import main
from experiments.lab.records import SPLITS, Row
from experiments.lab.tables import accuracy
from experiments.lab.training import Steps, images, merged
from experiments.papers.bartunov import shared
from experiments.papers.bartunov.shared import BATCH, MNIST_FC, Best, Setup
from jaxlocal.data import Splits, floats
from jaxlocal.data.splits import autoencoding
from jaxlocal.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL, QUICK = Budget(epochs=500, seeds=1), Budget(epochs=3, seeds=1)
DATA = "mnist"
COLOURS = {"bp": figures.ORANGE, "dtp_parallel": figures.BLUE, "sdtp_parallel": figures.RED}  # by method


class Run(NamedTuple):
    """The run of one seed."""

    history: list[dict[str, float]]  # errors after each epoch, on the first training examples and the validation set
    errors: dict[str, float]  # at the end, by split
    params: jl.Params


def best(method: str) -> Best:
    """The settings of a method."""
    return MNIST_FC[method].as_in_table4()


def make(method: str, pixels: int) -> jl.Rule:
    """The rule of a method."""
    net = partial(jl.models.autoencoder, units=pixels)
    setup = Setup(DATA, net, {method: best(method)}, errors={}, quick=None)
    return shared.make(setup, method, Steps(0, 0))


def first_of_each_digit(splits: Splits) -> list[int]:
    """The places of ten test images."""
    _, labels = splits.test
    return np.unique(np.asarray(labels).argmax(1), return_index=True)[1].tolist()


def train(rule: jl.Rule, splits: Splits, epochs: int, seed: int) -> Run:
    """Train one seed."""

    def watch(progress: jl.training.Progress) -> None:
        if progress.state:
            row = progress.state.history[-1]
            print(f"  seed {seed} epoch {row['epoch']}: validation {_error(row['validation']):.2f}", flush=True)

    state = jl.training.fit(rule, splits, epochs=epochs, batch_size=BATCH, seed=seed, watch=watch).state
    followed = "train", "validation"
    history = [{"epoch": row["epoch"], **{name: _error(row[name]) for name in followed}} for row in state.history]
    errors = {
        name: _error(jl.training.evaluate(rule, state.params, split))
        for name, split in zip(SPLITS, splits, strict=True)
    }
    return Run(history, errors, state.params)


def _error(measured: Mapping[str, Any]) -> float:
    """The squared distance, which is twice the loss."""
    return float(f"{2 * measured['loss']:.6g}")


def run(method: str, task: Task) -> Iterator[Outcome]:
    """Train all seeds of a method; record the errors, and how the first seed reconstructs some test images."""
    began = time.perf_counter()
    labelled = images(DATA)
    splits, shown = autoencoding(labelled), first_of_each_digit(labelled)
    rule, epochs, seeds = make(method, splits.train[1].shape[1]), task.budget["epochs"], range(task.budget["seeds"])
    runs = [train(rule, splits, epochs, seed) for seed in seeds]
    examples, _ = floats(splits.test)
    pixels = np.asarray(rule.predict(runs[0].params, examples[np.asarray(shown)]))
    row: Row = {
        "method": method,
        **{split: records.over_seeds([run.errors[split] for run in runs]) for split in SPLITS},
        "seconds": round(time.perf_counter() - began, 1),
        "history": merged([run.history for run in runs]),
        "shown": shown,
        "reconstructions": (255 * pixels.clip(0, 1)).round().astype(np.uint8).tobytes().hex(),
    }
    settings = {
        "seeds": list(seeds),
        "data": DATA,
        "net": "autoencoder",
        "settings": str(best(method)),
        "batch_size": BATCH,
        "epochs": epochs,
    }
    yield Outcome([row], settings, task.budget, f"{method}: test error {_over_seeds(row['test'])}")


def _over_seeds(errors: Mapping[str, Any]) -> str:
    return accuracy((errors["mean"], errors["std"]))


def errors(recorded: Recorded) -> Iterator[Row]:
    """The table: errors after the last epoch, with their deviation over the seeds."""
    columns = [f"{split} error" for split in SPLITS]
    for method in recorded.experiment.rows:
        line: Row = {"method": method, **dict.fromkeys((*columns, *FULL, "seconds")), columns[0]: "not run"}
        if record := recorded.records.get(method):
            (row,) = record["rows"]
            line |= {f"{split} error": _over_seeds(row[split]) for split in SPLITS} | spent(record, FULL)
            line["seconds"] = row["seconds"]
        yield line


def curves(rows: Mapping[str, Row]) -> "Figure":
    """Figure 6: the mean over the seeds; the training set's first images solid, the validation set dashed."""
    figure, (axes,) = figures.panels(size=(7, 4))
    for method, row in rows.items():
        epochs = [one["epoch"] for one in row["history"]]
        for split, dashes in (("train", "-"), ("validation", "--")):
            values = np.array([one[split] for one in row["history"]])
            label = f"{method}, {split}"
            style.mean_and_band(axes, epochs, values, color=COLOURS[method], linestyle=dashes, label=label)
    axes.set(xlabel="epoch", ylabel="squared distance", ylim=(0, None))
    figures.whole_epochs(axes)
    style.legend_beside(axes)
    figure.suptitle("The autoencoder of MNIST, as Bartunov et al.'s Figure 6")
    return figure


def reconstructions(rows: Mapping[str, Row], images: np.ndarray) -> "Figure":
    """Figure 7: test images, and below them each method's reconstructions."""
    lines = {"test images": images}
    for method, row in rows.items():
        pixels = np.frombuffer(bytes.fromhex(row["reconstructions"]), np.uint8)
        lines[method] = pixels.reshape(images.shape) / 255
    height = images.shape[1]
    figure, (axes,) = figures.panels(size=(1.2 + 0.8 * len(images), 0.6 + 0.8 * len(lines)))
    axes.grid(False)
    axes.imshow(np.vstack([np.hstack(list(line)) for line in lines.values()]), cmap="gray")
    axes.set_yticks(height * np.arange(len(lines)) + height / 2, list(lines))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle("Reconstructions, as Bartunov et al.'s Figure 7")
    return figure


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """Both figures."""
    rows = recorded.rows()
    if not rows:
        return {}
    shown = next(iter(rows.values()))["shown"]
    test = np.asarray(floats(images(DATA).test)[0])[np.asarray(shown), ..., 0]
    return {"bartunov_figure6": curves(rows), "bartunov_figure7": reconstructions(rows, test)}


EXPERIMENT = Experiment(
    module="papers.bartunov.figures6_7",
    name="bartunov_figures6_7",
    title="Bartunov et al., Figures 6 and 7: an autoencoder",
    source="Bartunov et al. 2018, Figures 6 and 7",
    rows={method: Job(FULL, QUICK, partial(run, method)) for method in COLOURS},
    note=(
        "Errors are ‖x - x̂‖², summed over the pixels (0 to 1) and averaged over the images, after the last epoch; the "
        "mean image has 52.7. In the picture the dashed lines are errors on the validation set, and in the paper's on "
        "the test set. The paper names no settings: these are of its Table 5, MNIST, fully connected, but all "
        "β₁ are 0.9, as Table 4 says. With the 0.99 that Table 5 has for target propagation, neither method came below "
        f"50 on the validation set in three epochs. The batch size ({BATCH}) is ours."
    ),
    tables=(errors,),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
