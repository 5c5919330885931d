"""Every rule on MNIST, a short run each. TFDS_DATA_DIR names the folder of the prepared data sets.

A rule's row is recorded as soon as it is done; the same command, given again, goes on from there.
"""

from collections.abc import Sequence

from experiments.demos import classify
from experiments.lab import records as results

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
    args = parser.read(argv)
    results.code()  # of now: the code may be edited while it runs
    splits = classify.images("mnist", parser)
    classify.compare(parser, args, splits, classify.make, classify.settings(args), papers=PAPERS, note=NOTE)


if __name__ == "__main__":
    main()
