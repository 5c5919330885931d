"""Hints for names that do not exist."""

import difflib
from collections.abc import Iterable


def nearest(value: str, options: Iterable[str]) -> str:
    """A hint for a name that is not among the options: the most similar option, or else a list of them.

    Of many options the list shows only the first three.

    Example:
      >>> from jaxlocal.hints import nearest
      >>> nearest("drpt", ["dfa", "drtp"])
      'did you mean drtp?'
      >>> nearest("xyz", ["dfa", "drtp"])
      'choose from dfa, drtp'
    """
    names = list(options)
    similar = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    listed = names if len(names) <= 30 else [*names[:3], "…"]
    return f"did you mean {similar[0]}?" if similar else f"choose from {', '.join(listed)}"
