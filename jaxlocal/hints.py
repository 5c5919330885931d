"""Hints for names that do not exist."""

import difflib
from collections.abc import Iterable


def nearest(value: str, options: Iterable[str]) -> str:
    """A hint for a name that is not among the options: the most similar option, or else a list of them.

    Options that contain the name come first. Of many options the list shows only the first three.

    Example:
      >>> from jaxlocal.hints import nearest
      >>> nearest("drpt", ["dfa", "drtp"])
      'did you mean drtp?'
      >>> nearest("xyz", ["dfa", "drtp"])
      'choose from dfa, drtp'
      >>> nearest("cnn", ["conv2", "vanilla_cnn"])
      'did you mean vanilla_cnn?'
    """
    names, typed = list(options), value.lower()
    holding = [name for name in names if len(typed) > 1 and typed in name.lower()]
    similar = difflib.get_close_matches(typed, holding or names, n=1, cutoff=0.0 if holding else 0.5)
    listed = names if len(names) <= 30 else [*names[:3], "…"]
    return f"did you mean {similar[0]}?" if similar else f"choose from {', '.join(listed)}"
