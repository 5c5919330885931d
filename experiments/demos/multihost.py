"""Associated Learning on the embedded digits, as a pipeline over the devices of many processes.

`python -m jaxlocal.distributed --processes 2 -m experiments.demos.multihost --out runs/digits` trains in two processes
on one machine. The run is saved after every epoch, and the same command goes on where it was, on any number of devices.
"""

import argparse
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from jaxlocal import distributed, flags
from jaxlocal.training.checkpoints import Checkpoints, MismatchError

PROGRAM = "python -m experiments.demos.multihost"


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
    settings = {name: getattr(args, name) for name in ("hidden", "batch_size", "rate", "seed")}
    try:
        checkpoints = Checkpoints(args.out)
        saved = checkpoints.latest(jax.eval_shape(pipe.rule.init, init_key, example))
        same = saved is None or saved.facts == settings
    except MismatchError:
        same = False
    except OSError as error:
        parser.error(f"--out={str(args.out)!r}: cannot be written to ({error.strerror}); name another folder")
    if not same:
        parser.error(f"--out={str(args.out)!r}: holds a run with other settings; take these, or another folder")
    done = saved.step if saved else 0
    params = pipe.place(saved.params, example) if saved else pipe.init(init_key, example)
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
        checkpoints.save(epoch + 1, plain, settings)
        checkpoints.wait()  # what is said to be done is saved
        _say(f"epoch {epoch + 1} of {args.epochs}: loss {loss:.4f}, {time.perf_counter() - start:.1f} s")
    checkpoints.close()
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
