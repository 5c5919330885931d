"""A random search of the settings of several rules: a folder of trials for each, and one picture of all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxlocal import models
from jaxlocal import search as random_search
from jaxlocal.app import folder as folders
from jaxlocal.app.build import OPTIMIZERS, SCHEDULES, check_batch_size, load_data, network, rule_arguments
from jaxlocal.app.rule_names import check_is_rule, check_rules, making, no_helper_rate, rule_maker, short, traced
from jaxlocal.app.runs import Say, interrupted
from jaxlocal.app.settings import Config, ConfigError, check, known, shown
from jaxlocal.data import Splits
from jaxlocal.network import Network
from jaxlocal.search import Trial
from jaxlocal.search.rule_settings import ADAM, Make
from jaxlocal.search.space import Range, log_uniform
from jaxlocal.text import plural
from jaxlocal.training.learner import example_batch

SGD = log_uniform(1e-3, 1.0)  # the rates of SGD that are tried if none are given


def search(
    rules: Sequence[str],
    config: Config,
    folder: Path | str | None = None,
    *,
    trials: int = 60,
    group: int = 10,
    lr: tuple[float, float] | None = None,
    helper_lr: tuple[float, float] | None = None,
    say: Say = print,
) -> dict[str, list[Trial]]:
    """Search the settings of each rule at random on the validation set, then test the best ones.

    Args:
      rules: the names of the rules.
      config: the network, the data, the epochs, the batch size, the seed, the optimizer, the schedule of the rates, and
        the arguments of the rules that are not searched. Other settings are not used.
      folder: where the trials are kept; by default runs/search-N with the first N that is free. The search that the
        folder holds is resumed.
      trials: the number of settings for each rule.
      group: the number of settings that one compiled program trains.
      lr: the smallest and the largest learning rate; by default from 1e-5 to 3e-3, or for SGD from 1e-3 to 1.
      helper_lr: the same of feedback, inverses and autoencoders, by default from 1e-5 to 1e-2, or for SGD to 1.
      say: called with each line of the report.

    Returns:
      The trials of each rule, by its name.

    Raises:
      ConfigError: the settings or the folder are wrong.
      Stopped: Ctrl-C; all finished groups are saved.
    """
    check_rules(rules)
    check(config)
    known("--model", config.model, models.ALL)
    loaded = load_data(config)
    net, data = network(config, loaded), loaded.splits
    check_batch_size(config, data)
    plans = {rule: _plan(rule, net, config, data, trials, lr, helper_lr) for rule in rules}
    folder = folders.folder_or_next(folder, "search")
    with folders.shared(folder):
        found = {}
        for rule, (make, drawn) in plans.items():
            name = short(rule)
            found[name] = _search(name, make, drawn, config, data, folder, group)
            budget = f"{plural(trials, 'setting')}, {plural(config.epochs, 'epoch')} each"
            say(f"{name} on {config.data}, {budget} → {folder / name}")
            say(random_search.table(found[name]))
            say(_test(make, config, data, found[name]))
        if net.loss.of_classes:  # real targets have no accuracy to draw
            picture = folder / "histograms.png"
            random_search.histograms(found).savefig(picture, dpi=120)
            say(f"picture: {picture}")
    return found


def _space(
    rule: str,
    config: Config,
    fixed: Mapping[str, Any],
    lr: tuple[float, float] | None,
    helper_lr: tuple[float, float] | None,
) -> dict[str, Range]:
    """The ranges of the settings. What the user has fixed is not searched, and SGD has nothing but its rates."""
    make = rule_maker("RULE", rule)
    whole = random_search.bartunov(make)
    space = {name: values for name, values in whole.items() if name not in fixed}
    if config.optimizer != "adam":
        of_adam = tuple(name for name in ADAM if name != "lr")
        left = {name: values for name, values in space.items() if not name.endswith(of_adam)}
        space = {name: SGD if name.endswith("lr") else values for name, values in left.items()}
    helpers = [name for name in space if name.endswith("_lr")]
    if helper_lr and not helpers:
        raise no_helper_rate(f"--helper-lr={_shown(helper_lr)}", rule, make)
    if lr:
        space["lr"] = _rates("--lr", lr)
    if helper_lr:
        space |= dict.fromkeys(helpers, _rates("--helper-lr", helper_lr))
    return space


def _rates(flag: str, ends: tuple[float, float]) -> Range:
    try:
        return log_uniform(*ends)
    except (ValueError, TypeError):
        raise ConfigError(
            f"{flag}={_shown(ends)}: must be the smallest and the largest rate, such as 1e-4 1e-2"
        ) from None


def _shown(ends: tuple[float, float]) -> str:
    return " ".join(map(str, ends)) if isinstance(ends, list | tuple) else shown(ends)


def _plan(
    rule: str,
    net: Network,
    config: Config,
    data: Splits,
    trials: int,
    lr: tuple[float, float] | None,
    helper_lr: tuple[float, float] | None,
) -> tuple[Make, list[dict[str, float]]]:
    """What makes the rule, and the settings to try.

    Raises:
      ConfigError: the rule cannot be made with these arguments, or not for this network.
    """
    fixed = rule_arguments(rule, config.rule_args)
    space = _space(rule, config, fixed, lr, helper_lr)
    steps = max(1, config.epochs * (len(data.train[0]) // config.batch_size))
    make = random_search.maker(
        rule_maker("RULE", rule),
        net,
        schedule=lambda rate: SCHEDULES[config.schedule](rate, steps),
        optimizer=OPTIMIZERS[config.optimizer],
        **fixed,
    )
    drawn = random_search.draw(space, trials, config.seed)
    with making(rule, f"{rule} with --rule-args {' '.join(config.rule_args) or 'left out'}"):
        made = make(drawn[0])
        check_is_rule(made)
        traced(rule, made, example_batch(data.train, config.batch_size, None))
    return make, drawn


def _search(
    rule: str,
    make: Make,
    drawn: list[dict[str, float]],
    config: Config,
    data: Splits,
    folder: Path,
    group: int,
) -> list[Trial]:
    """The trials of one rule, with a progress bar."""
    trials = len(drawn)
    with tqdm(total=trials * config.epochs, unit="epoch", desc=rule, disable=None, leave=False) as bar:

        def report(done: int, epoch: int, best: float) -> None:
            bar.set_postfix(best=f"{best:.4f}", refresh=False)
            bar.update(done * config.epochs + epoch * min(group, trials - done) - bar.n)

        try:
            return random_search.search(
                make,
                drawn,
                data,
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=config.seed,
                group=group,
                folder=folder / rule,
                report=report,
            )
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{rule}: {error}") from None
        except KeyboardInterrupt:
            raise interrupted(f"the last finished group of {rule}", folder) from None


def _test(make: Make, config: Config, data: Splits, trials: list[Trial]) -> str:
    """The test accuracy of the best setting, or its loss, in a sentence."""
    if all(trial.diverged for trial in trials):
        return "all settings diverged\n"
    measured = random_search.on_test(
        make,
        random_search.best(trials).setting,
        data,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    if trials[0].losses:
        return f"test loss of the best setting, trained again: {measured:.4g}\n"
    return f"test accuracy of the best setting, trained again: {100 * measured:.2f} %\n"
