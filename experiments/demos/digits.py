"""Every rule on the embedded digits: no download, no settings of its own, a few minutes on two cores."""

from collections.abc import Sequence

import jaxlocal as jl
from experiments.demos import classify
from experiments.lab import records as results


def main(argv: Sequence[str] | None = None) -> None:
    """Train the rules, print their table, and record a full run."""
    parser = classify.Parser("digits", __doc__, seeds=3, epochs=40, batch_size=32, rate=1e-3)
    args = parser.read(argv)
    results.code()  # of now: the code may be edited while it runs
    splits = classify.on_device(jl.data.digits(), parser, args)
    rows = [classify.train(name, classify.make(name, args), splits, args) for name in args.rules]
    print(f"\n{results.table(rows)}")
    if out := parser.destination(args):
        path = results.record("digits", rows, parser.command(args, args.rules), classify.settings(args), out=out)
        print(f"\nrecorded in {path}")


if __name__ == "__main__":
    main()
