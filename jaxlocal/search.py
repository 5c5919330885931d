"""Random search over a rule's settings: many settings in one compiled program, chosen on the validation set alone.

net = jl.models.mlp(hidden=(64, 64))
settings = jl.search.draw(jl.search.bartunov("dtp"), trials=60)
trials = jl.search.search(jl.search.maker("dtp", net), settings, data, epochs=20, batch_size=32, folder="dtp")
print(jl.search.table(trials))
"""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlocal import checks, rules, training
from jaxlocal.data import Splits, floats
from jaxlocal.files import write_whole
from jaxlocal.network import Network
from jaxlocal.rule import Batch, Params, Rule
from jaxlocal.text import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Setting = Mapping[str, Any]  # numbers by name; traced ones inside a search
Make = Callable[[Setting], Rule]
Report = Callable[[int, int, float], None]  # trials done, epoch of the group at work, best validation accuracy so far


class Range(NamedTuple):
    """The values that one setting may take; made by `uniform`, `log_uniform` or `choice`."""

    kind: str
    values: tuple[float, ...]  # the two ends, or the choices

    def draw(self, rng: np.random.Generator) -> float:
        """One of them."""
        if self.kind == "choice":
            return float(rng.choice(self.values))
        low, high = self.values
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _ends(low: float, high: float) -> tuple[float, float]:
    if not (_is_number(low) and _is_number(high) and low <= high):
        raise ValueError(f"low={low!r}, high={high!r}: must be numbers, the lower one first")
    return float(low), float(high)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def uniform(low: float, high: float) -> Range:
    """Any number from low to high, each as likely."""
    return Range("uniform", _ends(low, high))


def log_uniform(low: float, high: float) -> Range:
    """Any number from low to high, each order of magnitude as likely."""
    checks.positive("low", low)
    return Range("log_uniform", _ends(low, high))


def choice(*values: float) -> Range:
    """One of these numbers."""
    if not values or not all(_is_number(value) for value in values):
        raise TypeError(f"values={checks.show(values)}: must be one number or more, such as choice(0.9, 0.99)")
    return Range("choice", tuple(map(float, values)))


BARTUNOV = {
    "lr": log_uniform(1e-5, 3e-3),
    "b1": choice(0.9, 0.99),
    "b2": choice(0.95, 0.99, 0.999),
    "eps": choice(1e-3, 1e-4, 1e-6, 1e-8),
    "alpha": uniform(0.01, 0.35),
    "noise": uniform(0.01, 0.4),
}


def bartunov(rule: str) -> dict[str, Range]:
    """The paper's search space for a rule: Table 4, made as wide as the best settings in Table 5 lie.

    These go beyond Table 4, where it ends at: the learning rate of the forward weights to 3e-3 (3e-4; best for DFA
    0.0025), that of the inverses to 1e-2 (3e-4; SDTP 0.0096), β₁ 0.99 beside 0.9 (fixed; DTP), β₂ 0.95 (0.99; DTP), ε
    1e-3 (1e-4; DFA), α to 0.35 (0.2; DTP 0.31), σ, here `noise`, to 0.4 (0.3; DTP 0.37).

    "lr", "b1", "b2" and "eps" are those of Adam for the forward weights; with "inverse_" in front, for the inverses.
    They are drawn first: with the same seed all rules have the same ones, trial by trial.
    What the paper did not search is given the inverses' ranges: "autoencoder_" in `al`, "feedback_" in `kp`, `dkp`.

    Example:
      >>> list(jl.search.bartunov("fa"))
      ['lr', 'b1', 'b2', 'eps']

    Reference:
      Bartunov et al. 2018, section 5.3.
    """
    known = inspect.signature(_named(rule)).parameters
    space = {name: BARTUNOV[name] for name in ("lr", "b1", "b2", "eps")}
    for helper in (name.removesuffix("tx") for name in known if name.endswith("_tx")):
        helper_space = {**space, "lr": log_uniform(1e-5, 1e-2)}
        space |= {helper + name: helper_space[name] for name in ("lr", "b1", "b2", "eps")}
    return space | {name: BARTUNOV[name] for name in ("alpha", "noise") if name in known}


