"""The search itself: groups of settings are trained and measured by one compiled program."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import checks, training
from jaxlocal.data import Splits, floats
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.checking import check_augmentation, check_pair, check_splits
from jaxlocal.network import Loss
from jaxlocal.rule import Batch, Params, Rule
from jaxlocal.search.fingerprint import digest, fingerprint
from jaxlocal.search.folder import Plan, resume, save
from jaxlocal.search.rule_settings import Make, Setting
from jaxlocal.search.space import is_number
from jaxlocal.search.trials import Trial
from jaxlocal.training.account import has_diverged
from jaxlocal.training.evaluation import number_of_targets, totals
from jaxlocal.training.loop import epoch_of

Report = Callable[[int, int, float], None]  # finished trials, epoch of the current group, best goodness on validation


def search(
    make: Make,
    settings: Sequence[Setting],
    data: Splits,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    group: int = 10,
    folder: Path | str | None = None,
    report: Report | None = None,
) -> list[Trial]:
    """Train with each of the settings and measure it on the validation set. The test set is not used.

    What counts is the accuracy or, if the targets are real numbers, minus the loss.

    All settings start from the same weights and see the same examples in the same order, with the same noise.

    Args:
      make: makes the rule of a setting. The setting's numbers are traced, so `make` can compute with them, but not
        branch on them.
      settings: dicts of numbers with the same names, as `draw` returns them.
      data: the examples to train on and to validate on.
      epochs: the number of epochs of each trial.
      batch_size: the number of examples in a step.
      seed: determines the weights, the order of the examples, the augmentation and the noise.
      augmentation: how images are changed, from `jl.augmentation`; all settings see the same changes.
      group: the number of settings that one program trains at once. It changes results by rounding errors at most.
      folder: where the finished groups are saved; the same call resumes an interrupted search from there.
      report: called after each epoch of a group as report(finished trials, epoch, best of validation so far).

    Returns:
      One trial for each setting, in order.

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
    checks.function("make", make, 'jl.search.maker("al", net)')
    checks.function("report", report, "print")
    checks.seed(seed)
    check_augmentation(augmentation)
    folder = None if folder is None else checks.path("folder", folder)
    numbers = _numbers(settings)
    net = _rule(make, numbers[0]).net
    check_splits(data, net)
    train, validation = (jax.tree.map(jnp.asarray, floats(pair)) for pair in (data.train, data.validation))
    trainer = _Trainer(make, batch_size, augmentation, train, validation, *jax.random.split(jax.random.key(seed)))

    trials = []
    if folder is not None:
        examples, programs = digest(*train, *validation)[:16], trainer.fingerprint(numbers[0])
        plan = Plan(int(epochs), int(batch_size), int(seed), examples, programs)
        trials = resume(folder, plan, numbers)
    for setting in numbers[len(trials) :]:
        _rule(make, setting)  # raises an error for a bad number; inside the program numbers are traced and not checked
    size = min(group, len(numbers))
    train_group = trainer.group_trainer(size, epochs, net.loss)
    for first in range(len(trials), len(numbers), size):
        trials += train_group(numbers[first : first + size], partial(_report, report, tuple(trials)))
        if folder is not None:
            save(folder, trials)
    return trials


def on_test(
    make: Make,
    setting: Setting,
    data: Splits,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    augmentation: Augmentation | None = None,
) -> float:
    """The test accuracy of one setting, trained again as `search` trains it. Use it once, for the best setting.

    If the targets are real numbers, it is the loss.

    Example:
      >>> make = jl.search.maker("bp", jl.models.mlp(hidden=(16,)))
      >>> jl.search.on_test(make, {"lr": 1e-2}, jl.data.digits(), epochs=3, batch_size=32) > 0.9
      True
    """
    for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
        checks.positive_int(name, value)
    checks.seed(seed)
    check_augmentation(augmentation)
    (numbers,) = _numbers([setting])
    rule = _rule(make, numbers)
    check_splits(data, rule.net)
    check_pair("data.test", data.test)
    train = jax.tree.map(jnp.asarray, floats(data.train))
    init_key, order_key = jax.random.split(jax.random.key(seed))
    params = jax.jit(rule.init)(init_key, train)
    params = trained(rule, params, train, order_key, epochs=epochs, batch_size=batch_size, augmentation=augmentation)
    measured = training.evaluate(rule, params, data.test, augmentation)
    found = measured.get("accuracy", measured["loss"])
    assert isinstance(found, float)
    return found


def trained(
    rule: Rule,
    params: Params,
    train: Batch,
    order_key: jax.Array,
    *,
    epochs: int,
    batch_size: int,
    augmentation: Augmentation | None = None,
) -> Params:
    """The parameters after the epochs of a search: the examples of each epoch are in an order of its own."""
    for epoch in range(epochs):
        key = jax.random.fold_in(order_key, epoch)
        params, _ = training.epoch(rule, params, _changed(augmentation, key, train), key, batch_size)
    return params


