"""Accuracy against cost, time to accuracy, costs and compile time: how their numbers are put together."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lab_helpers import Here, few_digits, main

import jaxlocal as jl
from experiments.beyond import codes, frontier
from experiments.beyond import shared as beyond
from experiments.lab import figures
from experiments.lab.experiment import Budget, CannotRun, Recorded, Task
from experiments.lab.training import Trained
from experiments.speed import compile_time, costs, install, many_devices, reached, shared, time_to_accuracy

pytestmark = [pytest.mark.usefixtures("drawn_once"), pytest.mark.xdist_group("lean")]

SHORT = Budget(epochs=2, seeds=2)
TINY = beyond.Problem(
    "Tiny",
    "digits",
    jl.models.mlp((8, 8)),
    "tiny",
    2,
    (1, 2),
    SHORT,
    SHORT,
    batch=16,
    longer=("al_2",),
    rates=(1e-3, 1e-2),
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A function that gives the task of a contender on a small problem."""
    monkeypatch.setattr(frontier, "PROBLEMS", {"tiny": TINY})
    monkeypatch.setattr(beyond, "images", lambda *_: few_digits())

    def task(contender, **budget):
        asked = Budget({**SHORT, **budget})
        row = f"tiny_{contender}"
        return Task(frontier.EXPERIMENT, row, asked, {}, tmp_path / row, float("inf"), tmp_path, False)

    return task


@pytest.mark.slow
def test_a_contender_is_trained_with_each_rate_and_then_from_each_seed_with_the_best(tiny):
    *_, first, last = list(frontier.run("tiny", "al_2", tiny("al_2")))
    (row,) = last.rows
    assert [trial["rate"] for trial in row["trials"]] == [1e-3, 1e-2]
    best = max(row["trials"], key=lambda trial: trial["validation"])["rate"]
    assert [(run["seed"], run["rate"], len(run["history"])) for run in row["runs"]] == [(0, best, 2), (1, best, 2)]
    assert last.budget == SHORT and first.budget["seeds"] == 1
    assert last.settings["epochs for each rate"] == 1


def test_a_longer_training_has_the_rate_of_the_shorter_one(tiny, monkeypatch):
    task = tiny("al_2_long", epochs=4, seeds=1)
    with pytest.raises(CannotRun, match="tiny_al_2"):
        next(frontier.run("tiny", "al_2_long", task))
    trials = [{"rate": 1e-3, "validation": 0.5}, {"rate": 1e-2, "validation": 0.4}]
    known = {"rows": [{"trials": trials}], "settings": {"rates": [1e-3, 1e-2]}}
    monkeypatch.setattr(frontier.Experiment, "record", lambda *_: known)
    (outcome,) = frontier.run("tiny", "al_2_long", task)
    (run,) = outcome.rows[0]["runs"]
    assert run["rate"] == 1e-3 and len(run["history"]) == 4
    assert outcome.settings["epochs for each rate"] == 1  # as in the usual training, of two epochs


@pytest.mark.parametrize(
    ("contender", "words", "epochs"),
    [
        ("bp", "bp", 6),
        ("bp_more_rates_two_thirds", "bp, more rates, two thirds", 4),
        ("al_2_average_half", "al_2, half", 3),
        ("al_2_long", "al_2, last, longer", 12),
    ],
)
def test_a_name_says_how_long_a_training_is(contender, words, epochs):
    assert frontier.shown_as(contender) == words
    assert frontier.of_length(Budget(epochs=6, seeds=3), contender) == Budget(epochs=epochs, seeds=3)
    assert frontier.program(contender) in ("bp", "al_2")  # the steps are the same


def test_the_codes_of_the_last_component_decode_to_the_prediction():
    splits = few_digits()
    rule = jl.rules.al(jl.models.mlp((8, 8, 8)), optax.adam(1e-2), components=2, average=False)
    trained = jl.training.fit(rule, splits, epochs=2, batch_size=16)
    found = codes.measure(2, Trained(rule, trained.params, splits, None, 0, Path()))
    accuracy = jl.training.evaluate(rule, trained.params, splits.test)["accuracy"]
    assert found["decoded"][-1] == pytest.approx(accuracy, abs=1e-4)  # records have four digits
    assert [len(values) for values in found.values()] == [2, 2, 2]


