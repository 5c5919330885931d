"""What a run is between two steps, and what is known of it after each epoch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlocal.rule import Params
from jaxlocal.text import measurement

Metrics = dict[str, Any]  # of one epoch, as in metrics.jsonl; with an ensemble each number is a list over its members
Terms = tuple[dict[str, Any], ...]  # for each component the terms of its loss, by name


class State(NamedTuple):
    """All that a run is between two steps: `fit` continues from it as if it had never stopped."""

    params: Params  # the rule's own, also for a pipeline
    step: int  # the number of steps trained so far
    sums: Terms  # the sum of each loss over the steps of the current epoch so far
    history: tuple[Metrics, ...]  # of the epochs that are complete
    steps: int = 0  # of one epoch; 0 if that is not known

    def __repr__(self) -> str:
        """How far it is, in place of all numbers."""
        last = f", validation {measurement(self.history[-1]['validation'])}" if self.history else ""
        return f"State(step {self.step}, epoch {len(self.history)}{last})"


class Progress(NamedTuple):
    """What `fit` reports to `watch` after some steps, and after every epoch."""

    step: int
    steps: int  # of one epoch
    loss: float  # the sum of all components' losses, averaged over the last steps
    state: State | None  # after the last step of an epoch; the next step overwrites its arrays, so keep a copy


def goodness(metrics: Metrics) -> float:
    """How good an epoch is, higher is better: the accuracy on the validation set, or minus the loss without classes.

    For an ensemble, the mean over its members.
    """
    measured = metrics["validation"]
    value = float(np.mean(measured["accuracy"] if "accuracy" in measured else np.negative(measured["loss"])))
    return value if np.isfinite(value) else -float("inf")


def best_epoch(history: Sequence[Metrics]) -> int:
    """The number of the best epoch on the validation set; of equally good ones, the first."""
    return max(history, key=goodness)["epoch"]


def out_of_patience(history: Sequence[Metrics], patience: int | None) -> bool:
    """Whether the last `patience` epochs are all no better than one before them."""
    return patience is not None and bool(history) and history[-1]["epoch"] - best_epoch(history) >= patience
