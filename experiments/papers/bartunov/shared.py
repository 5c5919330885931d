"""What the experiments of Bartunov et al. share: the best settings of the paper's search, and rules with them.

Table 5 holds those settings. Many of them lie outside the ranges that Table 4 prints for the search: `outside_table4`
lists them. No public code of SDTP and AO-SDTP was found, so these settings can only be tried with rules of our own.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

import jaxlocal as jl
from experiments.lab.experiment import Budget
from experiments.lab.training import Steps

BATCH = 64


class Adam(NamedTuple):
    """Rate, β₁, β₂ and ε."""

    rate: float
    b1: float
    b2: float
    eps: float

    def tx(self) -> optax.GradientTransformation:
        return optax.adam(self.rate, b1=self.b1, b2=self.b2, eps=self.eps)


class Best(NamedTuple):
    """A column of Table 5."""

    forward: Adam
    inverse: Adam | None = None
    alpha: float | None = None
    noise: float | None = None

    def as_in_table4(self) -> "Best":
        """The same with β₁ = 0.9, the only value in Table 4."""
        inverse = self.inverse and self.inverse._replace(b1=0.9)
        return self._replace(forward=self.forward._replace(b1=0.9), inverse=inverse)

    def as_for_means(self, units: int) -> "Best":
        """What does with sums over the units, as in the paper's equations, what this does with means over them.

        With means all gradients are smaller by one factor. Adam does not notice it, but for its ε.
        """
        inverse = self.inverse and self.inverse._replace(eps=units * self.inverse.eps)
        return self._replace(forward=self.forward._replace(eps=units * self.forward.eps), inverse=inverse)

    def numbers(self) -> dict[str, float]:
        """Its numbers by the names of `jl.search.bartunov`."""
        numbers: dict[str, float | None] = {"alpha": self.alpha, "noise": self.noise}
        for role, adam in (("", self.forward), ("inverse_", self.inverse)):
            if adam:
                numbers |= {f"{role}lr": adam.rate, f"{role}b1": adam.b1, f"{role}b2": adam.b2, f"{role}eps": adam.eps}
        return {name: value for name, value in numbers.items() if value is not None}


# Table 5 has no column for AO-SDTP. Here AO-SDTP has the settings of SDTP.
MNIST_FC = {
    "dtp_parallel": Best(Adam(0.000757, 0.99, 0.95, 1e-3), Adam(0.000768, 0.99, 0.99, 1e-4), 0.15008, 0.36133),
    "dtp_alternating": Best(Adam(0.000308, 0.99, 0.99, 1e-4), Adam(0.004593, 0.99, 0.99, 1e-4), 0.231758, 0.220444),
    "sdtp_parallel": Best(Adam(0.000402, 0.99, 0.999, 1e-8), Adam(0.001101, 0.99, 0.99, 1e-6), noise=0.213995),
    "sdtp_alternating": Best(Adam(0.000301, 0.9, 0.95, 1e-4), Adam(0.009572, 0.9, 0.95, 1e-3), noise=0.118267),
    "fa": Best(Adam(0.000168, 0.9, 0.999, 1e-4)),
    "dfa": Best(Adam(0.001649, 0.9, 0.95, 1e-3)),
    "bp": Best(Adam(0.000152, 0.9, 0.999, 1e-8)),
}
MNIST_LC = {
    "dtp_parallel": Best(Adam(0.000905, 0.9, 0.99, 1e-4), Adam(0.001239, 0.9, 0.999, 1e-4), 0.116131, 0.099236),
    "dtp_alternating": Best(Adam(0.001481, 0.9, 0.99, 1e-4), Adam(0.000137, 0.9, 0.999, 1e-6), 0.310892, 0.366964),
    "sdtp_parallel": Best(Adam(0.000145, 0.9, 0.99, 1e-6), Adam(0.001652, 0.9, 0.999, 1e-4), noise=0.061555),
    "sdtp_alternating": Best(Adam(0.000651, 0.9, 0.99, 1e-4), Adam(0.003741, 0.9, 0.99, 1e-4), noise=0.134739),
    "fa": Best(Adam(0.000219, 0.9, 0.999, 1e-6)),
    "dfa": Best(Adam(0.002462, 0.9, 0.99, 1e-4)),
    "bp": Best(Adam(0.000133, 0.9, 0.99, 1e-8)),
    "bp_convnet": Best(Adam(0.000297, 0.9, 0.99, 1e-8)),
}
CIFAR_FC = {
    "dtp_parallel": Best(Adam(0.000012, 0.9, 0.999, 1e-8), Adam(0.000039, 0.9, 0.99, 1e-6), 0.125693, 0.169783),
    "dtp_alternating": Best(Adam(0.000013, 0.9, 0.999, 1e-8), Adam(0.000114, 0.9, 0.99, 1e-4), 0.172085, 0.134811),
    "sdtp_parallel": Best(Adam(0.000129, 0.9, 0.99, 1e-6), Adam(0.000011, 0.9, 0.99, 1e-6), noise=0.273341),
    "sdtp_alternating": Best(Adam(0.000041, 0.9, 0.99, 1e-4), Adam(0.000014, 0.9, 0.99, 1e-8), noise=0.125678),
    "fa": Best(Adam(0.000025, 0.9, 0.99, 1e-4)),
    "dfa": Best(Adam(0.000050, 0.9, 0.99, 1e-8)),
    "bp": Best(Adam(0.000019, 0.9, 0.999, 1e-6)),
}
CIFAR_LC = {
    "dtp_parallel": Best(Adam(0.000032, 0.9, 0.99, 1e-6), Adam(0.000852, 0.9, 0.999, 1e-4), 0.189828, 0.146728),
    "dtp_alternating": Best(Adam(0.000036, 0.9, 0.99, 1e-8), Adam(0.000389, 0.9, 0.999, 1e-8), 0.208141, 0.094869),
    "sdtp_parallel": Best(Adam(0.000020, 0.9, 0.99, 1e-4), Adam(0.000261, 0.9, 0.999, 1e-6), noise=0.299769),
    "sdtp_alternating": Best(Adam(0.000109, 0.9, 0.99, 1e-4), Adam(1.1e-05, 0.9, 0.99, 1e-8), noise=0.023804),
    "fa": Best(Adam(0.000022, 0.9, 0.999, 1e-8)),
    "dfa": Best(Adam(0.000040, 0.9, 0.999, 1e-8)),
    "bp": Best(Adam(0.000044, 0.9, 0.999, 1e-6)),
    "bp_convnet": Best(Adam(0.000133, 0.9, 0.99, 1e-4)),
}


Errors = tuple[float, float]  # on the training and on the test set, in percent


class Setup(NamedTuple):
    """A network on a data set, with the settings and the paper's errors of all methods."""

    data: str
    net: Callable[[], jl.Network]
    best: Mapping[str, Best]
    errors: Mapping[str, Errors | None]  # None for a row of ours
    quick: Budget | None
    convnet: Callable[[], jl.Network] | None = None  # of the method "bp_convnet"