def test_codes_are_read_as_the_nearest_one_by_the_decoders_and_unit_by_unit():
    """All weights are zero but these: the bridge gives all images the code of class 1, which is decoded as class 0."""
    rule = jl.rules.al(jl.models.mlp((8,), classes=2), optax.sgd(0.1))
    batch = jnp.ones((3, 4)), jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    params = rule.init(jax.random.key(0), batch)
    weights = {name: np.zeros_like(array) for name, array in jl.get_weights(rule, params).items()}
    weights["components.0/encoder/linear/kernel"][:, 0] = -9, 9
    weights["components.0/bridge/layers_1/linear/bias"][0] = 9
    weights["components.0/decoder/linear/kernel"][0] = 1, -1
    (reading,) = codes.read(rule, jl.set_weights(rule, params, weights), 1, batch)
    assert reading.nearest == pytest.approx(1 / 3)
    assert reading.decoded == pytest.approx(2 / 3)
    assert reading.wrong == pytest.approx(2 / 3 / 64)


def record(*histories, **more):
    """A record of these runs' validation accuracies."""
    runs = [{"history": list(history), "test": history[-1], "rate": 1e-3} for history in histories]
    return {"rows": [{"runs": runs}], "settings": {"epochs": 3}, **more}


def test_the_table_of_the_frontier_compares_with_backpropagation(tiny):
    records = {"tiny_bp": record([0.5, 0.9], [0.5, 0.8]), "tiny_al_1": record([0.1, 0.7], [0.1, 0.8])}
    lines = list(frontier.table(Recorded(frontier.EXPERIMENT, records, None, Path())))
    assert [line["contender"] for line in lines] == [
        "bp",
        "al_1",
        "al_2, last",
        "al_paper",
        "dfa",
        "drtp",
        "al_2, last, longer",
    ]
    assert lines[1]["below BP"] == "10.00" and lines[1]["operations"] is None and lines[1]["test %"] == "75.00 ± 7.07"
    assert lines[2]["test %"] == "not run"
    assert frontier.draw(Recorded(frontier.EXPERIMENT, records, None, Path())) == {}
    costs = {"operations": 1.25, "weights": 1.5, "words": 2.0, "memory": 1.0}
    records["tiny_costs"] = {"rows": [{"contender": one, **costs} for one in ("al_1", "al_2")]}
    records["tiny_time"] = {"rows": [{"contender": "al_2", "times BP's": {"median": 2.0}}]}
    lines = list(frontier.table(Recorded(frontier.EXPERIMENT, records, None, Path())))
    found = [[line[kind] for kind in ("operations", "memory", "time")] for line in lines]
    assert found[:3] == [[None] * 3, [1.25, 1.0, None], [1.25, 1.0, {"median": 2.0}]]
    assert found[-1] == found[2]  # the steps of a longer training are the same
    records |= {"tiny_al_paper": record([0.5, 0.6]), "tiny_dfa": record([0.0])}  # the second has diverged
    records["tiny_time"]["rows"] += [
        {"contender": one, "times BP's": {"median": cost}} for one, cost in (("bp", 1.0), ("al_paper", 5.0), ("dfa", 1))
    ]
    drawn = frontier.draw(Recorded(frontier.EXPERIMENT, records, None, Path()))
    names = {name: [text.get_text() for text in figure.legends[0].get_texts()] for name, figure in drawn.items()}
    assert names == {"frontier": ["al_1"], "frontier_time": ["bp"]}
    assert [text.get_text() for text in drawn["frontier_time"].axes[0].texts] == ["al_paper: 60.00 % at 5 times"]


