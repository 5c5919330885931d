"""Write the recorded tables into the README and the pages: python docs/tables.py.

A table's place is between the lines <!-- NAME --> and <!-- end -->; its record is experiments/records/NAME.json, and
that of <!-- bench --> are all benchmarks together, that of <!-- papers --> some rows of the papers' tables.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the experiments are no part of the package

from experiments.lab import records as results  # noqa: E402
from experiments.lab import report  # noqa: E402
from experiments.speed.bench import overview  # noqa: E402

PLACE = re.compile(r"^<!-- ([a-z][a-z0-9_/]*) -->\n(?:.*\n)*?<!-- end -->$", re.MULTILINE)
PAGES = ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))


def names(text: str) -> list[str]:
    """The records whose tables a page shows."""
    return PLACE.findall(text)


def filled(text: str) -> str:
    """The page with each table as its record has it."""
    return PLACE.sub(lambda place: f"<!-- {place[1]} -->\n{_table(place[1])}\n<!-- end -->", text)


def _table(name: str) -> str:
    if name == "bench":
        return results.as_markdown(overview.rows(results.RESULTS / "bench"))
    if name == "papers":
        return results.as_markdown(report.overview())
    return results.markdown(results.RESULTS / f"{name}.json")


if __name__ == "__main__":
    for page in PAGES:
        if (new := filled(old := page.read_text(encoding="utf-8"))) != old:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} is brought up to date")