class _Trainer(NamedTuple):
    """Trains settings on one data set. `start` and `learn` are pure functions of one setting."""

    make: Make
    batch_size: int
    augmentation: Augmentation | None
    train: Batch
    validation: Batch
    init_key: jax.Array
    order_key: jax.Array

    def start(self, setting: Setting, train: Batch) -> Params:
        """The first parameters."""
        return _rule(self.make, setting).init(self.init_key, train)

    def learn(
        self, setting: Setting, params: Params, key: jax.Array, train: Batch, validation: Batch
    ) -> tuple[Params, jax.Array, jax.Array]:
        """One epoch: the new parameters, the mean loss, and the number of correct predictions on validation.

        For real targets, the sum of the losses on validation takes the place of the last one.
        """
        rule = _rule(self.make, setting)  # it holds tracers, which the cache of a compiled function would keep
        train = _changed(self.augmentation, key, train)
        params, info = epoch_of(rule, self.batch_size, params, train, key)
        # In small pieces, because many settings share the memory.
        measured = totals(rule, params, validation, self.augmentation, piece=self.batch_size)
        found = measured.correct if rule.net.loss.of_classes else measured.loss
        return params, jnp.mean(jnp.sum(info.losses, 1)), found

    def fingerprint(self, setting: dict[str, float]) -> str:
        """Identifies the programs that start, train and measure one setting."""
        numbers = _stacked([setting], ())
        start, params = jax.make_jaxpr(self.start, return_shape=True)(numbers, self.train)
        learn = jax.make_jaxpr(self.learn)(numbers, params, self.order_key, self.train, self.validation)
        return fingerprint(start) + fingerprint(learn)

    def group_trainer(
        self, size: int, epochs: int, loss: Loss
    ) -> Callable[[list[dict[str, float]], Callable[[int, float], None]], list[Trial]]:
        """A function that trains at most `size` settings at once: train_group(settings, report) -> trials.

        `loss` is that of the network.
        """
        real, count = not loss.of_classes, int(number_of_targets(loss, self.validation[1]))
        start_all = jax.jit(jax.vmap(self.start, in_axes=(0, None)))
        learn_all = jax.jit(jax.vmap(self.learn, in_axes=(0, 0, None, None, None)), donate_argnums=1)

        def train_group(settings: list[dict[str, float]], report: Callable[[int, float], None]) -> list[Trial]:
            padding = [settings[-1]] * (size - len(settings))  # keeps the shapes, so nothing is compiled again
            numbers = _stacked([*settings, *padding], (size,))
            params = start_all(numbers, self.train)
            losses, sound, curves = np.zeros(size), np.ones(size, bool), []
            for epoch in range(epochs):
                key = jax.random.fold_in(self.order_key, epoch)
                params, losses, measured = learn_all(numbers, params, key, self.train, self.validation)
                sound &= ~has_diverged(np.asarray(losses))
                measured = np.where(sound & np.isfinite(measured), measured, np.inf if real else 0) / count
                curves.append(measured)
                report(epoch + 1, float(-measured.min() if real else measured.max()))
            zeros = (0.0,) * epochs
            trials = []
            for setting, last, is_sound, curve in zip(settings, losses, sound, zip(*curves, strict=True), strict=False):
                values = tuple(map(float, curve))
                accuracies, on_validation = (zeros, values) if real else (values, ())
                trials.append(Trial(setting, accuracies, float(last) if is_sound else None, on_validation))
            return trials

        return train_group


def _changed(augmentation: Augmentation | None, key: jax.Array, train: Batch) -> Batch:
    """The examples of an epoch, whose order is drawn with the same key."""
    x, y = train
    return (augmentation.train(jax.random.fold_in(key, 1), x), y) if augmentation else train


def _report(report: Report | None, finished: Sequence[Trial], epoch: int, best_of_group: float) -> None:
    if report:
        report(len(finished), epoch, max([*(trial.goodness for trial in finished), best_of_group]))


def _numbers(settings: Sequence[Setting]) -> list[dict[str, float]]:
    """The settings with Python floats as values, once they are known to be dicts of numbers with equal names."""
    if not isinstance(settings, Sequence) or not settings:
        raise TypeError(f"settings={checks.show(settings)}: must be a list of dicts, as draw(space, trials) returns it")
    for i, setting in enumerate(settings):
        if not isinstance(setting, Mapping) or not all(map(is_number, setting.values())):
            raise TypeError(
                f"settings[{i}]={checks.show(setting)}: must be a dict of finite numbers; give anything else to make"
            )
        if setting.keys() != settings[0].keys():
            raise ValueError(
                f"settings[{i}]={checks.show(setting)}: must have the names of settings[0], "
                f"{', '.join(settings[0])}; search settings with other names separately"
            )
    return [{name: float(value) for name, value in setting.items()} for setting in settings]


def _rule(make: Make, setting: Setting) -> Rule:
    try:
        rule = make(setting)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise TypeError(
            "make: branches on a number of its setting or uses it as a size, but the numbers are traced, because many "
            "settings are trained at once; search each such value separately"
        ) from error
    if not isinstance(rule, Rule):
        raise TypeError(f"make: returned {checks.show(rule)}; it must return a rule, such as jl.rules.bp(net, tx)")
    checks.plain_rule("a search", rule)
    return rule


def _stacked(settings: Sequence[dict[str, float]], shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """The settings' numbers by name, as arrays of this shape."""
    columns = {name: [setting[name] for setting in settings] for name in settings[0]}
    return {name: jnp.asarray(column).reshape(shape) for name, column in columns.items()}