def test_the_validation_set_chooses_the_number_of_components(monkeypatch):
    """One component is more accurate on the test set, and two, a component for each block, on the validation set."""
    monkeypatch.setattr(frontier, "PROBLEMS", {"tiny": TINY._replace(averaged=(2,))})
    bp, one, two = record([0.9], [0.7]), record([0.8], [0.8]), record([0.8], [0.9])
    one["rows"][0]["runs"][0]["test"] = 1.0
    costs = {"rows": [{"contender": "al_2", "operations": 0.5, "weights": 1, "memory": 1}]}
    records = {"tiny_bp": bp, "tiny_al_1": one, "tiny_al_2_average": two, "tiny_costs": costs}
    (line,) = frontier.chosen(Recorded(frontier.EXPERIMENT, records, None, Path()))
    assert line["components"] == "2 of 1, 2" and line["operations"] == 0.5
    assert line["al - bp"] == line["al - bp, each block a component"] == "5.00 ± 21.21"  # of -10 and 20 points
    del records["tiny_al_2_average"]
    (line,) = frontier.chosen(Recorded(frontier.EXPERIMENT, records, None, Path()))
    assert line["components"] == 1 and line["al - bp, each block a component"] == "not run"


def test_backpropagation_through_a_bridge_has_the_layers_by_which_one_component_predicts():
    net = jl.models.resnet(8)
    batch = jnp.ones((2, 8, 8, 3)), jnp.eye(10)[:2]

    def sizes(rule, *names):
        weights = [one.weights[name] for one in rule.init(jax.random.key(0), batch).components for name in names]
        return sum(leaf.size for leaf in jax.tree.leaves(weights))

    al = jl.rules.al(net, optax.sgd(1.0), components=1)
    assert sizes(frontier.through_a_bridge(net, optax.sgd(1.0)), "forward") == sizes(al, "forward", "bridge", "decoder")


@pytest.mark.slow
def test_the_costs_of_every_step_are_counted(tiny):
    (outcome,) = frontier.count("tiny", tiny("costs"))
    assert [row["contender"] for row in outcome.rows] == ["bp", "al_1", "al_2", "al_paper", "dfa", "drtp"]
    assert outcome.rows[0] == {"contender": "bp", **dict.fromkeys(("operations", "weights", "words", "memory"), 1)}
    assert outcome.rows[1]["operations"] > 1  # the codes are wider than such layers


def test_the_goal_is_what_every_run_of_backpropagation_reaches():
    records = {
        "wide_64_bp": record([0.5, 0.8, 0.9], [0.7, 0.86, 0.88]),
        "wide_64_al_2": record([0.6, 0.7, 0.8], [0.6, 0.9, 0.9]),
        "wide_64_al_2_long": record([0.6, 0.7, 0.8, 0.88], [0.6, 0.7, 0.89, 0.9]),
        "wide_64_al_4": record([0.1, 0.1, 0.2]),
    }
    found = {name: reached.reached(records, "wide_64", name) for name in ("bp", "al_2", "al_4", "al_paper")}
    assert found["bp"] == (0.88, (3, 3))
    assert found["al_2"] == (0.88, (4, 3))  # the longer training, in which both seeds arrive
    assert found["al_4"].arrived == [] and found["al_paper"] is None
    line, timed = {"ms a batch": {"median": 10.0}}, {"settings": {"batches in an epoch": 100}}
    until = {name: time_to_accuracy._until(needed, line, timed) for name, needed in found.items()}
    assert until["bp"] == {"epochs": "3", "seconds": "3 ± 0"}
    assert until["al_2"] == {"epochs": "3.5", "seconds": "3.5 ± 0.71"}
    assert until["al_4"]["epochs"] == "not reached" and until["al_paper"]["epochs"] == "not run"


def test_the_trainings_of_texts_count_as_those_of_the_frontier():
    """Their records hold each epoch with the accuracies of all seeds, not each seed with those of all epochs."""

    def trained(*epochs):
        return {"rows": [{"history": [{"validation": {"accuracy": list(seeds)}} for seeds in epochs]}]}

    records = {"sst2_bp": trained([0.5, 0.7], [0.8, 0.9]), "sst2_al": trained([0.8, 0.7], [0.9, 0.7])}
    assert reached.reached(records, "sst2", "bp") == (0.8, (2, 2))
    assert reached.reached(records, "sst2", "al") == (0.8, (1, None))