def maker(rule: str, net: Network, **fixed: Any) -> Make:
    """How `search` makes a rule of a setting in the names of `bartunov`: Adam for each role, the rest as it stands.

    Example:
      >>> make = jl.search.maker("dtp", jl.models.mlp(hidden=(16, 16)), alternate=10)
      >>> rule = make({"lr": 1e-3, "b1": 0.9, "inverse_lr": 3e-3, "alpha": 0.1})
    """
    build = _named(rule)

    def make(setting: Setting) -> Rule:
        others, txs = dict(setting), {}
        for role in [name.removesuffix("lr") for name in setting if name == "lr" or name.endswith("_lr")]:
            names = {"learning_rate": "lr", "b1": "b1", "b2": "b2", "eps": "eps"}
            given = {adams: others.pop(role + ours) for adams, ours in names.items() if role + ours in others}
            txs[role + "tx"] = optax.adam(**given)
        return build(net, **txs, **others, **fixed)

    return make


def draw(space: Mapping[str, Range], trials: int, seed: int = 0) -> list[dict[str, float]]:
    """Settings drawn at random; the i-th depends on the seed and on i alone, so that more trials extend a search.

    Example:
      >>> space = {"lr": jl.search.log_uniform(1e-4, 1e-2), "noise": jl.search.choice(0.1, 0.2)}
      >>> jl.search.draw(space, 3) == jl.search.draw(space, 5)[:3]
      True
    """
    checks.positive_int("trials", trials)
    for name, values in space.items():
        if not isinstance(values, Range):
            raise TypeError(f"space[{name!r}]={checks.show(values)}: must be a range, such as choice({values!r})")
    generators = (np.random.default_rng([seed, i]) for i in range(trials))
    return [{name: values.draw(rng) for name, values in space.items()} for rng in generators]


class Trial(NamedTuple):
    """What came of one setting."""

    setting: dict[str, float]
    accuracies: tuple[float, ...]  # on the validation set, after each epoch; 0 from where the loss is not finite
    loss: float | None  # the local losses' sum, its mean over the last epoch; None if it ever was not finite

    @property
    def accuracy(self) -> float:
        """The last one: what the setting is judged by."""
        return self.accuracies[-1]

    @property
    def diverged(self) -> bool:
        """Whether its loss went to NaN or infinity."""
        return self.loss is None


