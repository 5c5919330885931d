"""Time all programs in turn, and print and record their ratios. See the package's own words."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

from experiments.lab import records as results
from experiments.speed.bench import overview
from experiments.speed.bench.nets import NETS, RULES, TARGET_PROP, Net
from jaxlocal import flags

WORLDS = ("plain", "jaxlocal", "torch")
QUICK_RULES = ("bp", "al", "dfa", "fa", "kp", "dkp", "drtp")
QUICK_ROUNDS, ROUNDS = 3, 9
DEPTHS = (2, 4, 8, 16, 32)
MEMORY_RULES = ("bp", "al", "dfa", "drtp")
MEMORY_NET = Net(batch=4096, inputs=(784,), hidden=(64,), activation="tanh")

Nets = Mapping[str, Net]


class Program(NamedTuple):
    """One line of a table: what is run, and where."""

    world: str
    name: str
    form: str = "update"

    @property
    def rule(self) -> str:
        """The rule that it runs."""
        return self.name.partition(",")[0]


UNIT = Program("plain", "bp")
PEERS = {
    "bp": ("eager", "fused", "compiled"),
    "al": ("eager", "fused"),
    "fa": ("biotorch", "biotorch usf"),
    "dfa": ("biotorch",),
}

# The least ratios to the unit, on two cores; the better of a rule's two forms counts.
LEAST = {
    "mlp": dict.fromkeys(("bp", "fa", "kp", "dfa", "drtp", "dkp"), 1.9) | {"al": 0.95},
    "conv2": dict.fromkeys(("bp", "fa", "kp", "dfa"), 2.4),
}
MOST_OF_BP = {"dfa": 1.0, "drtp": 1.0, "kp": 1.25, "dkp": 1.15}  # of the time of jaxlocal's own backpropagation
LEAST_TO_HAND = 1 / 1.05


class World:
    """A process with a world of programs."""

    def __init__(self, name: str):
        self.name = name
        plain_flags = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.speed.bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=results.ROOT,
            env=plain_flags,
        )
        self.about: dict[str, Any] = {}

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Have something done, and wait for what came of it."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError(f"the process of {self.name} stopped; its own message is above")
        return json.loads(line)

    def __enter__(self) -> Self:
        self.about = self._answer()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()  # the end of the requests is the end of the process


def programs(name: str, net: Net, rules: Sequence[str], quick: bool = False) -> list[Program]:
    """All that is timed on a net, the unit first; of a quick run, what shows how the rules stand to the unit."""
    rules = [rule for rule in rules if not (net.images and rule in TARGET_PROP)]  # pooling has no inverse
    peers = [f"{rule}, {way}" for rule, ways in PEERS.items() if rule in rules for way in ways]
    if name != "mlp":
        peers = [peer for peer in peers if not peer.startswith("al")]
    if quick:
        fused = [Program("torch", peer) for peer in peers if peer == "bp, fused"]
        return [UNIT, *(Program("jaxlocal", rule) for rule in rules), *fused]
    return [
        UNIT,
        *([] if net.images else [UNIT._replace(form="scan")]),  # plain convolutions in a scan: seconds a step
        *(Program("plain", rule) for rule in rules if rule != "bp"),
        *(Program("jaxlocal", rule, form) for rule in rules for form in ("update", "scan")),
        *(Program("torch", peer) for peer in peers),
    ]


def build(
    worlds: Mapping[str, World], net: Net, planned: Sequence[Program]
) -> tuple[dict[Program, dict[str, Any]], dict[Program, str]]:
    """What is known of each program that is ready to run, and why the others are not."""
    forms: dict[tuple[str, str], list[Program]] = {}
    for program in planned:
        forms.setdefault((program.world, program.name), []).append(program)
    ready: dict[Program, dict[str, Any]] = {}
    refused: dict[Program, str] = {}
    for (world, name), family in forms.items():
        about = worlds[world].about
        words = [program.form for program in family]
        reply = about if "refused" in about else worlds[world].ask("build", net=net._asdict(), name=name, forms=words)
        if "refused" in reply:
            refused |= dict.fromkeys(family, reply["refused"])
        else:
            ready |= {program: reply["facts"][program.form] for program in family}
    return ready, refused


def take_turns(worlds: Mapping[str, World], ready: Sequence[Program], rounds: int) -> dict[Program, list[float]]:
    """Seconds of a step of each program, round by round; the first round warms up and does not count."""
    seconds: dict[Program, list[float]] = {program: [] for program in ready}
    for _ in range(1 + rounds):
        for program in ready:
            reply = worlds[program.world].ask("time", name=program.name, form=program.form)
            seconds[program].append(reply["seconds"])
    return {program: found[1:] for program, found in seconds.items()}


def ratios(seconds: Sequence[float], yardstick: Sequence[float]) -> list[float]:
    """How many times as fast as the yardstick, each round for itself: a drift of the machine hits both."""
    return [theirs / own for own, theirs in zip(seconds, yardstick, strict=True)]


def limit(needs: Mapping[str, float], machine: Mapping[str, float]) -> tuple[float, float]:
    """The least seconds of a step if nothing overlaps, and if everything does."""
    parts = needs["operations"] / machine["rate"], needs["bytes"] / machine["bandwidth"]
    return sum(parts), max(parts)


def table(
    name: str,
    seconds: Mapping[Program, Sequence[float]],
    facts: Mapping[Program, Mapping[str, float]],
    needs: Mapping[str, Mapping[str, float]],
    machine: Mapping[str, float],
) -> list[results.Row]:
    """A line for each program that ran."""
    return [_row(name, program, seconds, facts[program], needs, machine) for program in seconds]


def _row(
    name: str,
    program: Program,
    seconds: Mapping[Program, Sequence[float]],
    facts: Mapping[str, float],
    needs: Mapping[str, Mapping[str, float]],
    machine: Mapping[str, float],
) -> results.Row:
    own = seconds[program]
    by_hand, bp = seconds.get(Program("plain", program.rule)), seconds.get(Program("jaxlocal", "bp", program.form))
    ours = program.world == "jaxlocal"
    to_unit = ratios(own, seconds[UNIT])
    to_hand = ratios(own, by_hand) if ours and by_hand and program.form == "update" else None
    of_bp = ratios(bp, own) if ours and bp and program.rule != "bp" else None
    met: dict[str, bool] = {}  # by what is asked
    if ours and program.rule in LEAST.get(name, {}):
        least = LEAST[name][program.rule]
        either = [program._replace(form=form) for form in ("update", "scan")]
        best = max(median(ratios(seconds[one], seconds[UNIT])) for one in either if one in seconds)
        met[f"unit ≥ {least} either way"] = best >= least
    if of_bp and program.rule in MOST_OF_BP:
        met[f"BP ≤ {MOST_OF_BP[program.rule]}"] = median(of_bp) <= MOST_OF_BP[program.rule]
    if to_hand:
        met[f"hand ≥ {LEAST_TO_HAND:.3g}"] = median(to_hand) >= LEAST_TO_HAND
    missed = [asked for asked, is_met in met.items() if not is_met]
    known = None if program.world == "torch" else needs.get(program.rule)
    least_seconds, overlapped = limit(known, machine) if known else (None, None)
    return {
        "program": f"{program.name}, {program.form}" if program.world != "torch" else program.name,
        "world": program.world,
        "ms a step": results.spread([1e3 * value for value in own]),
        "times the unit": results.spread(to_unit),
        "times hand-written": to_hand and results.spread(to_hand),
        "of BP's time": of_bp and results.spread(of_bp),
        "compile s": facts.get("compile s"),
        "memory MB": facts.get("memory MB"),
        "temp MB": facts.get("temp MB"),
        "GFLOP a step": known and known["operations"] / 1e9,
        "share of the limit": least_seconds and least_seconds / median(own),
        "if all overlapped": overlapped and overlapped / median(own),
        "target": "; ".join(met),
        "outcome": ("missed: " + "; ".join(missed)) if missed else "met" if met else "",
    }


def blank(program: Program, why: str) -> results.Row:
    """The line of a program that did not run."""
    columns = ("ms a step", "times the unit", "times hand-written", "of BP's time", "compile s", "memory MB", "temp MB")
    more = ("GFLOP a step", "share of the limit", "if all overlapped")
    named = {"program": program.name, "world": program.world}
    return named | dict.fromkeys((*columns, *more)) | {"target": "", "outcome": f"not run: {why}"}


def bench(
    worlds: Mapping[str, World], name: str, net: Net, rules: Sequence[str], rounds: int, quick: bool = False
) -> tuple[list[results.Row], dict[str, Any]]:
    """A net's rows, and what they depend on."""
    plain = worlds["plain"]
    before = plain.ask("machine")
    planned = programs(name, net, rules, quick)
    print(f"{name}: builds {len(planned)} programs; then {1 + rounds} rounds of them", flush=True)
    ready, refused = build(worlds, net, planned)
    seconds = take_turns(worlds, list(ready), rounds)
    needs = {
        rule: plain.ask("needs", net=net._asdict(), rule=rule)
        for rule in {one.rule for one in ready if one.world != "torch"}
    }
    after = plain.ask("machine")
    for world in worlds.values():
        if "refused" not in world.about:
            world.ask("free")
    machine = {key: max(before[key], after[key]) for key in before}
    rows = table(name, seconds, ready, needs, machine) + [blank(one, why) for one, why in refused.items()]
    settings = {"net": net._asdict(), "rules": list(rules), "rounds": rounds}
    measured = {"bytes a second": [before["bandwidth"], after["bandwidth"]], "operations a second": machine["rate"]}
    return rows, settings | {"machine": measured, "worlds": {key: world.about for key, world in worlds.items()}}