def test_each_program_may_take_the_better_of_two_batches(monkeypatch):
    def timed(bp, pipeline, batches):
        programs = ("bp", "bp", bp, 1), ("al_4, pipeline", "al_4", pipeline, 2)
        rows = [
            {"program": program, "contender": contender, "ms a batch": {"median": time}, "devices": devices}
            for program, contender, time, devices in programs
        ]
        return {"rows": rows, "settings": {"batches in an epoch": batches}}

    trained = {
        "wide_512_bp": record([0.5, 0.9]),
        "wide_512_al_4": record([0.5, 0.9]),
        "wide_64_bp": record([0.6, 0.8]),
        "wide_64_al_4": record([0.9, 0.9]),
    }
    monkeypatch.setattr(time_to_accuracy, "trainings", lambda _: trained)
    found = {"wide_512": timed(30.0, 20.0, 10), "wide_64": timed(10.0, 5.0, 20)}
    lines = list(time_to_accuracy.advantage(Recorded(time_to_accuracy.EXPERIMENT, found, None, Path())))
    # In its own problem each rule needs 2 epochs, but al_4 one with small batches. To the higher goal backpropagation
    # does not come with small batches, and needs 2 · 10 · 30 ms with large ones; al_4 needs 20 · 5 ms.
    assert lines == [
        {"problem": "wide_512", "pipeline": "al_4, last", "bp": "1.50"},
        {"problem": "wide_64", "pipeline": "al_4, last", "bp": "4.00"},
        {"problem": "wide_512 or wide_64", "pipeline": "al_4, last, wide_64", "bp": "6.00"},
    ]


def test_the_efficiency_that_a_schedule_allows():
    record = {"settings": {"steps": 20}}
    allowed = [
        time_to_accuracy._allowed({"program": program, "devices": 2, **facts}, record)
        for program, facts in (("al_4, last, pipeline", {}), ("bp, GPipe of 4", {"bubble": 0.2}), ("bp", {}))
    ]
    assert allowed == [pytest.approx(20 / 21), pytest.approx(0.8), None]


def test_the_fastest_number_of_micro_batches_stands_for_its_schedule():
    def row(program, milliseconds, devices=2, contender="bp"):
        return {"program": program, "contender": contender, "devices": devices, "ms a batch": {"median": milliseconds}}

    rows = [
        row("al_2, pipeline", 2, contender="al_2"),
        row("bp", 9, devices=1),
        *(row(f"bp, {words} of {micro}", time) for words in ("GPipe", "1F1B") for micro, time in ((2, 6), (4, 5))),
    ]
    names = [line["program"] for line in time_to_accuracy.best(rows)]
    assert names == ["bp", "bp, GPipe of 4", "bp, 1F1B of 4", "al_2, pipeline"]


def test_a_program_has_the_training_that_predicts_by_the_mean():
    row = {"program": "al_2, pipeline", "contender": "al_2", "devices": 2, "ms a batch": {"median": 2}}
    other = {**row, "program": "al_4, pipeline", "contender": "al_4"}
    lines = time_to_accuracy.lines_of({"rows": [row, other]}, "tiny", {"tiny_al_2_average": {}})
    assert [line["program"] for line in lines] == ["al_2, pipeline", "al_4, last, pipeline"]
    assert lines[0]["contender"] == "al_2_average"


def test_backpropagation_has_the_better_of_two_searches_in_each_way(monkeypatch):
    def row(program, contender, milliseconds):
        return {"program": program, "contender": contender, "devices": 2, "ms a batch": {"median": milliseconds}}

    rows = [row("bp, GPipe of 4", "bp", 3.0), row("al_2, pipeline", "al_2", 1.0)]
    trained = {"cifar_bp": record([0.5, 0.9]), "cifar_bp_more_rates": record([0.9]), "cifar_al_2": record([0.9])}
    monkeypatch.setattr(time_to_accuracy, "trainings", lambda _: trained)
    timed = {"cifar": {"rows": rows, "settings": {"batches in an epoch": 10}}}
    lines = time_to_accuracy.lines_of(timed["cifar"], "cifar", trained)
    assert [line["program"] for line in lines][:2] == ["bp, GPipe of 4", "bp, more rates, GPipe of 4"]
    (line,) = time_to_accuracy.advantage(Recorded(time_to_accuracy.EXPERIMENT, timed, None, Path()))
    assert line == {"problem": "cifar", "pipeline": "al_2, last", "bp, GPipe": "3.00"}  # not 6


