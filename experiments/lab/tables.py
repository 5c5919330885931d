"""Tables of records, as aligned text and as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from experiments.lab.records import SPLITS, Row
from jaxlocal.text import aligned


def text(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    return aligned(_cells(rows))


def markdown(rows: Sequence[Row], others: str = "--:") -> str:
    """The rows as a Markdown table; `others` is the alignment of all columns but the first."""
    header, *body = _cells(rows)
    rule = [":--", *[others] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *body])


def percent(accuracies: Mapping[str, Any]) -> str:
    """The mean over the seeds with its sample standard deviation: 97.25 ± 0.31."""
    return accuracy((100 * accuracies["mean"], accuracies["std"] and 100 * accuracies["std"]))


def accuracy(numbers: tuple[float, float | None] | None) -> str:
    """A number with its standard deviation, if there is one."""
    if numbers is None:
        return ""
    mean, deviation = numbers
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def spread(values: Sequence[float]) -> str:
    """The mean to three digits and, if there are several values, the sample standard deviation: 19.3 ± 10."""
    return f"{fmean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of the table, the header first."""
    rows = _of_accuracies(rows) if "paper" in rows[0] else rows
    if other := [row for row in rows if list(row) != list(rows[0])]:
        raise ValueError(f"a table has the columns {', '.join(rows[0])}, but one of its lines {', '.join(other[0])}")
    return [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]


def _of_accuracies(rows: Sequence[Row]) -> list[Row]:
    """The lines of a record of accuracies, as columns; the paper's only if a paper has a number for one of them."""
    with_paper = any(row["paper"] for row in rows)
    columns = []
    for row in rows:
        paper = {"paper's test %": f"{100 * row['paper']['test']:.2f}" if row["paper"] else ""}
        accuracies = {f"{split} %": percent(row[split]) for split in SPLITS}
        columns.append({"rule": row["rule"], **accuracies, **(paper if with_paper else {})})
    return columns


def _cell(value: Any) -> str:
    """A value of a row; 1.92 (1.9 to 1.93) if it was measured repeatedly."""
    if isinstance(value, dict):
        return f"{_cell(value['median'])} ({_cell(value['min'])} to {_cell(value['max'])})"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)
