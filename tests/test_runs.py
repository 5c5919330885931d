"""Runs in folders: the files they leave; a run that was interrupted ends like one that was not, bit for bit."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from helpers import same, slow
from PIL import Image

from jaxlocal import app, loggers
from jaxlocal.app import Config, ConfigError, build, runs, settings, stages, text
from jaxlocal.app import folder as folders
from jaxlocal.pipeline import Costs
from jaxlocal.training import best_epoch, goodness, session

pytestmark = [pytest.mark.usefixtures("drawn_once"), pytest.mark.xdist_group("runs")]

# 137 steps an epoch, in shares of 25.
TINY = Config(rule="bp", epochs=3, batch_size=8, model_args=("hidden=[8]",))
STOP = 137 + 50  # in the middle of an epoch


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """Runs with the same settings share a rule, and so its compiled programs; other processes compile their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "build", cache(build.build))
        yield


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # other processes keep no compiled programs


def train(config, folder, **flags):
    said = []
    summary = app.train(config, str(folder), say=said.append, **flags)
    return summary, "\n".join(said)


def parameters(folder, best=False):
    return runs.restored(Path(folder), best)[2].params


def metrics(folder):
    return (Path(folder) / "metrics.jsonl").read_text()


def interrupted(config, folder, at=STOP, number=signal.SIGINT):
    """Start a run that receives the signal after so many steps; the message with which it stops."""
    fit, sent = session.fit, []

    def stopping(*args, watch, **kwargs):
        def watching(progress):
            if progress.step >= at and not sent:  # a second one would end pytest
                sent.append(number)
                os.kill(os.getpid(), number)
            return watch(progress)

        return fit(*args, watch=watching, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "fit", stopping)
        with pytest.raises(app.Stopped, match="resume with: jaxlocal train --out") as stop:
            train(config, folder)
    assert stop.value.signal == number
    return str(stop.value)


def identical(one, other):
    return metrics(one) == metrics(other) and same(parameters(one), parameters(other))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder, the summary and the report of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, *train(TINY, folder)


def test_a_run_leaves_its_settings_metrics_checkpoints_and_a_picture(finished):
    folder, summary, said = finished
    there = {path.name for path in folder.iterdir()}
    assert there == {".lock", ".session", "config.yaml", "metrics.jsonl", "checkpoints", "curves.png", "summary.json"}
    assert settings.read(folder / "config.yaml") == TINY
    rows = folders.history(folder)
    assert [row.pop("lr") for row in rows] == [1e-3] * 3 and tuple(rows) == summary.history
    assert [row["step"] for row in rows] == [137, 274, 411]
    assert json.loads((folder / "summary.json").read_text())["measured"] == [m._asdict() for m in summary.measured]
    assert said.startswith("bp on digits: mlp, 1 component, 610 parameters, 100 % used in prediction → ")
    assert said.endswith(text.table({"": summary})) and "3 epochs in " in said


def test_a_checkpoint_has_the_accuracies_that_training_reported(finished):
    folder, summary, _ = finished
    last = summary.measured[0]
    assert app.evaluate(folder).measured == (last,)
    assert last.parts["validation"] == summary.history[-1]["validation"]


def test_the_best_is_the_first_of_equals(tmp_path):
    config = replace(TINY, epochs=8, validation=10)  # with so few examples many epochs are equally good
    interrupted(config, "best", at=5 * 137 - 20)
    summary, _ = train(config, "best", resume=True)
    scores = [goodness(row) for row in summary.history]
    assert len(set(scores)) < len(scores)
    first = 1 + scores.index(max(scores))
    (best,) = app.evaluate(Path("best"), best=True).measured
    assert best.epoch == best_epoch(summary.history) == first
    assert best.parts["validation"] == summary.history[first - 1]["validation"]
    assert first == 8 or summary.measured[1] == best


