"""Accuracy against cost: backpropagation, Associated Learning with lean codes and with the paper's, DFA and DRTP.

Every contender trains the same blocks on the same examples, with Adam whose rate falls to zero by a cosine. Each has
the same rates to choose from, is trained with each of them for the same short time, and is judged on the validation
set alone; its best rate is then trained for the whole time from several seeds. In the rows `*_costs` XLA counts what a
step costs, as a multiple of backpropagation's (`jl.diagnostics.costs`), and the rows `*_time` measure its seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import jax
import optax

import jaxlocal as jl
from experiments.beyond.shared import DEEP_RATES, LOWER, PROBLEMS, RATES, Problem
from experiments.lab import figures, records, tables
from experiments.lab.experiment import Budget, CannotRun, Entry, Experiment, Job, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.searched import best_rate, epochs_of_a_trial
from experiments.lab.training import NOTES, attempt
from experiments.lab.workers import take_turns
from experiments.speed.batch import make_batch
from experiments.speed.shared import sequential

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {  # the colours and the markers in the picture
    "bp": (figures.ORANGE, "s"),
    "al_1": ("#b5d4f1", "o"),
    "al_2": ("#7fb5e6", "o"),
    "al_4": ("#3f87cf", "o"),
    "al_8": ("#1b4f8a", "o"),
    "dfa": (figures.RED, "^"),
    "drtp": (figures.RED, "v"),
}
# At the end of a contender's name: a training of another length, as a multiple; it has the rate of the usual training.
SHORTER = {"_half": 1 / 2, "_two_thirds": 2 / 3, "_five_sixths": 5 / 6}
LONGER = "_long"
LENGTHS = {**SHORTER, LONGER: 2}
AVERAGED = "_average"  # the same training, and the prediction is the mean over the components
GRID = "_grid_"  # before the number of cells along each axis that the bridges read; the prediction is the mean, too
WIDTH = "_width_"  # before the units of a code; the prediction is the mean, too
FAST = "_fast_bridges_"  # before the units of a code, where bridges have FASTER times the rate; the mean predicts, too
FASTER = 3.0
MORE = "_more_rates"  # at the end of a contender's name: it has more rates to choose from than the others
BRIDGE = "bp_bridge"
Make = Callable[[jl.Network, optax.GradientTransformation], jl.Rule]


def contenders(problem: Problem) -> dict[str, Make]:
    """The rules by the names of their rows."""
    plain: dict[str, Make] = {"bp": jl.rules.bp}
    for count in sorted({*problem.components, *problem.averaged}):
        if count in problem.averaged:
            plain[f"al_{count}{AVERAGED}"] = partial(jl.rules.al, components=count)
        if count in problem.components:
            plain[f"al_{count}"] = partial(jl.rules.al, components=count, average=False)
    plain |= {f"al_{count}{FAST}{width}": partial(fast_bridges, count, width) for count, width in problem.fast_bridges}
    more: dict[str, Make] = {f"bp{MORE}": jl.rules.bp} if problem.more_rates else {}
    grids = {
        f"al_4{GRID}{grid}": partial(jl.rules.al, components=4, bridge=jl.codes.pooled(jl.codes.one_layer, grid))
        for grid in problem.grids
    }
    widths = {
        f"al_{count}{WIDTH}{width}": partial(jl.rules.al, components=count, width=width)
        for count, width in problem.widths
    }
    narrow = partial(jl.rules.al, components=4, bridge=jl.codes.pooled(jl.codes.low_rank))
    ranks = {"al_4_low_rank": narrow} if problem.low_rank else {}
    paper = partial(jl.rules.al, components=problem.paper, codes=jl.codes.paper)
    others: dict[str, Make] = {"al_paper": paper} if problem.paper else {}
    others |= {BRIDGE: through_a_bridge} if problem.bridge else {}
    feedback = {"dfa": jl.rules.dfa, "drtp": jl.rules.drtp} if problem.feedback else {}
    usual: dict[str, Make] = {**plain, **more, **grids, **widths, **ranks, **others, **feedback}
    shorter = {name + end: usual[name] for name in problem.shorter for end in SHORTER}
    return {**usual, **shorter, **{name + LONGER: usual[name] for name in problem.longer}}


def fast_bridges(count: int, width: int, net: jl.Network, tx: optax.GradientTransformation) -> jl.Rule:
    """Associated Learning in which the bridges learn faster than the blocks."""
    return jl.rules.al(net, tx, components=count, width=width, bridge_tx=optax.chain(tx, optax.scale(FASTER)))


def through_a_bridge(net: jl.Network, tx: optax.GradientTransformation) -> jl.Rule:
    """Backpropagation in which the layers by which `al_1` predicts take the place of the network's own readout."""
    bridge = jl.codes.lean.bridge(64)  # units, as in `al_1`
    head = jl.layers.Head(net.head.features, kernel_init=net.head.kernel_init)
    return jl.rules.bp(net._replace(blocks=(*net.blocks, bridge), head=head), tx)


