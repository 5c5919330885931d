"""Search spaces: the range of each setting, and settings drawn from them at random."""

from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from jaxlocal import checks


class Range(NamedTuple):
    """The values that one setting may take. Make it with `uniform`, `log_uniform` or `choice`."""

    kind: str
    values: tuple[float, ...]  # the two ends, or the choices

    def holds(self, value: float) -> bool:
        """Whether the value can be drawn."""
        return value in self.values if self.kind == "choice" else self.values[0] <= value <= self.values[1]

    def draw(self, rng: np.random.Generator) -> float:
        """One value, drawn at random."""
        if self.kind == "choice":
            return float(rng.choice(self.values))
        low, high = self.values
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def uniform(low: float, high: float) -> Range:
    """The numbers from low to high, all equally likely."""
    return Range("uniform", _ends(low, high))


def log_uniform(low: float, high: float) -> Range:
    """The numbers from low to high, with all orders of magnitude equally likely."""
    checks.positive("low", low)
    return Range("log_uniform", _ends(low, high))


def choice(*values: float) -> Range:
    """These numbers, all equally likely."""
    if not values or not all(is_number(value) for value in values):
        raise TypeError(f"values={checks.show(values)}: must be one number or more, such as choice(0.9, 0.99)")
    return Range("choice", tuple(map(float, values)))


def draw(space: Mapping[str, Range], trials: int, seed: int = 0) -> list[dict[str, float]]:
    """Settings drawn at random. The i-th depends only on the seed and on i, so more trials extend a search.

    Example:
      >>> space = {"lr": jl.search.log_uniform(1e-4, 1e-2), "noise": jl.search.choice(0.1, 0.2)}
      >>> jl.search.draw(space, 3) == jl.search.draw(space, 5)[:3]
      True
    """
    checks.positive_int("trials", trials)
    checks.seed(seed)
    if not isinstance(space, Mapping):
        raise TypeError(f"space={checks.show(space)}: must be a dict of ranges by the names of the settings")
    for name, values in space.items():
        if not isinstance(values, Range):
            raise TypeError(f"space[{name!r}]={checks.show(values)}: must be a range, such as choice({values!r})")
    generators = (np.random.default_rng([seed, i]) for i in range(trials))
    return [{name: values.draw(rng) for name, values in space.items()} for rng in generators]


def is_number(value: Any) -> bool:
    """Whether the value is a finite real number, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def _ends(low: float, high: float) -> tuple[float, float]:
    if not (is_number(low) and is_number(high) and low <= high):
        raise ValueError(f"low={low!r}, high={high!r}: must be numbers, the lower one first")
    return float(low), float(high)