def memory(world: World, net: Net, depths: Sequence[int]) -> list[results.Row]:
    """What one update needs beside its arguments and results, in megabytes, by depth and rule."""

    def megabytes(depth: int, rule: str) -> float:
        deep = net._replace(hidden=net.hidden * depth)
        return world.ask("temp_bytes", net=deep._asdict(), rule=rule)["bytes"] / 1e6

    return [{"depth": depth} | {f"{rule} MB": megabytes(depth, rule) for rule in MEMORY_RULES} for depth in depths]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = flags.Parser("python -m experiments.speed.bench", description=__doc__)
    parser.add_argument("--nets", nargs="+", choices=NETS, metavar="NET", help=f"of {' '.join(NETS)} (default: all)")
    parser.add_argument("--rules", nargs="+", choices=RULES, metavar="RULE", help=f"of {' '.join(RULES)}")
    parser.add_argument("--rounds", type=flags.whole, metavar="N", help=f"turns of each program (default: {ROUNDS})")
    parser.add_argument("--steps", type=flags.whole, metavar="N", help="steps a turn (default: by the net)")
    parser.add_argument("--memory", action="store_true", help="the memory by depth and nothing else")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ROUNDS} rounds of {', '.join(QUICK_RULES)}, called step by step: some three minutes",
    )
    parser.add_argument(
        "--out", type=flags.folder, default=results.RESULTS / "bench", metavar="FOLDER", help="records go here"
    )
    args = parser.parse_args(argv)
    if args.memory and (args.nets or args.quick):
        parser.error("--memory takes neither --nets nor --quick")
    args.also_memory = args.memory or not (args.nets or args.quick)
    args.nets = [] if args.memory else [name for name in NETS if name in (args.nets or NETS)]
    args.rules = [rule for rule in RULES if rule in (args.rules or (QUICK_RULES if args.quick else RULES))]
    args.rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    return args