def length_of(contender: str) -> tuple[str, str]:
    """The contender of the usual training, and the end of the name that says another length."""
    end = next((end for end in LENGTHS if contender.endswith(end)), "")
    return contender.removesuffix(end), end


def shown_as(contender: str) -> str:
    """The contender's name in tables and pictures: `al_4` predicts as by default, by the mean over its components.

    The records call that one `al_4_average`, and `al_4` the rule whose last component alone predicts.
    """
    name, end = length_of(contender)
    last = ", last" if name.removeprefix("al_").isdigit() and name != "al_1" else ""
    more = ", more rates" if name.endswith(MORE) else ""
    length = {"": "", LONGER: ", longer"}.get(end, f",{end.replace('_', ' ')}")
    return f"{name.removesuffix(AVERAGED).removesuffix(MORE)}{last}{more}{length}"


def run(name: str, contender: str, task: Task) -> Iterator[Outcome]:
    """Choose the rate, then train the seeds; there is an outcome after every training."""
    problem = PROBLEMS[name]
    splits, epochs, (base, end) = problem.splits(), task.budget["epochs"], length_of(contender)
    rates = (*problem.rates, *problem.more_rates) if base.endswith(MORE) else problem.rates
    search = epochs_of_a_trial(round(epochs / LENGTHS[end]) if end else epochs)
    settings = {
        "data": problem.data,
        **{key: value for key in ("size", "examples") if (value := getattr(problem, key))},
        "net": problem.words,
        "batch_size": problem.batch,
        "epochs": epochs,
        "rates": list(rates),
        "epochs for each rate": search,
    }
    begun = task.begun(settings)
    row: Row = begun[0] if begun else {"contender": contender, "trials": [], "runs": []}
    if end:
        row["trials"] = _trials(task, f"{name}_{base}")

    def outcome(message: str) -> Outcome:
        trained = [one["seed"] for one in row["runs"]]
        budget = Budget(epochs=epochs if trained else 0, seeds=len(trained))
        return Outcome([row], settings | {"seeds": trained}, budget, message, NOTES.get(problem.data, ""))

    for rate in rates[len(row["trials"]) :]:
        trial = train(problem, contender, splits, rate, search, seed=0)
        row["trials"].append({"rate": rate, "validation": trial["history"][-1]})
        yield outcome(f"{task.row}: rate {rate}: {100 * trial['history'][-1]:.2f} % on the validation set")
    rate = best_rate(row["trials"])
    for seed in range(len(row["runs"]), task.budget["seeds"]):
        row["runs"].append({"seed": seed, "rate": rate} | train(problem, contender, splits, rate, epochs, seed))
        yield outcome(f"{task.row}: seed {seed}: {100 * row['runs'][-1]['test']:.2f} % on the test set")


def _trials(task: Task, row: str) -> list[Row]:
    """The trials of another row."""
    record = task.experiment.record(row, task.out)
    if not record or len(record["rows"][0]["trials"]) < len(record["settings"]["rates"]):
        raise CannotRun(f"has the rate of {row}, which has not been searched yet: run that row first")
    return record["rows"][0]["trials"]


