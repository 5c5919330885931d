"""The standings: rules by their test accuracy, and how far each is from the baseline, seed by seed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxlocal import checks
from jaxlocal.ranking.protocol import Entry, in_words
from jaxlocal.statistics import Difference, against
from jaxlocal.text import aligned, difference, effect, measurement

BASELINE = "bp"


def differences(entries: Sequence[Entry], baseline: str = BASELINE) -> dict[str, Difference]:
    """Each rule's test accuracy minus that of the baseline, in points; nothing if the baseline is not among them."""
    if not (isinstance(entries, list | tuple) and all(isinstance(entry, Entry) for entry in entries)):
        raise TypeError(f"entries={checks.show(entries)}: must be a list, as [jl.ranking.enter(…), …]")
    names = [entry.rule for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"entries: several are of a rule called {twice[0]!r}; give each rule a name of its own")
    tests = {entry.rule: 100 * np.asarray(entry.accuracies["test"]) for entry in entries}
    if len(set(map(len, tests.values()))) > 1:
        seeds = ", ".join(f"{rule} {len(accuracies)}" for rule, accuracies in tests.items())
        raise ValueError(f"entries: have different numbers of seeds ({seeds}); enter all rules with the same")
    return against(baseline, tests) if baseline in tests else {}


def standings(entries: Sequence[Entry], baseline: str = BASELINE) -> Iterator[dict[str, Any]]:
    """A line of a table for each rule, the best one first."""
    found = differences(entries, baseline)
    for entry in sorted(entries, key=lambda entry: -np.mean(entry.accuracies["test"])):
        yield {
            "rule": entry.rule,
            "test": measurement({"accuracy": entry.accuracies["test"]}),
            f"minus {baseline}": difference(found[entry.rule]) if entry.rule in found else "",
            "effect": effect(found[entry.rule]) if entry.rule in found else "",
            "train": measurement({"accuracy": entry.accuracies["train"]}),
            "setting": in_words(entry.setting),
            "minutes": f"{entry.seconds / 60:.1f}",
        }


def table(entries: Sequence[Entry], baseline: str = BASELINE) -> str:
    """The standings as aligned text."""
    rows = list(standings(entries, baseline))
    if not rows:
        raise ValueError("entries: is empty; give one entry or more, as jl.ranking.enter returns them")
    return aligned([list(rows[0]), *(list(row.values()) for row in rows)], left=1)
