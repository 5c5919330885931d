"""The cache of decoded data sets: for each content a folder of files, which is either complete or absent."""

import json
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path

import numpy as np

from jaxlocal.data.sources import Source
from jaxlocal.data.splits import SPLITS, Pairs
from jaxlocal.files import cache_folder, write_whole

FORMAT = 2  # increase it when the files' format changes, and the folders of the old format are ignored
HASHED = 2 * 2**30  # a data set of at most this many bytes is identified by a hash of its content
SUMS = "sums.json"  # of the files in a folder: by it a damaged one is recognised
ABANDONED = 24 * 3600  # an unfinished folder that has not changed for this many seconds has no process that writes it


def cached(source: Source, settings: object) -> dict[str, Pairs]:
    """The splits of a data set as memory-mapped arrays, decoded first if the cache does not hold them."""
    folder = kept(source.name, source.root, source.files, settings, partial(_decode, source))
    found = [split for split in SPLITS if (folder / f"{split}_x.npy").exists()]
    x, y = ([np.load(folder / f"{split}_{side}.npy", mmap_mode="r") for split in found] for side in "xy")
    return dict(zip(found, zip(x, y, strict=True), strict=True))


def kept(name: str, root: Path, files: Sequence[Path], settings: object, fill: Callable[[Path], None]) -> Path:
    """The cache's folder for what is made of these files with these settings; `fill` writes it if it is not there.

    Args:
      name: of the data set.
      root: the folder that all of its files lie in.
      files: those that determine the content.
      settings: what else determines it; its repr must say all of it.
      fill: called with an empty folder.

    Returns:
      The folder, which is whole.
    """
    cache = cache_folder("data")
    folder = cache / f"{re.sub(r'[^A-Za-z0-9]+', '_', name)}-{_digest(name, root, files, settings)}"
    if folder.is_dir() and not _is_whole(folder):
        warnings.warn(f"{folder} is damaged; {name} is decoded again", stacklevel=3)
        _discard(folder)
    if not folder.is_dir():
        try:
            _fill(folder, fill)
        except OSError as error:
            raise OSError(
                f"{cache}: the decoded {name} cannot be written there ({error.strerror or error}); set "
                "JAXLOCAL_CACHE to a folder with enough space"
            ) from error
    return folder


def _digest(name: str, root: Path, files: Sequence[Path], settings: object) -> str:
    """Identifies the content: by the files' bytes, or for large data sets by their names, sizes and dates."""
    files = sorted(files)
    stats = [path.stat() for path in files]
    small = sum(stat.st_size for stat in stats) <= HASHED
    digest = blake2b(repr((FORMAT, name, settings)).encode(), digest_size=8)
    for path, stat in zip(files, stats, strict=True):
        digest.update(repr((path.relative_to(root).as_posix(), stat.st_size)).encode())
        if small:
            with path.open("rb") as file:
                file_digest(file, lambda: digest)
        else:
            digest.update(repr(stat.st_mtime_ns).encode())
    return digest.hexdigest()


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a draft folder of this process, then rename it, so that no process ever sees half a data set."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
    draft.mkdir()
    try:
        fill(draft)
        write_whole(draft / SUMS, json.dumps(_sums(draft)))
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # if it is there, another process was faster and wrote the same
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether the files are those that were written, by the sums that were written with them."""
    try:
        return json.loads((folder / SUMS).read_text(encoding="utf-8")) == _sums(folder)
    except (OSError, ValueError):
        return False


def _sums(folder: Path) -> dict[str, str]:
    """The size and the hash of each file; of large data sets the sizes alone."""
    sizes = {path: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != SUMS}
    small = sum(sizes.values()) <= HASHED
    return {path.name: f"{size} {_hash(path) if small else ''}".strip() for path, size in sizes.items()}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, partial(blake2b, digest_size=16)).hexdigest()


def _discard(folder: Path) -> None:
    """Remove a folder, which other processes may remove or still read in this moment."""
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
    with suppress(FileNotFoundError):
        folder.rename(draft)
    shutil.rmtree(draft, ignore_errors=True)


def _remove_abandoned(cache: Path) -> None:
    for draft in cache.glob("*.part"):
        with suppress(FileNotFoundError):  # another process may finish and rename it in this moment
            if time.time() - max(path.stat().st_mtime for path in (draft, *draft.iterdir())) > ABANDONED:
                shutil.rmtree(draft, ignore_errors=True)


def _decode(source: Source, folder: Path) -> None:
    from tqdm import tqdm

    splits = source.decode()
    total = sum(split.examples for split in splits.values())
    with tqdm(total=total, desc=f"decoding {source.name}", unit=" examples", disable=None) as bar:
        for name, (count, pieces) in splits.items():
            _write(folder / f"{name}_x.npy", folder / f"{name}_y.npy", count, pieces, bar.update)


def _write(x_path: Path, y_path: Path, count: int, pieces: Iterator[Pairs], progress: Callable[[int], object]) -> None:
    """Write the pieces as two .npy files.

    Plain writes raise an error when the disk is full; a write to mapped memory would kill the process instead.
    """
    with x_path.open("wb") as x_file, y_path.open("wb") as y_file:
        for i, pair in enumerate(pieces):
            for file, array in zip((x_file, y_file), pair, strict=True):
                if i == 0:
                    header = np.lib.format.header_data_from_array_1_0(array[:0])
                    np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, *array.shape[1:])})
                file.write(np.ascontiguousarray(array).data)
            progress(len(pair[0]))
        for file in (x_file, y_file):
            file.flush()
            os.fsync(file.fileno())