def train(problem: Problem, contender: str, splits: jl.data.Splits, rate: float, epochs: int, seed: int) -> Row:
    """One training: the validation accuracy after each epoch, the test accuracy, and the seconds.

    The accuracies of a training that diverges are zero.
    """
    steps = epochs * (len(splits.train[0]) // problem.batch)
    rule = contenders(problem)[contender](problem.net, optax.adam(optax.cosine_decay_schedule(rate, steps)))
    trained, seconds = attempt(rule, splits, epochs=epochs, batch_size=problem.batch, seed=seed)
    if trained is None:
        return {"history": [0.0], "test": 0.0, "seconds": seconds}
    history = [float(f"{row['validation']['accuracy']:.6g}") for row in trained.state.history]
    accuracy = float(f"{jl.training.evaluate(rule, trained.params, splits.test)['accuracy']:.6g}")
    return {"history": history, "test": accuracy, "seconds": seconds}


def stepping(problem: Problem, contender: str) -> tuple[jl.Rule, tuple[jax.Array, jax.Array]]:
    """The rule and a batch of the problem's shapes."""
    x, y = problem.splits().train
    rule = contenders(problem)[contender](problem.net, optax.adam(RATES[0]))
    return rule, make_batch(problem.batch, x.shape[1:], y.shape[-1])


def programs(problem: Problem) -> dict[str, str]:
    """The steps that differ, by name, and a contender of each: how long it trains and predicts changes no step.

    That of backpropagation through a bridge is left out, because its network is another one.
    """
    return {program(contender): contender for contender in contenders(problem) if contender != BRIDGE}


def program(contender: str) -> str:
    """The name of a contender's step."""
    return length_of(contender)[0].removesuffix(AVERAGED).removesuffix(MORE)


def count(name: str, task: Task) -> Iterator[Outcome]:
    """What a step of every contender costs, as a multiple of backpropagation's; nothing is timed."""
    problem = PROBLEMS[name]
    rows = []
    for step, contender in programs(problem).items():
        times = jl.diagnostics.costs(*stepping(problem, contender)).times_backprop()
        rows.append({"contender": step, **records.rounded(times._asdict())})
    settings = {"net": problem.words, "batch_size": problem.batch}
    yield Outcome(rows, settings, task.budget, tables.text(rows))


def measure(name: str, task: Task) -> Iterator[Outcome]:
    """The seconds of a step of every contender, in turn, as a multiple of backpropagation's."""
    problem = PROBLEMS[name]
    turns = {
        step: sequential(partial(stepping, problem, contender), task.budget["steps"])
        for step, contender in programs(problem).items()
    }
    found = take_turns(turns, task.budget["rounds"])
    rows = [
        {
            "contender": contender,
            "ms a step": records.milliseconds(seconds),
            "times BP's": records.spread([a / b for a, b in zip(seconds, found["bp"], strict=True)]),
        }
        for contender, seconds in found.items()
    ]
    settings = {"net": problem.words, "batch_size": problem.batch} | task.budget
    yield Outcome(rows, settings, task.budget, tables.text(rows))


def rows() -> dict[str, Entry]:
    """All rows: each contender on each problem, and the costs and the times."""
    found: dict[str, Entry] = {}
    for name, problem in PROBLEMS.items():
        for contender in contenders(problem):
            full, quick = (of_length(budget, contender) for budget in (problem.full, problem.quick))
            found[f"{name}_{contender}"] = Job(full, quick, partial(run, name, contender))
        found[f"{name}_costs"] = Job(Budget(), Budget(), partial(count, name))
        found[f"{name}_time"] = Job(Budget(rounds=5, steps=20), Budget(rounds=2, steps=4), partial(measure, name))
    return found


def of_length(budget: Budget, contender: str) -> Budget:
    """The budget of a contender, whose training may have another length than the usual one."""
    _, end = length_of(contender)
    return Budget({**budget, "epochs": round(budget["epochs"] * LENGTHS[end])} if end else budget)


COLUMNS = "validation %", "test %", "below BP", "operations", "time", "weights", "memory", "rate", "epochs", "seeds"


def table(recorded: Recorded) -> Iterator[Row]:
    """Accuracy and cost of every contender; a cost may be known of one that is not trained."""
    for name, problem in PROBLEMS.items():
        for contender in contenders(problem):
            line: Row = dict.fromkeys(("problem", "contender", *COLUMNS))
            line |= {"problem": name, "contender": shown_as(contender)} | _costs(recorded, name, contender)
            record = recorded.records.get(f"{name}_{contender}")
            if not record or not record["rows"][0]["runs"]:
                yield line | {"test %": "not run"}
                continue
            (row,) = record["rows"]
            test, bp = accuracy(row), _backprop(recorded, name)
            validation = records.over_seeds([one["history"][-1] for one in row["runs"]])
            yield line | {
                "validation %": tables.percent(validation) if test["mean"] else None,
                "test %": tables.percent(test) if test["mean"] else "diverged",
                "below BP": f"{100 * (bp['mean'] - test['mean']):.2f}" if bp and test["mean"] else None,
                "rate": row["runs"][0]["rate"],
                "epochs": record["settings"]["epochs"],
                "seeds": len(row["runs"]),
            }


def chosen(recorded: Recorded) -> Iterator[Row]:
    """Associated Learning beside backpropagation, in the number of components with the best validation accuracy.

    The codes are those of the default. Of the numbers that were tried, that with the best mean over the seeds counts.
    """
    for name, problem in PROBLEMS.items():
        backprop = _runs(recorded, f"{name}_bp")
        counts = sorted({*problem.components, *problem.averaged})
        by_count = {count: _runs(recorded, f"{name}_{_by_default(count)}") for count in counts}
        tried = {count: runs for count, runs in by_count.items() if runs}
        if not (backprop and tried):
            continue
        count = max(tried, key=lambda count: fmean(run["history"][-1] for run in tried[count]))
        in_each_block = tried.get(len(problem.net.blocks))
        yield {
            "problem": name,
            "network, data": problem.title,
            "bp, test %": tables.percent(records.over_seeds([run["test"] for run in backprop])),
            "components": f"{count} of {', '.join(map(str, tried))}" if len(tried) > 1 else count,
            "al, test %": tables.percent(records.over_seeds([run["test"] for run in tried[count]])),
            "al - bp": _ahead(tried[count], backprop),
            "operations": _costs(recorded, name, _by_default(count)).get("operations"),
            "al - bp, each block a component": _ahead(in_each_block, backprop) if in_each_block else "not run",
        }


def _by_default(count: int) -> str:
    """Associated Learning in so many components, which predicts as by default."""
    return f"al_{count}{AVERAGED if count > 1 else ''}"


def _ahead(runs: Sequence[Row], others: Sequence[Row]) -> str:
    """The points of test accuracy by which the runs are ahead of others with the same seeds."""
    differences = [own["test"] - other["test"] for own, other in zip(runs, others, strict=False)]  # the seeds of both
    return tables.percent(records.over_seeds(differences))


def _runs(recorded: Recorded, row: str) -> list[Row]:
    """The runs of a row's record, if there is one."""
    runs: list[Row] = recorded.records[row]["rows"][0]["runs"] if row in recorded.records else []
    return runs


def accuracy(row: Mapping[str, Any]) -> dict[str, Any]:
    """The test accuracy over the seeds."""
    return records.over_seeds([one["test"] for one in row["runs"]])


def _backprop(recorded: Recorded, name: str) -> dict[str, Any] | None:
    record = recorded.records.get(f"{name}_bp")
    return accuracy(record["rows"][0]) if record and record["rows"][0]["runs"] else None


def _costs(recorded: Recorded, name: str, contender: str) -> Row:
    """What a step costs, as multiples of backpropagation's; what has no record is left out."""

    def found(kind: str) -> Row:
        rows = recorded.records.get(f"{name}_{kind}", {"rows": []})["rows"]
        return next((row for row in rows if row["contender"] == program(contender)), {})

    counted, timed = found("costs"), found("time")
    costs = {kind: counted[kind] for kind in ("operations", "weights", "memory") if counted}
    return costs | ({"time": timed["times BP's"]} if timed else {})


def draw(recorded: Recorded) -> dict[str, "Figure"]:
    """The figures: test accuracy against operations and against time, a panel for each problem.

    They have the contenders of `LOOKS`, and the problems that are learned in several numbers of components. The paper's
    codes lie so far to the right that the others could not be told apart; so they are in words.
    """
    operations = _dots(recorded, lambda cost: cost.get("operations"))
    times = _dots(recorded, lambda cost: cost["time"]["median"] if "time" in cost else None)
    shown = {
        "frontier": (operations, "operations of a step, times those of bp"),
        "frontier_time": (times, "time of a step, times that of bp"),
    }
    return {name: picture(dots, axis) for name, (dots, axis) in shown.items() if dots}


def _dots(recorded: Recorded, cost: Callable[[Row], float | None]) -> dict[str, dict[str, tuple[Row, float]]]:
    """The accuracy and this cost of the contenders that are drawn, by problem; what is not known is left out."""
    found: dict[str, dict[str, tuple[Row, float]]] = {}
    for name, problem in PROBLEMS.items():
        for contender in contenders(problem) if problem.components else ():
            words, record = shown_as(contender), recorded.records.get(f"{name}_{contender}")
            if words not in (*LOOKS, "al_paper") or not record or not record["rows"][0]["runs"]:
                continue
            height, known = accuracy(record["rows"][0]), cost(_costs(recorded, name, contender))
            if height["mean"] and known is not None:  # it has not diverged
                found.setdefault(name, {})[words] = height, known
    return found


def picture(shown: Mapping[str, Mapping[str, tuple[Row, float]]], axis: str) -> "Figure":
    """A dot for each contender, with the sample standard deviation of its accuracy."""
    figure, panels = figures.grid(len(shown), columns=3, cell=(4, 3.1))
    handles = {}
    for (name, dots), axes in zip(shown.items(), panels, strict=True):
        for words, (test, cost) in dots.items():
            height, error = 100 * test["mean"], 100 * (test["std"] or 0)
            if words == "al_paper":
                note = f"al_paper: {height:.2f} % at {cost:.3g} times"
                axes.annotate(note, (0.98, 0.04), xycoords="axes fraction", ha="right", color="grey")
                continue
            colour, marker = LOOKS[words]
            dot, *_ = axes.errorbar(cost, height, error, color=colour, marker=marker, ls="", ms=7, capsize=2)
            handles[words] = dot
        axes.set(title=PROBLEMS[name].title, xlabel=axis, ylabel="test accuracy, %")
        axes.margins(x=0.1)
    names = [words for words in LOOKS if words in handles]
    figure.legend([handles[words] for words in names], names, loc="outside upper center", ncols=len(names))
    return figure


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:.7f}".rstrip("0") for rate in rates)


