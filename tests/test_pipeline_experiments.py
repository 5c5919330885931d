"""The timings of the pipeline run, their model is arithmetic that can be done by hand, and bad flags are one line."""

import os
import pickle
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lab_helpers import few_digits, main, one_line

import jaxlocal as jl
from experiments.beyond import frontier
from experiments.beyond import shared as beyond
from experiments.lab import tables, workers
from experiments.lab.experiment import Budget, Recorded, Task
from experiments.speed import (
    device_memory,
    device_work,
    fit_speed,
    limits,
    link,
    local_rules,
    many_devices,
    one_device,
    pipeline_scaling,
    pipeline_speed,
    scaling_picture,
    shared,
    timed_trainings,
)
from experiments.speed.backprop_stage import make_stages
from experiments.speed.scaling_model import Link, gpipe_epoch, gpipe_step, pipelined_epoch, tick
from jaxlocal.network import neighbours

needs_two_cores = pytest.mark.skipif(len(workers.available_cores()) < 2, reason="pins one device to each of two cores")


def test_a_transfer_takes_its_latency_and_its_share_of_the_bandwidth():
    assert Link(bandwidth=1000, latency=0.5).seconds(2000) == 2.5


def test_a_tick_is_the_slowest_stage_and_then_the_slowest_transfer():
    seconds, message, link = (1.0, 2.0, 3.0, 4.0), (100, 300, 200, 999), Link(bandwidth=100, latency=0.5)
    assert tick(seconds, message, (4,), link) == 10  # nothing is handed on
    assert tick(seconds, message, (3, 1), link) == 6 + 2.5
    assert tick(seconds, message, (2, 2), link) == 7 + 3.5
    assert tick(seconds, message, (1, 1, 1, 1), link) == 4 + 3.5


def test_epochs():
    assert pipelined_epoch(100, 1, 0.5) == 50
    assert pipelined_epoch(100, 5, 0.5) == 52
    assert gpipe_epoch(100, 1, 8, 0.5) == 50
    assert gpipe_epoch(100, 2, 8, 0.5) == pytest.approx(50 / 2 * 9 / 8)
    assert gpipe_step(gpipe_epoch(1, 4, 8, 0.5), 4, 8) == pytest.approx(0.5)
    np.testing.assert_allclose(pipelined_epoch(10, np.array([1, 11]), 2.0), [20, 40])


def test_a_line_of_speeds():
    case = pipeline_speed.CASES["equal-32"]
    program = pipeline_speed.Program("pipeline", 2, shared.pipeline, ())
    line = pipeline_speed.line(case, program, [0.5, 0.4, 1.0], [1.0, 0.8, 1.5])
    assert line["speedup"] == {"median": 2, "min": 1.5, "max": 2, "repeats": [2, 2, 1.5]}
    assert line["ms per batch"]["median"] == 500 and (line["case"], line["batch"]) == (
        "two equal components, paper's codes",
        32,
    )
    assert "500 (400 to 1000)" in tables.text([line]) and "2 (1.5 to 2)" in tables.text([line])


def test_the_memory_of_a_program_is_that_of_its_batches_and_of_what_it_keeps():
    """The state of 1000 floats, which is replaced, and three batches of as many."""
    found = shared.megabytes(lambda s, b: (s + b.sum(0), None), lambda *_: jnp.zeros(1000), jnp.ones(1000), 3)
    assert found() == pytest.approx((1 + 3) * 4000 / 1e6)


@pytest.mark.slow
@needs_two_cores
def test_speed(tmp_path, capsys):
    flags = ["--cases", "gpipe-512", "--width", "8", "--quick", "--out", str(tmp_path)]
    main(pipeline_speed.EXPERIMENT, flags)
    record = pipeline_speed.EXPERIMENT.record("speed", tmp_path)
    assert record["command"] == (
        "python -m experiments.speed.pipeline_speed --rounds 2 --steps 4 --cases gpipe-512 --width 8"
    )
    rows = record["rows"]
    micro = ["GPipe, 8 micro-batches", "1F1B, 8 micro-batches"]
    assert [row["program"] for row in rows] == ["sequential", *micro, pipeline_speed.CEILING]
    assert [row["bubble"] for row in rows] == [None, pytest.approx(1 / 9), pytest.approx(1 / 9), None]
    assert all(len(row["speedup"]["repeats"]) == 2 for row in rows)
    assert rows[0]["speedup"]["repeats"] == [1, 1]
    assert pipeline_speed.CEILING in capsys.readouterr().out


