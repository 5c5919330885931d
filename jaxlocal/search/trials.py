"""Trials: what was measured for each setting, the best of them, and a table."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxlocal.text import aligned


class Trial(NamedTuple):
    """The measurements of one setting."""

    setting: dict[str, float]
    accuracies: tuple[float, ...]  # on the validation set after each epoch; 0 once the run has diverged
    loss: float | None  # mean over the last epoch of the sum of the local losses; None if the run has diverged
    losses: tuple[float, ...] = ()  # on the validation set after each epoch, if the targets are real numbers

    @property
    def accuracy(self) -> float:
        """The accuracy after the last epoch; real targets have none, and it is 0."""
        return self.accuracies[-1]

    @property
    def goodness(self) -> float:
        """By which settings are compared, higher is better: the accuracy or, for real targets, minus the loss."""
        return -self.losses[-1] if self.losses else self.accuracy

    @property
    def diverged(self) -> bool:
        """Whether a loss became NaN, infinite or far too large."""
        return self.loss is None


def best(trials: Sequence[Trial]) -> Trial:
    """The trial that is best on the validation set; the first one if several are equal."""
    sound = [trial for trial in trials if not trial.diverged]
    if not sound:
        raise ValueError(f"trials: all {len(trials)} of them diverged; search lower learning rates")
    return max(sound, key=lambda trial: trial.goodness)


def table(trials: Sequence[Trial], top: int = 10) -> str:
    """The best trials as aligned text, the best one first.

    Example:
      >>> print(jl.search.table([jl.search.Trial({"lr": 0.1}, (0.5, 0.75), 0.25)]))
      trial  validation %  loss   lr
      -----  ------------  ----  ---
          0         75.00  0.25  0.1
    """
    order = sorted(range(len(trials)), key=lambda i: (trials[i].diverged, -trials[i].goodness))[:top]
    measure = "validation loss" if trials and trials[0].losses else "validation %"
    rows = [["trial", measure, "loss", *(trials[0].setting if trials else ())]]
    for i in order:
        trial = trials[i]
        loss = "diverged" if trial.loss is None else f"{trial.loss:.4g}"
        measured = f"{trial.losses[-1]:.4g}" if trial.losses else f"{100 * trial.accuracy:.2f}"
        rows.append([str(i), measured, loss, *(f"{n:.3g}" for n in trial.setting.values())])
    return aligned(rows)