@pytest.mark.parametrize(
    ("changed", "then"),
    [
        slow({"rule": "al", "seeds": 2, "augment": ("jitter", "flip"), "schedule": "al"}, {}),
        ({"rule": "dfa", "precision": "bfloat16", "optimizer": "nesterov", "l2": 1e-4, "schedule": "cosine"}, {}),
        slow({"rule": "al", "model_args": ("hidden=[8,8]",)}, {"pipeline": True, "devices": 2}),
    ],
)
def test_a_run_that_was_interrupted_ends_like_one_that_was_not(changed, then):
    config = replace(TINY, **changed)
    train(config, "whole")
    assert "stopped after step " in interrupted(config, "cut")
    assert len(folders.history(Path("cut"))) == 1
    _, said = train(replace(config, **then), "cut", resume=True)
    assert "resuming after epoch 1 and " in said
    assert same(parameters("whole"), parameters("cut"))
    if then:
        assert "pipeline of 2 stages, cut by the measured time" in said
        # only the losses are added in another order
        for one, other in zip(folders.history(Path("whole")), folders.history(Path("cut")), strict=True):
            assert one["validation"] == other["validation"]
            np.testing.assert_allclose(one["losses"], other["losses"], rtol=1e-12)
    else:
        assert metrics("whole") == metrics("cut")


def test_a_pipeline_is_cut_by_what_its_components_cost(monkeypatch):
    """And it says what to expect: a tick as long as the slowest stage, and an epoch of 137 batches."""
    costs = Costs(seconds=(0.004, 0.001, 0.002), message=(1, 1, 1))
    monkeypatch.setattr("jaxlocal.pipeline.cut.measure", lambda *arguments: costs)
    config = replace(TINY, rule="al", model_args=("hidden=[8,8,8]",), pipeline=True, devices=2)
    built, expected = stages.cut(config, build.build(config))
    assert built.rule.sizes == (1, 2)
    lines = expected.splitlines()
    assert lines[0] == "pipeline of 2 stages, cut by the measured time of the components:"
    assert [line.split() for line in lines[2:4]] == [["0", "1", "4"], ["1", "2", "3"]]
    assert "one device would take 7 ms per step; the slowest stage makes a tick of 4 ms" in expected
    share, used = 3.5 / 4, 137 / 138
    assert f"137 batches takes 138 ticks; a stage has a batch in {100 * used:.1f} % of them" in expected
    assert f"learns {100 * share:.0f} % of a tick on average" in expected
    assert f"so the devices should work {100 * share * used:.0f} % of the time" in expected
    assert "the devices share" in lines[-1]


def test_one_device_and_rules_without_a_pipeline_are_not_measured(monkeypatch):
    monkeypatch.setattr("jaxlocal.pipeline.cut.measure", None)
    alone = "pipeline of 1 stage: no components learn in parallel; name more devices with --devices"
    for config, expected in ((TINY, None), (replace(TINY, rule="al", pipeline=True), alone)):
        built = build.build(config)
        assert stages.cut(config, built) == (built, expected)


def test_a_run_resumes_on_other_devices(finished):
    """With the weights of one device up to rounding, because more devices add up a batch in another order."""
    interrupted(TINY, "cut")
    train(replace(TINY, devices=4), "cut", resume=True)
    assert settings.read(Path("cut/config.yaml")).devices == 4
    pairs = zip(
        *(jax.tree.leaves(parameters(folder).components[0].weights) for folder in (finished[0], "cut")), strict=True
    )
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_run_resumed_with_more_epochs_is_a_longer_run(finished):
    train(replace(TINY, epochs=1), "short")
    train(TINY, "short", resume=True)
    assert identical("short", finished[0])


def test_resuming_a_finished_run_changes_nothing(finished):
    folder, summary, _ = finished
    before = metrics(folder)
    again, said = train(TINY, folder, resume=True)
    assert again.measured == summary.measured and metrics(folder) == before
    assert "resuming after epoch 3" in said and "s compiling" not in said


