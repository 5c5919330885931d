"""The account of a run: how far it has come, the losses of the current epoch, and the metrics of those before."""

from collections.abc import Mapping

import jax
import numpy as np

from jaxlocal.rule import Params
from jaxlocal.training.state import Metrics, Progress, State, Terms

TOO_LARGE = 1e8  # a component with a loss beyond this has diverged


class DivergedError(FloatingPointError):
    """A component's loss is NaN, infinite or beyond 1e8."""


def has_diverged(losses: np.ndarray) -> np.ndarray:
    """Whether each loss is NaN, infinite or too large."""
    return ~(np.abs(losses) <= TOO_LARGE)


class Account:
    """Adds up the losses of a run, chunk by chunk.

    The device computes while Python prepares the next chunk. So that it never waits for Python, `expect` only notes the
    losses of a chunk, and `settle` reads them once the next chunk is under way.

    Args:
      steps: the number of steps in an epoch.
      start: the state from which the run is resumed; None for a new run.
      seed: for an ensemble the seed of its first member, for messages.
    """

    def __init__(self, steps: int, start: State | None = None, seed: int | None = None):
        self.step = start.step if start else 0  # the number of steps accounted for
        self.history = list(start.history) if start else []
        self._steps, self._seed = steps, seed
        self._sums = start.sums if start else ()
        self._loss = float("nan")
        self._expected: tuple[Terms, int] | None = None

    @property
    def epoch(self) -> int:
        """The number of complete epochs."""
        return self.step // self._steps

    @property
    def batch(self) -> int:
        """The number of steps in the current epoch so far."""
        return self.step % self._steps

    def expect(self, terms: Terms, count: int) -> None:
        """Announce the losses of the next `count` steps; they may still be under computation, and longer than that."""
        self._expected = terms, count

    def settle(self) -> Progress | None:
        """Wait for the losses that are expected, and add them up; the progress, unless that completes the epoch.

        Raises:
          DivergedError: a loss is NaN, infinite or too large.
        """
        if self._expected is None:
            return None
        terms, count = self._expected
        self._expected = None
        losses: Terms = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[:count], terms)
        self._check_finite(losses)
        totals: Terms = jax.tree.map(lambda leaf: leaf.sum(0), losses)
        self._sums = jax.tree.map(np.add, self._sums, totals) if self._sums else totals
        self._loss = float(sum(np.mean(value) for term in totals for value in term.values())) / count
        self.step += count
        return Progress(self.step, self._steps, self._loss, None) if self.batch else None

    def close_epoch(self, measured: Mapping[str, Metrics]) -> None:
        """Add the epoch's metrics to the history: the mean losses over its steps, and what was measured after it."""
        terms = [{name: (value / self._steps).tolist() for name, value in sorted(sums.items())} for sums in self._sums]
        losses = [np.sum(list(term.values()), 0).tolist() for term in terms]
        self.history.append({"epoch": self.epoch, "step": self.step, "losses": losses, "terms": terms, **measured})
        self._sums = ()

    def state(self, params: Params) -> State:
        """The state of the run, which has these parameters."""
        return State(params, self.step, self._sums, tuple(self.history), self._steps)

    def progress(self, params: Params) -> Progress:
        """The progress after an epoch."""
        return Progress(self.step, self._steps, self._loss, self.state(params))

    def _check_finite(self, losses: Terms) -> None:
        """Raise an error if the losses of the steps after `step` have diverged; it names the first such step."""
        wrong = [
            (int(where[0]), component, name, tuple(where))
            for component, terms in enumerate(losses)
            for name, values in sorted(terms.items())
            for where in np.argwhere(has_diverged(values))[:1]
        ]
        if not wrong:
            return
        first, component, name, (_, *member) = earliest = min(wrong)
        step, value = self.step + first, losses[component][name][earliest[-1]]
        whose = f" of seed {self._seed + int(member[0])}" if member and self._seed is not None else ""
        # The loss of the first step is that of the first weights, which no learning rate has changed yet.
        remedy = (
            "the run has diverged; lower the learning rate"
            if step
            else "the first weights do not fit these data; scale x to numbers of about 1, or check y"
        )
        raise DivergedError(
            f"component {component}: its loss {name!r}{whose} is {value:.3g} at step {step + 1} "
            f"(epoch {step // self._steps + 1}, batch {step % self._steps + 1}): {remedy}"
        )
