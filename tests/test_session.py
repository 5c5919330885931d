"""Sessions: a run in a folder that is stopped, by whatever, and resumed ends as one that was never stopped."""

import json
import os
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import same

import jaxlocal as jl
from jaxlocal import app
from jaxlocal.training import DivergedError, Interrupted, NotSavedError, Session, fit, learner, load_state, loop
from jaxlocal.training.checkpoints import Checkpoints, MismatchError
from jaxlocal.training.session import reason

pytestmark = pytest.mark.xdist_group("session")

RULE = jl.rules.al(jl.models.mlp((6, 5)), optax.adam(1e-2))
DATA = jl.data.Splits(*((x[:n], y[:n]) for n, (x, y) in zip((64, 30, 20), jl.data.digits(), strict=True)))
STEPS = 64 // 8


@pytest.fixture(autouse=True, scope="module")
def short_chunks():
    """Epochs of eight steps, three steps at a time: all runs are one compiled program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "CHUNKS", 3)
        patch.setattr(learner, "SHORTEST", 1)
        yield


@pytest.fixture(scope="module")
def whole():
    """What `fit` makes of three epochs."""
    return fit(RULE, DATA, epochs=3, batch_size=8)


def train(folder, rule=RULE, epochs=3, settings=None, **arguments):
    with Session(str(folder), rule, DATA, settings=settings) as session:
        return session.train(epochs=epochs, batch_size=8, **arguments)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def is_whole(folder, result, whole):
    assert same(result.params, whole.params) and result.state.history == whole.state.history
    assert tuple(rows(folder)) == whole.state.history


def test_a_session_trains_as_fit_does_and_leaves_metrics_and_checkpoints(tmp_path, whole):
    result = train(tmp_path, epochs=3)
    is_whole(tmp_path, result, whole)
    saved = load_state(str(tmp_path), RULE, DATA.train)
    assert same(saved.params, whole.params) and saved.step == 3 * STEPS and saved.history == whole.state.history
    best = load_state(tmp_path, RULE, DATA.train, best=True)
    assert len(best.history) == jl.training.best_epoch(whole.state.history)
    assert same(best.params, fit(RULE, DATA, epochs=len(best.history), batch_size=8).params)


def test_load_says_what_reads_the_folder_of_a_session(tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(app.ConfigError, match=r"holds no run; jl\.training\.load_state reads what a Session"):
        jl.load(tmp_path)


@pytest.fixture
def four_epochs(monkeypatch):
    """The second epoch is the best one. Only the first and the last are saved at once."""
    monkeypatch.setattr("jaxlocal.training.session.SAVING", 1e-9)
    accuracies = iter([0.1, 0.7, 0.3, 0.2])
    real = loop.evaluate

    def scripted(rule, params, pair, augmentation):
        accuracy = next(accuracies) if len(pair[0]) == 30 and np.array_equal(pair[0], DATA.validation[0]) else 0.0
        return {**real(rule, params, pair, augmentation), "accuracy": accuracy}

    monkeypatch.setattr(loop, "evaluate", scripted)


def test_the_best_epoch_is_kept(tmp_path, monkeypatch, four_epochs):
    train(tmp_path, epochs=4)
    best = load_state(tmp_path, RULE, DATA.train, best=True)
    assert len(best.history) == 2
    monkeypatch.undo()
    assert same(best.params, fit(RULE, DATA, epochs=2, batch_size=8).params)


def test_the_best_epoch_is_kept_if_the_run_diverges(tmp_path, monkeypatch, four_epochs):
    rule = jl.rules.bp(RULE.net, optax.sgd(lambda count: jnp.where(count < 3 * STEPS + 1, 1e-2, jnp.nan)))
    with pytest.raises(DivergedError, match="step 27"):
        train(tmp_path, rule, epochs=4)
    best = load_state(tmp_path, rule, DATA.train, best=True)
    assert len(rows(tmp_path)) == 3 and len(best.history) == 2
    monkeypatch.undo()
    assert same(best.params, fit(rule, DATA, epochs=2, batch_size=8).params)


def test_numbers_may_be_those_of_numpy(tmp_path):
    given = {"epochs": np.int64(1), "batch_size": np.int64(8), "seed": np.int64(1)}
    for folder in tmp_path / "given", tmp_path / "plain":
        with Session(folder, RULE, DATA) as session:
            session.train(**given)
        given = {name: int(value) for name, value in given.items()}
    first, second = (load_state(folder, RULE, DATA.train) for folder in (tmp_path / "given", tmp_path / "plain"))
    assert same(first.params, second.params) and first.history == second.history


def test_before_the_first_epoch_ends_there_is_no_best_one_and_batch_size_and_seed_are_kept(tmp_path):
    train(tmp_path, watch=lambda progress: progress.step >= 3)
    assert load_state(tmp_path, RULE, DATA.train).step < STEPS
    assert load_state(tmp_path, RULE, DATA.train, best=True) is None
    with Session(tmp_path / "other", RULE, DATA) as session:
        with pytest.raises(ValueError, match="batch_size=0"):
            session.train(epochs=1, batch_size=0)
        with pytest.raises(TypeError, match="watch=3: must be a function, such as print"):
            session.train(epochs=1, batch_size=8, watch=3)
        assert session.train(epochs=1, batch_size=8).state.step == STEPS  # nothing had begun with the wrong one
    for changed in {"batch_size": 4}, {"seed": 1}:
        with (
            Session(tmp_path, RULE, DATA) as session,
            pytest.raises(MismatchError, match=r"(batch_size=4|seed=1): .* was begun with (batch_size=8|seed=0)"),
        ):
            session.train(**{"epochs": 3, "batch_size": 8} | changed)


@pytest.mark.parametrize("stop", [3, STEPS + 6, 2 * STEPS])
def test_a_run_that_watch_stopped_resumes(stop, tmp_path, whole):
    """In the first epoch, in the second, and after it."""
    part = train(tmp_path, watch=lambda progress: progress.step >= stop)
    assert part.stopped and part.state.step < 3 * STEPS
    is_whole(tmp_path, train(tmp_path), whole)


def test_a_signal_stops_the_run_after_it_is_saved(tmp_path, whole):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during = []

    def watch(progress):
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            during.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))

    with pytest.raises(Interrupted, match="stopped after step 6; everything is saved") as stop:
        train(tmp_path, watch=watch)
    assert (stop.value.signal, stop.value.step) == (signal.SIGTERM, 6)
    assert during == [signal.SIG_DFL] * 2  # a second one of either kind would have ended the process
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load_state(tmp_path, RULE, DATA.train).step == 6
    is_whole(tmp_path, train(tmp_path), whole)


def test_a_run_may_be_stopped_by_the_clock(tmp_path, whole):
    assert train(tmp_path, until=time.monotonic()).state.step == 6  # the clock is read while the next chunk is computed
    is_whole(tmp_path, train(tmp_path), whole)


def test_what_a_killed_process_had_not_saved_is_trained_again(tmp_path, whole, monkeypatch):
    def killed(progress):
        if progress.state and progress.state.step == 2 * STEPS:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxlocal.training.session.SAVING", 1e-9)  # after the first epoch nothing is saved any more
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, watch=killed)
    assert len(rows(tmp_path)) == 2 and load_state(tmp_path, RULE, DATA.train).step == STEPS
    is_whole(tmp_path, train(tmp_path), whole)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    result = train(tmp_path, epochs=1)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*"))
    assert same(train(tmp_path, epochs=1).params, result.params)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")) == before


def test_a_session_may_train_on(tmp_path, whole):
    with Session(tmp_path, RULE, DATA, annotate=lambda row: {"lr": np.float32(row["epoch"] / 2)}) as session:
        assert session.state is None
        session.train(epochs=1, batch_size=8)
        assert session.state.step == STEPS
        result = session.train(epochs=3, batch_size=8)
        assert same(session.best().params, load_state(tmp_path, RULE, DATA.train, best=True).params)
    assert same(result.params, whole.params)
    assert [row["lr"] for row in rows(tmp_path)] == [0.5, 1.0, 1.5]


def test_seconds_include_those_of_earlier_processes(tmp_path):
    train(tmp_path, epochs=1)
    with Session(tmp_path, RULE, DATA) as session:
        before = session.seconds
        assert before > 0
        session.train(epochs=2, batch_size=8)
        assert session.seconds > before


@pytest.mark.parametrize("folder", [None, 3, ""])
def test_what_is_no_path_is_one_sentence(folder):
    complaint = rf"^folder={folder!r}: must be a path, such as 'runs/one'$"
    for call in (
        lambda: Session(folder, RULE, DATA),
        lambda: load_state(folder, RULE, DATA.train),
        lambda: Checkpoints(folder),
        lambda: app.evaluate(folder),
        lambda: next(app.draw(folder)),
    ):
        with pytest.raises(TypeError, match=complaint):
            call()


def test_another_run_is_refused(tmp_path):
    train(tmp_path, epochs=1, settings={"rate": 1e-2, "hidden": (6, 5)})
    with Session(tmp_path, RULE, DATA, settings={"rate": 1e-2, "hidden": [6, 5]}) as session:
        assert session.state.step == STEPS
    with pytest.raises(MismatchError, match="has other settings"):
        Session(tmp_path, RULE, DATA, settings={"rate": 1e-3})
    other = jl.rules.al(jl.models.mlp((6, 7)), optax.adam(1e-2))
    with pytest.raises(MismatchError, match="has parameters of other shapes"):
        Session(tmp_path, other, DATA)


@pytest.mark.parametrize(
    ("rule", "data", "complaint"),
    [
        (None, DATA, "rule=None: must be a rule, such as"),
        (RULE, DATA.train, r"data=.*: must be a jl\.data\.Splits"),
        (RULE, DATA._replace(train=(DATA.train[0], np.arange(64) % 10)), "data.train: y has .*are class labels; turn"),
    ],
)
def test_a_session_is_of_a_rule_and_of_data(tmp_path, rule, data, complaint):
    with pytest.raises(TypeError, match=complaint):
        Session(tmp_path, rule, data)
    assert not any(tmp_path.iterdir())


def test_what_is_stored_with_a_run_are_numbers_and_texts(tmp_path):
    with (
        Session(tmp_path, RULE, DATA, settings={"lr": np.float32(0.5)}, annotate=lambda row: {"at": set()}) as session,
        pytest.raises(TypeError, match=r"annotate: cannot store set\(\); give numbers, texts"),
    ):
        session.train(epochs=1, batch_size=8)
    with pytest.raises(TypeError, match=r"settings: cannot store set\(\); give numbers, texts"):
        Session(tmp_path, RULE, DATA, settings={"lr": set()})


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(NotSavedError) as stop:
        train(tmp_path / "run", epochs=1)
    assert stop.value.reason == "No space left on device"
    assert str(stop.value) == (
        f"the run in {tmp_path / 'run'} cannot be saved (No space left on device); make room, and train it again to "
        "resume"
    )


def test_reasons_are_those_of_the_system():
    assert reason(ValueError("RESOURCE_EXHAUSTED: … [os_error_code='28']")) == "No space left on device"
    assert reason(ValueError()) == "ValueError"


def test_a_template_has_the_shapes_of_the_parameters(whole):
    for rule in (RULE, jl.ensemble(RULE, 2), jl.pipelined(RULE, jl.pipeline.mesh(component=2))):
        shapes = jax.tree.leaves(jl.training.session.template(rule, DATA.train))
        single = jax.tree.leaves(whole.params)
        lead = (2,) if rule is not RULE and not isinstance(rule, jl.pipeline.Pipeline) else ()
        assert [leaf.shape for leaf in shapes] == [(*lead, *np.shape(leaf)) for leaf in single]


def test_a_folder_is_trained_in_by_one_session_at_a_time(tmp_path):
    arguments = tmp_path / "run", RULE, DATA
    with jl.training.Session(*arguments), pytest.raises(jl.training.InUseError, match="another process is training in"):
        jl.training.Session(*arguments)
    jl.training.Session(*arguments).__exit__(None, None, None)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(FileExistsError, match=r"^folder=.*run: is a file; name another folder$"):
        jl.training.Session(tmp_path / "run", RULE, DATA)
