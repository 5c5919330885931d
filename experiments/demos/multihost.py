"""Associated Learning on the embedded digits, as a pipeline over the devices of many processes.

`python -m jaxlocal.distributed --processes 2 -m experiments.demos.multihost --out runs/digits` trains in two processes
on one machine. If it is stopped, the same command resumes it, on any number of devices.
"""

import argparse
from collections.abc import Sequence

import jax
import optax

import jaxlocal as jl
from jaxlocal import distributed, flags
from jaxlocal.training.checkpoints import MismatchError

PROGRAM = "python -m experiments.demos.multihost"


def main(argv: Sequence[str] | None = None) -> None:
    """Train or resume, and print the accuracy on the test set."""
    parser = _parser()
    args = parser.parse_args(argv)
    data = jl.data.digits()
    try:
        distributed.initialize()
        pipe = _pipeline(args)
    except ValueError as error:
        parser.error(str(error))
    if args.batch_size > (count := len(data.train[0])):
        parser.error(f"--batch-size={args.batch_size}: must be at most {count}, the number of training examples")
    settings = {name: getattr(args, name) for name in ("hidden", "batch_size", "rate", "seed")}
    try:
        session = jl.training.Session(args.out, pipe, data, settings=settings)
    except jl.training.InUseError as error:
        parser.error(f"--out={str(args.out)!r}: {error}")
    except MismatchError:
        parser.error(f"--out={str(args.out)!r}: holds a run with other settings; take these, or another folder")
    except OSError as error:
        parser.error(f"--out={str(args.out)!r}: cannot be written to ({error.strerror}); name another folder")

    def watch(progress: jl.training.Progress) -> None:
        if progress.state:
            row = progress.state.history[-1]
            loss, accuracy = sum(row["losses"]), row["validation"]["accuracy"]
            _say(f"epoch {row['epoch']} of {args.epochs}: loss {loss:.4f}, validation {100 * accuracy:.2f} %")

    with session:
        _say(f"{jax.process_count()} processes, mesh {dict(pipe.mesh.shape)}, {len(args.hidden)} components")
        if session.state:
            _say(f"resuming after epoch {len(session.state.history)}, from {args.out}")
        try:
            result = session.train(epochs=args.epochs, batch_size=args.batch_size, seed=args.seed, watch=watch)
        except jl.training.Interrupted as stop:
            _say(f"stopped after step {stop.step}; the same command resumes")
            parser.exit(128 + stop.signal)
    measured = jl.training.evaluate(pipe.rule, result.params, data.test)
    _say(f"test accuracy {measured['accuracy']:.2%}")


def _pipeline(args: argparse.Namespace) -> jl.pipeline.Pipeline:
    """The pipeline over all devices of all processes."""
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


def _parser() -> flags.Parser:
    parser = flags.Parser(PROGRAM, description=__doc__)
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--out", type=flags.folder, required=True, metavar="FOLDER", help="where the run is saved, or resumed from")
    add("--epochs", type=flags.whole, default=20, metavar="N", help=f"number of epochs {default}")
    add("--batch-size", type=flags.whole, default=32, metavar="N", help=f"examples in a step {default}")
    add("--rate", type=flags.positive, default=1e-3, help=f"learning rate of Adam {default}")
    add("--seed", type=int, default=0, metavar="N", help=f"seed of the weights and the order {default}")
    hidden = [256] * 4
    add("--hidden", nargs="+", type=flags.whole, default=hidden, metavar="N", help=f"units of each layer {default}")
    add("--component", type=flags.whole, metavar="N", help="devices along the components (default: all)")
    add("--data", type=flags.whole, default=1, metavar="N", help=f"devices that share each batch {default}")
    return parser


if __name__ == "__main__":
    main()
