"""One page with all tables and figures of the papers: their numbers beside ours, the budgets, and what is not run yet.

`python -m experiments.lab.report` writes docs/report.md from the records in experiments/records. The meaning of the
numbers is in `experiments.lab.findings`, where the name of a record stands for its number.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.beyond import codes, frontier, label_loss, pipeline, rank, resnet, tuning
from experiments.lab import figures, records, tables
from experiments.lab.claims import CLAIMS
from experiments.lab.experiment import Experiment, spent
from experiments.lab.findings import FINDINGS
from experiments.papers.al import bridges, depth, table2, table3, table4, table7, tables5_6
from experiments.papers.al_text import classification as al_text
from experiments.papers.al_text import deep
from experiments.papers.bartunov import figure4, figure5, figures6_7, section3_2, section5_6
from experiments.papers.bartunov import table1 as bartunov_table1
from experiments.papers.bartunov import table2 as bartunov_table2
from experiments.papers.dkp import figure2
from experiments.papers.dkp import table1 as dkp_table1
from experiments.papers.dkp import table2 as dkp_table2
from experiments.papers.local_errors import cifar10
from jaxlocal import flags

PAGE = records.ROOT / "docs" / "report.md"
OPTIONAL = re.compile(r"(\s*)\[\[(.*?)\]\]", re.DOTALL)
NUMBER = re.compile(r"\{([a-z0-9_]+/[a-z0-9_]+)(?:\s+-\s+([a-z0-9_]+/[a-z0-9_]+))?\}")

# The experiments in the order of the page.
EXPERIMENTS: Sequence[Experiment] = [
    module.EXPERIMENT
    for module in (
        *(table2, table3, table4, tables5_6, table7, bridges, depth),
        *(al_text, deep, pipeline, tuning, resnet, label_loss, frontier, codes, rank),
        *(bartunov_table1, figure4, figure5, figures6_7, section3_2, section5_6, bartunov_table2),
        *(dkp_table1, figure2, dkp_table2, cifar10),
    )
]
BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}

# The pictures of each experiment, and what they show.
PICTURES: Mapping[str, Mapping[str, str]] = {
    "al_table2": {"al_table2": "Learning curves on MNIST"},
    "al_table3": {"al_table3": "Learning curves on CIFAR-10"},
    "al_table4": {"al_table4": "Learning curves on CIFAR-100"},
    "al_table7": {
        "al_figure5": "t-SNE of the layers of the MLP",
        "al_figure5_narrow": "t-SNE of the layers of a narrower MLP",
        "al_figure6": "t-SNE of the layers of the vanilla CNN",
        "al_figure6_small": "t-SNE of the layers of the vanilla CNN on smaller images",
    },
    "al_bridges": {"al_bridges": "Learning curves with bridges and without"},
    "al_depth": {"al_depth": "Accuracy and gradients against depth"},
    "al_text_classification": {
        "al_text_trec6": "Learning curves on TREC's questions",
        "al_text_sst2": "Learning curves on the Stanford Sentiment Treebank",
        "al_text_ag_news_10k": "Learning curves on a part of AG News",
        "al_text_imdb": "Learning curves on IMDb",
        "al_text_digits": "Learning curves on the digits, row by row",
    },
    "al_text_deep": {"al_text_deep": "Learning curves of two LSTM layers on texts"},
    "beyond_pipeline": {"al_table1": "Which component works on which batch at which time"},
    "beyond_tuning": {"beyond_tuning": "Validation error against each setting"},
    "beyond_resnet": {"beyond_resnet": "Learning curves of ResNet-8"},
    "beyond_frontier": {"frontier": "Accuracy against cost"},
    "bartunov_table1": {
        "bartunov_figure8_fc": "Learning curves on MNIST, fully connected",
        "bartunov_figure8_lc": "Learning curves on MNIST, locally connected",
        "bartunov_figure2_fc": "Learning curves on CIFAR-10, fully connected",
        "bartunov_figure2_lc": "Learning curves on CIFAR-10, locally connected",
    },
    "bartunov_table2": {"bartunov_figure3": "Learning curves on ImageNet"},
    "bartunov_figure4": {"bartunov_figure4": "Error against the size of the auxiliary output"},
    "bartunov_figure5": {
        "bartunov_figure5": "Accuracies under random settings on MNIST, fully connected",
        "bartunov_figure5_table4": "Accuracies under random settings on MNIST, fully connected, by Table 4's ranges",
        "bartunov_figure5_mnist_lc": "Accuracies under random settings on MNIST, locally connected",
        "bartunov_figure5_cifar_fc": "Accuracies under random settings on CIFAR-10, fully connected",
        "bartunov_figure5_cifar_lc": "Accuracies under random settings on CIFAR-10, locally connected",
    },
    "bartunov_figures6_7": {
        "bartunov_figure6": "Reconstruction errors while the autoencoder learns",
        "bartunov_figure7": "Test digits and their reconstructions",
    },
    "bartunov_section3_2": {"bartunov_section3_2": "Learning curves with more expressive inverses"},
    "bartunov_section5_6": {"bartunov_section5_6": "Learning curves with hybrid targets"},
    "dkp_table1": {"dkp_figure3": "Learning curves of the 2-conv net"},
    "dkp_figure2": {"dkp_figure2": "Angles between the direct feedback and the output"},
    "local_errors_cifar10": {"local_errors_cifar10": "Learning curves of a quarter of VGG8B"},
    "dkp_table2": {"dkp_figure4": "Learning curves of AlexNet"},
}

# The rows of the overview in docs/results.md.
OVERVIEW = {
    "al_table2": ("mlp_tuned_bp", "mlp_tuned_al", "mlp_256_tuned_bp", "mlp_256_tuned_al", "mlp_256_dtp"),
    "al_table3": ("cnn_small_bp", "cnn_small_al"),
    "bartunov_table1": tuple(
        row for row, entry in bartunov_table1.EXPERIMENT.rows.items() if row.startswith("mnist_fc_") and entry.paper
    ),
    "dkp_table1": tuple(f"cifar10_{rule}" for rule in dkp_table1.PAPER["cifar10"]),
}


def overview() -> Iterator[records.Row]:
    """Some rows of the page."""
    for name, rows in OVERVIEW.items():
        experiment = BY_NAME[name]
        for row in rows:
            record, entry = experiment.record(row), experiment.rows[row]
            if record:
                budget = spent(record, entry.full)
                full = f" of {entry.full['epochs']}" if entry.paper else ""
                yield {
                    "table": experiment.title.partition(":")[0],
                    "row": row,
                    "paper's test %": tables.accuracy(entry.paper),
                    "test %": tables.percent(record["rows"][0]["test"]),
                    "epochs, of the paper's": f"{budget['epochs']}{full}",
                    "seeds": budget["seeds"],
                }


def claims() -> Iterator[records.Row]:
    """The papers' claims, with links to the page."""
    for experiment, where, claim, here in CLAIMS:
        yield {
            "where": f"[{where}](report.md#{_anchor(BY_NAME[experiment].title)})",
            "the claim": claim,
            "here": filled(here),
        }