def search(
    make: Make,
    settings: Sequence[Setting],
    data: Splits,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    group: int = 10,
    folder: Path | str | None = None,
    report: Report | None = None,
) -> list[Trial]:
    """Train with each of the settings and measure it on the validation set; the test set is not looked at.

    All settings begin with the same weights and see the same examples in the same order, with the same noise.

    Args:
      make: makes the rule of a setting, whose numbers are traced: it can compute with them, but not branch on them.
      settings: dicts of numbers with the same names, as `draw` makes them.
      data: what to train and to validate on.
      epochs: how often each trial passes over the training set.
      batch_size: examples a step.
      seed: of the weights, the order and the noise.
      group: how many settings are trained at once, by one program. It changes results by rounding at most.
      folder: where finished groups are kept; a search that was cut off goes on from there.
      report: called after each epoch of a group, as report(trials done, epoch, best validation accuracy so far).

    Returns:
      A trial for each setting, in order.

    Example:
      >>> make = jl.search.maker("bp", jl.models.mlp(hidden=(16,)))
      >>> settings = [{"lr": 1e-6}, {"lr": 1e-2}]
      >>> trials = jl.search.search(make, settings, jl.data.digits(), epochs=1, batch_size=32)
      >>> jl.search.best(trials).setting
      {'lr': 0.01}

    Reference:
      Bartunov et al. 2018, section 5.3.
    """
    for name, value in {"epochs": epochs, "batch_size": batch_size, "group": group}.items():
        checks.positive_int(name, value)
    checks.callables(make=make, report=report)
    settings = _plain(settings)
    train, validation = (jax.tree.map(jnp.asarray, floats(pair)) for pair in (data.train, data.validation))
    for pair in (train, validation):
        checks.batch(pair)
    size = min(group, len(settings))
    init_key, order_key = jax.random.split(jax.random.key(seed))

    # The plain function: a rule that holds tracers must not enter the cache of a jit, which would keep them.
    run_epoch = inspect.unwrap(training.epoch)

    def start(setting: Setting, train: Batch) -> Params:
        return _made(make, setting).init(init_key, train)

    def learn(setting: Setting, params: Params, key: jax.Array, train: Batch, validation: Batch) -> Any:
        rule = _made(make, setting)
        params, info = run_epoch(rule, params, train, key, batch_size)
        return params, jnp.mean(jnp.sum(info.losses, 1)), _hits(rule, params, validation, batch_size)

    trials = []
    if folder is not None:
        numbers = _stacked(settings[:1], ())
        params = jax.eval_shape(start, numbers, train)
        program = jax.make_jaxpr(learn)(numbers, params, order_key, train, validation)
        plan: dict[str, int | str] = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
        plan |= {"data": _digest(*map(np.asarray, (*train, *validation))), "make": _fingerprint(program)}
        trials = _resume(Path(folder), plan, settings)
    for setting in settings[len(trials) :]:  # a bad one is refused at once: traced numbers are not checked
        _made(make, setting)

    start_all = jax.jit(jax.vmap(start, in_axes=(0, None)))
    learn_all = jax.jit(jax.vmap(learn, in_axes=(0, 0, None, None, None)), donate_argnums=1)
    for first in range(len(trials), len(settings), size):
        some = settings[first : first + size]
        numbers = _stacked([*some, *[some[-1]] * (size - len(some))], (size,))  # filled up, to be the same program
        params = start_all(numbers, train)
        losses, finite, curves = np.zeros(size), np.ones(size, bool), []
        for epoch in range(epochs):
            key = jax.random.fold_in(order_key, epoch)
            params, losses, hits = learn_all(numbers, params, key, train, validation)
            finite &= np.isfinite(losses)
            curves.append(np.where(finite, hits, 0) / len(validation[0]))
            if report:
                report(first, epoch + 1, max([*(trial.accuracy for trial in trials), float(curves[-1].max())]))
        for setting, loss, ok, curve in zip(some, losses, finite, zip(*curves, strict=True), strict=False):
            trials.append(Trial(setting, tuple(map(float, curve)), float(loss) if ok else None))
        if folder is not None:
            write_whole(Path(folder) / "trials.jsonl", "".join(json.dumps(trial._asdict()) + "\n" for trial in trials))
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest validation accuracy; the first of equals."""
    sound = [trial for trial in trials if not trial.diverged]
    if not sound:
        raise ValueError(f"trials: all {len(trials)} of them diverged; search lower learning rates")
    return max(sound, key=lambda trial: trial.accuracy)


def on_test(make: Make, setting: Setting, data: Splits, *, epochs: int, batch_size: int, seed: int = 0) -> float:
    """The test accuracy of one setting, trained anew as `search` does: for the winner, and only once.

    Example:
      >>> make = jl.search.maker("bp", jl.models.mlp(hidden=(16,)))
      >>> jl.search.on_test(make, {"lr": 1e-2}, jl.data.digits(), epochs=3, batch_size=32) > 0.9
      True
    """
    rule, train = _made(make, setting), jax.tree.map(jnp.asarray, floats(data.train))
    init_key, order_key = jax.random.split(jax.random.key(seed))
    params = jax.jit(rule.init)(init_key, train)
    for epoch in range(epochs):
        params, _ = training.epoch(rule, params, train, jax.random.fold_in(order_key, epoch), batch_size)
    return float(training.accuracy(rule, params, floats(data.test)))


def table(trials: Sequence[Trial], top: int = 10) -> str:
    """The best trials as aligned text, the best one first.

    Example:
      >>> print(jl.search.table([jl.search.Trial({"lr": 0.1}, (0.5, 0.75), 0.25)]))
      trial  validation %  loss   lr
      -----  ------------  ----  ---
          0         75.00  0.25  0.1
    """
    order = sorted(range(len(trials)), key=lambda i: (trials[i].diverged, -trials[i].accuracy))[:top]
    header = ["trial", "validation %", "loss", *(trials[0].setting if trials else ())]
    lines = [header]
    for i in order:
        loss = "diverged" if trials[i].loss is None else f"{trials[i].loss:.4g}"
        numbers = (f"{value:.3g}" for value in trials[i].setting.values())
        lines.append([str(i), f"{100 * trials[i].accuracy:.2f}", loss, *numbers])
    return aligned(lines)


def histograms(results: Mapping[str, Sequence[Trial]]) -> "Figure":
    """How the validation accuracy is distributed over the settings, as in the paper's Figure 5: a histogram a rule.

    A rule that is robust has its settings close together on the right. Those that diverged are red, at 0 %.

    Example:
      >>> trials = [jl.search.Trial({"lr": 0.1}, (0.5, 0.75), 0.25)]
      >>> jl.search.histograms({"bp": trials, "dtp": trials}).axes[-1].get_xlabel()
      'validation accuracy, %'

    Reference:
      Bartunov et al. 2018, Figure 5.
    """
    from matplotlib.figure import Figure  # slow to import, and not needed by the library itself
    from matplotlib.ticker import MaxNLocator

    if not results or not all(results.values()):
        raise ValueError(f"results={checks.show(results)}: must hold the trials of one rule or more, by name")
    figure = Figure(figsize=(6, 0.8 + 1.2 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (name, trials) in zip(axes, results.items(), strict=True):
        sound, diverged = ([100 * t.accuracy for t in trials if t.diverged == d] for d in (False, True))
        median, highest = np.median(sound + diverged), max(sound + diverged)
        axis.hist([sound, diverged], np.linspace(0, 100, 26), stacked=True, color=["tab:blue", "tab:red"], rwidth=0.9)
        axis.set_title(f"{name}: best {highest:.1f} %, median {median:.1f} %, {len(diverged)} diverged", fontsize=10)
        axis.set_xlim(0, 100)
        axis.set_ylabel("settings")
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("validation accuracy, %")
    return figure


def _named(rule: str) -> Callable[..., Rule]:
    if rule not in rules.ALL:
        raise ValueError(f"rule={rule!r}: is not the name of a rule; the rules are {', '.join(rules.ALL)}")
    return rules.ALL[rule]


def _plain(settings: Sequence[Setting]) -> list[dict[str, float]]:
    """The settings as dicts of Python's floats, if they are that."""
    if not isinstance(settings, Sequence) or not settings:
        raise TypeError(f"settings={checks.show(settings)}: must be a list of dicts, as draw(space, trials) makes it")
    for i, setting in enumerate(settings):
        if not isinstance(setting, Mapping) or not all(map(_is_number, setting.values())):
            raise TypeError(
                f"settings[{i}]={checks.show(setting)}: must be a dict of finite numbers; give make what is no number"
            )
        if setting.keys() != settings[0].keys():
            raise ValueError(
                f"settings[{i}]={checks.show(setting)}: must have the names of settings[0], "
                f"{', '.join(settings[0])}; search other names apart"
            )
    return [{name: float(value) for name, value in setting.items()} for setting in settings]


