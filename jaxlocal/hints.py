"""Hints for names that do not exist."""

import difflib
from collections.abc import Iterable

CUTOFF = 0.65  # of difflib: dpt is similar to dtp, but iris not to digits


def nearest(value: str, options: Iterable[str]) -> str:
    """A hint for a name that is not among the options: the most similar option, or else a list of them.

    Options that contain the name come first. Names with other numbers are not similar: nobody types float64 in place of
    float16. Of many options the list shows only the first three.

    Example:
      >>> from jaxlocal.hints import nearest
      >>> nearest("drpt", ["dfa", "drtp"])
      'did you mean drtp?'
      >>> nearest("xyz", ["dfa", "drtp"])
      'choose from dfa, drtp'
      >>> nearest("cnn", ["conv2", "vanilla_cnn"])
      'did you mean vanilla_cnn?'
      >>> nearest("float64", ["float32", "float16"])
      'choose from float32, float16'
    """
    names, typed = list(options), value.lower()
    holding = [name for name in names if len(typed) > 1 and typed in name.lower()]
    alike = [name for name in names if _digits(typed) in ("", _digits(name))]
    similar = difflib.get_close_matches(typed, holding or alike, n=1, cutoff=0.0 if holding else CUTOFF)
    listed = names if len(names) <= 30 else [*names[:3], "…"]
    return f"did you mean {similar[0]}?" if similar else f"choose from {', '.join(listed)}"


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))
