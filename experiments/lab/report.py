"""One page of all the papers' tables and figures: their numbers beside ours, with budgets, and what is not run yet.

`python -m experiments.lab.report` writes docs/report.md from the records in experiments/records, and nothing else: no
number in it is typed. What the numbers show is in `experiments.findings`, where numbers are names of records.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.beyond import pipeline as beyond_pipeline
from experiments.beyond import resnet as beyond_resnet
from experiments.beyond import tuning as beyond_tuning
from experiments.lab import records as results
from experiments.lab import study
from experiments.lab.findings import FINDINGS
from experiments.lab.study import Study
from experiments.papers.al import table2 as al_table2
from experiments.papers.al import table3 as al_table3
from experiments.papers.al import table4 as al_table4
from experiments.papers.al import table7 as al_table7
from experiments.papers.al import tables5_6 as al_tables5_6
from experiments.papers.bartunov import figure4 as bartunov_figure4
from experiments.papers.bartunov import figure5 as bartunov_figure5
from experiments.papers.bartunov import figures6_7 as bartunov_figures6_7
from experiments.papers.bartunov import table1 as bartunov_table1
from experiments.papers.bartunov import table2 as bartunov_table2
from experiments.papers.dkp import figure2 as dkp_figure2
from experiments.papers.dkp import table1 as dkp_table1
from experiments.papers.dkp import table2 as dkp_table2
from jaxlocal import flags

PAGE = results.ROOT / "docs" / "report.md"
NUMBER = re.compile(r"\{([a-z0-9_]+/[a-z0-9_]+)(?: - ([a-z0-9_]+/[a-z0-9_]+))?\}")

# The experiments in the order of the page, and what their pictures show.
SECTIONS: Mapping[ModuleType, Mapping[str, str]] = {
    al_table2: {"al_table2": "Learning curves on MNIST"},
    al_table3: {"al_table3": "Learning curves on CIFAR-10"},
    al_table4: {"al_table4": "Learning curves on CIFAR-100"},
    al_tables5_6: {},
    al_table7: {
        "al_figure5": "t-SNE of the layers of the MLP",
        "al_figure5_narrow": "t-SNE of the layers of a narrower MLP",
        "al_figure6": "t-SNE of the layers of the vanilla CNN",
        "al_figure6_small": "t-SNE of the layers of the vanilla CNN on smaller images",
    },
    beyond_pipeline: {"al_table1": "Which component works on which batch at which time"},
    beyond_tuning: {"beyond_tuning": "Validation error against each setting"},
    beyond_resnet: {"beyond_resnet": "Learning curves of ResNet-8"},
    bartunov_table1: {
        "bartunov_figure8_fc": "Learning curves on MNIST, fully connected",
        "bartunov_figure8_lc": "Learning curves on MNIST, locally connected",
        "bartunov_figure2_fc": "Learning curves on CIFAR-10, fully connected",
        "bartunov_figure2_lc": "Learning curves on CIFAR-10, locally connected",
    },
    bartunov_figure4: {"bartunov_figure4": "Error against the size of the auxiliary output"},
    bartunov_figure5: {"bartunov_figure5": "Histograms of the accuracies under random settings"},
    bartunov_figures6_7: {
        "bartunov_figure6": "Reconstruction errors while the autoencoder learns",
        "bartunov_figure7": "Test digits and their reconstructions",
    },
    bartunov_table2: {},
    dkp_table1: {"dkp_figure3": "Learning curves of the 2-conv net"},
    dkp_figure2: {"dkp_figure2": "Angles between the direct feedback and the output"},
    dkp_table2: {"dkp_figure4": "Learning curves of AlexNet"},
}


# The rows of the overview in the README.
OVERVIEW = {
    al_table2: ("mlp_tuned_bp", "mlp_tuned_al", "mlp_256_tuned_bp", "mlp_256_tuned_al", "mlp_256_dtp"),
    al_table3: ("cnn_small_bp", "cnn_small_al"),
    bartunov_table1: tuple(f"mnist_fc_{method}" for method in bartunov_table1.MNIST_FC),
    dkp_table1: tuple(f"cifar10_{rule}" for rule in dkp_table1.PAPER["cifar10"]),
}


def overview(out: Path | None = None) -> list[results.Row]:
    """Some rows of the page."""
    rows = []
    for module, names in OVERVIEW.items():
        for row in names:
            record, case = study.read(module.STUDY, row, out), module.STUDY.cases[row]
            if record:
                epochs = f"{study.spent(record).epochs}" + (f" of {case.full.epochs}" if case.paper else "")
                rows.append(
                    {
                        "table": module.STUDY.source,
                        "row": row,
                        "paper's test %": _of_paper(case.paper),
                        "test %": results.percent(record["rows"][0]["test"]),
                        "epochs, of the paper's": epochs,
                        "seeds": study.spent(record).seeds,
                    }
                )
    return rows


def name(module: ModuleType) -> str:
    """As it is called on the command line."""
    return "_".join(module.__name__.split(".")[-2:])


def build(out: Path | None = None) -> str:
    """The page."""
    parts = [HEAD, _counts(out)]
    for module, pictures in SECTIONS.items():
        made: Study | None = getattr(module, "STUDY", None)
        title, note = (made.title, made.note) if made else (module.TITLE, module.NOTE)
        quick = "" if module is al_table7 else " --quick"  # it trains nothing of its own
        parts += [f"## {title}", f"```sh\npython -m experiments.{results.module(name(module))}{quick}\n```"]
        parts += [table(made, out)] if made else []
        for rows in getattr(module, "TABLES", [module.rows] if hasattr(module, "rows") else []):
            parts.append(results.as_markdown(list(rows(out))))
        parts.append(note)
        if name(module) in FINDINGS:
            parts.append(filled(FINDINGS[name(module)], out))
        drawn = {picture for picture in pictures if ((out or results.PICTURES) / f"{picture}.png").exists()}
        parts += [f"![{pictures[picture]}](pictures/papers/{picture}.png)" for picture in pictures if picture in drawn]
        parts += [f"Not drawn yet: {told}." for picture, told in pictures.items() if picture not in drawn]
        parts += list(_made_by(name(module), out))
    return "\n\n".join(parts) + "\n"


def table(made: Study, out: Path | None = None) -> str:
    """A study's rows, run or not: the paper's accuracy, ours, and what ours took."""
    header = "row", "paper's test %", "test %", "difference", "train %", "epochs", "seeds", "minutes"
    lines = [header, (":--", *["--:"] * (len(header) - 1))]
    for row, case in made.cases.items():
        theirs = _of_paper(case.paper)
        record = study.read(made, row, out)
        if record is None:
            epochs, seeds = (f"0 of {number}" for number in case.full)
            lines.append((row, theirs, "not run", "", "", epochs, seeds, ""))
            continue
        (ours,) = record["rows"]
        spent = study.spent(record)
        difference = f"{100 * ours['test']['mean'] - case.paper[0]:+.2f}" if case.paper else ""
        epochs, seeds = (f"{had} of {full}" for had, full in zip(spent, case.full, strict=True))
        shown = results.percent(ours["test"]), difference, results.percent(ours["train"])
        lines.append((row, theirs, *shown, epochs, seeds, f"{ours['seconds'] / 60:.1f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(text: str, out: Path | None = None) -> str:
    """The text with the test accuracies that it names: {study/row}, or {study/row - study/row} for points between."""

    def accuracies(names: Sequence[str]) -> list[dict[str, Any]]:
        records = (results.found(name, out) for name in names)
        return [record["rows"][0]["test"] for record in records if record]

    def number(place: re.Match[str]) -> str:
        names = [name for name in place.groups() if name]
        found = accuracies(names)
        if len(found) < len(names):
            return "(not run)"
        if len(found) == 1:
            return f"{results.percent(found[0])} %"
        return f"{100 * (found[0]['mean'] - found[1]['mean']):+.2f} points"

    return NUMBER.sub(number, text)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = flags.Parser("python -m experiments.lab.report", description=__doc__)
    parser.parse_args(argv)
    PAGE.write_text(build(), encoding="utf-8")
    print(f"written: {PAGE}")


def _counts(out: Path | None) -> str:
    studies: list[Study] = [module.STUDY for module in SECTIONS if hasattr(module, "STUDY")]
    rows = [(study.read(made, row, out), case) for made in studies for row, case in made.cases.items() if case.paper]
    full = sum(study.covers(record, case.full) for record, case in rows)
    run = sum(record is not None for record, _ in rows)
    return (
        f"Of {len(rows)} rows that stand beside a paper's, {full} are run with the paper's budget, {run - full} with "
        f"a shorter one, and {len(rows) - run} not yet."
    )


def _made_by(name: str, out: Path | None) -> Iterator[str]:
    """Where the rows come from, those of one machine and one commit together."""
    places: dict[str, list[str]] = {}
    for path in sorted(((out or results.RESULTS) / name).glob("*.json")):
        record = results.load(path)
        device, versions = record["device"], record["versions"]
        where = f"commit {record['commit'][:7]}, jax {versions['jax']}, {device['cores']} cores of {device['cpu']}"
        places.setdefault(where, []).append(path.stem)
    if places:
        yield "\n".join(f"- {where}: {', '.join(rows)}" for where, rows in places.items())


def _of_paper(paper: tuple[float, float | None] | None) -> str:
    if paper is None:
        return ""
    mean, deviation = paper
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


HEAD = """# The papers' tables

What the papers report beside what this library reaches, row by row, with what either took. The page is written by
`python -m experiments.lab.report` from the records in `experiments/records`, which name the command, commit, seeds,
versions and device; no number in it is typed.

Each experiment is one command. Without a flag it has the paper's budget; `--quick` trains what two cores can, for as
long as they can; `--rows`, `--epochs` and `--seeds` choose; `--minutes` stops in time, and the same command goes on.
Where a row has fewer epochs than its paper's, the difference in the table is one of budgets, too. Settings were chosen
by validation sets, never by test sets. Accuracies are those after the last epoch, mean ± sample standard deviation over
the seeds. CIFAR-10 here comes from JPEG copies of its images, so none of its numbers is exactly comparable."""

if __name__ == "__main__":
    main()