EXPERIMENT = Experiment(
    module="beyond.frontier",
    name="beyond_frontier",
    title="Accuracy against cost",
    rows=rows(),
    note=(
        f"Adam, its rate falling to zero by a cosine. Each contender chose its rate among {_listed(RATES)} on the "
        f"validation set, with a third of the epochs; on `deep_N` also {_listed(LOWER)}, and on `deep_64` "
        f"{_listed(DEEP_RATES[64][:1])}. `bp, more rates` also had {_listed(PROBLEMS['mnist'].more_rates)} on `mnist` "
        f"and `fashion`, {_listed(PROBLEMS['resnet'].more_rates)} on `resnet`, and "
        f"{_listed(PROBLEMS['wide_512'].more_rates)} on `wide_512`. `al_N` is Associated Learning in N "
        "components with lean codes; the prediction is the mean over them. With `last` the last component alone "
        "predicts. `half`, `two thirds` and `five sixths` have that share of the epochs, and `longer` twice as many. "
        "The bridges of `grid_N` read images averaged to N by N cells in place of 8 by 8, those of `low_rank` are a "
        "product of two narrow matrices, and `width_N` has codes of N units in place of 64. In `fast_bridges_N` the "
        f"codes have N units, and the bridges learn at {FASTER:g} times the "
        "rate of the blocks; this factor, and 256 units, were found on the validation set of `wide_512`, among about "
        "thirty designs. "
        "`al_paper` has the paper's codes, with which the last component predicts. `bp_bridge` is backpropagation with "
        "the bridge and the decoder of `al_1` in place of the network's own readout. Operations, time, weights and "
        "memory are multiples of backpropagation's. `cifar` is the vanilla CNN on 10,000 images of 16 by 16 pixels, "
        "`cifar_64` and `cifar_512` on all 45,000 with batches of 64 and of 512, `resnet` ResNet-8 on the 10,000; "
        "`mnist` and `fashion` are 8 layers of 256 units, `deep_N` is N such layers on MNIST, `wide_N` 4 layers of "
        "1024 units on MNIST with batches of N; the other batches have 64 examples. [Lean codes, "
        "measured](lean-measured.md#what-the-numbers-say) says what follows from the numbers."
    ),
    tables=(table,),
    draw=draw,
)

if __name__ == "__main__":
    main(EXPERIMENT)
