"""Checkpoints of a run in a folder, written by Orbax: what is read is exactly what was saved.

A checkpoint holds the parameters of a run and some facts about it, such as its history. It is written under a temporary
name and in the background, so a process that is killed at any moment leaves the earlier checkpoints as they were.
Digests of the arrays and of the facts are saved with them; a checkpoint that does not agree with its digests is
damaged, and is skipped.
"""

import errno
import hashlib
import json
import os
import shutil
import warnings
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import checks, processes
from jaxlocal.network import Tree
from jaxlocal.text import reason

# The numbers of errors of the machine.
PASSING = {errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}
SPARE = 2**20  # bytes that a checkpoint may need in addition to its arrays


class MismatchError(ValueError):
    """A checkpoint is sound, but belongs to another run: its parameters or settings are different."""


class Saved(NamedTuple):
    """What a checkpoint holds."""

    step: int
    params: Tree
    facts: dict[str, Any]


class Checkpoints:
    """The last checkpoints of a run, and its best one.

    If several processes train together, each of them makes the same calls. Process 0 alone reads and writes the folder;
    the others receive what it reads.

    Args:
      folder: where the checkpoints are; it is made if it does not exist.
      keep: the number of last checkpoints that are kept, besides the best one.
      read_only: change nothing in the folder, in which another process may be writing.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with Checkpoints(folder) as checkpoints:
      ...         checkpoints.save(3, {"w": jnp.ones(2)}, {"epoch": 1}, score=0.5)
      ...     with Checkpoints(folder) as checkpoints:
      ...         step, params, facts = checkpoints.latest({"w": jnp.zeros(2)})
      >>> step, params["w"].tolist(), facts
      (3, [1.0, 1.0], {'epoch': 1})
    """

    def __init__(self, folder: Path | str, keep: int = 2, *, read_only: bool = False):
        checks.positive_int("keep", keep)
        self.folder = folder = checks.path("folder", folder)
        self._read_only = read_only
        self._manager: Any = None
        processes.first(partial(self._open, keep))

    def save(self, step: int, params: Tree, facts: dict[str, Any], score: float | None = None) -> None:
        """Save in the background, as soon as the previous checkpoint is written.

        Args:
          step: the number of steps trained so far, by which the checkpoint is named.
          params: the parameters; the training may overwrite them at once.
          facts: anything that can be stored as JSON.
          score: the higher, the better; the checkpoint with the highest score is kept.
        """
        arrays = jax.tree.map(_as_array, params)  # in all processes, because it computes on all devices
        processes.first(partial(self._save, step, arrays, facts, score))

    def latest(self, like: Tree) -> Saved | None:
        """The last sound checkpoint, or None; damaged ones are named in a warning and moved to the folder `damaged`."""
        return _on_devices(like, processes.first(lambda: self._first_sound(like, self._steps())))

    def best(self, like: Tree) -> Saved | None:
        """The checkpoint with the highest score, or None if it is damaged or no checkpoint has a score."""

        def read() -> Saved | None:
            found = {step: self._score(step) for step in self._steps()}
            scores = {step: score for step, score in found.items() if score is not None and score > -np.inf}
            return self._first_sound(like, sorted(scores, key=scores.__getitem__)[-1:])

        return _on_devices(like, processes.first(read))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except Exception:
            if kind is None:  # otherwise the earlier error matters more
                raise

    def wait(self) -> None:
        """Wait until everything is written."""
        if self._manager:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is written, and release the folder."""
        if self._manager:
            self._manager.close()

    def _open(self, keep: int) -> None:
        if self._read_only and not self.folder.is_dir():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._read_only:  # Orbax reads the scores of all checkpoints, and fails if one cannot be read
            for step in self._steps():
                if self._score(step) is None:
                    self._skip(step, "its score cannot be read")
        self._manager = _Reader(self.folder.resolve()) if self._read_only else _manager(self.folder.resolve(), keep)

    def _save(self, step: int, arrays: Tree, facts: dict[str, Any], score: float | None) -> None:
        import orbax.checkpoint as ocp

        arrays = jax.tree.map(np.copy, arrays)  # on a CPU, the training will overwrite the memory of the originals
        self.wait()
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
        described = {"facts": facts, "shapes": shapes(arrays), "arrays": digest(*jax.tree.leaves(arrays))}
        content = ocp.args.Composite(
            params=ocp.args.StandardSave(arrays),
            facts=ocp.args.JsonSave({**described, "digest": _digest_of_text(described)}),
        )
        metrics = {"score": -np.inf if score is None or np.isnan(score) else float(score)}
        self._manager.save(step, args=content, metrics=metrics)
        if processes.several():  # if another process dies, this one ends at once, without writing any further
            self.wait()

    def _check_room(self, size: int) -> None:
        """Raise an error before anything is written to a full disk: each of Orbax's threads would print its own."""
        if shutil.disk_usage(self.folder).free < size + SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def _first_sound(self, like: Tree, steps: list[int]) -> Saved | None:
        for step in steps:
            try:
                return self._read(step, like)
            except MismatchError:
                raise
            except Exception as error:  # Orbax and TensorStore raise errors of many kinds
                if _is_of_the_machine(error):
                    raise
                if (self.folder / str(step)).exists():  # otherwise a training process has just removed it
                    self._skip(step, reason(error))
        return None

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, the last one first."""
        if not self.folder.is_dir():
            return []
        return sorted((int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()), reverse=True)

    def _score(self, step: int) -> float | None:
        try:
            return float(json.loads((self.folder / str(step) / "metrics" / "metrics").read_text())["score"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if _is_of_the_machine(error):
                raise
            return None

    def _read(self, step: int, like: Tree) -> Saved:
        import orbax.checkpoint as ocp

        zeros = jax.tree.map(_zeros, like)
        described = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
        if described.pop("digest") != _digest_of_text(described):
            raise ValueError("its facts are not those that were saved")
        if described["shapes"] != (wanted_shapes := shapes(zeros)):
            pairs = zip_longest(described["shapes"], wanted_shapes, fillvalue="nothing")
            there, here = next(pair for pair in pairs if pair[0] != pair[1])
            raise MismatchError(
                f"checkpoint {self.folder / str(step)} has parameters of other shapes: {there}, where this rule and "
                f"network have {here}"
            )
        wanted = ocp.args.Composite(params=ocp.args.StandardRestore(zeros))
        params = self._manager.restore(step, args=wanted).params
        if described["arrays"] != digest(*jax.tree.leaves(params)):
            raise ValueError("its arrays are not those that were saved")
        return Saved(step, jax.tree.map(np.asarray, params), described["facts"])

    def _skip(self, step: int, reason: str) -> None:
        moved = "" if self._read_only else f", and moved to {self._put_aside(step)}"
        place = self.folder / str(step)
        warnings.warn(f"checkpoint {place} is damaged ({reason}): it is skipped{moved}", stacklevel=3)

    def _put_aside(self, step: int) -> Path:
        aside = self.folder / "damaged"
        aside.mkdir(exist_ok=True)
        place = next(path for n in range(1000) if not (path := aside / f"{step}-{n}").exists())
        (self.folder / str(step)).rename(place)
        if self._manager:
            self._manager.reload()
        return place


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the machine could not read, and the checkpoint may be sound."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in PASSING)


def _on_devices(like: Tree, saved: Saved | None) -> Saved | None:
    """What a checkpoint holds, with its parameters as arrays of JAX."""
    return saved and saved._replace(params=jax.tree.map(_as_leaf, like, saved.params))


def shapes(arrays: Tree) -> list[str]:
    """The place, shape and type of every array in a tree."""
    return [
        f"{jax.tree_util.keystr(path)} {a.shape} {a.dtype}" for path, a in jax.tree_util.tree_leaves_with_path(arrays)
    ]


def digest(*arrays: np.ndarray) -> str:
    """The SHA-256 of the bytes of some arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return sha.hexdigest()


