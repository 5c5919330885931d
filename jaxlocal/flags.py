"""Flags of commands: a mistake is answered by one line on stderr and the exit code 2."""

import argparse
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from jaxlocal.files import of_user

LONGEST_WORD = 200  # characters, in an error


class Parser(argparse.ArgumentParser):
    """Python's own parser with errors of one line, without abbreviated flags, and with a hint for an unknown flag."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The arguments, in the order that the program asks for."""
        return self._without_unknown(*self.parse_known_args(args, namespace))

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The arguments, with flags before, between or after the others."""
        return self._without_unknown(*self.parse_known_intermixed_args(args, namespace))

    def error(self, message: str) -> NoReturn:
        """End the program with one line, without the usage that Python prints first."""
        self.exit(2, f"{self.prog}: {one_line(message)}\n")

    def _without_unknown(self, found: Any, unknown: Sequence[str]) -> Any:
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}; {self._hint(unknown[0])}")
        return found

    def _hint(self, unknown: str) -> str:
        """What may have been meant by a word that is no flag of this command."""
        word = unknown.lstrip("-").partition("=")[0].lower() if unknown.startswith("-") else ""
        for action in self._actions:
            if not action.option_strings and word.rstrip("s") == action.dest.rstrip("s"):
                return f"write {action.metavar} without a flag"
        names = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        similar = difflib.get_close_matches(word, names, n=1)
        return f"did you mean --{similar[0]}?" if similar else f"see {self.prog} --help"


class _Group(Protocol):
    """A parser or one of its groups."""

    def add_argument(self, *names: str, **options: Any) -> Any: ...


def one_line(message: object) -> str:
    """The message on one line, with words of hundreds of characters cut short."""
    words = str(message).split()
    return " ".join(word if len(word) <= LONGEST_WORD else f"{word[:LONGEST_WORD]}…" for word in words)


def add_switch(parser: _Group, flag: str, help: str, default: Any = False) -> None:
    """Add a flag that is given without a value; its opposite, --no-FLAG, is not shown in the help."""
    dest = flag.removeprefix("--")
    parser.add_argument(flag, dest=dest, action="store_true", default=default, help=help)
    parser.add_argument(f"--no-{dest}", dest=dest, action="store_false", default=default, help=argparse.SUPPRESS)


def whole(text: str) -> int:
    """A whole number from 1."""
    if text.isdecimal() and len(text) < 19 and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")


def whole_to(most: int) -> Callable[[str], int]:
    """A whole number from 1 to `most`."""

    def read(text: str) -> int:
        if (number := whole(text)) > most:
            raise argparse.ArgumentTypeError(f"{text!r} is more than {most}")
        return number

    return read


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0 < number < float("inf"):
        return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def folder(text: str) -> Path:
    """The path of a folder, which need not exist."""
    if (path := of_user(text)).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder")
    return path
