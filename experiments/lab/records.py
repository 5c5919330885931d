"""Records: the numbers of an experiment in one file, with everything that is needed to make them again."""

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxlocal.app.provenance import commit
from jaxlocal.data import SPLITS
from jaxlocal.files import write_whole

Row = dict[str, Any]  # see `row`; or, where no accuracies are compared, the table's columns by name
Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "records"
WORK = ROOT / "runs" / "experiments"  # for checkpoints, and for what is too large for a record
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def row(
    rule: str,
    accuracies: Iterable[Mapping[str, float]],
    seconds: float,
    paper: Mapping[str, Any] | None = None,
) -> Row:
    """One line of a table of accuracies.

    Args:
      rule: the rule's name.
      accuracies: of each seed, in order, the accuracy on each of the three splits.
      seconds: the wall time of all seeds together, compilation included.
      paper: the number to compare with, as {"test": accuracy, "source": where it is printed}.

    Returns:
      A dict of these, with mean and sample standard deviation over the seeds: None if there is only one seed.
    """
    accuracies = list(accuracies)
    summary = {split: over_seeds([accuracy[split] for accuracy in accuracies]) for split in SPLITS}
    return {"rule": rule, **summary, "seconds": round(seconds, 1), "paper": paper and dict(paper)}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """One number of each seed, their mean, and their sample standard deviation: None if there is only one seed."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"per_seed": values, "mean": statistics.fmean(values), "std": std}


def rounded(row: Mapping[str, Any], digits: int = 4) -> Row:
    """The row, its floats rounded to this many significant digits."""
    return {name: float(f"{value:.{digits}g}") if isinstance(value, float) else value for name, value in row.items()}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The values of a repeated measurement to four digits, with their median and range."""
    rounded = [float(f"{value:.4g}") for value in values]
    return {"median": statistics.median(rounded), "min": min(rounded), "max": max(rounded), "repeats": rounded}


def milliseconds(seconds: Sequence[float]) -> dict[str, Any]:
    """The spread of a repeated timing, in milliseconds."""
    return spread([1e3 * value for value in seconds])


def write(
    name: str,
    rows: Sequence[Row],
    command: str,
    settings: Mapping[str, Any],
    *,
    note: str | None = None,
    out: Path | None = None,
) -> Path:
    """Write the rows of an experiment to the record NAME.json.

    Args:
      name: the name of the record.
      rows: made by `row`, or dicts of the same columns; repeated measurements as `spread` makes them.
      command: what makes them again.
      settings: everything that the rows depend on; "seeds" lists the seeds, if there are any.
      note: what a reader must know before comparing the numbers.
      out: the folder of the records; by default experiments/records.

    Returns:
      The path of the file.
    """
    path = place(name, out)
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
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def place(name: str, folder: Path | None = None) -> Path:
    """The file of a record, in experiments/records or in another folder."""
    return (folder or FOLDER) / f"{name}.json"


def found(name: str, folder: Path | None = None) -> Record | None:
    """The record of this name, if there is one."""
    path = place(name, folder)
    return load(path) if path.exists() else None


def load(path: Path) -> Record:
    """A record, as written."""
    return json.loads(path.read_text(encoding="utf-8"))


def digest(found: Mapping[str, Record]) -> str:
    """A short text that is another one for other records."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def continued(record: Record | None, settings: Mapping[str, Any]) -> list[Row]:
    """The rows of a record if the present code made them with these settings; the seeds are not compared."""

    def known(source: str, settings: Mapping[str, Any]) -> Any:
        others = {name: value for name, value in settings.items() if name != "seeds"}
        return json.loads(json.dumps([source, others]))

    same = record and known(record["source"], record["settings"]) == known(code()["source"], settings)
    return list(record["rows"]) if record and same else []


@cache  # the code that runs is the code as it was at the start
def code() -> dict[str, str]:
    """The commit, and a digest of the sources, which changes with every change of them."""
    source = hashlib.sha256()
    for file in sorted([*ROOT.glob("jaxlocal/**/*.py"), *ROOT.glob("experiments/**/*.py")]):
        source.update(file.read_bytes())
    return {"commit": commit(ROOT, "experiments/records", "docs/pictures"), "source": source.hexdigest()[:16]}


def device() -> dict[str, Any]:
    """The machine that the numbers, and above all the seconds, depend on."""
    found = {"jax": jax.devices()[0].device_kind, "cpu": _cpu_model(), "cores": os.cpu_count()}
    if jax.default_backend() == "cpu":
        return found
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return found | {"precision of products": precision or "default"}


def work_folder(work: Path, name: str, budget: Mapping[str, int], source: str) -> Path:
    """Where the training of the record NAME keeps its files; other code, epochs or examples have their own."""
    counted = [str(budget[one]) for one in ("epochs", "examples") if one in budget]
    return work / name / "-".join([*counted, source])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
