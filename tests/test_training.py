"""Training: fit is the plain loop over batches, however it is divided, transformed, stopped or resumed."""

import gc
import re
import weakref
from itertools import chain, repeat

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import NETS, drawn, make_batch, same

import jaxlocal as jl
from jaxlocal import programs
from jaxlocal.training import DivergedError, evaluate, evaluation, fit, learner, loop
from jaxlocal.training.account import Account

pytestmark = pytest.mark.xdist_group("training")

NET = jl.models.mlp((8, 6))
# With plain gradient descent different programs of the same steps have the same bits; Adam's roundings may differ.
AL = jl.rules.al(NET, optax.adam(1e-2))
BP = jl.rules.bp(NET, optax.adam(1e-2))
SMALL = jl.data.Splits(*((x[:n], y[:n]) for n, (x, y) in zip((70, 30, 20), jl.data.digits(), strict=True)))
BUDGET = {"epochs": 2, "batch_size": 8}
STEPS = 70 // 8
SHAKEN = jl.augmentation.chain(jl.augmentation.jitter(1), jl.augmentation.standardise())


@pytest.fixture
def in_chunks(monkeypatch):
    """Epochs of eight steps, three steps at a time."""
    monkeypatch.setattr(learner, "CHUNKS", 3)
    monkeypatch.setattr(learner, "SHORTEST", 1)


@pytest.fixture(scope="module")
def whole():
    return fit(AL, SMALL, **BUDGET)


@pytest.fixture(scope="module")
def whole_shaken():
    return fit(AL, SMALL, **BUDGET, augmentation=SHAKEN)


