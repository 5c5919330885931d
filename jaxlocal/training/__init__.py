"""Training: `fit` trains and evaluates, `Session` does so in a folder and resumes; `evaluate` measures whole sets.

`fit` works chunk by chunk, where a chunk is some consecutive steps of an epoch. A feed (`feed.py`) provides the
examples of each chunk, a learner (`learner.py`) learns from it, and the account (`account.py`) adds up its losses.
"""

from jaxlocal.training.account import DivergedError
from jaxlocal.training.evaluation import accuracy, evaluate
from jaxlocal.training.learner import Learner, PipelineLearner, RuleLearner
from jaxlocal.training.loop import Result, epoch, fit
from jaxlocal.training.schedules import al_schedule
from jaxlocal.training.session import Interrupted, InUseError, NotSavedError, Session, load_state
from jaxlocal.training.state import Metrics, Progress, State, best_epoch, goodness

__all__ = [
    "DivergedError",
    "InUseError",
    "Interrupted",
    "Learner",
    "Metrics",
    "NotSavedError",
    "PipelineLearner",
    "Progress",
    "Result",
    "RuleLearner",
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
