"""Tables and measurements as plain text."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxlocal.statistics import Difference


def aligned(rows: Sequence[Sequence[str]], left: int = 0, rule: bool = True) -> str:
    """The rows as text with aligned columns.

    Args:
      rows: the cells of each row, the header first; all rows have the same number of cells.
      left: the number of leading columns that are aligned to the left; the others are aligned to the right.
      rule: whether a line of dashes separates the header from the other rows.

    Returns:
      The lines, joined by newlines, without spaces at their ends.

    Example:
      >>> from jaxlocal.text import aligned
      >>> print(aligned([["rule", "accuracy"], ["dfa", "97.5"]], left=1))
      rule  accuracy
      ----  --------
      dfa       97.5
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [list(row) for row in rows]
    if rule:
        lines.insert(1, ["-" * width for width in widths])
    justify: list[Callable[[str, int], str]] = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    padded = ((place(cell, width) for place, cell, width in zip(justify, line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def measurement(measured: Mapping[str, Any]) -> str:
    """The accuracy in per cent, or else the loss; the mean ± std if there are several seeds.

    Example:
      >>> from jaxlocal.text import measurement
      >>> measurement({"loss": [0.2, 0.2], "accuracy": [0.92, 0.94]})
      '93.00 ± 1.41 %'
      >>> measurement({"loss": [0.0012, 0.0016]})
      '0.0014 ± 0.00028'
    """
    if "accuracy" in measured:
        values, form, of_spread, unit = 100 * np.atleast_1d(measured["accuracy"]), ".2f", ".2f", " %"
    else:
        values, form, of_spread, unit = np.atleast_1d(measured["loss"]), ".4g", ".2g", ""
    spread = f" ± {np.std(values, ddof=1):{of_spread}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{spread}{unit}"


def difference(found: "Difference", form: str = "+.2f") -> str:
    """The mean difference and, of several seeds whose differences are not all equal, its interval.

    Example:
      >>> from jaxlocal.text import difference
      >>> difference(jl.statistics.paired([98.0, 97.0, 98.0], [95.0, 95.0, 96.0]))
      '+2.33 [+0.90, +3.77]'
      >>> difference(jl.statistics.paired([12.25, 12.25], [98.0, 98.0]))
      '-85.75'
    """
    interval = "" if found.low == found.high else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.mean:{form}}{interval}"


def effect(found: "Difference") -> str:
    """The effect size, where there is one."""
    return "" if found.effect is None else f"{found.effect:+.1f}"


def reason(error: BaseException) -> str:
    """The message of another library's error on one line, cut short; its type if there is none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def plural(count: int, one: str, many: str = "") -> str:
    """A count and its noun.

    Example:
      >>> from jaxlocal.text import plural
      >>> plural(1, "batch", "batches"), plural(2, "batch", "batches"), plural(2, "epoch")
      ('1 batch', '2 batches', '2 epochs')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
