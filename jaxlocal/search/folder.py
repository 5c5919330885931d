"""The folder of a search: search.json says which search it is, and trials.jsonl holds its finished trials."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxlocal.files import write_whole
from jaxlocal.search.trials import Trial


class Plan(NamedTuple):
    """What a search's results depend on besides its settings."""

    epochs: int
    batch_size: int
    seed: int
    data: str  # a hash of the training and validation examples
    make: str  # a fingerprint of the program that trains and measures one setting


IN_WORDS = {"data": "examples", "make": "code (of the rule, the network or the library)"}


def resume(folder: Path, plan: Plan, settings: Sequence[dict[str, float]]) -> list[Trial]:
    """The finished trials in the folder. A new folder gets the plan; the folder of another search is refused."""
    plan_file, finished = folder / "search.json", folder / "trials.jsonl"
    if not plan_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(plan_file, json.dumps(plan._asdict(), indent=2) + "\n")
    try:
        started = json.loads(plan_file.read_text(encoding="utf-8"))
        different = [name for name, value in plan._asdict().items() if started[name] != value]
        lines = finished.read_text(encoding="utf-8").splitlines() if finished.exists() else []
        trials = list(map(_trial, map(json.loads, lines)))
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"folder={str(folder)!r}: its search.json or trials.jsonl is damaged; remove the folder, or take another"
        ) from None
    if any(trial.setting != setting for trial, setting in zip(trials, settings, strict=False)):
        different.append("settings")
    if different:  # only the first is named, because a different batch size also changes the program
        others = IN_WORDS.get(different[0], different[0])
        raise ValueError(f"folder={str(folder)!r}: holds a search with other {others}; take another folder")
    return trials[: len(settings)]


def _trial(line: dict[str, Any]) -> Trial:
    return Trial(dict(line["setting"]), tuple(line["accuracies"]), line["loss"], tuple(line.get("losses", ())))


def save(folder: Path, trials: Sequence[Trial]) -> None:
    """Replace the finished trials in the folder."""
    write_whole(folder / "trials.jsonl", "".join(json.dumps(trial._asdict()) + "\n" for trial in trials))
