"""The settings of the library's rules: a search space for each rule, and the rule that a setting stands for."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optax

from jaxlocal import checks, rules
from jaxlocal.hints import nearest
from jaxlocal.network import Network
from jaxlocal.rule import Rule
from jaxlocal.search.space import Range, choice, log_uniform, uniform

Setting = Mapping[str, Any]  # numbers by name, which are traced inside a search
Make = Callable[[Setting], Rule]

TABLE4 = {
    "lr": log_uniform(1e-5, 3e-4),
    "helper_lr": log_uniform(1e-5, 3e-4),  # of inverses, feedback and autoencoders
    "b1": choice(0.9),
    "b2": choice(0.99, 0.999),
    "eps": choice(1e-4, 1e-6, 1e-8),
    "alpha": uniform(0.01, 0.2),
    "noise": uniform(0.01, 0.3),
}
WIDENED = {
    "lr": log_uniform(1e-5, 3e-3),
    "helper_lr": log_uniform(1e-5, 1e-2),
    "b1": choice(0.9, 0.99),
    "b2": choice(0.95, 0.99, 0.999),
    "eps": choice(1e-3, 1e-4, 1e-6, 1e-8),
    "alpha": uniform(0.01, 0.35),
    "noise": uniform(0.01, 0.4),
}
HELPERS = "autoencoder_tx", "inverse_tx", "feedback_tx"  # the optimizers of feedback, inverses, encoders and decoders
OF_TARGETS = "alpha", "noise"  # the size of a target's step, and the noise that inverses learn from
ADAM = {"lr": "learning_rate", "b1": "b1", "b2": "b2", "eps": "eps"}  # our names of Adam's settings, and optax's


def bartunov(rule: str | Callable[..., Rule], *, table4: bool = False) -> dict[str, Range]:
    """The paper's search space for a rule: Table 4, widened to contain the best settings in Table 5.

    With `table4` the ranges are exactly those of Table 4, where several of the best settings cannot be found. Rates are
    drawn with all orders of magnitude equally likely; the paper does not say how it drew them.

    The widened space goes beyond Table 4 in these places, with the table's limit and the best setting of a rule in
    brackets: the learning rate of the forward weights up to 3e-3 (3e-4; DFA 0.0025) and of the inverses up to 1e-2
    (3e-4; SDTP 0.0096), β₁ 0.99 besides 0.9 (fixed; DTP), β₂ 0.95 (0.99; DTP), ε 1e-3 (1e-4; DFA), α up to 0.35 (0.2;
    DTP 0.31), and σ, here `noise`, up to 0.4 (0.3; DTP 0.37).

    "lr", "b1", "b2" and "eps" belong to Adam for the forward weights; with "inverse_" in front, to Adam for the
    inverses. They are drawn first, so that with the same seed every rule gets the same ones, trial by trial. Helpers
    that the paper did not search have the inverses' ranges: "autoencoder_" in `al`, "feedback_" in `kp` and `dkp`.

    Example:
      >>> list(jl.search.bartunov("fa"))
      ['lr', 'b1', 'b2', 'eps']

    Reference:
      Bartunov et al. 2018, section 5.3.
    """
    ranges = TABLE4 if table4 else WIDENED
    space = {name: ranges[name] for name in ADAM}
    for helper in (name.removesuffix("tx") for name in those_of(rule, HELPERS)):
        space |= {helper + name: ranges["helper_lr" if name == "lr" else name] for name in ADAM}
    return space | {name: ranges[name] for name in those_of(rule, OF_TARGETS)}


def maker(
    rule: str | Callable[..., Rule],
    net: Network,
    *,
    schedule: Callable[[Any], Any] = lambda rate: rate,
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam,
    **fixed: Any,
) -> Make:
    """The function that makes the rule of a setting, for `search`. The setting has names as in `bartunov`.

    Args:
      rule: the name of a rule, or a function that makes one, as those in `jl.rules`.
      net: the network.
      schedule: makes what the optimizer takes of each rate, such as
        `lambda rate: optax.cosine_decay_schedule(rate, steps)`.
      optimizer: makes an optimizer of a rate and, if the setting has them, of b1, b2 and eps.
      **fixed: the rule's arguments that are not searched.

    Example:
      >>> make = jl.search.maker("dtp", jl.models.mlp(hidden=(16, 16)), alternate=10)
      >>> rule = make({"lr": 1e-3, "b1": 0.9, "inverse_lr": 3e-3, "alpha": 0.1})
    """
    build = named(rule)

    def make(setting: Setting) -> Rule:
        others, optimizers = dict(setting), {}
        for role in [name.removesuffix("lr") for name in setting if name == "lr" or name.endswith("_lr")]:
            given = {theirs: others.pop(role + ours) for ours, theirs in ADAM.items() if role + ours in others}
            rate = schedule(given.pop("learning_rate"))
            optimizers[f"{role}tx"] = optimizer(rate, **given)
        tx = [optimizers.pop("tx")] if "tx" in optimizers else []  # a rule may call it by another name
        return build(net, *tx, **optimizers, **others, **fixed)

    return make


def those_of(rule: str | Callable[..., Rule], names: Iterable[str]) -> list[str]:
    """Those of these arguments that the rule has."""
    parameters = inspect.signature(named(rule)).parameters
    return [name for name in names if name in parameters]


def named(rule: str | Callable[..., Rule]) -> Callable[..., Rule]:
    """The function that makes a rule, found by its name; or the function itself."""
    if callable(rule):
        return rule
    if rule not in rules.ALL:
        raise ValueError(f"rule={checks.show(rule)}: there is no such rule; {nearest(str(rule), rules.ALL)}")
    return rules.ALL[rule]
