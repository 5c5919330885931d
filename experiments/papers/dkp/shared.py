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
    """A row of the tables."""

    make: Make  # its rule, of a network, the optimizer of the forward weights, the decay λ, and the length of the run
    feedback: str = ""  # how its feedback learns, in words; empty if it does not

    def in_words(self, net: str, optimizer: str, decay: float | str, preparation: str) -> dict[str, str]:
        """Its settings for a reader."""
        settings = {"net": net, "optimizer": f"{optimizer}; decay {decay}", "preparation": preparation}
        return settings | ({"feedback": f"{self.feedback}; decay {decay}"} if self.feedback else {})


def unlearned(rule: Callable[..., jl.Rule], **settings: Any) -> Recipe:
    """A row without feedback, or with feedback that does not learn: only the forward weights decay."""
    return Recipe(lambda net, tx, decay, steps: rule(net, decayed(tx, decay), **settings))


def recipes(convolutions: Set[int], dkp: Recipe) -> dict[str, Recipe]:
    """The paper's seven rows; each table has its own settings for `dkp`."""
    return {
        "bp_fc": unlearned(jl.rules.bp, frozen=convolutions),  # the convolutions stay at their random start
        "bp": unlearned(jl.rules.bp),
        "kp": Recipe(
            lambda net, tx, decay, steps: jl.rules.kp(net, tx, decay=decay), "the moves of the forward weights"
        ),
        "fa": unlearned(jl.rules.fa),
        "drtp": unlearned(jl.rules.drtp),
        "dfa": unlearned(jl.rules.dfa),
        "dkp": dkp,
    }