def test_local_rules_are_compared_with_backpropagation(monkeypatch):
    """The programs of each case; none of them is started."""
    monkeypatch.setattr(local_rules, "Worker", Costly)
    found = list(local_rules.programs("cnn", 3, [0, 1]))
    assert [one.rule for one in found] == ["bp"] * 5 + [rule for rule in local_rules.LOCAL for _ in range(2)]
    assert [one.cores for one in found[:3]] == [[0], None, [0, 1]]
    alone, piped = found[-2:]
    assert alone.cores == [0] and piped.cores == [0, 1] and piped.words == "pipeline 1+3, two cores"
    for rule in local_rules.LOCAL:
        made, batch = local_rules.problem("dense", rule)
        assert made.learn and batch[0].shape == (128, 784)
    line = local_rules.line(piped, [0.5, 0.4], [1.0, 0.6])
    assert line["rule"] == "ff" and line["speedup"]["repeats"] == [2, 1.5] and line["ms per batch"]["median"] == 450


def task(experiment, **options):
    """A short task of an experiment with these options."""
    (row,) = experiment.rows
    budget = Budget(rounds=1, steps=3)
    return Task(experiment, row, budget, options, Path("nowhere"), float("inf"), None, False)


class Costly:
    """A worker that knows the costs."""

    def __init__(self, make, *arguments, cores):
        assert make is shared.costs

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ask(self):
        return jl.pipeline.Costs((4.0, 1.0, 2.0, 0.5), (1, 1, 1, 1))


def test_what_the_cases_compare(monkeypatch):
    """The programs of each case; none of them is started."""
    monkeypatch.setattr(pipeline_speed, "Worker", Costly)
    asked = task(pipeline_speed.EXPERIMENT, width=8, image=4)
    found = {name: case.programs(asked, [0, 1]) for name, case in pipeline_speed.CASES.items()}
    for name, programs in found.items():
        devices = [1, 2, 2] if "gpipe" in name else [1, 1, 2]
        assert [program.devices for program in programs] == devices
        assert programs[0].make is shared.sequential
    assert [program.arguments[2:] for program in found["cnn-32"][2:]] == [((1, 3),)]
    for problem in (found["equal-32"][0].arguments[0], found["cnn-32"][0].arguments[0]):
        rule, batch = problem()
        params = jax.eval_shape(rule.init, jax.random.key(0), batch)
        assert batch[0].shape[0] == 32 and len(params.components) == len(rule.learn)
    rule, batch = found["equal-32"][0].arguments[0]()
    components = jax.eval_shape(rule.init, jax.random.key(0), batch).components
    first, second = (jax.tree.map(lambda leaf: leaf.shape, one.weights) for one in components)
    assert first == second


