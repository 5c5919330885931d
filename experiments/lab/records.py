"""Records: each experiment's numbers in one file, with all that is needed to make them again.

`python -m experiments.lab.records digits` prints a record as the Markdown table of the README.
"""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]  # see `row`; or, where no accuracies are compared, the table's columns by name

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "records"
PICTURES = ROOT / "docs" / "pictures" / "papers"
SPLITS = ("train", "validation", "test")
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def row(
    rule: str,
    accuracies: Iterable[Mapping[str, float]],
    seconds: float,
    paper: Mapping[str, Any] | None = None,
) -> Row:
    """One line of a table.

    Args:
      rule: the rule's name.
      accuracies: of each seed, in order, the accuracy on each of the three splits.
      seconds: wall time of all seeds together, compilation included.
      paper: the number to set beside ours, as {"test": accuracy, "source": where it is printed}.

    Returns:
      A dict of these, with mean and sample standard deviation over the seeds: None where there is one seed only.
    """
    accuracies = list(accuracies)
    summary = {split: over_seeds([accuracy[split] for accuracy in accuracies]) for split in SPLITS}
    return {"rule": rule, **summary, "seconds": round(seconds, 1), "paper": paper and dict(paper)}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """One number of each seed, their mean, and their sample standard deviation: None where there is one seed only."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"per_seed": values, "mean": statistics.fmean(values), "std": std}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """What came out of the repeats of one measurement, to four digits."""
    rounded = [float(f"{value:.4g}") for value in values]
    return {"median": statistics.median(rounded), "min": min(rounded), "max": max(rounded), "repeats": rounded}


def record(
    name: str,
    rows: Sequence[Row],
    command: str,
    settings: Mapping[str, Any],
    *,
    note: str | None = None,
    out: Path | None = None,
) -> Path:
    """Write an experiment's rows, in one stroke, to experiments/records/NAME.json.

    Args:
      name: of the experiment.
      rows: made by `row`, or dicts of the same columns; numbers that were repeated as `spread` makes them.
      command: what makes them again.
      settings: all that the rows depend on; "seeds" lists the seeds, if there are any.
      note: what a reader must know before comparing the numbers.
      out: another file to write to.

    Returns:
      The path of the file.
    """
    path = out or place(name)
    content = {
        "experiment": name,
        "command": command,
        **code(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES},
        "device": device(),
        "settings": dict(settings),
        "note": note,
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")  # a reader, or a crash, never meets half a file
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def draw(figure: "Figure", name: str, out: Path | None = None) -> Path:
    """Save a figure beside the pages that show it, or in the folder `out`."""
    path = (out or PICTURES) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"drawn: {path}", flush=True)
    return path


def place(name: str, folder: Path | None = None) -> Path:
    """Where the record of this name is, in experiments/records or in another folder."""
    return (folder or RESULTS) / f"{name}.json"


def found(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The record of this name, if there is one."""
    path = place(name, folder)
    return load(path) if path.exists() else None


def load(path: Path) -> dict[str, Any]:
    """A record, as written."""
    return json.loads(path.read_text(encoding="utf-8"))


def module(name: str) -> str:
    """The module of the experiment of this name, below `experiments`."""
    group, _, rest = name.partition("_")
    if not rest:
        return f"demos.{name}"
    return f"beyond.{rest}" if group == "beyond" else f"papers.{group}.{rest}"


def begun(path: Path, settings: Mapping[str, Any]) -> list[Row]:
    """The rows in a file that this very code made with these very settings."""
    try:
        made = load(path)
    except FileNotFoundError:
        return []
    expected = json.loads(json.dumps({"source": code()["source"], "settings": dict(settings)}))
    return made["rows"] if all(made[key] == value for key, value in expected.items()) else []


def finished(path: Path, settings: Mapping[str, Any]) -> dict[str, Row]:
    """The same by rule."""
    return {row["rule"]: row for row in begun(path, settings)}


@cache  # the code that runs is the code as it was at the start
def code() -> dict[str, str]:
    """The commit, and a digest of the sources, which tells two states of a changed tree apart."""
    digest = hashlib.sha256()
    for file in sorted([*ROOT.glob("jaxlocal/**/*.py"), *ROOT.glob("experiments/**/*.py")]):
        digest.update(file.read_bytes())

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        if git("status", "--porcelain", "--", ".", ":!experiments/records", ":!docs/pictures"):
            commit += " + uncommitted changes"
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no repository
        commit = "unknown"
    return {"commit": commit, "source": digest.hexdigest()[:16]}


def device() -> dict[str, Any]:
    """What the numbers, and above all the seconds, were made on."""
    import jax  # here, so that reading a record does not wait for it

    return {"jax": jax.devices()[0].device_kind, "cpu": _cpu_model(), "cores": os.cpu_count()}


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    header, *body = _cells(rows)
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = ("  ".join(map(str.rjust, line, widths)) for line in [header, ["-" * width for width in widths], *body])
    return "\n".join(lines)


def markdown(path: Path) -> str:
    """A record as a Markdown table."""
    return as_markdown(load(path)["rows"])


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    header, *body = _cells(rows)
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *body])


def percent(accuracies: Mapping[str, Any]) -> str:
    """Mean and spread over the seeds: 97.25 ± 0.31."""
    mean = f"{100 * accuracies['mean']:.2f}"
    return mean if accuracies["std"] is None else f"{mean} ± {100 * accuracies['std']:.2f}"


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table, header first; the paper's column only where a paper has a number."""
    if "rule" not in rows[0]:
        return [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    papers = any(row["paper"] for row in rows)
    header = ["rule", "train %", "validation %", "test %", *["paper's test %"] * papers, "seconds"]
    body = []
    for row in rows:
        paper = f"{100 * row['paper']['test']:.2f}" if row["paper"] else ""
        accuracies = [percent(row[split]) for split in SPLITS]
        body.append([row["rule"], *accuracies, *[paper] * papers, f"{row['seconds']:.1f}"])
    return [header, *body]


def _cell(value: Any) -> str:
    """Any value of a row: 1.92 (1.9 to 1.93) if it was repeated."""
    if isinstance(value, dict):
        return f"{_cell(value['median'])} ({_cell(value['min'])} to {_cell(value['max'])})"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(markdown(RESULTS / f"{name}.json"))
