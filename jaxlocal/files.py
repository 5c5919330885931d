"""Files that are either complete or absent, and the folders of the cache."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace a file's text in one step, so that neither a reader nor a crash ever sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def cache_folder(name: str) -> Path:
    """A folder of the cache, such as "data" or "compiled", inside $JAXLOCAL_CACHE or else ~/.cache/jaxlocal.

    Example:
      >>> import os
      >>> from unittest import mock
      >>> with mock.patch.dict(os.environ, JAXLOCAL_CACHE="/scratch"):
      ...     print(cache_folder("data"))
      /scratch/data
    """
    return Path(os.environ.get("JAXLOCAL_CACHE") or "~/.cache/jaxlocal").expanduser() / name