def close(a, b, tolerance=1e-5):
    """A vmapped or divided program sums in another order: some roundings a step, and there are sixteen."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance),
        *(jax.tree.map(np.asarray, [c.weights for c in params.components]) for params in (a, b)),
    )


def test_fit_is_the_loop_over_shuffled_batches(whole):
    init_key, order_key = jax.random.split(jax.random.key(0))
    params = jax.jit(AL.init)(init_key, tuple(leaf[:8] for leaf in SMALL.train))
    step, losses = jax.jit(AL.step), []
    for epoch in range(2):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), 70))
        for i in range(STEPS):
            rows = order[8 * i : 8 * i + 8]
            params, info = step(params, (SMALL.train[0][rows], SMALL.train[1][rows]))
            losses.append(info.losses)
    assert same(params, whole.params)
    assert whole.state.step == 2 * STEPS and not whole.stopped
    row = whole.state.history[-1]
    np.testing.assert_allclose(row["losses"], np.mean(losses[STEPS:], 0), rtol=1e-6)
    assert row["epoch"] == 2 and row["step"] == 2 * STEPS
    assert [sum(term.values()) for term in row["terms"]] == pytest.approx(row["losses"])
    for part, examples in (("validation", 30), ("train", 30)):
        x, y = (leaf[:examples] for leaf in getattr(SMALL, part))
        right = np.argmax(AL.predict(params, x), -1) == np.argmax(y, -1)
        assert row[part]["accuracy"] == pytest.approx(right.mean())


@pytest.mark.usefixtures("in_chunks")
def test_the_line_of_an_epoch_shows_its_mean_losses(capsys):
    row = fit(AL, SMALL, **BUDGET, progress=True).state.history[-1]
    assert f"epoch 2 of 2: local losses {sum(row['losses']):.4g}, " in capsys.readouterr().err


def test_progress_is_shown_if_asked_for(whole, capsys):
    result = fit(AL, SMALL, **BUDGET, progress=True)
    first, second = capsys.readouterr().err.splitlines()  # no terminal: a line an epoch
    accuracy = whole.state.history[-1]["validation"]["accuracy"]
    assert first.startswith("epoch 1 of 2: local losses ")
    assert re.fullmatch(rf"epoch 2 of 2: local losses [\d.]+, validation {100 * accuracy:.2f} %", second)
    assert same(result.params, whole.params)
    fit(AL, SMALL, **BUDGET)
    assert capsys.readouterr().err == ""
    with pytest.raises(TypeError, match=r"^progress='yes': must be True or False"):
        fit(AL, SMALL, **BUDGET, progress="yes")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("uncut", "augmentation"), [("whole", None), ("whole_shaken", SHAKEN)])
def test_an_epoch_in_chunks_is_the_same(request, uncut, augmentation, streamed):
    whole = request.getfixturevalue(uncut)
    request.getfixturevalue("in_chunks")
    reports = []
    result = fit(AL, SMALL, **BUDGET, augmentation=augmentation, streamed=streamed, watch=reports.append)
    assert same(result.params, whole.params) and result.state.history == whole.state.history
    assert [progress.step for progress in reports] == [3, 6, 8, 11, 14, 16]
    assert [progress.state is not None for progress in reports] == [False, False, True] * 2
    assert all(np.isfinite(progress.loss) for progress in reports)
    assert same(reports[-1].state.params, whole.params)


def counted(rule):
    """The rule, and a list that gets longer whenever its step or its prediction is traced."""
    traces = []

    def step(params, batch):
        traces.append("step")
        return rule.step(params, batch)

    def predict(params, x, key=None):
        traces.append("predict")
        return rule.predict(params, x, key)

    return rule._replace(step=step, predict=predict), traces


def test_nothing_is_compiled_again(in_chunks):
    rule, traces = counted(jl.rules.bp(NET, optax.sgd(0.1)))
    fit(rule, SMALL, epochs=1, batch_size=8)
    assert {*traces} == {"step", "predict"}
    before = len(traces)
    fit(rule, SMALL, epochs=3, batch_size=8, seed=1)
    assert len(traces) == before


def test_a_rule_that_is_used_no_more_is_forgotten():
    """With its compiled programs, of which a process can hold only so many. Here names stand for most other rules."""
    few = jl.data.Splits(*((x[:8], y[:8]) for x, y in SMALL))

    def train(number):
        rule, _ = counted(jl.rules.bp(jl.Network((), jl.layers.Head(10)), optax.sgd(0.1 + number)))
        params = fit(rule, few, epochs=1, batch_size=8).params
        jl.training.accuracy(rule, params, few.test)
        jl.training.epoch(rule, params, jl.data.floats(few.train), jax.random.key(0), 8)
        return weakref.ref(rule.step)

    gc.freeze()  # what is there already is not searched for garbage, which would take long

    def forgotten():
        gc.collect()
        return [step() is None for step in steps]

    compiled = [
        one for module in (evaluation, learner, loop) for one in vars(module).values() if hasattr(one, "program")
    ]
    steps = [train(number) for number in range(2)]
    assert forgotten() == [False, False]
    for number in range(programs.KEPT - 1):
        for one in compiled:
            one.program(f"rule {number}")  # compiled when it is called, which it is not
    assert forgotten() == [True, False]
    gc.unfreeze()


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_continues_as_if_it_had_not_stopped(in_chunks, stop):
    reports = []
    settings = {"epochs": 3, "batch_size": 8, "augmentation": SHAKEN, "seed": 5}
    uncut = fit(AL, SMALL, **settings)
    part = fit(AL, SMALL, **settings, watch=lambda progress: reports.append(progress) or len(reports) == stop)
    assert part.stopped and 0 < part.state.step < 3 * STEPS
    rest = fit(AL, SMALL, **settings, start=part.state)
    assert same(rest.params, uncut.params) and rest.state.history == uncut.state.history


def test_members_of_an_ensemble_are_runs_of_their_own(in_chunks):
    many = fit(jl.ensemble(AL, 2), SMALL, **BUDGET, seed=3, augmentation=SHAKEN)
    for i in range(2):
        one = fit(AL, SMALL, **BUDGET, seed=3 + i, augmentation=SHAKEN)
        close(jax.tree.map(lambda leaf, i=i: leaf[i], many.params), one.params)
        row, own = many.state.history[-1], one.state.history[-1]
        assert row["validation"]["accuracy"][i] == pytest.approx(own["validation"]["accuracy"])
        assert [loss[i] for loss in row["losses"]] == pytest.approx(own["losses"], rel=1e-4)


@pytest.mark.slow
def test_a_pipeline_learns_the_same(whole):
    pipe = jl.pipelined(AL, jl.pipeline.mesh(component=2))
    result = fit(pipe, SMALL, **BUDGET)
    assert same(result.params, whole.params) and result.state.history == whole.state.history
    assert same(fit(pipe, SMALL, **BUDGET, streamed=True).params, whole.params)
    half = fit(pipe, SMALL, epochs=1, batch_size=8)
    assert same(fit(AL, SMALL, **BUDGET, start=half.state).params, whole.params)  # from two devices to one
    half = fit(AL, SMALL, epochs=1, batch_size=8)
    assert same(fit(pipe, SMALL, **BUDGET, start=half.state).params, whole.params)  # and from one to two


@pytest.mark.slow
def test_a_stream_is_shared_out_to_the_devices(whole_shaken):
    """In any order of the axes, with the same random changes of the images on each device; and in an ensemble."""
    half = fit(AL, SMALL, epochs=1, batch_size=8, augmentation=SHAKEN).state  # to begin anew takes long to compile
    for axes in ({"component": 2, "data": 2}, {"data": 2, "component": 2}):
        pipe, shaken = jl.pipelined(AL, jl.pipeline.mesh(**axes)), {**BUDGET, "augmentation": SHAKEN, "start": half}
        resident, streamed = (fit(pipe, SMALL, **shaken, streamed=how) for how in (False, True))
        assert same(streamed.params, resident.params) and streamed.state.history == resident.state.history
        close(streamed.params, whole_shaken.params)
    many = jl.ensemble(jl.data_parallel(AL, jl.pipeline.mesh(data=2)), 2)
    resident, streamed = (fit(many, SMALL, **BUDGET, augmentation=SHAKEN, streamed=how) for how in (False, True))
    assert same(streamed.params, resident.params)


def test_devices_that_share_a_batch_learn_the_same(whole):
    split = jl.data_parallel(AL, jl.pipeline.mesh(data=4))
    result = fit(split, SMALL, **BUDGET)
    close(result.params, whole.params)
    assert same(fit(split, SMALL, **BUDGET, streamed=True).params, result.params)
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(result.params.components[0].weights))
    half = fit(AL, SMALL, epochs=1, batch_size=8)
    close(fit(split, SMALL, **BUDGET, start=half.state).params, whole.params)


@pytest.mark.slow
def test_a_deep_network_starts_as_one_program_would_start_it():
    """Operation by operation, to the last bit; also in a pipeline."""
    rule = jl.rules.al(jl.models.mlp((3,) * (learner.DEEP + 1)), optax.adam(1e-2))
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=1))
    key, example = jax.random.key(0), (SMALL.train[0][:4], SMALL.train[1][:4])
    wanted = jax.jit(rule.init)(key, example)
    assert same(learner.learner_of(rule).begin(key, example), wanted)
    assert same(learner.learner_of(pipe).begin(key, example), pipe.place(wanted, example))
    fit(jl.rules.dfa(rule.net, optax.contrib.prodigy()), SMALL, **BUDGET)  # its state holds the weights themselves


def test_pixels_in_bytes_are_shares_of_255(whole):
    in_bytes = jl.data.Splits(*((np.uint8(np.round(255 * x)), np.uint8(y)) for x, y in SMALL))
    in_floats = jl.data.Splits(*(jl.data.floats(pair) for pair in in_bytes))
    close(fit(BP, in_bytes, **BUDGET).params, fit(BP, in_floats, **BUDGET).params)


def test_augmentation_is_for_training_and_its_other_half_for_both():
    doubled = jl.augmentation.Augmentation(lambda key, x: 2 * x, lambda x: 2 * x)
    twice = jl.data.Splits(*((2 * x, y) for x, y in SMALL))
    ours, theirs = fit(BP, SMALL, **BUDGET, augmentation=doubled), fit(BP, twice, **BUDGET)
    assert same(ours.params, theirs.params) and ours.state.history == theirs.state.history
    only_trained = jl.augmentation.Augmentation(lambda key, x: 2 * x, lambda x: x)
    other = fit(BP, SMALL, **BUDGET, augmentation=only_trained)
    assert same(other.params, ours.params) and other.state.history[-1]["train"] != ours.state.history[-1]["train"]


def test_patience(monkeypatch):
    accuracies = chain([0.1, 0.5, 0.5, 0.4], repeat(0.6))
    real = loop.evaluate

    def scripted(*args):
        return {**real(*args), "accuracy": next(accuracies) if args[2] is not None and _is_validation(args[2]) else 0.0}

    def _is_validation(pair):
        return np.array_equal(pair[0], SMALL.validation[0])

    monkeypatch.setattr(loop, "evaluate", scripted)
    states = []
    stopped = fit(
        BP, SMALL, epochs=9, batch_size=8, patience=2, watch=lambda p: states.append(p.state and p.state.params)
    )
    assert stopped.stopped and stopped.state.step == 4 * STEPS
    assert jl.training.best_epoch(stopped.state.history) == 2  # the first of equals
    again = fit(BP, SMALL, epochs=9, batch_size=8, patience=2, start=stopped.state)
    assert again.state.step == stopped.state.step  # its patience is over already
    monkeypatch.setattr(loop, "evaluate", real)
    assert same(stopped.best, fit(BP, SMALL, epochs=2, batch_size=8).params)


def test_divergence_is_named():
    wild = jl.rules.bp(jl.models.mlp((8, 6), activation=jax.nn.relu), optax.sgd(1e6))
    with pytest.raises(DivergedError, match=r"component 0: its loss 'task' is .* at step \d \(epoch 1, batch \d\)"):
        fit(wild, SMALL, **BUDGET)
    calm_then_wild = jl.rules.bp(NET, optax.sgd(lambda count: jnp.where(count < 11, 1e-3, jnp.nan)))
    with pytest.raises(DivergedError, match=r"component 0: its loss 'task' is nan at step 13 \(epoch 2, batch 5\)"):
        fit(calm_then_wild, SMALL, **BUDGET)
    with pytest.raises(DivergedError, match="'task' of seed 7 is nan at step 13"):
        fit(jl.ensemble(calm_then_wild, 2), SMALL, **BUDGET, seed=7)


def test_the_earliest_of_several_losses_that_diverge_is_named():
    account = Account(steps=4, seed=5)
    later, earlier = (
        jnp.array([[1.0, 1.0], [1.0, 1.0], [jnp.nan] * 2]),
        jnp.array([[1.0, 1.0], [2.0, jnp.inf], [3.0] * 2]),
    )
    account.expect(({"aim": later}, {"task": earlier}), 3)
    with pytest.raises(DivergedError, match="component 1: its loss 'task' of seed 6 is inf at step 2"):
        account.settle()


@pytest.mark.parametrize("count", [1, 37, 530])
def test_whole_sets_are_evaluated_in_pieces(monkeypatch, count):
    monkeypatch.setattr(evaluation, "PIECE", 16)
    x, y = (leaf[:count] for leaf in jl.data.digits().train)
    params = fit(BP, SMALL, **BUDGET).params
    scores = np.asarray(BP.predict(params, x), np.float64)
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(count), y.argmax(1)]
    wanted = {"loss": losses.mean(), "accuracy": (scores.argmax(1) == y.argmax(1)).mean()}
    evaluation._totals.program.cache_clear()
    assert evaluate(BP, params, (jnp.asarray(x), jnp.asarray(y))) == pytest.approx(wanted, rel=1e-5)
    monkeypatch.setattr(evaluation, "CHUNK_BYTES", 50 * (x[:1].nbytes + y[:1].nbytes))
    assert evaluate(BP, params, (x, y)) == pytest.approx(wanted, rel=1e-5)
    many = evaluate(jl.ensemble(BP, 2), jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), params), (x, y))
    assert many["accuracy"] == pytest.approx([wanted["accuracy"]] * 2)


def test_numbers_on_a_disk_are_searched_for_nan_in_pieces(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(jl.checks, "PIECE", 1)
    x, y = SMALL.test
    np.save(tmp_path / "x.npy", np.where(np.arange(len(x)) == len(x) - 1, np.nan, x.T).T)
    with pytest.raises(ValueError, match=r"^data: x holds NaN or infinity"):
        evaluate(AL, whole.params, (np.load(tmp_path / "x.npy", mmap_mode="r"), y))


def test_real_targets_have_no_accuracy():
    net = jl.models.autoencoder((8, 4, 8), units=64)
    data = jl.data.Splits(*((x, x.reshape(len(x), -1)) for x, _ in SMALL))
    history = fit(jl.rules.bp(net, optax.adam(1e-2)), data, **BUDGET).state.history
    assert history[-1]["validation"].keys() == {"loss"}
    assert jl.training.best_epoch(history) == 1 + int(np.argmin([row["validation"]["loss"] for row in history]))


@pytest.mark.parametrize("name", ["dtp", "kp"])
def test_rules_with_helpers_learn_by_fit(name):
    result = fit(jl.rules.ALL[name](jl.models.mlp((32,)), optax.adam(1e-2)), jl.data.digits(), epochs=5)
    assert result.state.history[-1]["validation"]["accuracy"] > 0.85


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (lambda p, x, y: evaluate("al", p, (x, y)), TypeError, "^rule='al': must be a rule, .*pass pipe.rule and"),
        (lambda p, x, y: evaluate(BP, p, (x, y)), ValueError, "^params has . components, but the rule has 1"),
        (lambda p, x, y: evaluate(AL, p, (x, y[:, :3])), ValueError, r"^data: y has shape \(20, 3\), .*\(N, 10\)"),
        (lambda p, x, y: evaluate(AL, p, (x, y / 2)), ValueError, "^data: cross entropy needs class labels"),
        (lambda p, x, y: evaluate(AL, p, (x, y), "flip"), TypeError, "^augmentation='flip': must be an augmentation"),
        (lambda p, x, y: jl.training.accuracy("al", p, (x, y)), TypeError, "^rule='al': must be a rule"),
        (lambda p, x, y: jl.training.accuracy(AL, p, (x, y[:, :3])), ValueError, "^data: y has shape"),
        (lambda p, x, y: jl.training.epoch(AL, p, (x, y), 1, 8), TypeError, "^key=1: must be a random key"),
        (lambda p, x, y: jl.training.epoch(AL, p, x, jax.random.key(0), 8), TypeError, "^data"),
    ],
)
def test_bad_arguments_of_evaluate_are_one_sentence(call, error, complaint, whole):
    with pytest.raises(error, match=complaint):
        call(whole.params, *SMALL.test)


def test_a_result_is_one_short_line(whole):
    accuracy = whole.state.history[-1]["validation"]["accuracy"]
    assert repr(whole) == f"Result(State(step 16, epoch 2, validation {100 * accuracy:.2f} %))"
    assert repr(SMALL._replace(test=None)) == (
        "Splits(train: (70, 8, 8, 1) → (70, 10), validation: (30, 8, 8, 1) → (30, 10), test: None)"
    )


def test_a_run_is_not_continued_with_other_batches(whole):
    begun = whole.state._replace(step=3, history=())  # it stopped in its first epoch
    for state in whole.state, begun:
        with pytest.raises(ValueError, match=r"start: had 8 steps in an epoch, and now there are 4; give the same"):
            fit(AL, SMALL, epochs=3, batch_size=16, start=state)
    with pytest.raises(TypeError, match=r"start=Params.*: must be a state, such as result\.state; parameters alone"):
        fit(AL, SMALL, epochs=3, start=whole.params)


def test_64_bit_numbers_can_be_asked_for(whole):
    with jax.enable_x64(True):
        found = evaluate(AL, whole.params, SMALL.test)
    assert found["accuracy"] == evaluate(AL, whole.params, SMALL.test)["accuracy"]
    with jax.enable_x64(True):
        assert fit(jl.rules.bp(NET, optax.sgd(0.1)), SMALL, epochs=1, batch_size=8).state.step == STEPS


def labelled(change):
    """The data with other targets in its training set."""
    x, y = SMALL.train
    return SMALL._replace(train=(x, change(np.asarray(y))))


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"epochs": 0}, ValueError, "epochs=0: must be at least 1"),
        ({"batch_size": 71}, ValueError, "batch_size=71: the data has 70 examples; take 1 to 70"),
        ({"patience": 0}, ValueError, "patience=0: must be at least 1"),
        ({"seed": "one"}, TypeError, "seed='one': must be a whole number"),
        (
            {"data": SMALL._replace(validation=(np.zeros((0, 8, 8, 1), np.float32),) * 2)},
            ValueError,
            "without an example",
        ),
        ({"data": SMALL._replace(train=(SMALL.train[0] * np.nan, SMALL.train[1]))}, ValueError, "holds NaN"),
        ({"data": tuple(SMALL)[:2]}, TypeError, r"must be a jl.data.Splits, such as .*validation=\(x, y\)"),
        ({"data": SMALL._replace(validation=None)}, ValueError, "data.validation is None: .*hold some examples out"),
        ({"data": SMALL._replace(train="mnist")}, TypeError, r"data.train='mnist': must be a pair \(x, y\)"),
        ({"data": SMALL._replace(train=(iter([]), SMALL.train[1]))}, TypeError, "x=.*is not an array; .*np.asarray"),
        ({"data": labelled(lambda y: y.argmax(1))}, TypeError, r"class labels; .*jax.nn.one_hot\(y, classes\)"),
        ({"data": labelled(lambda y: y.astype(int))}, TypeError, r"y has dtype int64, .*y.astype\(np.float32\)"),
        (
            {"data": labelled(lambda y: y - 0.5)},
            ValueError,
            "data.train: cross entropy needs class labels.*squared_error",
        ),
        ({"data": labelled(lambda y: y + y[::-1])}, ValueError, "cross entropy needs class labels"),
        (
            {"data": jl.data.Splits(*((x, np.argmax(y, 1, keepdims=True).astype(np.float32)) for x, y in SMALL))},
            ValueError,
            r"cross entropy needs class labels.*make the labels whole numbers, y\.astype\(int\), or give the network",
        ),
        ({"watch": 3}, TypeError, "watch=3: must be a function, such as print"),
        ({"data": labelled(lambda y: y[:-1])}, ValueError, "x has 70 examples and y has 69; give them equally many"),
        ({"data": labelled(lambda y: y[:, :-1])}, ValueError, r"y has shape \(70, 9\) in train .*the same classes"),
        ({"seed": 2**31}, ValueError, "seed=2147483648: must be from 0 to 2147483647"),
        ({"seed": -1}, ValueError, "seed=-1: must be from 0"),
        ({"rule": jl.ensemble(BP, 2), "seed": 2**31 - 1}, ValueError, "seed=.*must be from 0 to 2147483646"),
        ({"augmentation": "flip"}, TypeError, r"augmentation='flip': must be .*jl.augmentation.flip\(\)"),
        ({"rule": lambda: None}, TypeError, "rule=.*: must be a rule, such as jl.rules.dfa"),
    ],
)
def test_bad_arguments_are_one_sentence(change, error, complaint):
    arguments = {"rule": BP, "data": SMALL, **BUDGET} | change
    with pytest.raises(error, match=complaint):
        fit(**arguments)


def test_data_that_are_too_large_are_named_as_the_cause():
    x, y = SMALL.train
    with pytest.raises(jl.training.DivergedError, match=r"at step 1 .*: the first weights do not fit .*scale x"):
        fit(jl.rules.bp(jl.models.mlp(()), optax.adam(1e-3)), SMALL._replace(train=(np.float32(1e20) * x, y)), **BUDGET)


def test_training_needs_no_test_set():
    assert fit(BP, SMALL._replace(test=None), **BUDGET).state.history


@pytest.mark.parametrize("measure", [evaluate, jl.training.accuracy])
def test_a_measurement_takes_bytes_and_refuses_what_is_no_pair_of_arrays(measure):
    x, y = SMALL.test
    params = BP.init(jax.random.key(0), SMALL.train)
    in_bytes = (255 * np.asarray(x)).astype(np.uint8)
    of_bytes, of_floats = (measure(BP, params, (images, y)) for images in (in_bytes, in_bytes / np.float32(255)))
    assert jax.tree.map(float, of_bytes) == pytest.approx(jax.tree.map(float, of_floats), rel=1e-6)
    for pair, error, complaint in (
        ("digits", TypeError, "must be a pair"),
        ((x, np.asarray(y).argmax(1)), TypeError, "one_hot"),
        ((x, y[:-1]), ValueError, "equally many"),
    ):
        with pytest.raises(error, match=complaint):
            measure(BP, params, pair)


def test_the_squared_error_has_no_accuracy():
    rule = jl.rules.bp(jl.models.autoencoder((8,), units=64), optax.adam(1e-2))
    pair = SMALL.test[0], np.asarray(SMALL.test[0]).reshape(-1, 64)
    with pytest.raises(ValueError, match=r"the network's loss has no classes; .*jl\.training\.evaluate"):
        jl.training.accuracy(rule, rule.init(jax.random.key(0), pair), pair)


def test_a_loss_of_ones_own_for_real_targets_has_no_accuracy_and_the_best_epoch_is_that_of_its_value():
    absolute = jl.Loss(lambda scores, y: jnp.sum(jnp.abs(scores - y), axis=1), lambda scores: scores)
    data = jl.data.Splits(*((x, np.asarray(x).mean((1, 2))) for x, _ in SMALL))
    rule = jl.rules.bp(jl.models.mlp((8,), classes=1)._replace(loss=absolute), optax.adam(1e-3))
    history = jl.training.fit(rule, data, epochs=5, batch_size=35, patience=2).state.history
    losses = [metrics["validation"]["loss"] for metrics in history]
    assert losses == sorted(losses, reverse=True) and len(history) == 5
    assert all(metrics[split].keys() == {"loss"} for metrics in history for split in ("train", "validation"))


def test_the_al_papers_schedule():
    """Times 0.1 at 40, 60 and 80 per cent, and a half at 90."""
    rate = jl.training.al_schedule(2.0, 1000)
    for step, factor in [(0, 1), (399, 1), (400, 0.1), (599, 0.1), (600, 0.01), (800, 1e-3), (899, 1e-3), (900, 5e-4)]:
        assert rate(step) == pytest.approx(2 * factor, rel=1e-5)
    for steps in (1, 2, 5, 8):  # too few for the factors to have steps of their own
        assert jl.training.al_schedule(2.0, steps)(steps) == pytest.approx(2 * 5e-4, rel=1e-5)


def test_epoch_needs_a_whole_batch():
    net = NETS["dense"]
    rule, batch = jl.rules.bp(net, optax.sgd(0.1)), make_batch(net)
    params = drawn(rule, batch)
    with pytest.raises(ValueError, match="batch_size=9: the data has 8 examples"):
        jl.training.epoch(rule, params, batch, jax.random.key(0), 9)


def test_epoch_needs_as_many_targets_as_inputs():
    net = NETS["dense"]
    rule, (x, y) = jl.rules.bp(net, optax.sgd(0.1)), make_batch(net)
    params = drawn(rule, (x, y))
    with pytest.raises(ValueError, match="data: x has 8 examples, but y has 7"):
        jl.training.epoch(rule, params, (x, y[:7]), jax.random.key(0), 4)


def test_what_cannot_be_watched_or_evaluated():
    with pytest.raises(TypeError, match=r"^watch: .*; it must take \(progress\)$"):
        fit(AL, SMALL, **BUDGET, watch=lambda: None)
    with pytest.raises(TypeError, match=r"^data=.*: must be a pair \(x, y\) of arrays, such as data\.test$"):
        jl.training.evaluate(AL, jax.jit(AL.init)(jax.random.key(0), jl.data.floats(SMALL.train)), SMALL)
