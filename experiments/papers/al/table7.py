"""Associated Learning, Table 7 and Figures 5 and 6: what the classes look like in the hidden layers on CIFAR-10.

From the rows of Table 3: train these first, by `python -m experiments.papers.al.table3`. The paper does not say in
which layer its distances are; here it is the last hidden one. The figures need the layers that the training leaves
in its work folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab import study
from experiments.papers.al import table3 as al_table3
from experiments.papers.al import table4 as al_table4
from jaxlocal import flags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "al_table7"
TITLE = "Associated Learning, Table 7 and Figures 5, 6: distances between classes"
NOTE = (
    "From the rows of Tables 3 and 4, on the first 1,000 test images. The paper does not say which layer its distances "
    "are of: here the last hidden one, which in Associated Learning is a decoder. Distances depend on a layer's scale, "
    "their ratio does not."
)
# Inter- and intra-class distance, and their ratio.
PAPERS = {
    ("CIFAR-10", "mlp_bp"): (39.36, 67.97, 0.58),
    ("CIFAR-10", "mlp_al"): (0.73, 0.66, 1.11),
    ("CIFAR-10", "cnn_bp"): (41.82, 26.87, 1.56),
    ("CIFAR-10", "cnn_al"): (1.17, 0.36, 3.25),
    ("CIFAR-100", "mlp_bp"): (114.42, 342.65, 0.33),
    ("CIFAR-100", "mlp_al"): (0.23, 0.28, 0.82),
    ("CIFAR-100", "cnn_bp"): (114.71, 163.43, 0.70),
    ("CIFAR-100", "cnn_al"): (0.55, 0.51, 1.08),
    ("CIFAR-10", "mlp_512_slow_bp"): None,
    ("CIFAR-10", "mlp_512_slow_al"): None,
    ("CIFAR-10", "cnn_small_bp"): None,
    ("CIFAR-10", "cnn_small_al"): None,
}
STUDIES = {"CIFAR-10": al_table3.STUDY, "CIFAR-100": al_table4.STUDY}


class Shown(NamedTuple):
    """A figure: the rows of Table 3 in it, and the layers by their names in either rule."""

    title: str
    rows: str
    layers: Sequence[tuple[str, str, str]]  # title, of bp, of al


RAW, OUTPUT = ("raw data",) * 3, ("output",) * 3
MLP = Shown(
    "The MLP on CIFAR-10 (JPEG copies), as the AL paper's Figure 5",
    "mlp",
    (RAW, ("layer 2", "block 2", "block 2"), ("layer 4", "block 4", "bridge"), OUTPUT),
)
NARROW = MLP._replace(title=MLP.title.replace("The MLP", "A narrower MLP"), rows="mlp_512_slow")
CONVS = ("layer 4", "block 4", "block 4"), ("layer 8", "block 8", "block 8")
CNN = Shown(
    "The vanilla CNN on CIFAR-10 (JPEG copies), as the AL paper's Figure 6",
    "cnn",
    (RAW, *CONVS, ("layer 12", "block 12", "decoder 3")),
)
SMALL = CNN._replace(title=CNN.title.replace("CIFAR-10", "small CIFAR-10"), rows="cnn_small")
FIGURES = {"al_figure5": MLP, "al_figure5_narrow": NARROW, "al_figure6": CNN, "al_figure6_small": SMALL}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and draw the figures from what Tables 3 and 4 have left."""
    parser = flags.Parser(f"python -m experiments.{results.module(NAME)}", description=__doc__)
    parser.add_argument("--out", type=flags.folder, metavar="FOLDER", help="where the records are, and pictures go")
    parser.add_argument("--work", type=flags.folder, default=study.WORK, metavar="FOLDER", help="of the training")
    args = parser.parse_args(argv)
    print(results.table(list(rows(args.out))))
    for name, shown in FIGURES.items():
        files = {rule: _layers(f"{shown.rows}_{rule}", args.out, args.work) for rule in ("bp", "al")}
        if all(file and file.exists() for file in files.values()):
            results.draw(_picture(shown, files), name, args.out)


def rows(out: Path | None = None) -> Iterator[results.Row]:
    """The table, with the ratio's mean and spread over the seeds."""
    for (data, name), paper in PAPERS.items():
        record = study.read(STUDIES[data], name, out)
        theirs = [f"{value:.2f}" for value in paper] if paper else [""] * 3
        ours = ["not run"] * 3
        if record:
            layers = [tuple(one["distances"].values())[-2] for one in record["rows"][0]["measured"]]
            ours = [_spread([layer[field] for layer in layers]) for field in ("inter", "intra", "ratio")]
        columns = ("inter", "intra", "ratio")
        yield {
            "data": data,
            "network": name,
            **{f"paper's {column}": value for column, value in zip(columns, theirs, strict=True)},
            **dict(zip(columns, ours, strict=True)),
            "epochs": study.spent(record).epochs if record else None,
        }


def _layers(row: str, out: Path | None, work: Path) -> Path | None:
    """Where the training that is recorded has left its layers."""
    record = study.read(al_table3.STUDY, row, out)
    if record is None:
        return None
    return study.work_folder(al_table3.STUDY, row, work, study.spent(record).epochs, record["source"]) / "layers.npz"


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}"


def _picture(shown: Shown, files: Mapping[str, Path | None]) -> "Figure":
    layers = {rule: np.load(file) for rule, file in files.items() if file}
    panels = {
        rule.upper(): {title: layers[rule][names[place]] for title, *names in shown.layers}
        for place, rule in enumerate(files)
    }
    return jl.plots.tsne(panels, layers["bp"]["labels"], title=shown.title)


if __name__ == "__main__":
    main()