def _anchor(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def build(out: Path | None = None) -> str:
    """The page."""
    sections = [section for experiment in EXPERIMENTS for section in _section(experiment, out)]
    return "\n\n".join(["# The papers' tables", _counts(out), INTRODUCTION, *sections]) + "\n"


def _section(experiment: Experiment, out: Path | None) -> Iterator[str]:
    quick = " --quick" if any(entry.quick for entry in experiment.rows.values()) else ""
    yield f"## {experiment.title}"
    yield f"```sh\n{experiment.command}{quick}\n```"
    recorded = experiment.recorded(out)
    for table in experiment.tables:
        yield tables.markdown(list(table(recorded)))
    yield experiment.note
    if experiment.name in FINDINGS:
        yield filled(FINDINGS[experiment.name], out)
    pictures = PICTURES.get(experiment.name, {})
    drawn = [picture for picture in pictures if ((out or figures.PICTURES) / f"{picture}.png").exists()]
    yield from (f"![{pictures[picture]}](pictures/{figures.PICTURES.name}/{picture}.png)" for picture in drawn)
    yield from (f"Not drawn yet: {words}." for picture, words in pictures.items() if picture not in drawn)
    yield from _origins(experiment.name, out)


def filled(text: str, out: Path | None = None) -> str:
    """The text with the test accuracies that it names: {study/row}, or {study/row - study/row} for a difference.

    What is in [[double brackets]] is left out if a row that it names is not run.
    """

    def known(place: re.Match[str]) -> str:
        names = [name for number in NUMBER.finditer(place[2]) for name in number.groups() if name]
        return place[1] + place[2] if len(accuracies(names)) == len(names) else ""

    def accuracies(names: Sequence[str]) -> list[dict[str, Any]]:
        found = (records.found(name, out) for name in names)
        return [record["rows"][0]["test"] for record in found if record and "diverged at" not in record["rows"][0]]

    def number(place: re.Match[str]) -> str:
        names = [name for name in place.groups() if name]
        found = accuracies(names)
        if len(found) < len(names):
            return "(not run)"
        if len(found) == 1:
            return f"{tables.percent(found[0])} %"
        return f"{100 * (found[0]['mean'] - found[1]['mean']):+.2f} points"

    return NUMBER.sub(number, OPTIONAL.sub(known, text))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = flags.Parser("python -m experiments.lab.report", description=__doc__)
    parser.parse_args(argv)
    PAGE.write_text(build(), encoding="utf-8")
    print(f"written: {PAGE}")


def _counts(out: Path | None) -> str:
    compared = [
        (experiment.record(row, out), entry)
        for experiment in EXPERIMENTS
        for row, entry in experiment.rows.items()
        if entry.paper
    ]
    run = [(record, entry) for record, entry in compared if record]
    full = sum(spent(record, entry.full).covers(entry.full) for record, entry in run)
    lacking = Counter(entry.lacks for record, entry in compared if not record)
    reasons = ", ".join(f"for {number} there is {reason}" for reason, number in sorted(lacking.items()))
    return (
        f"Of {len(compared)} rows that are compared with a paper, {full} are run with the paper's budget, "
        f"{len(run) - full} with a shorter one, and {len(compared) - len(run)} not yet: {reasons}. On 26 November "
        "2026 it was 3, 38 and 56 of the 97 that there were then. Some rows stand beside the same number, with other "
        "settings."
    )


def _origins(name: str, out: Path | None) -> Iterator[str]:
    """The command, the commit and the machine of the records; rows with the same ones are listed together."""
    places: dict[tuple[str, str], list[str]] = {}
    for path in sorted(((out or records.FOLDER) / name).rglob("*.json")):
        record, row = records.load(path), path.stem
        device, versions = record["device"], record["versions"]
        where = f"commit {record['commit'][:7]}, jax {versions['jax']}, {_machine(device)}"
        command = record["command"].replace(f"--rows {row}", "--rows {}")
        places.setdefault((where, command), []).append(row)
    if places:
        lines = (f"- {where}: `{command.format(' '.join(rows))}`" for (where, command), rows in places.items())
        yield "\n".join(lines)


def _machine(device: Mapping[str, Any]) -> str:
    """The device in words; an accelerator with the precision of its products."""
    if precision := device.get("precision of products"):
        return f"{device['jax']} ({precision} precision)"
    return f"{device['cores']} cores of {device['cpu']}"


INTRODUCTION = """\
The papers' numbers beside those of this library, row by row, with the budget of each. The page is written from the
records in `experiments/records` by `python -m experiments.lab.report`. A record names the command, commit, seeds,
versions and device. Accuracies in digits, and the points between them, come from the records; other numbers in the
text, such as "about three points", are written by hand. [Which of the papers' claims hold
here](results.md#which-of-the-papers-claims-hold-here) is a summary.

Each experiment is one command. Without flags it has the paper's budget; `--quick` takes a shorter budget, and leaves
out rows that take too long even then; `--rows`, `--epochs` and `--seeds` choose; `--minutes` stops in time, and the
same command resumes. `python -m experiments.lab.minutes --minutes 30 bartunov_table1 dkp_table1` trains what fits into
a time, the shortest rows first.

A row that is "not run" lacks the time, or its data set on our machines. One that has "diverged" was stopped where a
loss of one seed became NaN, infinite or larger than 10⁸ in size. Where a row has fewer epochs than its paper's, the
budgets explain part of the difference.

No setting of ours was chosen by test results, with one exception: two defaults of `al`, its loss and its prediction by
all components, [were changed after test results had been seen](ranking.md#the-protocol). Most settings were searched on
validation sets; where one was not searched, the text beside its table says so. 5,000 training images are held out for
validation, so that we train on 55,000 of MNIST and of Fashion-MNIST, and on 45,000 of CIFAR-10, where a table does not
say otherwise. Accuracies are those after the last epoch, mean ± sample standard deviation over the seeds; newer records
also have the test accuracy after the best epoch on the validation set. CIFAR-10 here comes from JPEG copies of its
images, so none of its numbers is exactly comparable.

Rows from before 27 November 2026, and some of that day (up to commit 074799b), had a setting of the compiler that is
off now, because with it JAX computes wrong gradients of some networks with convolutions. In checks that are not
recorded, the vanilla CNN, ResNet-8, the 2-conv net, the networks that all rules train under one protocol, and the
locally connected networks were trained for three steps with and without it, and differed by roundings at most; that on
CIFAR-10, with the four rules of its older rows, did not differ in a single bit. The commands below the tables are those
of the commit that they name; modules have moved since."""

if __name__ == "__main__":
    main()
