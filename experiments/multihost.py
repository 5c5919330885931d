"""Associated Learning on the embedded digits, as a pipeline over the devices of many processes.

`python -m jaxlocal.distributed --processes 2 -m experiments.multihost --out runs/digits` trains in two processes on one
machine. The run is saved after every epoch, and the same command goes on where it was, on any number of devices.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import broadcast_one_to_all

import jaxlocal as jl
from jaxlocal import distributed, flags

PROGRAM = "python -m experiments.multihost"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or go on training, and print what was reached."""
    parser, args = _read(argv)
    try:
        distributed.initialize()
        pipe = _pipeline(args)
    except ValueError as error:
        parser.error(str(error))
    (x, y), _, test = jl.data.digits()
    if args.batch_size > len(x):
        parser.error(f"--batch-size={args.batch_size}: must be at most {len(x)}, the number of training examples")
    init_key, order_key = jax.random.split(jax.random.key(args.seed))
    example = jax.tree.map(jnp.asarray, (x[: args.batch_size], y[: args.batch_size]))
    checkpoints = Checkpoints(
        args.out, {name: getattr(args, name) for name in ("hidden", "batch_size", "rate", "seed")}
    )
    try:
        done, plain = checkpoints.restore(jax.eval_shape(pipe.rule.init, init_key, example))
    except SettingsError as error:
        parser.error(f"--out={str(args.out)!r}: {error}")
    params = pipe.place(plain, example) if done else pipe.init(init_key, example)
    _say(f"{jax.process_count()} processes, mesh {dict(pipe.mesh.shape)}, {len(args.hidden)} components")
    if done:
        _say(f"going on after epoch {done}, from {args.out}")
    for epoch in range(done, args.epochs):
        start = time.perf_counter()
        # By the number of the epoch alone: an interrupted run goes on as if it had not been.
        order = np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), len(x)))
        rows = order[: len(order) // args.batch_size * args.batch_size].reshape(-1, args.batch_size)
        params, info = pipe.run(params, (x[rows], y[rows]))
        plain = pipe.drain(params)
        loss = np.asarray(info.losses).sum(-1).mean()
        checkpoints.save(epoch + 1, plain)
        _say(f"epoch {epoch + 1} of {args.epochs}: loss {loss:.4f}, {time.perf_counter() - start:.1f} s")
    _say(f"test accuracy {100 * float(jl.training.accuracy(pipe.rule, plain, test)):.2f} %")


def _pipeline(args: argparse.Namespace) -> jl.pipeline.Pipeline:
    """Over all devices of all processes."""
    count = len(jax.devices())
    mesh = jl.pipeline.mesh(component=args.component or max(count // args.data, 1), data=args.data)
    if mesh.size < count:
        raise ValueError(f"--component={mesh.shape['component']} and --data={args.data}: their product must be {count}")
    if args.batch_size % args.data:
        raise ValueError(f"--batch-size={args.batch_size}: must be a multiple of --data={args.data}")
    return jl.pipelined(jl.rules.al(jl.models.mlp(tuple(args.hidden), 10), optax.adam(args.rate)), mesh)


class SettingsError(Exception):
    """The saved run has other settings."""


class Checkpoints:
    """A run's parameters, epoch by epoch, in a folder of process 0; no other process needs to see the folder."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self._settings = settings
        self._manager = None
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            alone = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="process 0"
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, create=False, enable_async_checkpointing=False, multiprocessing_options=alone
            )
            self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, epoch: int, params: jl.Params) -> None:
        """Save the parameters in one stroke: a crash meanwhile leaves the last checkpoint as it is."""
        arrays = jax.tree.map(_as_array, params)  # by all processes: it computes
        if self._manager:
            saved = ocp.args.Composite(params=ocp.args.StandardSave(arrays), settings=ocp.args.JsonSave(self._settings))
            self._manager.save(epoch, args=saved)

    def restore(self, like: jl.Params) -> tuple[int, jl.Params]:
        """The last epoch and the parameters after it, the same on all processes; 0 and `like` if there is none."""
        arrays = jax.tree.map(_zeros, like)
        epoch, found = 0, self._settings
        if self._manager:
            epoch = self._manager.latest_step() or 0
            if epoch:
                found = self._manager.restore(epoch, args=ocp.args.Composite(settings=ocp.args.JsonRestore())).settings
        same = found == self._settings
        # One process alone must not stop here, while the others wait for it.
        epoch, agreed = (int(value) for value in broadcast_one_to_all((np.int32(epoch), np.int32(same))))
        if not agreed:
            raise SettingsError("holds a run with other settings; take these, or another folder")
        if not epoch:
            return 0, like
        if self._manager:
            wanted = ocp.args.Composite(params=ocp.args.StandardRestore(arrays))
            arrays = self._manager.restore(epoch, args=wanted).params
        # As bytes: a broadcast is a sum, and to floats a sum is not the same bit for bit (-0. + 0. is 0.).
        sent = broadcast_one_to_all([np.frombuffer(leaf.tobytes(), np.uint8) for leaf in jax.tree.leaves(arrays)])
        leaves = [
            np.frombuffer(data.tobytes(), leaf.dtype).reshape(leaf.shape)
            for data, leaf in zip(sent, jax.tree.leaves(arrays), strict=True)
        ]
        return epoch, jax.tree.map(_as_leaf, like, jax.tree.unflatten(jax.tree.structure(arrays), leaves))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_array(leaf: jax.Array) -> np.ndarray:
    """A leaf as it is saved: a NumPy array, of random keys their data."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _zeros(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    shape = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return np.zeros(shape.shape, shape.dtype)


def _as_leaf(like: jax.ShapeDtypeStruct, array: np.ndarray) -> Any:
    return jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(like) else array


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _read(argv: Sequence[str] | None) -> tuple[flags.Parser, argparse.Namespace]:
    parser = flags.Parser(PROGRAM, description=__doc__)
    show = "(default: %(default)s)"
    parser.add_argument(
        "--out", type=flags.folder, required=True, metavar="FOLDER", help="where the run is saved, or resumed from"
    )
    parser.add_argument("--epochs", type=flags.whole, default=20, metavar="N", help=f"passes over the data {show}")
    parser.add_argument("--batch-size", type=flags.whole, default=32, metavar="N", help=f"examples a step {show}")
    parser.add_argument("--rate", type=flags.positive, default=1e-3, help=f"the learning rate of Adam {show}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=f"of weights and order {show}")
    hidden = [256] * 4
    parser.add_argument(
        "--hidden", nargs="+", type=flags.whole, default=hidden, metavar="N", help=f"units of each layer {show}"
    )
    parser.add_argument(
        "--component", type=flags.whole, metavar="N", help="devices along the components (default: all)"
    )
    parser.add_argument(
        "--data", type=flags.whole, default=1, metavar="N", help=f"devices to split each batch over {show}"
    )
    return parser, parser.parse_args(argv)


if __name__ == "__main__":
    main()