class Here:
    """A worker in this process: it gets and gives what can be pickled, and has a device for each of its cores."""

    def __init__(self, make, *arguments, cores=None):
        make, arguments = pickle.loads(pickle.dumps((make, arguments)))
        devices = jax.devices()[: len(cores or [0])]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "devices", lambda: devices)
            self._made = make(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def begin(self, method="__call__", *arguments):
        self._found = pickle.loads(pickle.dumps(getattr(self._made, method)(*arguments)))

    def end(self):
        return self._found

    def ask(self, *call):
        self.begin(*call)
        return self.end()


@pytest.fixture
def here(monkeypatch):
    """No processes, which `test_speed` starts, and a smaller message."""
    monkeypatch.setattr(pipeline_scaling, "Worker", Here)
    monkeypatch.setattr(shared, "Worker", Here)
    monkeypatch.setattr(link, "Worker", Here)
    monkeypatch.setattr(link, "LARGE", 2**16)


@pytest.mark.slow
@needs_two_cores
def test_the_memory_of_a_device(tmp_path, monkeypatch):
    """Four devices need less than two, those that hold a stage less than those that hold the whole network."""
    net = jl.models.mlp((32,) * 4)
    tiny = beyond.PROBLEMS["mnist"]._replace(data="digits", net=net, words="tiny", batch=32)
    monkeypatch.setattr(device_memory, "PROBLEMS", {"mnist": tiny})
    monkeypatch.setattr(device_memory, "COMPONENTS", {"mnist": 4})
    monkeypatch.setattr(device_memory, "Worker", Here)
    monkeypatch.setattr(beyond, "images", lambda *_: few_digits())
    main(device_memory.EXPERIMENT, ["--rows", "mnist", "--out", str(tmp_path)])
    lines = {row["program"]: row for row in device_memory.table(device_memory.EXPERIMENT.recorded(tmp_path))}
    assert list(lines) == ["al", "bp", "al, pipeline", "bp, GPipe of 16", "bp, 1F1B of 16", "bp, data-parallel"]
    assert lines["bp"]["1"] > 0 and lines["bp"]["2"] is None and lines["al, pipeline"]["8"] is None
    for program, line in lines.items():
        if program.startswith("bp, "):
            assert lines["bp, data-parallel"]["4"] >= line["4"] > 0
    assert lines["al"]["1"] > lines["al, pipeline"]["2"] > lines["al, pipeline"]["4"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@needs_two_cores
def test_scaling(tmp_path, capsys):
    flags = [
        "--depths",
        "2",
        "--width",
        "8",
        "--batch-size",
        "8",
        "--quick",
        "--bandwidth",
        "2",
        "--out",
        str(tmp_path),
    ]
    main(pipeline_scaling.EXPERIMENT, flags)
    record = pipeline_scaling.EXPERIMENT.record("scaling", tmp_path)
    (row,) = record["rows"]
    assert row["message bytes"] == 8 * (8 + jl.codes.lean.width) * 4
    assert row["two devices: stages"] == "1+1"
    assert row["epoch, al s"] == pytest.approx(937 * row["al ms"]["median"] / 1e3, rel=1e-2)
    link = Link(1e9 * record["settings"]["bandwidth"], record["settings"]["latency"] / 1e6)
    slowest = tick([one / 1e3 for one in row["component ms"]["repeats"]], [row["message bytes"]] * 2, (1, 1), link)
    whole = slowest + record["settings"]["rest"] / 1e3
    assert record["settings"]["bandwidth"] == 2 and row["epoch, pipeline s"] == pytest.approx(938 * whole, rel=1e-2)
    # The rest is what the model lacks at the first depth. There is none where the model is above what was measured.
    assert row["two devices: ratio"] == pytest.approx(1, rel=1e-2) or record["settings"]["rest"] == 0
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "link between two cores" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@needs_two_cores
def test_the_devices_of_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline_scaling, "available_cores", lambda: workers.available_cores()[:2])
    size = ["--depths", "2", "--width", "8", "--batch-size", "8", "--rounds", "2", "--steps", "4"]
    main(pipeline_scaling.EXPERIMENT, ["--rows", "devices", *size, "--out", str(tmp_path)])
    record = pipeline_scaling.EXPERIMENT.record("devices", tmp_path)
    one, two = record["rows"]
    assert (one["devices"], one["stages"], one["bp, GPipe ms"]) == (1, "2", None)
    assert (two["devices"], two["stages"]) == (2, "1+1")
    seconds, message = record["settings"]["components ms"], 8 * (8 + jl.codes.lean.width) * 4
    assert one["predicted ms"] == pytest.approx(sum(seconds), rel=1e-2)
    # The rest makes the prediction for two devices exact, unless the model is above what was measured.
    assert two["predicted / measured"] == pytest.approx(1, rel=1e-2) or record["settings"]["rest"] == 0
    whole = 1e-3 * (max(seconds) + record["settings"]["rest"]) + Link(**record["settings"]["link"]).seconds(message)
    assert two["predicted ms"] == pytest.approx(1e3 * whole * 5 / 4, rel=1e-2)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@needs_two_cores
def test_what_is_measured_for_the_model_of_many_devices(tmp_path, monkeypatch):
    net = jl.models.mlp((8, 8))
    tiny = beyond.PROBLEMS["deep_16"]._replace(data="digits", net=net, averaged=(2,), batch=32)
    monkeypatch.setattr(beyond, "images", lambda *_: few_digits())
    monkeypatch.setitem(beyond.PROBLEMS, "tiny", tiny)
    monkeypatch.setitem(many_devices.COMPONENTS, "tiny", 2)
    monkeypatch.setattr(many_devices, "Worker", Here)
    task = Task(many_devices.EXPERIMENT, "tiny", Budget(rounds=2, steps=3), {}, tmp_path, float("inf"), tmp_path, False)
    (outcome,) = many_devices.measure("tiny", task)
    assert {"al", "bp", *many_devices.MODELLED, many_devices.BOTH_CORES} < {row["program"] for row in outcome.rows}
    assert all(row["ms a batch"]["median"] > 0 for row in outcome.rows)
    settings = outcome.settings
    assert (settings["batches"], settings["stages of al"]) == (128 // 32, [[1, 1]])
    # Activations, a code and their labels' code go up, or activations alone.
    assert settings["message bytes"] == 32 * (8 + jl.codes.lean.width) * 4
    assert (settings["message arrays"], settings["activation bytes"]) == (2, 32 * 8 * 4)
    assert settings["gradient arrays"] == 3 * 2  # of three layers
    named = {row["program"] for row in outcome.rows}
    assert {device_work.al_stage(2), device_work.bp_share(2), device_work.bp_update(2)} < named
    passes = {device_work.bp_passes(2, micro) for micro in many_devices.MICRO.values()}
    assert passes | set(map(device_work.mean_of, passes)) < named


@pytest.mark.slow
@needs_two_cores
def test_every_program_has_the_training_that_is_recorded(tmp_path, monkeypatch):
    """Each learns for as many epochs as the goal takes, with the accuracies of `fit`."""
    tiny = beyond.PROBLEMS["wide_64"]._replace(data="digits", net=jl.models.mlp((16, 16)), batch=32)
    monkeypatch.setattr(beyond, "images", lambda *_: few_digits())
    monkeypatch.setitem(beyond.PROBLEMS, "tiny", tiny)
    monkeypatch.setitem(timed_trainings.ENTERED, "tiny", timed_trainings.Entered("bp", "al_2_average", "GPipe", 2))
    monkeypatch.setattr(timed_trainings, "Worker", Here)
    rate, never = 0.01, 2.0
    names = "bp", "al_2_average"
    fitted = {name: frontier.train(tiny, name, few_digits(), rate, epochs=3, seed=0)["history"] for name in names}
    trained = {
        f"tiny_{name}": {
            "rows": [{"runs": [{"rate": rate, "history": [*history[:-1], never]}]}],
            "settings": {"epochs": 3},
        }
        for name, history in fitted.items()
    }
    monkeypatch.setattr(timed_trainings, "trainings", lambda _: trained)
    task = Task(timed_trainings.EXPERIMENT, "tiny", Budget(seeds=1), {}, tmp_path, float("inf"), tmp_path, False)
    (outcome,) = timed_trainings.measure("tiny", task)
    *of_bp, of_al = [row["runs"][0]["history"] for row in outcome.rows]
    assert of_al == fitted["al_2_average"]  # to the bit
    for found in of_bp:  # rounding may turn an example or two of the validation set
        np.testing.assert_allclose(found, fitted["bp"], atol=2.1 / len(few_digits().validation[0]))
    soon = timed_trainings.by_rule(partial(timed_trainings.planned, "tiny", "bp", rate, 3), goal=0.001)
    evaluate, slept = jl.training.evaluate, 0.5

    def slowly(*arguments):
        time.sleep(slept)  # far longer than the learning takes
        return evaluate(*arguments)

    monkeypatch.setattr(jl.training, "evaluate", slowly)
    run = soon(seed=0)
    assert run["history"] == fitted["bp"][:1] and 0 < run["seconds"] < slept


def test_a_training_that_does_not_arrive_counts_with_all_its_epochs():
    def row(program, *runs):
        return {"program": program, "runs": [{"seconds": seconds, "history": history} for seconds, history in runs]}

    rows = [
        row("bp", (6.0, [0.5, 0.9]), (12.0, [0.5, 0.6, 0.9])),
        row("bp, both cores", (3.0, [0.9]), (3.0, [0.7])),
        row("al, pipeline", (4.0, [0.9]), (2.0, [0.9])),
    ]
    found = {"cifar": {"rows": rows, "settings": {"goal": 0.8}}}
    lines = list(timed_trainings.table(Recorded(timed_trainings.EXPERIMENT, found, None, Path())))
    assert lines[0]["epochs"] == "2, 3" and lines[0]["seconds"] == "9 ± 4.2"
    assert lines[0]["times al"] == "3.00 (1.50 to 6.00)"
    assert lines[0]["an epoch, times al"] == "1.17 (0.75 to 2.00)"
    assert lines[1]["epochs"] == "1, over 1" and lines[1]["seconds"] == "over 3 ± 0"
    assert lines[1]["times al"] == "over 1.00 (0.75 to 1.50)"
    assert lines[2]["times al"] == "1.00 (1.00 to 1.00)"
    rows[-1]["runs"][0]["history"] = [0.7]
    first, *_, last = timed_trainings.table(Recorded(timed_trainings.EXPERIMENT, found, None, Path()))
    assert first["times al"] == "under 3.00 (1.50 to 6.00)" and last["times al"] == "1.00 (1.00 to 1.00)"
    for one in rows:
        one["runs"] = one["runs"][:1]
    assert next(timed_trainings.table(Recorded(timed_trainings.EXPERIMENT, found, None, Path())))["seconds"] == "6"


@pytest.mark.parametrize("cut", [(3,), (1, 2)])
def test_the_passes_of_a_stage_that_are_timed_find_the_gradients(cut):
    """Both stages of two, one after the other, find those of the whole network."""
    net, batch = jl.models.mlp((8, 8)), (jax.random.normal(jax.random.key(1), (8, 5)), jax.nn.one_hot(np.arange(8), 10))
    rule, micro = jl.rules.bp(net, optax.sgd(1.0)), 4
    params = jax.jit(rule.init)(jax.random.key(0), batch)
    weights = params.components[0].weights["forward"]
    after = jax.jit(rule.update)(params, batch).components[0].weights["forward"]
    wanted = jax.tree.map(lambda old, new: old - new, weights, after)
    x, y = (leaf.reshape(micro, 2, -1) for leaf in batch)
    stages = make_stages(net, cut, (x[0], y[0]))
    first, last = (
        partial(stages[i].forward, weights[own]) for i, own in ((0, slice(cut[0])), (-1, slice(-cut[-1], None)))
    )
    inner = jax.jit(jax.vmap(lambda x, y: first(x, y)[0]))(x, y) if len(cut) > 1 else x
    errors = jax.jit(jax.vmap(jax.grad(lambda h, y: last(h, y)[0] / micro)))(inner, y)
    reads = [x, inner][: len(cut)]
    backs = [errors, jnp.full(micro, 1 / micro)][-len(cut) :]
    found = []
    for stage, numbers, read, error in zip(stages, neighbours(cut), reads, backs, strict=True):
        own = tuple(weights[i] for i in numbers)
        state = (
            own,
            jax.tree.map(jnp.ones_like, own),
            jax.tree.map(lambda s: jnp.ones(s.shape), (stage.sends, stage.reads)),
        )
        found += jax.jit(partial(device_work._passes, stage))(state, (read, y, error))[1]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), tuple(found), wanted)


