"""Files that are either complete or absent, and the folders of the cache."""

import os
from contextlib import suppress
from pathlib import Path


def of_user(path: str | os.PathLike[str]) -> Path:
    """The path, in which ~ stands for the user's own folder."""
    return Path(os.path.expanduser(path))


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file's content in one step, so that no reader sees half of it, even if this process is killed."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content if isinstance(content, bytes) else content.encode())
        draft.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # it would name the draft
    finally:
        with suppress(OSError):
            draft.unlink()  # it is still there if something failed


def cache_folder(name: str) -> Path:
    """A folder of the cache, such as "data" or "compiled", inside $JAXLOCAL_CACHE or else ~/.cache/jaxlocal.

    Example:
      >>> import os
      >>> from unittest import mock
      >>> with mock.patch.dict(os.environ, JAXLOCAL_CACHE="/scratch"):
      ...     print(cache_folder("data"))
      /scratch/data
    """
    return of_user(os.environ.get("JAXLOCAL_CACHE") or "~/.cache/jaxlocal") / name
