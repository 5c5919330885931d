"""How much an installation takes: the library alone, and each extra on top of it.

Each installation has a virtual environment of its own.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Option, Outcome, Task
from experiments.lab.main import main
from experiments.lab.records import Row

ALONE = "none"


def extras() -> list[str]:
    """Those that need neither a GPU nor PyTorch."""
    project = tomllib.loads((records.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [name for name in project["optional-dependencies"] if name not in ("bench", "cuda12", "cuda13")]


def measure(extra: str, before: Path, after: Path) -> Row:
    """Install the library with an extra into a copy of an environment: a line of the table."""
    shutil.copytree(before, after, symlinks=True)
    what = str(records.ROOT) + f"[{extra}]" * (extra != ALONE)
    began = time.perf_counter()
    call(after / "bin" / "python", "-m", "pip", "install", "--quiet", "--editable", what)
    seconds = time.perf_counter() - began
    (size, packages), (old_size, old_packages) = map(_content, (after, before))
    return {"extra": extra, "MB": round((size - old_size) / 1e6), "packages": packages - old_packages, "s": seconds}


def call(*command: str | Path) -> None:
    """Run a command, and stop if it fails."""
    subprocess.run(command, check=True)


def _content(environment: Path) -> tuple[int, int]:
    """The bytes of all files of an environment, and the number of its packages."""
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in files), sum(path.name == "METADATA" for path in files)


def run(task: Task) -> Iterator[Outcome]:
    """Measure the library, then each extra on top of it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        empty, alone, more = (Path(folder) / name for name in ("empty", "alone", "more"))
        call(sys.executable, "-m", "venv", empty)
        for extra in (ALONE, *task.options["extras"]):
            before, after = (empty, alone) if extra == ALONE else (alone, more)
            rows.append(records.rounded(measure(extra, before, after), 3))
            shutil.rmtree(more, ignore_errors=True)
    yield Outcome(rows, dict(task.options) | task.budget, task.budget, tables.text(rows))


EXPERIMENT = Experiment(
    module="speed.install",
    name="speed",
    title="How much an installation takes",
    rows={"install": Job(Budget(rounds=1), Budget(rounds=1), run)},
    note="Each extra is what it adds to the library alone. Packages may come from pip's cache.",
    tables=(),
    options={"extras": Option("names of extras", str, extras(), ["text"], many=True)},
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