def command(args: argparse.Namespace, *words: str) -> str:
    """What makes a record again, whatever the defaults will be by then."""
    steps = ["--steps", str(args.steps)] if args.steps else []
    return " ".join(["python -m experiments.speed.bench", *words, *steps])


def main(
    argv: Sequence[str] | None = None,
    nets: Nets = NETS,
    memory_net: Net = MEMORY_NET,
    depths: Sequence[int] = DEPTHS,
) -> None:
    """Measure, print and record; the tests have smaller nets."""
    args = parse(argv)
    results.code()  # of now: the code may be edited while it runs
    out: Path = args.out
    with ExitStack() as stack:
        needed = {one.world for name in args.nets for one in programs(name, nets[name], args.rules, args.quick)}
        starting = [World(name) for name in WORLDS if name in needed or (name == "jaxlocal" and args.also_memory)]
        worlds = {world.name: stack.enter_context(world) for world in starting}  # they start side by side
        for name in args.nets:
            net = nets[name]._replace(steps=args.steps or nets[name].steps)
            rows, settings = bench(worlds, name, net, args.rules, args.rounds, args.quick)
            print(f"{results.table(rows)}\n", flush=True)
            words = [*["--quick"] * args.quick, "--nets", name, "--rounds", str(args.rounds), "--rules", *args.rules]
            path = results.record(
                f"bench {name}", rows, command(args, *words), settings, note=NOTE, out=out / f"{name}.json"
            )
            print(f"recorded in {path}\n", flush=True)
        if args.also_memory:
            rows = memory(worlds["jaxlocal"], memory_net, depths)
            print(f"memory\n{results.table(rows)}\n", flush=True)
            settings = {"net": memory_net._asdict(), "optimizer": "sgd(0.1)", "rules": list(MEMORY_RULES)}
            path = results.record(
                "bench memory", rows, command(args, "--memory"), settings, note=MEMORY_NOTE, out=out / "memory.json"
            )
            print(f"recorded in {path}")
            if find_spec("matplotlib"):
                overview.draw_memory(rows, path.with_suffix(".png"))


NOTE = (
    "Median (least to most) over the rounds; all programs take their turn in each. The unit is plain JAX's "
    "backpropagation, called step by step; a ratio is within its round, and larger is faster. The limit is of the "
    "rule's equations on this machine, by experiments/speed/bench/limits.py."
)
MEMORY_NOTE = (
    "What XLA's plan for one jitted, donated update needs beside its arguments and results: activations above all. "
    "The width is 64 throughout, and the batch is large."
)


if __name__ == "__main__":
    main()
