"""What the experiments of the direct Kolen-Pollack paper share: its optimizer, its rows, and its settings for conv2."""

from collections.abc import Callable, Set
from typing import Any, NamedTuple

import optax

import jaxlocal as jl
from experiments.lab.training import Steps
from jaxlocal.decay import decayed

RATE, FEEDBACK_RATE, DECAY = 1e-2, 1e-4, 1e-6  # of the 2-conv net
Make = Callable[[jl.Network, optax.GradientTransformation, float, Steps], jl.Rule]


def sgd(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum, as everywhere in the paper."""
    return optax.sgd(rate, momentum=0.9, nesterov=True)


def sgd_in_words(rate: float | str) -> str:
    """The same for a reader."""
    return f"sgd({rate}, momentum 0.9, nesterov)"


class Recipe(NamedTuple):
    """How a rule is made for a row of the tables."""

    make: Make  # of a network, the optimizer of the forward weights without their decay, λ, and the length of the run
    feedback: str = ""  # how its feedback learns, in words; empty if it does not

    def in_words(self, net: str, optimizer: str, decay: float | str, preparation: str) -> dict[str, str]:
        """Its settings for a reader."""
        settings = {"net": net, "optimizer": f"{optimizer}; decay {decay}", "preparation": preparation}
        return settings | ({"feedback": f"{self.feedback}; decay {decay}"} if self.feedback else {})


def with_decay(rule: Callable[..., jl.Rule], **settings: Any) -> Recipe:
    """A rule without feedback, or with feedback that does not learn: its forward weights decay."""
    return Recipe(lambda net, tx, decay, steps: rule(net, decayed(tx, decay), **settings))


def recipes(convolutions: Set[int], dkp: Recipe) -> dict[str, Recipe]:
    """The paper's seven rows; each table has its own settings for `dkp`."""
    return {
        "bp_fc": with_decay(jl.rules.bp, frozen=convolutions),  # the convolutions stay at their random start
        "bp": with_decay(jl.rules.bp),
        "kp": Recipe(
            lambda net, tx, decay, steps: jl.rules.kp(net, tx, decay=decay), "the moves of the forward weights"
        ),
        "fa": with_decay(jl.rules.fa),
        "drtp": with_decay(jl.rules.drtp),
        "dfa": with_decay(jl.rules.dfa),
        "dkp": dkp,
    }