def test_stages_that_are_alike_are_timed_once():
    """The stages are (0,), (1, 2), (3, 4), (5, 6), (7, 8); the second and the third have the same shapes."""
    widths = [4, 4, 4, 4, 4, 4, 8, 4, 4]
    found = device_work.unlike((1, 2, 2, 2, 2), lambda stage: [np.zeros(widths[i]) for i in stage])
    assert list(found) == [((0,), 1), ((1, 2), 2), ((5, 6), 1), ((7, 8), 1)]
    assert list(device_work.unlike((3,), lambda stage: np.zeros(3))) == [((0, 1, 2), 1)]


def test_the_slowest_stage_counts_and_the_mean_of_all(monkeypatch):
    """Of four stages two are alike and take 1 s each; the others take 2 s and 6 s."""
    seconds = [("a stage", 2, 1.0), ("a stage", 1, 2.0), ("a stage", 1, 6.0)]
    monkeypatch.setattr(device_work, "_al_stages", lambda _: [(name, n, None, s, None) for name, n, s in seconds])
    monkeypatch.setattr(device_work, "_bp_stages", lambda *_: [])
    monkeypatch.setattr(device_work, "_bp_shares", lambda _: [("a share", 1, None, 3.0, None)])
    monkeypatch.setattr(device_work, "repeated", lambda piece, state, given: lambda: state)
    assert device_work.work(None, None, ())() == {"a stage": 6.0, device_work.mean_of("a stage"): 2.5, "a share": 3.0}