def test_a_picture_of_times_is_another_one_once_there_is_another_training(monkeypatch):
    recorded = Recorded(time_to_accuracy.EXPERIMENT._replace(drawn_too=lambda _: trained), {}, None, Path())
    trained = {}
    before = figures.source(recorded)
    trained["cifar_bp"] = record([0.5])
    assert figures.source(recorded) != before


MICRO = {f"bp, GPipe of {micro}": micro for micro in (2, 4, 8, 16, 32)}
# The last of M micro-batches goes up to the last of D stages after M + D - 2 exchanges, and down again after as many.
EXCHANGES = {devices: {micro: 2 * (micro + devices - 2) for micro in MICRO.values()} for devices in (2, 4)}


def timings(al=0.0, gpipe=0.0, split=0.0, arrays=3):
    """A record of `many_devices`: messages take 1 ms, and their arrays 1 ms each.

    A meeting takes as many milliseconds more on two cores as the arguments say. The slowest stage of backpropagation
    takes twice as long as the others.
    """
    settings = {
        "steps": 9,
        "batches": 100,
        "batch_size": 64,
        "message arrays": 2,
        "message bytes": 1000,
        "activation bytes": 800,
        "gradient arrays": arrays,
        "link": {"bandwidth": 1e6, "latency": 1e-3},
    }
    pieces = {"bp, gradients added up": 6.0}
    for devices in (2, 4):
        pieces |= {f"al, a stage of {devices}": 12 / devices, f"bp, a stage of {devices}, optimizer": 4 / devices}
        for micro in MICRO.values():
            stage, other = f"bp, a stage of {devices}, {micro} micro-batches", (32 + micro) / devices
            pieces |= {stage: 2 * other, f"{stage}, mean of the stages": (2 + devices - 1) * other / devices}
        pieces |= {f"bp, a share of {devices}": 20 / devices}
    # A stage, a message of 2 ms and 1 ms of its second array and of its note each; 10 ticks for 9 batches.
    programs = {"al": 12.0, "bp": 20.0, "al, pipeline": 10 / 9 * (6 + 2 + 2 + al), "bp, both cores": 15.0}
    for name, micro in MICRO.items():
        passes = (2 + 1 / micro) * (32 + micro) / 2
        programs[name] = passes + 2 + EXCHANGES[2][micro] * (1 + 0.8 / micro + gpipe)
    programs["bp, data-parallel"] = 10 + 6 + arrays * split
    rows = [{"program": name, "ms a batch": {"median": value}} for name, value in (programs | pieces).items()]
    return {"settings": settings, "rows": rows}


