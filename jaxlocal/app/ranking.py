"""Rules ranked on a workload: a folder of trials and trainings for each, a table, and a picture of differences."""

from collections.abc import Sequence
from pathlib import Path

from jaxlocal import checks, plots, ranking, rules
from jaxlocal.app import folder as folders
from jaxlocal.app.rule_names import check_rules, mistakes, reason, rule_maker, short
from jaxlocal.app.runs import Say, interrupted
from jaxlocal.app.settings import ConfigError, known
from jaxlocal.data import Splits
from jaxlocal.files import write_whole
from jaxlocal.ranking import Entry, Workload
from jaxlocal.text import plural


def rank(
    names: Sequence[str] = (),
    workload: str = "digits",
    folder: Path | str | None = None,
    *,
    trials: int = 8,
    seeds: int = 5,
    say: Say = print,
) -> list[Entry]:
    """Search each rule's settings, train the best one from several seeds, and leave a table and a picture.

    Args:
      names: the rules; by default all that the library has.
      workload: the name of what they learn, one of `jl.ranking.WORKLOADS`.
      folder: where trials and trainings are kept; by default runs/rank-WORKLOAD-N with the first N that is free. What
        the folder holds of them is not done again.
      trials: the number of settings for each rule.
      seeds: the number of trainings with the best setting.
      say: called with each line of the report.

    Returns:
      What each rule reached. A rule that cannot learn this, or whose trials all diverged, is reported and left out.

    Raises:
      ConfigError: the names, the data or the folder are wrong, or no rule can learn this.
      Stopped: Ctrl-C; all finished trials and trainings are saved.
    """
    names = names or list(rules.ALL)
    check_rules(names)
    checks.positive_int("trials", trials)
    checks.positive_int("seeds", seeds)
    learned = known("--workload", workload, ranking.WORKLOADS)
    data = _load(workload, learned)
    folder = folders.folder_or_next(folder, f"rank-{workload}")
    with folders.shared(folder):
        budget = f"{plural(learned.epochs, 'epoch')}, {plural(trials, 'setting')}, {plural(seeds, 'seed')}"
        say(f"{learned.words}; {budget} → {folder}")
        entries, left_out = [], []
        for name in names:
            kept = folder / workload / short(name)
            make = rule_maker("RULE", name)
            try:
                entry = ranking.enter(
                    make, learned, trials=trials, seeds=seeds, data=data, folder=kept, name=short(name), say=say
                )
                entries.append(entry)
            except mistakes(name) as error:
                left_out.append(f"{short(name)} is left out: {reason(error, name)}")
            except KeyboardInterrupt:
                raise interrupted(f"a trial or a seed of {short(name)}", folder) from None
        if not entries:
            raise ConfigError("; ".join(left_out))
        _report(entries, left_out, folder, workload, say)
    return entries


def _report(entries: list[Entry], left_out: list[str], folder: Path, workload: str, say: Say) -> None:
    lines = [ranking.table(entries), *left_out]
    write_whole(folder / f"{workload}.txt", "\n".join(lines) + "\n")
    say("\n" + "\n".join(lines))
    if differences := ranking.differences(entries):
        picture = folder / f"{workload}.png"
        title = f"Test accuracy on {workload}, minus that of {ranking.BASELINE}"
        plots.differences(differences, title, "points").savefig(picture, dpi=120)
        say(f"picture: {picture}")


def _load(name: str, workload: Workload) -> Splits:
    try:
        return workload.load()
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"--workload={name}: {str(error).removeprefix(f'name={name!r}: ')}") from None
