"""A random search of the settings of several rules: a folder of trials for each, and one picture of all."""

import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from jaxlocal import search as random_search
from jaxlocal.app import folder as folders
from jaxlocal.app.build import arguments, network_and_data
from jaxlocal.app.runs import Say, Stopped
from jaxlocal.app.settings import Config, ConfigError, check
from jaxlocal.app.text import plural
from jaxlocal.data import Splits
from jaxlocal.search import Trial
from jaxlocal.search.rule_settings import Make


def search(
    rules: Sequence[str],
    config: Config,
    folder: Path | None = None,
    *,
    trials: int = 60,
    group: int = 10,
    say: Say = print,
) -> dict[str, list[Trial]]:
    """Search the settings of each rule at random on the validation set, then test the best ones.

    Args:
      rules: the names of the rules.
      config: the network, the data, the epochs, the batch size, the seed and the arguments of the rules that are not
        searched. Other settings are not used.
      folder: where the trials are kept; by default runs/search-N with the first N that is free. The search that the
        folder holds is resumed.
      trials: the number of settings for each rule.
      group: the number of settings that one compiled program trains.
      say: called with each line of the report.

    Returns:
      The trials of each rule.

    Raises:
      ConfigError: the settings or the folder are wrong.
      Stopped: Ctrl-C; all finished groups are saved.
    """
    check(config)
    net, data = network_and_data(config)
    fixed = arguments("--rule-args", config.rule_args)
    folder = folder or folders.next_free("search")
    folders.make(folder)
    found = {}
    for rule in rules:
        make = random_search.maker(rule, net, **fixed)
        found[rule] = _search(rule, make, config, data, folder, trials, group)
        say(f"{rule} on {config.data}, {trials} settings, {plural(config.epochs, 'epoch')} each → {folder / rule}")
        say(random_search.table(found[rule]))
        say(_test(make, config, data, found[rule]))
    picture = folder / "histograms.png"
    random_search.histograms(found).savefig(picture, dpi=120)
    say(f"picture: {picture}")
    return found


def _search(rule: str, make: Make, config: Config, data: Splits, folder: Path, trials: int, group: int) -> list[Trial]:
    """The trials of one rule, with a progress bar."""
    drawn = random_search.draw(random_search.bartunov(rule), trials, config.seed)
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
            command = f"the same command and --out {shlex.quote(str(folder))}"
            raise Stopped(signal.SIGINT, f"the last finished group of {rule}", command) from None


def _test(make: Make, config: Config, data: Splits, trials: list[Trial]) -> str:
    """The test accuracy of the best setting, in a sentence."""
    if all(trial.diverged for trial in trials):
        return "all settings diverged\n"
    accuracy = random_search.on_test(
        make,
        random_search.best(trials).setting,
        data,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    return f"test accuracy of the best setting, trained again: {100 * accuracy:.2f} %\n"
