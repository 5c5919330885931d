"""A lock on a file, so that only one process at a time writes into a folder."""

from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has none; there a folder is not protected from a second process
    fcntl = None  # type: ignore[assignment]


def lock(path: Path) -> IO[str] | None:
    """The open file, locked until it is closed or the process ends; None if another process has locked it."""
    file = path.open("w")
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
    return file
