"""Rules compared: a run of each from the same seeds, their differences with intervals, and pictures of both.

`compare.yaml` in the folder has the settings that all rules share.
"""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlocal import plots, processes
from jaxlocal.app import folder as folders
from jaxlocal.app import runs, settings, text
from jaxlocal.app.build import build, on_all_devices
from jaxlocal.app.folder import Summary, folder_or_next
from jaxlocal.app.provenance import in_picture
from jaxlocal.app.rule_names import (
    check_apart,
    check_each_once,
    check_is_no_optimizer,
    located,
    rule_maker,
    short,
    written_settings,
)
from jaxlocal.app.runs import Say, Stopped
from jaxlocal.app.settings import TYPES, Config, ConfigError, nothing_to_resume, shown, typed
from jaxlocal.hints import nearest
from jaxlocal.loggers import Opener
from jaxlocal.statistics import Difference, against
from jaxlocal.training import DivergedError

OWN = "lr", "helper_lr", "optimizer", "schedule", "l2"  # what a rule may have of its own, beside its arguments
SHARED = "compare.yaml"


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
    """Train rules, each with the shared settings and its own, and leave a folder with a run of each and pictures.

    A seed gives every rule the same examples in the same order. So with several seeds, which each rule trains in one
    program, the rules are compared seed by seed: each with the first one.

    Args:
      rules: the names of the rules, each alone or with settings of its own, such as "al components=2 lr=0.01": its
        arguments, and lr, helper_lr, optimizer, schedule and l2.
      config: the settings that all share, whose own rule is not used.
      folder: the folder; by default runs/compare-N with the first N that is free.
      resume: whether to resume the runs in the folder.
      log: the loggers that show the curves.
      say: called with each line of the report.

    Returns:
      The outcome for each rule, by its name and its own settings.

    Raises:
      ConfigError: the settings or the folder are wrong.
      Stopped: Ctrl-C or SIGTERM; everything is saved.
    """
    settings.check(config)
    config = on_all_devices(config)
    configs = processes.together(lambda: with_own(rules, config))
    say = say if processes.writes() else runs.silence
    for words, one in configs.items():  # a mistake in the last one is reported before the first one is trained
        processes.together(partial(_try, words, one))
    folder = processes.first(partial(folder_or_next, folder, "compare"))
    with ExitStack() as held:
        processes.first(partial(_begin, held, folder, config, configs, resume))
        summaries = {}
        for words, one in configs.items():
            place = _place(folder, words)
            try:
                begun = resume and processes.first((place / "config.yaml").exists)
                summaries[words] = runs.train(one, place, resume=begun, log=log, say=say)
            except Stopped as stop:
                again = f"--out {shlex.quote(str(folder))} --resume{text.log_flag(log)}"
                command = f"jaxlocal compare {shlex.join(configs)} {again}"
                raise Stopped(stop.signal, f"{stop.after} of {_label(words)}", command) from None
            except DivergedError as error:
                raise DivergedError(f"{_label(words)}: {error}") from None
        labelled = {_label(words): summary for words, summary in summaries.items()}
        say(f"\n{text.table(labelled)}")
        processes.first(lambda: _draw(labelled, config, folder, say))
    return summaries


def with_own(rules: Sequence[str], config: Config) -> dict[str, Config]:
    """The settings of each rule: those that all share, and its own.

    Example:
      >>> from jaxlocal.app import Config
      >>> [(name, one.rule_args, one.lr) for name, one in with_own(["bp", "al width=32 lr=0.01"], Config()).items()]
      [('bp', (), 0.001), ('al width=32 lr=0.01', ('width=32',), 0.01)]
    """
    check_each_once(rules)
    names = [" ".join(_parts(words)) for words in rules]
    check_each_once(names)  # other spaces make no other name
    check_apart(names, _label)
    return {name: _with_own(name, config) for name in names}


def _parts(words: str) -> list[str]:
    """The rule, whose file may have spaces in its path, and its own settings."""
    file, mark, rest = words.strip().rpartition(".py:")
    rule, *pairs = rest.split() or [""]
    return [file + mark + rule, *pairs]


def _with_own(words: str, config: Config) -> Config:
    rule, *pairs = _parts(words)
    make = rule_maker("RULE", rule)
    its_arguments = written_settings(make)
    learning, arguments = {}, list(config.rule_args)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.replace("-", "_")  # as in the name of a flag
        if key in OWN:
            learning[key] = typed(f"RULE={shown(words)}: {key}", value, TYPES[key])
        elif equals and key in its_arguments:
            arguments.append(f"{key}={value}")
        else:
            check_is_no_optimizer(f"RULE={shown(words)}", make, key)
            raise ConfigError(
                f"RULE={shown(words)}: {shown(pair)} is no setting of {rule}, written as KEY=VALUE without a space; "
                f"{nearest(key, [*OWN, *its_arguments])}"
            )
    return replace(config, rule=located(rule), rule_args=tuple(arguments), **learning)


def _try(words: str, config: Config) -> None:
    """Refuse what cannot be built."""
    try:
        build(config)
    except ConfigError as error:  # in a comparison the rules are not named by a flag
        reason = str(error).removeprefix(f"--rule={config.rule}: ")
        plain = located(words) == config.rule and reason == str(error)
        raise ConfigError(reason if plain else f"RULE={words}: {reason}") from None


def _place(folder: Path, words: str) -> Path:
    """The folder of one rule's run."""
    return folder / _label(words).replace(" ", ",")


def _label(words: str) -> str:
    """A rule without its file, and its own settings."""
    rule, *pairs = _parts(words)
    return " ".join([short(rule), *pairs])


def _begin(held: ExitStack, folder: Path, config: Config, configs: Mapping[str, Config], resume: bool) -> None:
    """Hold the folder, and keep the settings that all rules share, unless it holds a comparison with others."""
    held.enter_context(folders.shared(folder))
    began = (folder / SHARED).exists()
    if resume and not began:
        raise nothing_to_resume(folder)
    if began and not resume:
        raise ConfigError(f"--out={folder}: holds a comparison; resume it with --resume, or name another folder")
    for words, one in configs.items():
        if ((place := _place(folder, words)) / "config.yaml").exists():
            folders.check_same(place, one)
            runs.check_epochs(one, place, len(folders.history(place)))
    if began:  # also if it has no run of these rules yet
        folders.check_same(folder, config, SHARED)
    settings.write(config, folder / SHARED)


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