def _digest_of_text(described: dict[str, Any]) -> str:
    return digest(np.frombuffer(json.dumps(described, sort_keys=True).encode(), np.uint8))


class _Reader:
    """Reads checkpoints one by one, where Orbax's manager would fail if the score of any of them is damaged."""

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp  # slow to import

        self._folder = folder
        self._checkpointer = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler("params", "facts"), multiprocessing_options=_alone()
        )

    def restore(self, step: int, args: Any) -> Any:
        """The parts of a checkpoint that the arguments name."""
        return self._checkpointer.restore(self._folder / str(step), args=args)

    def wait_until_finished(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Release what Orbax holds."""
        self._checkpointer.close()


def _alone() -> Any:
    """Orbax works in process 0 alone."""
    import orbax.checkpoint as ocp

    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="process 0")


def _manager(folder: Path, keep: int) -> Any:
    """The manager of Orbax, which keeps the last `keep` checkpoints and the best one."""
    import orbax.checkpoint as ocp  # slow to import
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

    options = ocp.CheckpointManagerOptions(
        create=False,
        cleanup_tmp_directories=True,
        best_fn=lambda metrics: metrics["score"],
        preservation_policy=AnyPreservationPolicy(
            [LatestN(keep), BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)]
        ),
        multiprocessing_options=_alone(),
    )
    return ocp.CheckpointManager(folder, options=options)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_array(leaf: jax.Array) -> np.ndarray:
    """A leaf as it is saved: as a NumPy array, which for random keys is their data."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _zeros(leaf: Any) -> np.ndarray:
    shape = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return np.zeros(shape.shape, shape.dtype)


def _as_leaf(like: Any, array: np.ndarray) -> Any:
    return jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(like) else jnp.asarray(array)
