"""Time all programs in turn, and print and record their ratios; the package's docstring has an overview."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from experiments.lab import records, tables
from experiments.lab.experiment import Budget, Experiment, Job, Option, Outcome, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.workers import Worker, take_turns
from experiments.speed.bench import overview, worlds
from experiments.speed.bench.nets import NETS, RULES, TARGET_PROP, Net
from jaxlocal import flags

QUICK_RULES = ("bp", "al", "dfa", "fa", "kp", "dkp", "drtp")
FULL, QUICK = Budget(rounds=9), Budget(rounds=3)
MEMORY_NET = Net(batch=4096, inputs=(784,), hidden=(64,), activation="tanh")
MEMORY_RULES = ("bp", "al", "dfa", "drtp")
DEPTHS = (2, 4, 8, 16, 32)


class Program(NamedTuple):
    """A line of a table: a program of a world, called once for each batch ("update") or in a scan ("scan")."""

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


def programs(
    name: str, net: Net, rules: Sequence[str], few: bool = False, others: Mapping[str, Sequence[str]] = PEERS
) -> list[Program]:
    """All programs that are timed on a net, the unit first; or few of them, which compare the rules with the unit."""
    rules = [rule for rule in rules if not (net.images and rule in TARGET_PROP)]  # pooling has no inverse
    peers = [f"{rule}, {way}" for rule, ways in others.items() if rule in rules for way in ways]
    if name != "mlp":
        peers = [peer for peer in peers if not peer.startswith("al")]
    if few:
        fused = [Program("torch", peer) for peer in peers if peer == "bp, fused"]
        return [UNIT, *(Program("jaxlocal", rule) for rule in rules), *fused]
    return [
        UNIT,
        *([] if net.images else [UNIT._replace(form="scan")]),  # a plain convolution in a scan takes seconds
        *(Program("plain", rule) for rule in rules if rule != "bp"),
        *(Program("jaxlocal", rule, form) for rule in rules for form in ("update", "scan")),
        *(Program("torch", peer) for peer in peers),
    ]


def build(
    workers: Mapping[str, Worker], net: Net, planned: Sequence[Program]
) -> tuple[dict[Program, dict[str, Any]], dict[Program, str]]:
    """The facts of each program that is ready to run, and why the others cannot run."""
    forms: dict[tuple[str, str], list[Program]] = {}
    for program in planned:
        forms.setdefault((program.world, program.name), []).append(program)
    ready: dict[Program, dict[str, Any]] = {}
    refused: dict[Program, str] = {}
    for (world, name), family in forms.items():
        reply = workers[world].ask("build", net, name, [program.form for program in family])
        if "refused" in reply:
            refused |= dict.fromkeys(family, reply["refused"])
        else:
            ready |= {program: reply["facts"][program.form] for program in family}
    return ready, refused


def ratios(seconds: Sequence[float], yardstick: Sequence[float]) -> list[float]:
    """The speed as a multiple of the yardstick's; each round has its own ratio, because a drift affects both."""
    return [theirs / own for own, theirs in zip(seconds, yardstick, strict=True)]


def limit(needs: Mapping[str, float], machine: Mapping[str, float]) -> tuple[float, float]:
    """The least seconds of a step if nothing overlaps, and if everything does."""
    times = needs["operations"] / machine["rate"], needs["bytes"] / machine["bandwidth"]
    return sum(times), max(times)


def line(
    program: Program,
    seconds: Mapping[Program, Sequence[float]],
    facts: Mapping[str, float],
    needs: Mapping[str, Mapping[str, float]],
    machine: Mapping[str, float],
) -> Row:
    """The line of a program that ran."""
    own = seconds[program]
    by_hand, bp = seconds.get(Program("plain", program.rule)), seconds.get(Program("jaxlocal", "bp", program.form))
    ours = program.world == "jaxlocal"
    to_hand = ratios(own, by_hand) if ours and by_hand and program.form == "update" else None
    of_bp = ratios(bp, own) if ours and bp and program.rule != "bp" else None
    known = None if program.world == "torch" else needs.get(program.rule)
    least_seconds, overlapped = limit(known, machine) if known else (None, None)
    return {
        "program": f"{program.name}, {program.form}" if program.world != "torch" else program.name,
        "world": program.world,
        "ms a step": records.milliseconds(own),
        "times the unit": records.spread(ratios(own, seconds[UNIT])),
        "times hand-written": to_hand and records.spread(to_hand),
        "of BP's time": of_bp and records.spread(of_bp),
        "compile s": facts.get("compile s"),
        "memory MB": facts.get("memory MB"),
        "temp MB": facts.get("temp MB"),
        "GFLOP a step": known and known["operations"] / 1e9,
        "share of the limit": least_seconds and least_seconds / median(own),
        "if all overlapped": overlapped and overlapped / median(own),
    }