@pytest.mark.slow
def test_one_device(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "BANDWIDTH_BYTES", 2**20)
    monkeypatch.setattr(limits, "RATE_SIZE", 64)
    size = ["--width", "8", "--batch-size", "8", "--rounds", "2", "--steps", "4", "--latency", "1000"]
    main(one_device.EXPERIMENT, ["--rows", "depth_4", *size, "--out", str(tmp_path)])
    record = one_device.EXPERIMENT.record("depth_4", tmp_path)
    rows, settings = {row["program"]: row for row in record["rows"]}, record["settings"]
    assert rows.keys() == {"bp", "al", "al, pipeline on one device", "al, paper's codes"}
    assert rows["bp"]["times bp"]["repeats"] == [1, 1]
    two, four = settings["predicted"]
    slowest = max(settings["components ms"]) / 1e3 + 1e-3 + settings["message bytes"][0] / 4.5e11
    assert four["devices"] == 4 and four["pipeline s"] == pytest.approx(103 * slowest, rel=1e-2)
    assert two["bp on one device s"] == pytest.approx(rows["bp"]["ms a batch"]["median"] / 10, rel=1e-2)


def test_the_roofline_is_operations_or_bytes():
    made = lambda: one_device.problem("bp", 2, 16, 4)  # noqa: E731 - a problem as the experiment makes it
    weights = 2 * (16 * 16 + 16) + 16 * 10 + 10
    products = 2 * 4 * 16 * (2 * (16 + 16 + 10) + 16 + 10)  # the first layer has no error to send on
    fast = 1e30
    assert one_device.least_seconds(made, {"rate": 1.0, "bandwidth": fast}) == products
    assert one_device.least_seconds(made, {"rate": fast, "bandwidth": 1.0}) == pytest.approx(7 * 4 * weights, rel=1e-6)


