"""Write the recorded tables into the pages: python docs/tables.py.

A table's place is between the lines <!-- NAME --> and <!-- end -->. Its record is experiments/records/NAME.json. Three
tables summarise several records or columns: <!-- bench -->, <!-- papers --> and <!-- pipeline/depth -->.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the experiments are no part of the package

from experiments.demos import digits, mnist  # noqa: E402
from experiments.lab import records, report, tables  # noqa: E402
from experiments.speed.bench import __main__ as bench  # noqa: E402
from experiments.speed.bench import overview  # noqa: E402

PLACE = re.compile(r"^<!-- ([a-z][a-z0-9_/]*) -->\n(?:.*\n)*?<!-- end -->$", re.MULTILINE)
COMPARISONS = {experiment.name: experiment for experiment in (digits.EXPERIMENT, mnist.EXPERIMENT)}
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
    if name == "pipeline/depth":
        return tables.markdown([_depth(row) for row in _rows("pipeline/scaling")])
    if name in COMPARISONS:
        return tables.markdown(list(COMPARISONS[name].recorded().rows().values()))
    return tables.markdown(_rows(name))


def _rows(name: str) -> list[records.Row]:
    return records.load(records.place(name))["rows"]


def _depth(row: records.Row) -> records.Row:
    """One depth of the pipeline: milliseconds per batch, beside those of backpropagation."""
    return {
        "components": row["depth"],
        "backpropagation, one core": row["bp ms"],
        "al, one core": row["one device: measured ms"],
        "al pipeline, two cores": row["two devices: measured ms"],
    }


if __name__ == "__main__":
    for page in PAGES:
        if (new := filled(old := page.read_text(encoding="utf-8"))) != old:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} updated")
