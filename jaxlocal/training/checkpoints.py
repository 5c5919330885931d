"""Checkpoints: parameters and facts of a run in a folder, by Orbax; each is whole and sound, or it is passed over."""

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from jaxlocal.network import Tree

SPARE = 2**20  # bytes that a checkpoint may take beside its arrays


class MismatchError(ValueError):
    """A checkpoint is sound, but of other parameters."""


class Saved(NamedTuple):
    """What a checkpoint held."""

    step: int
    params: Tree
    facts: dict[str, Any]


class Checkpoints:
    """The last checkpoints of a run and its best one, in a folder; written by process 0, which alone must see it.

    Each is written in one stroke and in the background, so a process that dies at any moment leaves the one before
    as it was. A digest tells whether a checkpoint is what was saved.

    Args:
      folder: made if it is not there.
      keep: how many of the last checkpoints are kept.
      read_only: only look: another process may be writing there.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with Checkpoints(Path(folder)) as checkpoints:
      ...         checkpoints.save(3, {"w": jnp.ones(2)}, {"epoch": 1}, score=0.5)
      ...     with Checkpoints(Path(folder)) as checkpoints:
      ...         step, params, facts = checkpoints.latest({"w": jnp.zeros(2)})
      >>> step, params["w"].tolist(), facts
      (3, [1.0, 1.0], {'epoch': 1})
    """

    def __init__(self, folder: Path, keep: int = 2, *, read_only: bool = False):
        self.folder, self._read_only = folder, read_only
        self._manager: Any = None
        if jax.process_index() == 0 and not (read_only and not folder.is_dir()):
            folder.mkdir(parents=True, exist_ok=True)
            if not read_only:  # Orbax reads all scores at once, and stumbles over a single bad one
                for step in self._steps():
                    if self._score(step) is None:
                        self._pass_over(step, "its score cannot be read")
            self._manager = _manager(folder.resolve(), None if read_only else keep)

    def save(self, step: int, params: Tree, facts: dict[str, Any], score: float | None = None) -> None:
        """Save in the background, after the checkpoint before is done; the best one is that of the highest score."""
        import orbax.checkpoint as ocp

        arrays = jax.tree.map(_as_array, params)  # by all processes: it computes
        if self._manager:
            # A copy: the training goes on in the memory of the arrays, which a CPU shares with NumPy.
            arrays = jax.tree.map(np.copy, arrays)
            self.wait()
            self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
            told = {"facts": facts, "shapes": shapes(arrays), "arrays": digest(*jax.tree.leaves(arrays))}
            content = ocp.args.Composite(
                params=ocp.args.StandardSave(arrays),
                facts=ocp.args.JsonSave({**told, "digest": _digest_of_text(told)}),
            )
            metrics = {"score": -np.inf if score is None or np.isnan(score) else float(score)}
            self._manager.save(step, args=content, metrics=metrics)

    def latest(self, like: Tree) -> Saved | None:
        """The last checkpoint that is sound, or None; those that are not are named in a warning, and put aside."""
        return self._agreed(like, lambda: self._first_sound(like, self._steps()))

    def best(self, like: Tree) -> Saved | None:
        """The checkpoint of the highest score, or None if it is not sound or there is none."""

        def read() -> Saved | None:
            scores = {step: score for step in self._steps() if (score := self._score(step)) is not None}
            return self._first_sound(like, sorted(scores, key=scores.__getitem__)[-1:])

        return self._agreed(like, read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except Exception:
            if kind is None:  # else what went wrong first is told
                raise

    def wait(self) -> None:
        """Until all is written."""
        if self._manager:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until all is written, and let go of the folder."""
        if self._manager:
            self._manager.close()

    def _check_room(self, size: int) -> None:
        """A full disk is told of before writing: Orbax's threads would print what happens to each of them."""
        if shutil.disk_usage(self.folder).free < size + SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def _first_sound(self, like: Tree, steps: list[int]) -> Saved | None:
        for step in steps:
            try:
                return self._read(step, like)
            except MismatchError:
                raise
            except Exception as error:  # Orbax and what it reads with raise many kinds
                if (self.folder / str(step)).exists():  # else the process that trains has just removed it
                    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                    self._pass_over(step, reason[:200])
        return None

    def _steps(self) -> list[int]:
        """Of all checkpoints, the last one first."""
        return sorted((int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()), reverse=True)

    def _score(self, step: int) -> float | None:
        try:
            return float(json.loads((self.folder / str(step) / "metrics" / "metrics").read_text())["score"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _read(self, step: int, like: Tree) -> Saved:
        import orbax.checkpoint as ocp

        zeros = jax.tree.map(_zeros, like)
        told = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
        if told.pop("digest") != _digest_of_text(told):
            raise ValueError("its facts are not those that were saved")
        if told["shapes"] != shapes(zeros):
            raise MismatchError(f"checkpoint {self.folder / str(step)} is of other parameters, by their shapes")
        wanted = ocp.args.Composite(params=ocp.args.StandardRestore(zeros))
        params = self._manager.restore(step, args=wanted).params
        if told["arrays"] != digest(*jax.tree.leaves(params)):
            raise ValueError("its arrays are not those that were saved")
        return Saved(step, jax.tree.map(_as_leaf, like, params), told["facts"])

    def _pass_over(self, step: int, reason: str) -> None:
        aside = "" if self._read_only else f", and moved to {self._put_aside(step)}"
        place = self.folder / str(step)
        warnings.warn(f"checkpoint {place} is damaged ({reason}): it is passed over{aside}", stacklevel=3)

    def _put_aside(self, step: int) -> Path:
        aside = self.folder / "damaged"
        aside.mkdir(exist_ok=True)
        place = next(path for n in range(1000) if not (path := aside / f"{step}-{n}").exists())
        (self.folder / str(step)).rename(place)
        if self._manager:
            self._manager.reload()
        return place

    def _agreed(self, like: Tree, read: Callable[[], Saved | None]) -> Saved | None:
        """What process 0 reads, the same on all processes."""
        saved: Saved | None = None
        mismatch: MismatchError | None = None
        if self._manager:
            try:
                saved = read()
            except MismatchError as error:  # one process alone must not stop here, while the others wait for it
                mismatch = error
        if jax.process_count() > 1:
            agreed = np.int32(-1 if saved is None else saved.step), np.int32(mismatch is not None)
            step, mismatched = map(int, broadcast_one_to_all(agreed))
            if mismatched:
                mismatch = MismatchError(f"the checkpoints in {self.folder} are of other parameters, by their shapes")
            elif step >= 0:
                saved = _shared(step, like, saved)
        if mismatch:
            raise mismatch
        return saved


def _shared(step: int, like: Tree, saved: Saved | None) -> Saved:
    """What process 0 has read, on all processes."""
    arrays = jax.tree.map(_zeros, like) if saved is None else jax.tree.map(_as_array, saved.params)
    leaves, tree = jax.tree.flatten(arrays)
    # As bytes: a broadcast is a sum, and to floats a sum is not the same bit for bit (-0. + 0. is 0.).
    sent = broadcast_one_to_all([np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves])
    got = [
        np.frombuffer(data.tobytes(), leaf.dtype).reshape(leaf.shape) for data, leaf in zip(sent, leaves, strict=True)
    ]
    params = jax.tree.map(_as_leaf, like, jax.tree.unflatten(tree, got))
    return Saved(step, params, _broadcast(saved and saved.facts))


def _broadcast(facts: dict[str, Any] | None) -> dict[str, Any]:
    """Process 0's facts, to all processes: first how long they are."""
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    length = int(broadcast_one_to_all(np.int32(len(text))))
    sent = text if facts is not None else np.zeros(length, np.uint8)
    return json.loads(broadcast_one_to_all(sent).tobytes())


def shapes(arrays: Tree) -> list[str]:
    """Of a tree of arrays the places, shapes and types."""
    return [
        f"{jax.tree_util.keystr(path)} {a.shape} {a.dtype}" for path, a in jax.tree_util.tree_leaves_with_path(arrays)
    ]


def digest(*arrays: np.ndarray) -> str:
    """Of all bytes of some arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return sha.hexdigest()


def _digest_of_text(told: dict[str, Any]) -> str:
    return digest(np.frombuffer(json.dumps(told, sort_keys=True).encode(), np.uint8))


def _manager(folder: Path, keep: int | None) -> Any:
    """Orbax's own; without `keep` to read only."""
    import orbax.checkpoint as ocp  # slow to import
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="process 0"
    )
    if keep is None:
        options = ocp.CheckpointManagerOptions(
            create=False, cleanup_tmp_directories=False, multiprocessing_options=alone
        )
        return ocp.CheckpointManager(folder, options=options)
    options = ocp.CheckpointManagerOptions(
        create=False,
        cleanup_tmp_directories=True,
        best_fn=lambda metrics: metrics["score"],
        preservation_policy=AnyPreservationPolicy(
            [LatestN(keep), BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)]
        ),
        multiprocessing_options=alone,
    )
    return ocp.CheckpointManager(folder, options=options)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_array(leaf: jax.Array) -> np.ndarray:
    """A leaf as it is saved: a NumPy array, of random keys their data."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _zeros(leaf: Any) -> np.ndarray:
    shape = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return np.zeros(shape.shape, shape.dtype)


def _as_leaf(like: Any, array: np.ndarray) -> Any:
    return jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(like) else jnp.asarray(array)
