"""Training: epochs as compiled programs, whole sets evaluated, runs that can stop at any step and resume."""

from jaxlocal.training.loop import (
    DivergedError,
    Progress,
    Result,
    Row,
    State,
    accuracy,
    al_schedule,
    best_epoch,
    epoch,
    evaluate,
    fit,
    goodness,
)

__all__ = [
    "DivergedError",
    "Progress",
    "Result",
    "Row",
    "State",
    "accuracy",
    "al_schedule",
    "best_epoch",
    "epoch",
    "evaluate",
    "fit",
    "goodness",
]