def test_the_model_of_many_devices_is_arithmetic(monkeypatch):
    found = Recorded(many_devices.EXPERIMENT, {"mnist": timings(al=1, gpipe=0.5, split=2)}, None, Path())
    wait = {"al, pipeline": 1e-3, **dict.fromkeys(MICRO, 0.5e-3), "bp, data-parallel": 2e-3}
    fitted = many_devices.waits(found.records.values())
    assert {program: own.meeting for program, own in fitted.items()} == pytest.approx(wait)
    assert [own.batch for own in fitted.values()] == pytest.approx([0.0] * len(fitted), abs=1e-9)
    assert list(many_devices.checks(found)) == []  # there is no other network
    both = {**found.records, "deep_16": timings(al=3, gpipe=0.5, split=4)}
    shares = {
        (row["problem"], row["program"].rpartition(", ")[2]): row["predicted / measured"]
        for row in many_devices.checks(Recorded(many_devices.EXPERIMENT, both, None, Path()))
    }
    assert {shares[name, "GPipe of 8"] for name in both} == {"1.00"}
    assert (shares["mnist", "pipeline"], shares["deep_16", "pipeline"]) == (f"{13 / 11:.2f}", f"{11 / 13:.2f}")
    assert (shares["mnist", "data-parallel"], shares["deep_16", "data-parallel"]) == (
        f"{28 / 22:.2f}",
        f"{22 / 28:.2f}",
    )

    trained = {"mnist_bp": record([0.5, 0.9]), "mnist_al_4_average": record([0.9, 0.9])}
    monkeypatch.setattr(many_devices, "trainings", lambda _: trained)
    lines = {line["devices"]: line for line in many_devices.table(found)}
    assert lines.keys() == {1, 2, 4}
    one = {"al, pipeline": "1.2", "bp, GPipe": "4", "bp, data-parallel": "4"}
    known = {"problem": "mnist", "devices": 1, "seconds are": "measured", "epochs of al": "1", "epochs of bp": "2"}
    computing = {f"{program}, computing": None for program in one}
    assert lines[1] == known | one | computing | {"bp, both cores": None, "micro-batches": None}
    two = {"al, pipeline": "1.22", "bp, data-parallel": "4.4", "bp, both cores": "3", "micro-batches": 2}
    assert two.items() <= lines[2].items()
    four = {
        "al, pipeline": 103 * (3 + 4 + 1) / 1e3,
        "bp, GPipe": min(
            (2 + 3 / micro) * (32 + micro) / 4 + 1 + EXCHANGES[4][micro] * (1 + 0.8 / micro + 0.5)
            for micro in MICRO.values()
        )
        / 5,
        "bp, data-parallel": (5 + 1.5 * 6 + 3 * 2) / 5,
    }
    for program, seconds in four.items():
        assert float(lines[4][program]) == pytest.approx(seconds, rel=1e-2)
    assert lines[4]["bp, both cores"] is None
    alone = {
        "al, pipeline": 103 * 3 / 1e3,
        "bp, GPipe": min((2 + 3 / micro) * (32 + micro) / 4 + 1 for micro in MICRO.values()) / 5,
        "bp, data-parallel": 5 / 5,
    }
    for program, seconds in alone.items():
        assert float(lines[4][f"{program}, computing"]) == pytest.approx(seconds, rel=1e-2)
    (ratios,) = many_devices.gain(found)
    al, gpipe = four["al, pipeline"], four["bp, GPipe"]
    assert ratios["devices of al"] == 4 and float(ratios["bp, one device"]) == pytest.approx(4 / al, abs=0.05)
    best = {devices: float(lines[devices]["bp, GPipe"]) for devices in lines}
    fewest = min(best, key=best.get)
    assert ratios["bp, GPipe at its best"] == f"{best[fewest] / al:.1f} on {fewest}" and best[4] == pytest.approx(gpipe)
    limit = alone["bp, GPipe"] / alone["al, pipeline"]
    assert float(ratios["bp, GPipe computing alone"]) == pytest.approx(limit, abs=0.05)
    assert many_devices.draw(found).keys() == {"many_devices"}
    two, four = many_devices.efficiency(found)
    assert two["al, pipeline, schedule allows"] == f"{9 / 10:.3f}"  # of the nine batches that were timed
    batch = 103 / 100 * (3 + 4 + 1)  # milliseconds of the pipeline on four devices
    assert four["al, pipeline, examples a second"] == round(64e3 / batch)
    assert float(four["al, pipeline, efficiency"]) == pytest.approx(12 / (4 * batch), rel=1e-2)
    assert four["al, pipeline, schedule allows"] == f"{100 / 103:.3f}"
    assert four["bp, GPipe, schedule allows"] == f"{2 / 5:.3f}"  # of two micro-batches
    assert float(two["bp, data-parallel, efficiency"]) == pytest.approx(20 / (2 * 22), rel=1e-2)  # measured


def test_devices_wait_in_each_batch_and_whenever_they_meet():
    """Through networks of 3, 5, 10 and 20 arrays goes a line: 2 ms in each batch, and 1 ms for each array."""
    recorded = [timings(split=1 + 2 / arrays, arrays=arrays) for arrays in (3, 5, 10, 20)]
    disturbed = timings(split=9, arrays=12)
    assert many_devices.waits([*recorded, disturbed])["bp, data-parallel"] == pytest.approx((2e-3, 1e-3), rel=0.2)
    assert many_devices.waits(recorded)["bp, data-parallel"] == pytest.approx((2e-3, 1e-3))


