"""Rules side by side on one image set: what these experiments share."""

import argparse
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxlocal as jl
from experiments.lab import records as results
from jaxlocal import flags

HIDDEN = (256, 256)
CLASSES = 10
Make = Callable[[str, argparse.Namespace], jl.Rule]


class Parser(flags.Parser):
    """The flags of an experiment."""

    def __init__(
        self,
        name: str,
        description: str | None,
        *,
        seeds: int,
        epochs: int,
        batch_size: int,
        rate: float,
    ):
        super().__init__(f"python -m experiments.{results.module(name)}", description=description)
        self.name, self.rules = name, tuple(jl.rules.ALL)
        show = "(default: %(default)s)"
        self.add_argument(
            "--rules", nargs="+", type=self._rule, default=self.rules, metavar="RULE", help=" ".join(self.rules)
        )
        self.add_argument("--seeds", type=flags.whole, default=seeds, metavar="N", help=f"run seeds 0 to N-1 {show}")
        self.add_argument(
            "--epochs", type=flags.whole, default=epochs, metavar="N", help=f"passes over the data {show}"
        )
        self.add_argument(
            "--batch-size", type=flags.whole, default=batch_size, metavar="N", help=f"examples a step {show}"
        )
        self.add_argument("--rate", type=flags.positive, default=rate, help=f"the learning rate {show}")
        recorded = "write the record here (default: a full run's to experiments/records, a shorter run's nowhere)"
        self.add_argument("--again", action="store_true", help="train what is recorded already, too")
        self.add_argument("--out", type=flags.file, metavar="FILE", help=recorded)

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The arguments, with the rules in the library's order, each once."""
        args = self.parse_args(argv)
        args.rules = [rule for rule in self.rules if rule in args.rules]
        return args

    def _rule(self, name: str) -> str:
        if name in self.rules:
            return name
        near = get_close_matches(name.lower(), self.rules, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the rules are {', '.join(self.rules)}"
        raise argparse.ArgumentTypeError(f"there is no rule {name!r}; {hint}")

    def destination(self, args: argparse.Namespace) -> Path | None:
        """Where the run is recorded. A shorter run than the default one leaves the record of that alone."""
        if args.out:
            return args.out
        budget = "rules", "seeds", "epochs", "batch_size", "rate"
        full = all(_listed(getattr(args, key)) == _listed(self.get_default(key)) for key in budget)
        return results.RESULTS / f"{self.name}.json" if full else None

    def command(self, args: argparse.Namespace, done: Collection[str]) -> str:
        """The command that makes the rows of these rules again, whatever the defaults will be by then."""
        rules = "" if len(done) == len(self.rules) else f" --rules {' '.join(done)}"
        budget = f"--seeds {args.seeds} --epochs {args.epochs} --batch-size {args.batch_size} --rate {args.rate}"
        return f"{self.prog}{rules} {budget}"


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """All that a row depends on, beside the code; each rule has its default settings."""
    return {
        "seeds": list(range(args.seeds)),
        "net": f"mlp(hidden={HIDDEN}, classes={CLASSES})",
        "optimizer": f"adam({args.rate})",
        "batch_size": args.batch_size,
        "epochs": args.epochs,
        "reported": "accuracy after the last epoch",
    }


def make(name: str, args: argparse.Namespace) -> jl.Rule:
    """The rule with its default settings, on two layers."""
    return jl.rules.ALL[name](jl.models.mlp(HIDDEN, CLASSES), optax.adam(args.rate))


def train(
    name: str,
    rule: jl.Rule,
    splits: jl.data.Splits,
    args: argparse.Namespace,
    paper: Mapping[str, Any] | None = None,
) -> results.Row:
    """Train one rule from every seed, and say how it went in one line."""
    start = time.perf_counter()
    accuracies = []
    for seed in range(args.seeds):  # one after the other: on a CPU, an ensemble gains nothing
        params = jl.training.fit(rule, splits, epochs=args.epochs, batch_size=args.batch_size, seed=seed).params
        measured: list[Any] = [jl.training.evaluate(rule, params, split)["accuracy"] for split in splits]
        accuracies.append(dict(zip(results.SPLITS, (round(value, 6) for value in measured), strict=True)))
    row = results.row(name, accuracies, time.perf_counter() - start, paper)
    print(f"{name:8} test {results.percent(row['test'])} %  ({row['seconds']:.1f} s)", flush=True)
    return row


def images(name: str, parser: flags.Parser) -> jl.data.Splits:
    """The image set; one that is not there is one line."""
    try:
        return jl.data.images(name)
    except FileNotFoundError as error:
        sys.exit(f"{parser.prog}: {error}")


def compare(
    parser: Parser,
    args: argparse.Namespace,
    splits: jl.data.Splits,
    make: Make,
    settings: Mapping[str, Any],
    *,
    papers: Mapping[str, Mapping[str, Any]],
    note: str,
) -> None:
    """Train the rules that are not done yet, record each as soon as it is done, and print their table."""
    out = parser.destination(args)
    rows = results.finished(out, settings) if out else {}
    splits = on_device(splits, parser, args)
    for name in args.rules:
        if name in rows and not args.again:
            print(f"{name:8} done before: --again trains it once more")
            continue
        rows[name] = train(name, make(name, args), splits, args, papers.get(name))
        if out:
            done = [rule for rule in parser.rules if rule in rows]
            ordered = [rows[rule] for rule in done]
            results.record(parser.name, ordered, parser.command(args, done), settings, note=note, out=out)
    print(f"\n{results.table([rows[name] for name in args.rules])}\n\n{note}")
    if out:
        print(f"\nrecorded in {out}")


def on_device(splits: jl.data.Splits, parser: Parser, args: argparse.Namespace) -> jl.data.Splits:
    """The data as JAX arrays, uploaded once; an epoch of no whole batch is refused."""
    if args.batch_size > (count := len(splits.train[0])):
        parser.error(f"argument --batch-size: {args.batch_size} is more than the {count} training examples")
    return jax.tree.map(jnp.asarray, splits)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
