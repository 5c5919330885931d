"""The pipeline's experiments run, their model is arithmetic that can be done by hand, and bad flags are one line."""

import argparse
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlocal as jl
from experiments.lab import records as results
from experiments.speed import pipeline_scaling, pipeline_speed
from experiments.speed.pipeline_scaling import Link, gpipe_epoch, pipelined_epoch, tick

CEILING = "two sequential at once (ceiling)"

needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="pins one device to each of two cores",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing in these tests may touch the committed records."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")


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
    np.testing.assert_allclose(pipelined_epoch(10, np.array([1, 11]), 2.0), [20, 40])


def test_a_row_of_speeds():
    program = pipeline_speed.Program("pipeline", 2, pipeline_speed.pipeline, (), least=1.8)
    row = pipeline_speed.row("case", 32, program, [0.5, 0.4, 1.0], [1.0, 0.8, 1.5])
    assert row["speedup"] == {"median": 2, "min": 1.5, "max": 2, "repeats": [2, 2, 1.5]}
    assert row["ms per batch"]["median"] == 500
    assert (row["target"], row["outcome"]) == ("≥ 1.8", "met")
    assert pipeline_speed.row("case", 32, program, [1.0], [1.7])["outcome"] == "missed"
    assert pipeline_speed.row("case", 32, program._replace(least=None), [1.0], [1.7])["outcome"] is None
    assert "500 (400 to 1000)" in results.table([row]) and "2 (1.5 to 2)" in results.table([row])


@pytest.mark.parametrize(("devices", "micro"), [(2, 1), (2, 8), (4, 2)])
def test_gpipe_has_the_gradients_of_backpropagation(devices, micro):
    rule, batch = pipeline_speed.backpropagation(6, 16, optax.sgd(1.0))
    params = rule.init(jax.random.key(0), batch)
    before, after = (pipeline_speed.divide(one, devices) for one in (params, rule.update(params, batch)))
    gradients = pipeline_speed.gpipe_gradients(jl.pipeline.mesh(stage=devices), micro, before, batch)
    for found, old, new in zip(*map(jax.tree.leaves, (gradients, before, after)), strict=True):
        np.testing.assert_allclose(found, old - new, atol=1e-5 * float(jnp.abs(old - new).max()))


@needs_two_cores
def test_speed(tmp_path, capsys):
    out = tmp_path / "speed.json"
    pipeline_speed.main(["--cases", "gpipe-512", "--width", "8", "--quick", "--out", str(out)])
    record = results.load(out)
    assert record["command"] == (
        "python -m experiments.speed.pipeline_speed --cases gpipe-512 --repeats 2 --ticks 4 --width 8 --image 32"
    )
    assert [row["program"] for row in record["rows"]] == ["sequential", "GPipe, 8 micro-batches", CEILING]
    assert [row["bubble"] for row in record["rows"]] == [None, pytest.approx(1 / 9), None]
    assert all(len(row["speedup"]["repeats"]) == 2 for row in record["rows"])
    assert record["rows"][0]["speedup"]["repeats"] == [1, 1]
    assert CEILING in capsys.readouterr().out
    assert "| backpropagation | 512 | sequential | 1 |" in results.markdown(out)


def test_what_the_cases_compare(monkeypatch):
    """The programs of each case, with their targets; none of them is started."""
    monkeypatch.setattr(pipeline_speed, "ask", lambda *_: jl.pipeline.Costs((4.0, 1.0, 2.0, 0.5), (1, 1, 1, 1)))
    monkeypatch.setattr(pipeline_speed, "run_case", lambda name, batch, programs, *_: programs)
    args = argparse.Namespace(width=8, image=4, ticks=3, repeats=1)
    found = {name: run(args, [0, 1]) for name, run in pipeline_speed.CASES.items()}
    for name, programs in found.items():
        assert [program.devices for program in programs] == (
            [1, 2] if "gpipe" in name else [1, 1, 2, 2][: len(programs)]
        )
        assert programs[0].make is pipeline_speed.sequential and programs[0].least is None
    assert [program.least for program in found["equal-512"]] == [None, 1 / 1.05, 1.8]
    assert [program.least for program in found["cnn-32"]] == [None, 1 / 1.05, 1.6, 1.6]
    assert [program.arguments[2:] for program in found["cnn-32"][2:]] == [((1, 3), 1), ((1, 3), 2)]
    for problem in (found["equal-32"][0].arguments[0], found["cnn-32"][0].arguments[0]):
        rule, batch = problem()
        params = jax.eval_shape(rule.init, jax.random.key(0), batch)
        assert batch[0].shape[0] == 32 and len(params.components) == len(rule.learn)
    rule, batch = found["equal-32"][0].arguments[0]()
    first, second = (jax.tree.map(jnp.shape, one.weights) for one in rule.init(jax.random.key(0), batch).components)
    assert first == second


@needs_two_cores
def test_scaling(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "scaling.json"
    flags = ["--depths", "2", "--width", "8", "--batch-size", "8", "--quick", "--bandwidth", "2", "--out", str(out)]
    pipeline_scaling.main(flags)
    record = results.load(out)
    (row,) = record["rows"]
    assert row["message bytes"] == 2 * 8 * 8 * 4
    assert row["two devices: stages"] == "1+1"
    assert row["epoch, al s"] == pytest.approx(937 * 2 * row["component ms"]["median"] / 1e3, rel=1e-2)
    link = Link(1e9 * record["settings"]["bandwidth"], record["settings"]["latency"] / 1e6)
    slowest = tick([one / 1e3 for one in row["component ms"]["repeats"]], [row["message bytes"]] * 2, (1, 1), link)
    assert record["settings"]["bandwidth"] == 2 and row["epoch, pipeline s"] == pytest.approx(938 * slowest, rel=1e-2)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "link between two cores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("experiment", "flags", "complaint"),
    [
        ("pipeline_speed", ["--cases", "mlp"], "--cases: invalid choice: 'mlp'"),
        ("pipeline_speed", ["--ticks", "0"], "--ticks: '0' is not a whole number from 1"),
        ("pipeline_speed", ["--out", "."], "--out: '.' is a folder"),
        ("pipeline_scaling", ["--depths", "1", "2"], "--depths: 1 component cannot be cut into 2 stages"),
        ("pipeline_scaling", ["--bandwidth", "-1"], "--bandwidth: '-1' is not a number above 0"),
        ("pipeline_scaling", ["--latency", "fast"], "--latency: 'fast' is not a number above 0"),
        ("pipeline_scaling", ["--dephts", "2"], "unrecognized arguments: --dephts 2"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(experiment, flags, complaint, capsys):
    main = {"pipeline_speed": pipeline_speed.main, "pipeline_scaling": pipeline_scaling.main}[experiment]
    with pytest.raises(SystemExit) as stop:
        main(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert (
        error.startswith(f"python -m experiments.speed.{experiment}: ")
        and complaint in error
        and error.count("\n") == 1
    )


def test_one_core_is_too_few(monkeypatch, capsys):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    with pytest.raises(SystemExit):
        pipeline_speed.main(["--quick"])
    assert (
        capsys.readouterr().err
        == "python -m experiments.speed.pipeline_speed: needs Linux and two cores, to pin one device to each\n"
    )


@needs_two_cores
def test_a_worker_that_stops_is_an_error():
    with pytest.raises(RuntimeError, match="a worker process stopped"):
        pipeline_speed.Worker([0], pipeline_speed.costs, None)