def test_a_rule_of_which_a_seed_does_not_arrive_has_no_seconds(monkeypatch):
    found = Recorded(many_devices.EXPERIMENT, {"mnist": timings()}, None, Path())
    trained = {"mnist_bp": record([0.5, 0.9]), "mnist_al_4_average": record([0.8, 0.8], [0.8, 0.9])}
    monkeypatch.setattr(many_devices, "trainings", lambda _: trained)
    lines = list(many_devices.table(found))
    assert {(line["al, pipeline"], line["epochs of al"]) for line in lines} == {(None, "2, 1 of 2 seeds")}


def test_costs(tmp_path, monkeypatch):
    small = costs.Net(jl.models.mlp((16,) * 2), "small", costs.floats(4, 8))
    rules = {name: costs.RULES[name] for name in ("drtp", "al, paper's codes")}
    monkeypatch.setattr(costs, "NETS", {"mlp": small})
    monkeypatch.setattr(costs, "RULES", rules)
    main(costs.EXPERIMENT, ["--rows", "mlp", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "costs" / "mlp.json").read_text())["rows"]
    assert [row["rule, setting"] for row in rows] == list(rules)
    assert rows[0]["operations"] < 1 < rows[1]["operations"]


def test_install(tmp_path, monkeypatch):
    """With commands that write files in place of pip: an extra is what it adds to the library alone."""

    def pretend(*command):
        if command[1:3] == ("-m", "venv"):
            (command[3] / "lib").mkdir(parents=True)
            (command[3] / "bin").mkdir()
            return
        assert command[0].parts[-2:] == ("bin", "python") and command[1:5] == ("-m", "pip", "install", "--quiet")
        root, _, extra = command[-1].partition("[")
        assert (Path(root) / "pyproject.toml").is_file()
        names = {"": ["jax", "jaxlocal"], "hf]": ["datasets"]}[extra]
        for name in names:
            package = command[0].parents[1] / "lib" / name
            package.mkdir()
            (package / "METADATA").write_bytes(bytes(3_000_000))

    monkeypatch.setattr(install, "call", pretend)
    main(install.EXPERIMENT, ["--extras", "hf", "--out", str(tmp_path)])
    rows = install.EXPERIMENT.record("install", tmp_path)["rows"]
    assert [(row["extra"], row["MB"], row["packages"]) for row in rows] == [("none", 6, 2), ("hf", 3, 1)]
    assert {"text", "test", "dev", "docs"} <= {*install.extras()} and "bench" not in install.extras()


@pytest.mark.slow
def test_compile_time(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(compile_time, "Worker", Here)
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)  # the compilation cache of these tests stays on
    main(compile_time.EXPERIMENT, ["--quick", "--depths", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "speed" / "compile.json").read_text())["rows"]
    assert [row["program"] for row in rows] == list(compile_time.WAYS)
    assert all(row["first step, s"] > 0 and row["start, s"] > 0 for row in rows)
    assert asked == {"jax_enable_compilation_cache": False}


class Known:
    """A worker that knows what components cost."""

    def __init__(self, make, *arguments, cores):
        assert make is shared.costs

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ask(self):
        return jl.pipeline.Costs((2.0, 1.0), (1, 1))


@pytest.mark.slow
def test_the_programs_of_a_problem(tiny, monkeypatch):
    """Backpropagation in all ways and Associated Learning in all ways; none of them is started."""
    monkeypatch.setattr(time_to_accuracy, "Worker", Known)
    tiny("bp")
    found = time_to_accuracy.programs("tiny", [0, 1])
    assert found[0].name == "bp" and found[0].devices == 1
    names = {program.name for program in found}
    micro = {f"bp, {words} of {count}" for words in ("GPipe", "1F1B") for count in (2, 4)}
    assert names == micro | {
        *("bp", "bp, both cores", "bp, data-parallel"),
        *("al_2", "al_2, both cores", "al_2, pipeline", "al_paper, pipeline"),
    }
    pipelines = [program for program in found if program.name.endswith("pipeline")]
    assert [program.facts["stages"] for program in pipelines] == ["1+1"] * 2
    assert [program.make.keywords["stages"] for program in pipelines] == [(1, 1)] * 2


@pytest.mark.parametrize(("batch", "micro"), [(512, [2, 4, 8, 16, 32]), (32, [2, 4, 8]), (8, [2])])
def test_each_micro_batch_has_several_examples(batch, micro):
    assert time_to_accuracy.micro_batches(batch) == micro
