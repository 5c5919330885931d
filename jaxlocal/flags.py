"""Flags of commands: what is wrong with them is said in one line, and the exit code is 2."""

import argparse
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Python's own parser, without the usage in front of an error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def whole(text: str) -> int:
    """A whole number from 1."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0 < number < float("inf"):
        return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def file(text: str) -> Path:
    """A path that is no folder."""
    if (path := Path(text)).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file in it")
    return path


def folder(text: str) -> Path:
    """A path that is no file."""
    if (path := Path(text)).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder")
    return path
