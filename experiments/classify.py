"""Every rule on one image set: what the experiments on digits and on MNIST share."""

import argparse
import time
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxlocal as jl
from experiments import results
from jaxlocal import flags

HIDDEN = (256, 256)
CLASSES = 10


class Parser(flags.Parser):
    """The flags of an experiment."""

    def __init__(self, name: str, description: str | None, *, seeds: int, epochs: int, batch_size: int, rate: float):
        super().__init__(f"python -m experiments.{name}", description=description)
        self.name = name
        rules = list(jl.rules.ALL)
        show = "(default: %(default)s)"
        self.add_argument("--rules", nargs="+", type=_rule, default=rules, metavar="RULE", help=" ".join(rules))
        self.add_argument("--seeds", type=flags.whole, default=seeds, metavar="N", help=f"run seeds 0 to N-1 {show}")
        self.add_argument(
            "--epochs", type=flags.whole, default=epochs, metavar="N", help=f"passes over the data {show}"
        )
        self.add_argument(
            "--batch-size", type=flags.whole, default=batch_size, metavar="N", help=f"examples a step {show}"
        )
        self.add_argument("--rate", type=flags.positive, default=rate, help=f"the learning rate of Adam {show}")
        recorded = "write the record here (default: a full run's to experiments/results, a shorter run's nowhere)"
        self.add_argument("--out", type=flags.file, metavar="FILE", help=recorded)

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The arguments, with the rules in the library's order, each once."""
        args = self.parse_args(argv)
        args.rules = [rule for rule in jl.rules.ALL if rule in args.rules]
        return args

    def destination(self, args: argparse.Namespace) -> Path | None:
        """Where the run is recorded. A shorter run than the default one leaves the record of that alone."""
        if args.out:
            return args.out
        budget = "rules", "seeds", "epochs", "batch_size", "rate"
        full = all(getattr(args, key) == self.get_default(key) for key in budget)
        return results.RESULTS / f"{self.name}.json" if full else None

    def command(self, args: argparse.Namespace, done: Collection[str]) -> str:
        """The command that makes the rows of these rules again, whatever the defaults will be by then."""
        rules = "" if len(done) == len(jl.rules.ALL) else f" --rules {' '.join(done)}"
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


def train(
    name: str, splits: jl.data.Splits, args: argparse.Namespace, paper: Mapping[str, Any] | None = None
) -> results.Row:
    """Train one rule from every seed, and say how it went in one line."""
    start = time.perf_counter()
    rule = jl.rules.ALL[name](jl.models.mlp(HIDDEN, CLASSES), optax.adam(args.rate))
    init = jax.jit(rule.init)
    accuracies = []
    for seed in range(args.seeds):  # one after the other: on a CPU, vmap over the seeds gains nothing
        init_key, order_key = jax.random.split(jax.random.key(seed))
        params = init(init_key, splits.train)
        for epoch in range(args.epochs):
            epoch_key = jax.random.fold_in(order_key, epoch)
            params, _ = jl.training.epoch(rule, params, splits.train, epoch_key, args.batch_size)
        measured = [round(float(jl.training.accuracy(rule, params, split)), 6) for split in splits]
        accuracies.append(dict(zip(results.SPLITS, measured, strict=True)))
    row = results.row(name, accuracies, time.perf_counter() - start, paper)
    print(f"{name:8} test {results.percent(row['test'])} %  ({row['seconds']:.1f} s)", flush=True)
    return row


def on_device(splits: jl.data.Splits, parser: Parser, args: argparse.Namespace) -> jl.data.Splits:
    """The data as JAX arrays, uploaded once; an epoch of no whole batch is refused."""
    if args.batch_size > (count := len(splits.train[0])):
        parser.error(f"argument --batch-size: {args.batch_size} is more than the {count} training examples")
    return jax.tree.map(jnp.asarray, splits)


def _rule(name: str) -> str:
    if name in jl.rules.ALL:
        return name
    near = get_close_matches(name.lower(), jl.rules.ALL, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"the rules are {', '.join(jl.rules.ALL)}"
    raise argparse.ArgumentTypeError(f"there is no rule {name!r}; {hint}")