def test_two_layers_on_two_devices_take_what_gpipe_takes_there():
    settings = {"micro": 8, "batches": 100}
    assert scaling_picture._gpipe(settings, 2, 0.5) == pytest.approx(50)
    assert scaling_picture._gpipe(settings, 4, 0.5) == pytest.approx(50 / 2 * 11 / 9)  # less work, and a longer bubble


def test_the_picture_of_the_record_has_a_line_for_each_way():
    (axes,) = scaling_picture.draw(pipeline_scaling.EXPERIMENT.record("scaling")).axes
    texts = {text.get_text().splitlines()[0] for text in axes.texts}
    assert texts >= {"sequential AL", "sequential BP", "GPipe BP", "AL pipeline", "O(n · l)", "O(n + l)"}


def test_the_cost_of_fit(tmp_path, monkeypatch):
    net = jl.models.mlp((4,))
    monkeypatch.setattr(fit_speed, "CASES", {"dfa": (lambda: net, (4, 4, 1), 8)})
    main(fit_speed.EXPERIMENT, ["--rounds", "2", "--steps", "3", "--out", str(tmp_path)])
    record = fit_speed.EXPERIMENT.record("fit", tmp_path)
    (row,) = record["rows"]
    assert record["command"] == "python -m experiments.speed.fit_speed --rounds 2 --steps 3"
    assert row["case"] == "dfa" and len(row["ratio"]["repeats"]) == 2
    scan, fit = (row[f"{way}, ms a step"]["repeats"] for way in ("scan", "fit"))
    np.testing.assert_allclose(row["ratio"]["repeats"], np.divide(fit, scan), rtol=1e-2)


@pytest.mark.parametrize(
    ("module", "flags", "complaint"),
    [
        (pipeline_speed, ["--cases", "mlp"], "--cases: invalid choice: 'mlp'"),
        (pipeline_scaling, ["--bandwidth", "-1"], "--bandwidth: '-1' is not a number above 0"),
        (pipeline_scaling, ["--latency", "fast"], "--latency: 'fast' is not a number above 0"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(module, flags, complaint, capsys):
    assert complaint in one_line(main, module.EXPERIMENT, flags, capsys)


def refused(experiment, flags, capsys):
    """Why an experiment says that it cannot run."""
    with pytest.raises(SystemExit) as stop:
        main(experiment, flags)
    assert stop.value.code == 1
    return capsys.readouterr().err.splitlines()[0]


def test_one_component_is_too_few(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    for row, depths in (("scaling", ["1", "2"]), ("devices", ["1"])):
        flags = ["--rows", row, "--depths", *depths, "--out", str(tmp_path)]
        error = refused(pipeline_scaling.EXPERIMENT, flags, capsys)
        assert "--depths: 1 component cannot be cut into 2 stages" in error


def test_one_core_is_too_few(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert refused(pipeline_speed.EXPERIMENT, ["--quick", "--out", str(tmp_path)], capsys) == (
        "python -m experiments.speed.pipeline_speed: speed: needs Linux and two cores, to pin one device to each"
    )
