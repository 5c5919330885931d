"""What made a run: the command, the commit of the library, the settings and the versions."""

import json
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import jax

from jaxlocal.app.settings import Config
from jaxlocal.version import __version__

FACTS = "command", "commit", "settings", "versions"  # what it takes to reproduce a run's numbers


def made_by(config: Config) -> dict[str, Any]:
    """The facts of what runs now with these settings."""
    command = shlex.join([*_program(), *sys.argv[1:]])
    return dict(zip(FACTS, (command, commit(Path(__file__).parents[1]), asdict(config), versions()), strict=True))


def _program() -> list[str]:
    """How the program was called."""
    path = Path(sys.argv[0])
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]


def in_picture(config: Config) -> dict[str, str]:
    """The same as a text inside a PNG file: `metadata` of `figure.savefig`."""
    return {"Description": json.dumps(made_by(config))}


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on most."""
    return {"jaxlocal": __version__, "jax": jax.__version__, "python": platform.python_version()}


@cache  # the code that runs is the code as it was at the start
def commit(folder: Path, *others: str) -> str:
    """The commit of the files in a folder, and whether they have changed since; "unknown" outside a repository.

    Args:
      folder: the folder.
      others: paths in it, as git has them, whose changes do not count.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "."):  # an installation inside another repository
            return "unknown"
        changed = git("status", "--porcelain", "--", ".", *(f":!{path}" for path in others))
        return git("rev-parse", "HEAD") + " + uncommitted changes" * bool(changed)
    except (OSError, subprocess.CalledProcessError):  # there is no git, or no repository
        return "unknown"
