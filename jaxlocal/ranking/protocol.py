"""The protocol: a rule's search, its trainings from other seeds, and the measurement of these."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlocal import checks, search, training
from jaxlocal.data import SPLITS, Pairs, Splits, floats
from jaxlocal.data.checking import check_is_splits, check_pair
from jaxlocal.files import write_whole
from jaxlocal.network import Network
from jaxlocal.ranking.workloads import Workload
from jaxlocal.rule import Params, Rule
from jaxlocal.rules import bp
from jaxlocal.search import Range, Trial, log_uniform
from jaxlocal.search.fingerprint import digest
from jaxlocal.search.rule_settings import HELPERS, OF_TARGETS, WIDENED, Setting, those_of
from jaxlocal.search.run import trained
from jaxlocal.text import plural
from jaxlocal.training.feed import check_batch_size
from jaxlocal.weights import get_weights, set_weights

RATES = log_uniform(1e-4, 1e-2)
Say = Callable[[str], None]


class Entry(NamedTuple):
    """What a rule reached on a workload."""

    rule: str
    setting: dict[str, float]  # the one that was best on the validation set
    accuracies: dict[str, list[float]]  # on the training, validation and test sets, for each seed
    trials: list[Trial]
    seconds: float


def space(rule: str | Callable[..., Rule]) -> dict[str, Range]:
    """The settings that are searched, by name: rates, and the step and the noise of a rule that has them.

    Example:
      >>> list(jl.ranking.space("dtp"))
      ['lr', 'inverse_lr', 'alpha', 'noise']
    """
    rates = ["lr", *(helper.removesuffix("tx") + "lr" for helper in those_of(rule, HELPERS))]
    return dict.fromkeys(rates, RATES) | {name: WIDENED[name] for name in those_of(rule, OF_TARGETS)}


def enter(
    rule: str | Callable[..., Rule],
    workload: Workload,
    *,
    trials: int = 8,
    seeds: int = 5,
    data: Splits | None = None,
    folder: Path | str | None = None,
    name: str | None = None,
    say: Say = lambda line: None,
) -> Entry:
    """Search a rule's settings, train the best one from each seed, and measure it.

    Args:
      rule: the name of a rule, or a function that makes one, as those in `jl.rules`: called with the network, `tx`, and
        `inverse_tx`, `feedback_tx` or `autoencoder_tx`, `alpha` and `noise` if it has arguments of these names.
      workload: what it learns.
      trials: the number of settings that are searched, with seed 0.
      seeds: the number of trainings with the best one. They have the seeds 1, 2 and so on.
      data: the examples, if they are loaded already.
      folder: where finished trials and trainings are kept; the same call resumes from there.
      name: what the table calls the rule; by default its own name.
      say: called with a line after the search and after each training.

    Returns:
      What the rule reached.

    Raises:
      ValueError: the network cannot have this rule, or all settings diverged.

    Example:
      >>> workload = jl.ranking.WORKLOADS["digits"]._replace(epochs=1)
      >>> entry = jl.ranking.enter("dfa", workload, trials=1, seeds=1)
      >>> len(entry.accuracies["test"])
      1
    """
    checks.positive_int("trials", trials)
    checks.positive_int("seeds", seeds)
    name = name or _name(rule)
    if not isinstance(workload, Workload):
        raise TypeError(f"workload={checks.show(workload)}: must be a Workload, such as jl.ranking.WORKLOADS['digits']")
    began = time.perf_counter()
    folder = None if folder is None else checks.path("folder", folder)
    for part, example in (("net", "lambda: jl.models.mlp((64, 64))"), ("load", "jl.data.digits")):
        if not callable(found := getattr(workload, part)):
            raise TypeError(f"workload.{part}={checks.show(found)}: must be a function, such as {example}")
    data = workload.load() if data is None else data
    net = workload.net()
    if not isinstance(net, Network):
        raise TypeError(f"workload.net: returns {checks.show(net)}, but must return a jl.Network")
    check_is_splits(data)
    check_pair("data.test", data.test)  # now, and not after the search, which checks the other parts
    if not net.loss.of_classes:
        raise ValueError("workload: its network's loss is for real targets, and rules are ranked by accuracy")
    check_batch_size(workload.batch_size, len(data.train[0]))
    steps = workload.epochs * (len(data.train[0]) // workload.batch_size)
    make = search.maker(rule, net, schedule=lambda rate: optax.cosine_decay_schedule(rate, steps))
    tried = search.search(
        make,
        search.draw(space(rule), trials),
        data,
        epochs=workload.epochs,
        batch_size=workload.batch_size,
        group=1,  # with many at once, convolutions take far longer on a CPU
        folder=folder and folder / "search",
    )
    setting = search.best(tried).setting
    say(f"{name}: of {plural(trials, 'setting')} the best on validation has {in_words(setting)}")
    kept = _Kept(folder and folder / "seeds.json", setting, digest(*data.test)[:16])
    measured = _measured(make(setting), workload, data, seeds, kept, say, began)
    accuracies = {split: [of_seed[split] for of_seed in measured] for split in SPLITS}
    return Entry(name, setting, accuracies, tried, sum(of_seed["seconds"] for of_seed in measured))


def _name(rule: str | Callable[..., Rule]) -> str:
    name = rule if isinstance(rule, str) else getattr(rule, "__name__", None)
    if name is None:
        raise TypeError(f"rule={checks.show(rule)}: has no name for the table; define it as a function with def")
    return name


def in_words(setting: Setting) -> str:
    """The numbers of a setting, by name."""
    return ", ".join(f"{name} {value:.2g}" for name, value in setting.items())


class _Kept(NamedTuple):
    """The file of the accuracies that are measured already, if there is one.

    Those of another setting or on another test set do not count.
    """

    file: Path | None
    setting: dict[str, float]
    test: str  # the fingerprint of the test set

    def read(self) -> list[dict[str, float]]:
        if self.file is None or not self.file.exists():
            return []
        try:
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            same = (kept["setting"], kept["test"]) == (self.setting, self.test)
            seeds = [{name: float(one[name]) for name in (*SPLITS, "seconds")} for one in kept["seeds"]]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{str(self.file)!r} is damaged; remove it") from None
        return seeds if same else []

    def write(self, seeds: list[dict[str, float]]) -> None:
        if self.file is not None:
            kept = {"setting": self.setting, "test": self.test, "seeds": seeds}
            write_whole(self.file, json.dumps(kept, indent=2) + "\n")


def _measured(
    rule: Rule, workload: Workload, data: Splits, seeds: int, kept: _Kept, say: Say, began: float
) -> list[dict[str, float]]:
    """The accuracies of each seed on the training, validation and test sets, and the seconds since the one before.

    Those of the first seed count from `began`, so that they hold the search, too.
    """
    train = jax.tree.map(jnp.asarray, floats(data.train))
    baseline = bp(rule.net, optax.sgd(0.0))
    init, init_baseline = jax.jit(rule.init), jax.jit(baseline.init)
    measured = kept.read()[:seeds]
    for seed in range(len(measured) + 1, seeds + 1):
        init_key, order_key = jax.random.split(jax.random.key(seed))
        shared = get_weights(baseline, init_baseline(init_key, train))
        params = with_forward_weights(rule, init(init_key, train), shared)
        params = trained(rule, params, train, order_key, epochs=workload.epochs, batch_size=workload.batch_size)
        parts = zip(SPLITS, data, strict=True)
        accuracies = {split: _accuracy(rule, params, pair) for split, pair in parts}
        ended = time.perf_counter()
        measured.append({**accuracies, "seconds": ended - began})
        began = ended
        kept.write(measured)
        say(f"seed {seed}: test {100 * measured[-1]['test']:.2f} %")
    return measured


def with_forward_weights(rule: Rule, params: Params, shared: Mapping[str, np.ndarray]) -> Params:
    """The parameters with these forward weights of backpropagation, as far as the rule has such weights.

    The first block of `ff` also reads the label, so it has a kernel of its own.
    """
    shapes = {name: weight.shape for name, weight in get_weights(rule, params).items()}
    return set_weights(rule, params, {name: w for name, w in shared.items() if shapes.get(name) == w.shape})


def _accuracy(rule: Rule, params: Params, pair: Pairs) -> float:
    accuracy = training.evaluate(rule, params, pair)["accuracy"]
    assert isinstance(accuracy, float)
    return accuracy
