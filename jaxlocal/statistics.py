"""How much two rules differ, when both were trained from the same seeds.

An interval tells more than two means with their spreads: seeds that suit one rule often suit the other one too, and
their differences are steadier than the accuracies themselves.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxlocal import checks
from jaxlocal.hints import nearest

ROUNDINGS = 10  # a spread of at most this many roundings of the numbers comes from rounding


class Difference(NamedTuple):
    """The mean of paired differences, its confidence interval, and the effect size; None where one seed is too few."""

    mean: float
    low: float | None
    high: float | None
    effect: float | None  # the mean in standard deviations of the differences; None, too, if they are all equal

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Difference:
    """Ours minus theirs, seed by seed: the mean difference, its t interval, and Cohen's d of the differences.

    The interval takes the differences for normally distributed, and holds for one comparison. Among twenty comparisons
    of equals at 95 %, one interval is expected to leave out zero by chance.

    Args:
      ours: a number for each seed, such as the test accuracy.
      theirs: the other rule's numbers, for the same seeds in the same order.
      confidence: how often such an interval holds the true difference.

    Example:
      >>> difference = jl.statistics.paired([0.98, 0.97, 0.98], [0.95, 0.95, 0.96])
      >>> print(f"{difference.mean:.3f}, from {difference.low:.3f} to {difference.high:.3f}")
      0.023, from 0.009 to 0.038

    Reference:
      Student 1908; Cohen 1988, section 2.3.
    """
    from scipy.special import stdtrit  # imported here because it is slow and few programs need it

    if np.ndim(ours) != 1 or np.shape(ours) != np.shape(theirs) or not len(ours):
        raise ValueError(
            f"ours has shape {np.shape(ours)} and theirs has {np.shape(theirs)}: give a number of each for every seed"
        )
    checks.below_one("confidence", confidence)
    given = [np.asarray(numbers) for numbers in (ours, theirs)]
    rounding = max(np.finfo(one.dtype if one.dtype.kind == "f" else np.float64).eps for one in given)
    values = np.asarray(given, np.float64)
    differences = values[0] - values[1]
    mean, count = float(differences.mean()), len(differences)
    if count == 1:
        return Difference(mean, None, None, None)
    spread = float(differences.std(ddof=1))
    if spread < ROUNDINGS * rounding * np.abs(values).max():
        spread = 0.0
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * spread / count**0.5
    return Difference(mean, mean - half, mean + half, mean / spread if spread else None)


def against(baseline: str, numbers: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, Difference]:
    """The numbers of each rule minus those of the baseline, which is one of the rules.

    Example:
      >>> [*jl.statistics.against("bp", {"al": [0.98, 0.97], "bp": [0.95, 0.95]})]
      ['al']
    """
    if baseline not in numbers:
        raise ValueError(f"baseline={baseline!r}: has no numbers; {nearest(baseline, numbers)}")
    return {rule: paired(ours, numbers[baseline]) for rule, ours in numbers.items() if rule != baseline}