def test_patience_counts_on_after_an_interruption():
    config = replace(TINY, epochs=30, patience=2, lr=0.03)
    whole, said = train(config, "whole")
    assert len(whole.history) < 30 and "(stopped early)" in said
    interrupted(config, "cut", at=137 * (len(whole.history) - 1) - 20)
    train(config, "cut", resume=True)
    assert identical("whole", "cut")
    train(config, "cut", resume=True)
    assert identical("whole", "cut")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lr": 0.1}, "--lr=0.1: the run in run has 0.001"),
        ({"model_args": ("hidden=[9]",)}, r"--model-args=hidden=\[9\]: the run in run has hidden=\[8\]"),
        ({"augment": ("flip",)}, "--augment=flip: the run in run has none"),
        ({"epochs": 2}, "--epochs=2: the run in run has 3 already; leave out the flag, or take more"),
    ],
)
def test_a_run_resumes_with_its_own_settings_only(change, complaint, finished):
    shutil.copytree(finished[0], "run")
    with pytest.raises(ConfigError, match=complaint):
        train(replace(TINY, **change), "run", resume=True)
    assert settings.read(Path("run/config.yaml")) == TINY


def test_with_a_schedule_the_number_of_epochs_is_fixed():
    config = replace(TINY, epochs=1, schedule="cosine")
    train(config, "run")
    with pytest.raises(
        ConfigError, match="--epochs=2: the run in run has 1, on which the rates of --schedule cosine depend"
    ):
        train(replace(config, epochs=2), "run", resume=True)


@pytest.mark.parametrize("metrics_are", ["torn", "gone"])
def test_damaged_metrics_are_written_again(metrics_are, finished):
    shutil.copytree(finished[0], "run")
    if metrics_are == "torn":
        Path("run/metrics.jsonl").write_text(metrics("run")[:-30])
        assert len(folders.history(Path("run"))) == 2
    else:
        Path("run/metrics.jsonl").unlink()
        with pytest.raises(ConfigError, match=r"metrics\.jsonl holds no epoch"):
            next(app.draw(Path("run")))
    assert app.evaluate(Path("run")).measured == finished[1].measured[:1]
    train(TINY, "run", resume=True)
    assert metrics("run") == metrics(finished[0])


def test_a_run_with_a_damaged_checkpoint_resumes_from_the_one_before(finished):
    shutil.copytree(finished[0], "run")
    steps = sorted(int(path.name) for path in Path("run/checkpoints").iterdir())
    shutil.rmtree(f"run/checkpoints/{steps[-1]}/params")
    with pytest.warns(UserWarning, match=f"checkpoint run/checkpoints/{steps[-1]} is damaged"):
        train(TINY, "run", resume=True)
    assert identical("run", finished[0])


def test_a_run_without_a_checkpoint_starts_from_the_beginning(finished):
    shutil.copytree(finished[0], "run")
    shutil.rmtree("run/checkpoints")
    with pytest.raises(ConfigError, match="'run' has no checkpoint that can be read; train the run with --resume"):
        app.evaluate(Path("run"))
    _, said = train(TINY, "run", resume=True)
    assert "no checkpoint to resume from; starting from the beginning" in said
    assert identical("run", finished[0])