def blank(program: Program, why: str, like: Row) -> Row:
    """The line of a program that did not run, with the columns of another line."""
    named = {"program": program.name, "world": program.world, "ms a step": f"not run: {why}"}
    return dict.fromkeys(like) | named


def run(name: str, net: Net, task: Task, others: Mapping[str, Sequence[str]] = PEERS) -> Iterator[Outcome]:
    """Time the programs of a net."""
    net = net._replace(steps=task.options["steps"] or net.steps)
    rules = [rule for rule in RULES if rule in task.options["rules"]]
    planned, rounds = programs(name, net, rules, task.options["few"], others), task.budget["rounds"]
    print(f"{name}: builds {len(planned)} programs, then times {1 + rounds} rounds of them", flush=True)
    with ExitStack() as stack:
        started = {world: Worker(worlds.make, world) for world in dict.fromkeys(one.world for one in planned)}
        workers = {world: stack.enter_context(worker) for world, worker in started.items()}
        plain, about = workers["plain"], {world: worker.ask("about") for world, worker in workers.items()}
        before = plain.ask("machine")
        ready, refused = build(workers, net, planned)
        turns = {one: partial(workers[one.world].ask, "time", one.name, one.form) for one in ready}
        seconds = take_turns(turns, rounds, warm_up=1)
        timed = dict.fromkeys(one.rule for one in ready if one.world != "torch")
        needs = {rule: plain.ask("needs", net, rule) for rule in timed}
        after = plain.ask("machine")
    machine = {key: max(before[key], after[key]) for key in before}
    rows = [line(program, seconds, facts, needs, machine) for program, facts in ready.items()]
    rows += [blank(program, why, rows[0]) for program, why in refused.items()]
    settings = {
        "net": net._asdict(),
        "rules": rules,
        **task.budget,
        "machine": {
            "bytes a second": [before["bandwidth"], after["bandwidth"]],
            "operations a second": machine["rate"],
        },
        "worlds": about,
    }
    yield Outcome(rows, settings, task.budget, tables.text(rows))


def run_memory(net: Net, depths: Sequence[int], task: Task) -> Iterator[Outcome]:
    """The megabytes that an update needs in addition to its arguments and results, by depth and rule."""
    with Worker(worlds.make, "jaxlocal") as worker:

        def megabytes(depth: int, rule: str) -> float:
            return worker.ask("temp_bytes", net._replace(hidden=net.hidden * depth), rule) / 1e6

        rows = [{"depth": depth} | {f"{rule} MB": megabytes(depth, rule) for rule in MEMORY_RULES} for depth in depths]
    settings = {"net": net._asdict(), "optimizer": "sgd(0.1)", "rules": list(MEMORY_RULES), **task.budget}
    yield Outcome(rows, settings, task.budget, tables.text(rows))


OPTIONS = {
    "rules": Option("the rules to time", str, list(RULES), list(QUICK_RULES), choices=list(RULES), many=True),
    "steps": Option("the number of steps in a turn; by default it depends on the net", flags.whole),
    "few": Option("only the rules step by step, the unit, and PyTorch's fused program", bool, False, True),
}

EXPERIMENT = Experiment(
    module="speed.bench",
    name="bench",
    title="How fast the rules are",
    rows={
        **{name: Job(FULL, QUICK, partial(run, name, net)) for name, net in NETS.items()},
        "memory": Job(Budget(), None, partial(run_memory, MEMORY_NET, DEPTHS)),
    },
    note=(
        "Median (least to most) over the rounds; all programs take their turn in each. The unit is plain JAX's "
        "backpropagation, called once for each batch; a ratio is within its round, and larger is faster. The limit is "
        "that of the rule's equations on this machine, by experiments/speed/limits.py. Memory by depth is what "
        "XLA plans for one compiled update in addition to its arguments and results, mainly activations; the width is "
        "64 everywhere, and the batch is large."
    ),
    tables=(),
    draw=overview.draw,
    options=OPTIONS,
    is_timing=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
