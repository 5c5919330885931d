"""Associated Learning, Table 7 and Figures 5 and 6: how far apart the classes are in the hidden layers on CIFAR-10.

It is made of the rows of Tables 3 and 4: train these first, by `python -m experiments.papers.al.table3`. The figures
need the layers that this training leaves in its work folder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import jaxlocal as jl
from experiments.lab import records
from experiments.lab.experiment import Experiment, Recorded
from experiments.lab.main import main
from experiments.lab.records import Record, Row
from experiments.lab.tables import accuracy
from experiments.papers.al.shared import TABLE3, TABLE4

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("inter", "intra", "ratio")  # inter- and intra-class distance, and their ratio
LAYERS = {"last hidden": -2, "output": -1}  # their places among the measured layers
PAPERS = {
    ("CIFAR-10", "mlp_bp"): (39.36, 67.97, 0.58),
    ("CIFAR-10", "mlp_al"): (0.73, 0.66, 1.11),
    ("CIFAR-10", "cnn_bp"): (41.82, 26.87, 1.56),
    ("CIFAR-10", "cnn_al"): (1.17, 0.36, 3.25),
    ("CIFAR-100", "mlp_bp"): (114.42, 342.65, 0.33),
    ("CIFAR-100", "mlp_al"): (0.23, 0.28, 0.82),
    ("CIFAR-100", "cnn_bp"): (114.71, 163.43, 0.70),
    ("CIFAR-100", "cnn_al"): (0.55, 0.51, 1.08),
    ("CIFAR-10", "mlp_512_tuned_bp"): None,
    ("CIFAR-10", "mlp_512_tuned_al"): None,
    ("CIFAR-10", "mlp_512_bp"): None,
    ("CIFAR-10", "mlp_512_al"): None,
    ("CIFAR-10", "cnn_small_bp"): None,
    ("CIFAR-10", "cnn_small_al"): None,
}
TABLES = {"CIFAR-10": TABLE3, "CIFAR-100": TABLE4}


class Shown(NamedTuple):
    """A figure: the two rows of Table 3 that it shows, and the names of its layers in either rule."""

    title: str
    rows: str
    layers: Sequence[tuple[str, str, str]]  # the title, and the layer's name in bp and in al


RAW, OUTPUT = ("raw data",) * 3, ("output",) * 3
MLP = Shown(
    "The MLP on CIFAR-10 (JPEG copies), as the AL paper's Figure 5",
    "mlp",
    (RAW, ("layer 2", "block 2", "block 2"), ("layer 4", "block 4", "bridge"), OUTPUT),
)
CONVS = ("layer 4", "block 4", "block 4"), ("layer 8", "block 8", "block 8")
CNN = Shown(
    "The vanilla CNN on CIFAR-10 (JPEG copies), as the AL paper's Figure 6",
    "cnn",
    (RAW, *CONVS, ("layer 12", "block 12", "decoder 3")),
)
FIGURES = {
    "al_figure5": MLP,
    "al_figure5_narrow": MLP._replace(title=MLP.title.replace("The MLP", "A narrower MLP"), rows="mlp_512"),
    "al_figure6": CNN,
    "al_figure6_small": CNN._replace(title=CNN.title.replace("CIFAR-10", "small CIFAR-10"), rows="cnn_small"),
}


def distances(recorded: Recorded) -> Iterator[Row]:
    """The table: two layers of every row, with mean and deviation over the seeds."""
    for (data, name), paper in PAPERS.items():
        record = records.found(f"{TABLES[data]}/{name}", recorded.out)
        missing = "not run: no data" if TABLES[data] == TABLE4 else "not run: no time"
        theirs = [f"{value:.2f}" for value in paper] if paper else [""] * len(COLUMNS)
        for layer, place in LAYERS.items():
            yield {
                "data": data,
                "network": name,
                "layer": layer,
                **{f"paper's {column}": value for column, value in zip(COLUMNS, theirs, strict=True)},
                **(_measured(record, place) if record else dict.fromkeys(COLUMNS, missing)),
                "epochs": record["settings"]["epochs"] if record else None,
            }


def _measured(record: Record, place: int) -> Row:
    """The distances in the layer at this place."""
    seeds = [tuple(one["distances"].values())[place] for one in record["rows"][0]["measured"]]
    return {column: _over_seeds([seed[column] for seed in seeds]) for column in COLUMNS}


def _over_seeds(values: Sequence[float]) -> str:
    summary = records.over_seeds(values)
    return accuracy((summary["mean"], summary["std"]))


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figures of those rows whose layers are in the work folder."""
    drawn = {}
    for name, shown in FIGURES.items():
        files = {rule: _layers(f"{shown.rows}_{rule}", recorded) for rule in ("bp", "al")}
        found = {rule: np.load(file) for rule, file in files.items() if file and file.exists()}
        if len(found) == len(files):
            panels = {
                rule.upper(): {title: layers[names[place]] for title, *names in shown.layers}
                for place, (rule, layers) in enumerate(found.items())
            }
            drawn[name] = jl.plots.tsne(panels, found["bp"]["labels"], title=shown.title)
    return drawn


def _layers(row: str, recorded: Recorded) -> Path | None:
    """The file of layers that the training of the recorded row has left."""
    record = records.found(name := f"{TABLE3}/{row}", recorded.out)
    if record is None:
        return None
    budget = {"epochs": record["settings"]["epochs"]}
    return records.work_folder(recorded.work, name, budget, record["source"]) / "layers.npz"


EXPERIMENT = Experiment(
    module="papers.al.table7",
    name="al_table7",
    title="Associated Learning, Table 7 and Figures 5, 6: distances between classes",
    source="Kao and Chen 2021, Table 7",
    rows={},
    note=(
        "From the rows of Tables 3 and 4, on the first 1,000 test images; the paper says neither on which nor on how "
        "many images it measures, and not in which layer it "
        "measures the distances, so its numbers stand beside two: the last hidden layer, which in Associated Learning "
        "is a decoder, and the output, which is sigmoids in Associated Learning and scores in backpropagation. "
        "Distances depend on the scale of a layer, but their ratio does not. Both versions of the paper have the same "
        "numbers (Table 4 on arXiv). The commands and the commits of our numbers stand below those two tables, whose "
        "records hold them."
    ),
    tables=(distances,),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
