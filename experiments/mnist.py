"""Every rule on MNIST, a short run each. TFDS_DATA_DIR names the folder of the prepared data sets.

A rule's row is recorded as soon as it is done; the same command, given again, goes on from there.
"""

import sys
from collections.abc import Sequence

import jaxlocal as jl
from experiments import classify, results

BARTUNOV = "Bartunov et al. 2018, Table 1, MNIST, FC"
PAPERS = {
    "bp": {"test": 0.9852, "source": BARTUNOV},
    "al": {"test": 0.986, "source": "Kao and Chen 2021, Table 2, MLP"},
    "dtp": {"test": 0.9714, "source": f"{BARTUNOV}, parallel"},
    "sdtp": {"test": 0.9648, "source": f"{BARTUNOV}, parallel"},
    "ao_sdtp": {"test": 0.9707, "source": f"{BARTUNOV}, parallel"},
    "fa": {"test": 0.9815, "source": BARTUNOV},
    "dfa": {"test": 0.9725, "source": BARTUNOV},
}
NOTE = (
    "Only loosely comparable with the papers: our net has two hidden layers of 256 units, each rule its default "
    "settings, and the budget is far shorter. Bartunov et al. train six layers of 256 units with settings of a random "
    "search; Kao and Chen train layers of 1024 units for 200 epochs."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the rules that are not done yet, record each, and print their table."""
    parser = classify.Parser("mnist", __doc__, seeds=1, epochs=5, batch_size=64, rate=1e-3)
    parser.add_argument("--again", action="store_true", help="train the rules that are already recorded, too")
    args = parser.read(argv)
    results.code()  # of now: the code may be edited while it runs
    settings, out = classify.settings(args), parser.destination(args)
    rows = results.finished(out, settings) if out else {}
    try:
        splits = classify.on_device(jl.data.images("mnist"), parser, args)
    except FileNotFoundError as error:
        sys.exit(f"{parser.prog}: {error}")
    for name in args.rules:
        if name in rows and not args.again:
            print(f"{name:8} done before: --again trains it once more")
            continue
        rows[name] = classify.train(name, splits, args, PAPERS.get(name))
        if out:
            done = [rule for rule in jl.rules.ALL if rule in rows]
            ordered = [rows[rule] for rule in done]
            results.record("mnist", ordered, parser.command(args, done), settings, note=NOTE, out=out)
    print(f"\n{results.table([rows[name] for name in args.rules])}\n\n{NOTE}")
    if out:
        print(f"\nrecorded in {out}")


if __name__ == "__main__":
    main()
