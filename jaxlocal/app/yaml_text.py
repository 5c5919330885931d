"""YAML that a stranger may have written: small, flat, without references, and read without surprises."""

from typing import Any

import yaml

LONGEST = 2**16  # characters
DEEPEST = 8  # lists within lists


class YamlError(ValueError):
    """The text is not YAML of this kind; the message is the reason."""


def parse(text: str) -> Any:
    """The value that the text stands for.

    Anchors and aliases are refused, because a few lines of them can stand for gigabytes.

    Raises:
      YamlError: the text is too long or too deep, refers to itself, or is not YAML.
    """
    if len(text) > LONGEST:
        raise YamlError(f"it has {len(text)} characters; settings have at most {LONGEST}")
    try:
        _check(text)
        return yaml.safe_load(text)
    except YamlError:
        raise
    except Exception as error:  # dates, numbers and tags raise errors of many kinds
        raise YamlError(" ".join(str(error).split())[:200]) from None


def _check(text: str) -> None:
    """Refuse references and deep nesting, event by event, before anything is built."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if getattr(event, "anchor", None) is not None:
            raise YamlError(f"it has the reference {event.anchor!r}; write the value out in each place")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise YamlError(f"it has lists more than {DEEPEST} deep; settings are flat")
