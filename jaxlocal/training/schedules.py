"""Schedules of the learning rate, beside those of Optax."""

import optax

from jaxlocal import checks


def al_schedule(rate: float, steps: int) -> optax.Schedule:
    """The learning rate of the AL paper: times 0.1 after 40, 60 and 80 % of the steps, and times 0.5 after 90 %.

    Args:
      rate: the learning rate at the start.
      steps: the number of steps in the whole run.

    Returns:
      The schedule, for an optimizer of Optax.

    Example:
      >>> [float(f"{jl.training.al_schedule(1.0, 100)(step):.2g}") for step in (0, 39, 40, 60, 80, 90)]
      [1.0, 1.0, 0.1, 0.01, 0.001, 0.0005]
    """
    checks.positive("rate", rate)
    checks.positive_int("steps", steps)
    factors: dict[int, float] = {}
    for share, factor in ((0.4, 0.1), (0.6, 0.1), (0.8, 0.1), (0.9, 0.5)):
        at = int(share * steps)  # in a short run that of several factors
        factors[at] = factors.get(at, 1.0) * factor
    return optax.piecewise_constant_schedule(rate, factors)
