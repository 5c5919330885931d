"""Write the recorded tables into the pages, and draw the pictures of records that have changed: python docs/tables.py.

A table's place is between the lines <!-- NAME --> and <!-- end -->. Its record is experiments/records/NAME.json. Three
tables summarise several records or columns: <!-- bench -->, <!-- papers --> and <!-- pipeline/depth -->. Others stand
for an experiment with many records, those of WHOLE below, and have its picture below them if it is drawn; OTHER_TABLES
has more tables of such experiments. <!-- claims --> has the papers' claims, <!-- rank/mnist --> is the table of one
workload, and <!-- trained --> that of the networks which come with the library.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the experiments are no part of the package

from experiments.beyond import codes, frontier, label_loss, rank  # noqa: E402
from experiments.demos import digits, mnist, pretrained  # noqa: E402
from experiments.lab import figures, records, report, tables  # noqa: E402
from experiments.papers.al_text import classification  # noqa: E402
from experiments.speed import costs, device_memory, local_rules, many_devices, time_to_accuracy, timed_trainings  # noqa: E402
from experiments.speed.bench import __main__ as bench  # noqa: E402
from experiments.speed.bench import overview  # noqa: E402
from jaxlocal.app import trained  # noqa: E402

PLACE = re.compile(r"^<!-- ([a-z][a-z0-9_/]*) -->\n(?:.*\n)*?<!-- end -->$", re.MULTILINE)
COMPARISONS = {experiment.name: experiment for experiment in (digits.EXPERIMENT, mnist.EXPERIMENT)}
WHOLE = {
    "al_text": classification.EXPERIMENT,
    "codes": codes.EXPERIMENT,
    "costs": costs.EXPERIMENT,
    "device_memory": device_memory.EXPERIMENT,
    "frontier": frontier.EXPERIMENT,
    "label_loss": label_loss.EXPERIMENT,
    "local_rules": local_rules.EXPERIMENT,
    "many_devices": many_devices.EXPERIMENT,
    "rank": rank.EXPERIMENT,
    "time_to_accuracy": time_to_accuracy.EXPERIMENT,
    "timed_trainings": timed_trainings.EXPERIMENT,
}
# More tables of an experiment.
OTHER_TABLES = {
    "advantage": (time_to_accuracy.EXPERIMENT, time_to_accuracy.advantage),
    "costs/al": (costs.EXPERIMENT, costs.of_al),
    "frontier/chosen": (frontier.EXPERIMENT, frontier.chosen),
    "many_devices/checks": (many_devices.EXPERIMENT, many_devices.checks),
    "many_devices/efficiency": (many_devices.EXPERIMENT, many_devices.efficiency),
    "many_devices/gain": (many_devices.EXPERIMENT, many_devices.gain),
}
# Pictures that are none of a paper's tables, what they show, and the file that draws them.
OTHERS = {
    "rules": ("How four rules teach the same three layers", "docs/diagram"),
    "al-digits": ("The test images in each layer, by t-SNE", "jaxlocal/plots/classes"),
    "records/scaling": ("Time per epoch against depth", "speed.scaling_picture"),
    "records/memory": ("Memory of a step against depth", "speed.bench.overview"),
    "records/time_to_accuracy": (time_to_accuracy.EXPERIMENT.title, "speed.time_to_accuracy"),
    "records/many_devices": (many_devices.EXPERIMENT.title, "speed.many_devices"),
    "records/time_to_accuracy_texts": ("The same on texts, by two LSTM layers", "speed.time_to_accuracy"),
    **{
        f"records/rank_{workload}": (f"Differences from backpropagation on {workload}", "beyond.rank")
        for workload in ("digits", "mnist", "fashion_mnist", "cifar10")
    },
}
PAGES = ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))


def names(text: str) -> list[str]:
    """The records whose tables a page shows."""
    return PLACE.findall(text)


def filled(text: str) -> str:
    """The page with each table brought up to date with its record."""
    return PLACE.sub(lambda place: f"<!-- {place[1]} -->\n{_table(place[1])}\n<!-- end -->", text)


def _table(name: str) -> str:
    if name == "bench":
        return tables.markdown(overview.rows(bench.EXPERIMENT.recorded()))
    if name == "papers":
        return tables.markdown(list(report.overview()))
    if name == "claims":
        return tables.markdown(list(report.claims()), others=":--")
    if name == "pipeline/depth":
        return tables.markdown([_depth(row) for row in _rows("pipeline/scaling")])
    if name == "gallery":
        return _gallery()
    if name == "trained":
        return tables.markdown([_trained(name) for name in pretrained.COMMANDS])
    if name in OTHER_TABLES:
        made, lines = OTHER_TABLES[name]
        return tables.markdown(list(lines(made.recorded())))
    if name.startswith("rank/"):
        return _standings(name.removeprefix("rank/"))
    if name in COMPARISONS:
        return tables.markdown(list(COMPARISONS[name].recorded().rows().values()))
    if name in WHOLE:
        return _whole(name)
    return tables.markdown(_rows(name))


def _standings(workload: str) -> str:
    """The rules on a workload, with their differences from backpropagation, and the picture of these."""
    rows = rank.standings(rank.EXPERIMENT.recorded(), workload)
    return _with_picture(rows, f"rank_{workload}", f"Differences from backpropagation on {workload}")


def _whole(name: str) -> str:
    """The table of an experiment, and its picture if there is one."""
    made = WHOLE[name]
    return _with_picture(list(made.tables[0](made.recorded())), name, made.title)


def _with_picture(rows: list[records.Row], name: str, title: str) -> str:
    """A table, and the recorded picture of this name if it is drawn."""
    if not rows:
        return "Not run yet."
    picture = figures.PICTURES / f"{name}.png"
    shown = f"\n\n![{title}](pictures/{figures.PICTURES.name}/{picture.name})"
    return tables.markdown(rows) + (shown if picture.exists() else "")


def _gallery() -> str:
    """Every picture that is drawn, with the file that draws it."""
    of_papers = {
        f"records/{picture}": (words, report.BY_NAME[name].module)
        for name, pictures in report.PICTURES.items()
        for picture, words in pictures.items()
    }
    shown = []
    for picture, (words, module) in (OTHERS | of_papers).items():
        if (ROOT / "docs" / "pictures" / f"{picture}.png").exists():
            file = f"experiments/{module.replace('.', '/')}" if "/" not in module else module
            shown.append(f"![{words}](pictures/{picture}.png)\n\n{words}: [{file}.py](code/{file}.md)")
    return "\n\n".join(["", *shown, ""])


def _trained(name: str) -> records.Row:
    """A network that comes with the library."""
    facts = json.loads((trained.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    settings, size = facts["settings"], (trained.FOLDER / f"{name}.npz").stat().st_size
    return {
        "name": f"`{name}`",
        "rule": f"`{settings['rule']}`",
        "data": settings["data"],
        "epochs": settings["epochs"],
        "test accuracy %": f"{100 * facts['measured']['test']['accuracy']:.2f}",
        "kB": round(size / 1000),
    }


def _rows(name: str) -> list[records.Row]:
    return records.load(records.place(name))["rows"]


def _depth(row: records.Row) -> records.Row:
    """One depth of the pipeline: milliseconds per batch, beside those of backpropagation."""
    return {
        "components": row["depth"],
        "backpropagation, one core": row["bp ms"],
        "GPipe, two cores": row["GPipe on two devices: measured ms"],
        "al, one core": row["al ms"],
        "al pipeline, two cores": row["two devices: measured ms"],
        "predicted, share of measured": row["two devices: ratio"],
    }


def redraw() -> Iterator[Path]:
    """Draw the pictures of each experiment whose records are not those that its pictures show."""
    shown = {picture: figures.shown_in(picture) for picture in figures.PICTURES.glob("*.png")}
    for old in sorted({source for source in shown.values() if source}):
        recorded = figures.drawn_by(old).recorded()
        own = {picture.stem for picture, source in shown.items() if source == old}
        if recorded.experiment.draw and old != figures.source(recorded):
            drawn = recorded.experiment.draw(recorded)
            yield from (figures.save(figure, name, recorded) for name, figure in drawn.items() if name in own)


if __name__ == "__main__":
    for picture in redraw():
        print(f"{picture.relative_to(ROOT)} drawn")
    for page in PAGES:
        if (new := filled(old := page.read_text(encoding="utf-8"))) != old:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} updated")