def best(setup: Setup, method: str) -> Best:
    """The settings of a method."""
    return setup.best[method.removeprefix("ao_")]


def rule_of(method: str) -> str:
    """The name of the rule in a method such as "dtp_alternating" or "bp_convnet"."""
    return next(name for name in jl.rules.ALL if method.startswith(name))


def net_of(setup: Setup, method: str) -> Callable[[], jl.Network]:
    """The network of a method."""
    return setup.convnet if setup.convnet and method == "bp_convnet" else setup.net


def turns(method: str, steps: int) -> dict[str, Any]:
    """The setting by which inverses and forward weights take turns, after this number of steps, if they do."""
    return {"alternate": steps} if "_alternating" in method else {}


def make(setup: Setup, method: str, steps: Steps, **more: Any) -> jl.Rule:
    """The rule of a row, with more settings than Table 5 has."""
    setting = best(setup, method)
    options = turns(method, steps.epoch) | more
    if setting.inverse:
        options |= {"inverse_tx": setting.inverse.tx(), "noise": setting.noise}
    if setting.alpha:
        options |= {"alpha": setting.alpha}
    return jl.rules.ALL[rule_of(method)](net_of(setup, method)(), setting.forward.tx(), **options)


def outside_table4(bests: Mapping[str, Best]) -> dict[str, dict[str, float]]:
    """The numbers of Table 5 that Table 4's ranges do not hold, by method."""
    found = {}
    for method, setting in bests.items():
        ranges = jl.search.bartunov(rule_of(method), table4=True)
        found[method] = {name: value for name, value in setting.numbers().items() if not ranges[name].holds(value)}
    return {method: numbers for method, numbers in found.items() if numbers}


def prepared(splits: jl.data.Splits) -> jl.augmentation.Augmentation:
    """The paper's flips and crops of CIFAR; the standardisation is ours."""
    return jl.augmentation.chain(jl.augmentation.crop(4), jl.augmentation.flip(), jl.augmentation.standardise())