def _made(make: Make, setting: Setting) -> Rule:
    try:
        rule = make(setting)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise TypeError(
            "make: branches on a number of its setting, or takes it for a size, but settings are traced, to be trained "
            "at once; search each such value apart"
        ) from error
    if not isinstance(rule, Rule):
        raise TypeError(f"make: returned {checks.show(rule)}; it must return a rule, such as jl.rules.bp(net, tx)")
    return rule


def _hits(rule: Rule, params: Params, data: Batch, piece: int) -> jax.Array:
    """How many examples are classified right; some at a time, for the memory that many settings take together."""

    def right(pair: Batch) -> jax.Array:
        x, y = pair
        return jnp.sum(jnp.argmax(rule.predict(params, x), -1) == jnp.argmax(y, -1))

    count = len(data[0])
    whole = count - count % piece
    pieces = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, piece, *leaf.shape[1:]), data)
    hits = jnp.sum(jax.lax.map(right, pieces))
    if whole < count:
        hits += right(jax.tree.map(lambda leaf: leaf[whole:], data))
    return hits


def _stacked(settings: Sequence[dict[str, float]], shape: tuple[int, ...]) -> dict[str, jax.Array]:
    columns = {name: [setting[name] for setting in settings] for name in settings[0]}
    return {name: jnp.asarray(column).reshape(shape) for name, column in columns.items()}


def _resume(folder: Path, plan: dict[str, Any], settings: Sequence[dict[str, float]]) -> list[Trial]:
    """The trials that the folder holds of this very search."""
    kept, finished = folder / "search.json", folder / "trials.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        write_whole(kept, json.dumps(plan, indent=2) + "\n")
    started = json.loads(kept.read_text())
    lines = finished.read_text().splitlines() if finished.exists() else []
    trials = [Trial(line["setting"], tuple(line["accuracies"]), line["loss"]) for line in map(json.loads, lines)]
    others = [name for name, value in plan.items() if started[name] != value]
    if any(trial.setting != setting for trial, setting in zip(trials, settings, strict=False)):
        others.append("settings")
    if others:  # the first of them: the program that make leads to has the shapes of batches and data in it
        raise ValueError(f"folder={str(folder)!r}: holds a search with other {others[0]}; take another folder")
    return trials[: len(settings)]


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _fingerprint(program: Any) -> str:
    """What tells the program of one rule and network from that of another: its operations, shapes and constants.

    Without their order and the variables' names, which Python's sets change from one process to the next.
    """
    words = re.findall(r"= \w+|(?:-?\d[\d.e+-]*)?:\w+\[[\d,]*\]", str(program))
    return _digest("\n".join(sorted(words)).encode())
