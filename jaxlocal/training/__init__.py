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
from jaxlocal.training.session import Interrupted, NotSavedError, Session, load_state

__all__ = [
    "DivergedError",
    "Interrupted",
    "NotSavedError",
    "Progress",
    "Result",
    "Row",
    "Session",
    "State",
    "accuracy",
    "al_schedule",
    "best_epoch",
    "epoch",
    "evaluate",
    "fit",
    "goodness",
    "load_state",
]
