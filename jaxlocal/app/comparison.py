"""Rules compared: a run of each from the same seeds, their differences with intervals, and pictures of both."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlocal import plots, processes
from jaxlocal.app import runs, settings, text
from jaxlocal.app.build import build, check_rules, on_all_devices
from jaxlocal.app.folder import Summary, folder_or_next
from jaxlocal.app.provenance import in_picture
from jaxlocal.app.runs import Say, Stopped
from jaxlocal.app.settings import Config, ConfigError
from jaxlocal.loggers import Opener
from jaxlocal.statistics import Difference, against
from jaxlocal.training import DivergedError


class Differences(NamedTuple):
    """The test result of each rule minus that of the first one, after the last epoch."""

    baseline: str
    unit: str  # "points" of accuracy, or "loss" where there are no classes
    of: dict[str, Difference]


def compare(
    rules: Sequence[str],
    config: Config,
    folder: Path | str | None = None,
    *,
    resume: bool = False,
    log: Sequence[str | Opener] = (),
    say: Say = print,
) -> dict[str, Summary]:
    """Train each of the rules with the same settings, and leave a folder with a run of each and pictures of all.

    A seed gives every rule the same examples in the same order. So with several seeds, which each rule trains in one
    program, the rules are compared seed by seed: each with the first one.

    Args:
      rules: the names of the rules.
      config: the settings, whose own rule is not used.
      folder: the folder; by default runs/compare-N with the first N that is free.
      resume: whether to resume the runs in the folder.
      log: the loggers that show the curves.
      say: called with each line of the report.

    Returns:
      The outcome for each rule.

    Raises:
      ConfigError: the settings or the folder are wrong.
      Stopped: Ctrl-C or SIGTERM; everything is saved.
    """
    check_rules(rules)
    settings.check(config)
    config = on_all_devices(config)
    configs = {rule: replace(config, rule=rule) for rule in rules}
    say = say if processes.writes() else runs.silence
    for one in configs.values():  # a mistake in the last one is reported before the first one is trained
        processes.together(partial(_try, one))
    folder = processes.first(partial(folder_or_next, folder, "compare"))
    summaries = {}
    for rule, one in configs.items():
        try:
            begun = resume and processes.first((folder / rule / "config.yaml").exists)
            summaries[rule] = runs.train(one, folder / rule, resume=begun, log=log, say=say)
        except Stopped as stop:
            again = f"--out {shlex.quote(str(folder))} --resume{text.log_flag(log)}"
            command = f"jaxlocal compare {' '.join(rules)} {again}"
            raise Stopped(stop.signal, f"{stop.after} of {rule}", command) from None
        except DivergedError as error:
            raise DivergedError(f"{rule}: {error}") from None
    say(f"\n{text.table(summaries)}")
    processes.first(lambda: _draw(summaries, config, folder, say))
    return summaries


def _try(config: Config) -> None:
    """Refuse what cannot be built."""
    try:
        build(config)
    except ConfigError as error:  # in a comparison the rules are not named by a flag
        raise ConfigError(str(error).replace("--rule=", "RULE=")) from None


def differences(summaries: Mapping[str, Summary]) -> Differences:
    """How much each rule differs from the first one, seed by seed."""
    tests = {rule: summary.measured[0].parts["test"] for rule, summary in summaries.items()}
    baseline = next(iter(tests))
    measure = "accuracy" if "accuracy" in tests[baseline] else "loss"
    scale = 100 if measure == "accuracy" else 1
    values = {rule: scale * np.atleast_1d(test[measure]) for rule, test in tests.items()}
    return Differences(baseline, "points" if measure == "accuracy" else "loss", against(baseline, values))


def _draw(summaries: Mapping[str, Summary], config: Config, folder: Path, say: Say) -> None:
    """Write compare.png and, of two rules or more, differences.png; with the differences as a table."""
    curves, made_by = folder / "compare.png", in_picture(replace(config, rule=" ".join(summaries)))
    plots.compare({rule: summary.history for rule, summary in summaries.items()}).savefig(
        curves, dpi=120, metadata=made_by
    )
    found = differences(summaries)
    if found.of:
        picture = folder / "differences.png"
        measure, form = ("accuracy", "+.2f") if found.unit == "points" else ("loss", "+.3g")
        title = f"Test {measure}, minus that of {found.baseline}"
        plots.differences(found.of, title, found.unit).savefig(picture, dpi=120, metadata=made_by)
        say(f"\n{text.differences(found.of, title, form)}\npicture: {picture}")
    say(f"picture: {curves}")