LONG = replace(TINY, epochs=20)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The uninterrupted run; other processes have the same environment as this one and so compile the same programs."""
    folder = tmp_path_factory.mktemp("runs") / "long"
    train(LONG, folder)
    return folder


@pytest.mark.parametrize(
    ("number", "when", "code"),
    [
        slow(signal.SIGKILL, "long/checkpoints/*tmp*", -9),
        slow(signal.SIGINT, "long/checkpoints/[0-9]*", 130),
    ],
)
def test_a_process_may_be_stopped_at_any_moment(number, when, code, long):
    flags = ["--rule", "bp", "--epochs", "20", "--batch-size", "8", "--model-args", "hidden=[8]", "--out", "long"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxlocal.app.cli", "train", *flags],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(Path().glob(when)):
        time.sleep(0.001)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, told = process.communicate(timeout=600)
    assert process.returncode == code
    if number == signal.SIGINT:
        stopping, resuming = (line for line in told.splitlines() if not line.startswith("epoch "))
        assert stopping == "stopping after the current steps; a second signal stops at once"
        assert resuming.endswith("resume with: jaxlocal train --out long --resume")
    assert len(folders.history(Path("long"))) < 20
    train(LONG, "long", resume=True)
    assert metrics("long") == metrics(long) and same(parameters("long"), parameters(long))


def test_files_of_a_killed_process_do_no_harm():
    folder = Path("run")
    folder.mkdir()
    for name in (".lock", ".config.yaml.draft"):
        (folder / name).touch()
    interrupted(TINY, "run", number=signal.SIGTERM)


def test_a_folder_is_for_one_process(finished):
    with (finished[0] / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is training there; name another folder"):
            train(TINY, finished[0], resume=True)
        assert app.evaluate(finished[0]).measured  # reading needs no lock


def test_a_comparison_that_was_never_begun_is_not_resumed():
    with pytest.raises(ConfigError, match="--resume: nothing holds no run; leave out --resume to start one there"):
        app.compare(["bp", "dfa"], TINY, "nothing", resume=True)


@pytest.mark.parametrize("command", [app.compare, app.search])
def test_a_folder_of_several_runs_is_for_one_process(command):
    Path("many").mkdir()
    with Path("many/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="many: another process is training there; name another folder"):
            command(["bp"], TINY, "many")


def test_a_folder_must_be_free(finished):
    Path("file").touch()
    Path("full").mkdir()
    Path("full/thing").touch()
    for folder, complaint in {
        "file": r"--out=file: cannot be written to \(File exists\)",
        "file/run": r"--out=file/run: cannot be written to \(Not a directory\)",
        "full": r"--out=full: holds other files \(thing …\)",
        finished[0]: "holds a run; resume it with --resume",
    }.items():
        with pytest.raises(ConfigError, match=complaint):
            train(TINY, folder)


def test_the_folder_of_a_run_takes_no_comparison_search_or_ranking(finished):
    before = sorted(finished[0].rglob("*"))
    for write in (
        lambda: app.compare(["bp", "dfa"], TINY, finished[0]),
        lambda: app.search(["bp"], TINY, finished[0], trials=1),
        lambda: app.rank(["bp"], "digits", finished[0], trials=1, seeds=1),
    ):
        with pytest.raises(ConfigError, match="holds a run of jaxlocal train; name another folder"):
            write()
    assert sorted(finished[0].rglob("*")) == before


def test_the_next_free_folder():
    assert [folders.folder_or_next(None, name) for name in "aab"] == [
        Path("runs/a-1"),
        Path("runs/a-2"),
        Path("runs/b-1"),
    ]


def test_loggers_show_the_curves_and_what_made_them(monkeypatch):
    """TensorBoard itself; stand-ins for wandb, trackio and MLflow; and a logger that fails, without whom it goes on."""
    libraries = {name: mock.MagicMock() for name in ("wandb", "trackio", "mlflow")}
    for name, library in libraries.items():
        monkeypatch.setitem(sys.modules, name, library)
    monkeypatch.setattr(sys, "argv", ["/bin/jaxlocal", "train", "--out", "my run"])
    failing = mock.MagicMock(**{"log.side_effect": [None, OSError("no\nroute")]})

    def mine(folder, facts, first):
        return failing

    draw = mock.MagicMock()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", draw)
    with pytest.warns(UserWarning, match=r"mine cannot log \(no route\); the training goes on without it"):
        summary, _ = train(replace(TINY, epochs=1), "run", log=["tensorboard", *libraries, mine])
    assert list(Path("run/tensorboard").glob("events*")) and failing.log.call_count == 2
    failing.close.assert_called_once_with()
    facts = json.loads(Path("run/summary.json").read_text())
    in_picture = json.loads(draw.call_args.kwargs["metadata"]["Description"])
    assert in_picture.items() <= facts.items() and in_picture["command"] == "jaxlocal train --out 'my run'"
    for name in ("wandb", "trackio"):
        started, logged = libraries[name].init.call_args.kwargs, libraries[name].init.return_value.log.call_args_list
        assert started["name"] == "run" and started["config"]["command"] == "jaxlocal train --out 'my run'"
        assert started["config"] == {key: started["config"][key] for key in facts if key in started["config"]}
        assert started["config"]["settings"]["rule"] == "bp" and started["config"]["commit"] == facts["commit"]
        assert [call.kwargs["step"] for call in logged] == [25, 50, 75, 100, 125, 137]
        assert [*logged[0].args[0]] == ["loss"]
        assert logged[-1].args[0]["validation/accuracy"] == summary.history[-1]["validation"]["accuracy"]
        libraries[name].init.return_value.finish.assert_called_once_with()
    mlflow = libraries["mlflow"]
    assert mlflow.log_params.call_args.args[0]["batch_size"] == 8
    assert json.loads(mlflow.start_run.call_args.kwargs["tags"]["commit"]) == facts["commit"]
    assert mlflow.log_metrics.call_args.args[0].keys() >= {"component 0/task", "train/loss"}
    mlflow.end_run.assert_called_once_with()


def test_a_logger_that_is_missing_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError, match=r"^--log=wandb: needs wandb; install it with pip install 'jaxlocal\[wandb\]'$"
    ):
        train(TINY, "run", log=["tensorboard", "wandb"])
    complaint = r"^log=None: must be a list of names, such as \['tensorboard'\]"
    with pytest.raises(TypeError, match=complaint), loggers.opened(None, "run"):
        pass
    with pytest.raises(ConfigError, match="--log=wanbd: unknown name; did you mean wandb"):
        train(TINY, "run", log=["wanbd"])
    assert not Path("run").exists()


@pytest.mark.slow
def test_pictures_of_several_seeds():
    config = replace(TINY, epochs=1, seeds=2)
    summary, said = train(config, "run")
    assert "2 seeds" in said and "±" in said
    assert app.evaluate(Path("run")).measured == summary.measured
    assert [path.name for path in app.draw(Path("run"), examples=40)] == [
        "curves.png",
        "alignment.png",
        "distances.png",
        "tsne.png",
    ]
    complaint = r"--examples=2: y: has 2 classes, the smallest with 1 example; distances need two classes"
    with pytest.raises(ConfigError, match=complaint):
        list(app.draw(Path("run"), examples=2))


def test_a_run_knows_the_classes_of_its_images_by_their_folders():
    for folder, classes in {"abc": "abc", "bc": "bc", "xyz": "xyz"}.items():
        for name in classes:
            (Path(folder) / name).mkdir(parents=True)
            for shade in range(8):
                colour = tuple(200 * (channel == "abcxyz".index(name) % 3) + shade for channel in range(3))
                Image.new("RGB", (4, 4), colour).save(Path(folder) / name / f"{shade}.png")
    train(replace(TINY, data="abc", batch_size=4, epochs=20, validation=3, image_size=4), "run")
    parts = app.evaluate(Path("run"), data="bc").measured[0].parts
    assert {part["accuracy"] for part in parts.values()} == {1.0}
    (prediction,) = app.predict(Path("run"), ["abc/b/0.png"])
    assert prediction.label == "b"
    with pytest.raises(ConfigError, match="but the run was trained on a, b, c; take a data set like"):
        app.evaluate(Path("run"), data="xyz")
    labels = np.arange(6) % 3
    x = 0.8 * np.eye(3, dtype=np.float32)[labels][:, None, None] * np.ones((1, 4, 4, 1), np.float32)
    np.savez("few.npz", x=x, y=labels)  # not resized, and too few to hold out as many as the run
    assert app.evaluate(Path("run"), data="few.npz").measured[0].parts["train"]["accuracy"] == 1


def test_an_autoencoder_has_a_loss_and_no_accuracy():
    config = replace(TINY, model="autoencoder", model_args=("sizes=[8]",), epochs=1)
    summary, said = train(config, "run")
    assert summary.measured[0].parts["test"].keys() == {"loss"} and "%" not in said.splitlines()[-1]
    assert [path.name for path in app.draw(Path("run"), examples=20)] == ["curves.png", "alignment.png"]
