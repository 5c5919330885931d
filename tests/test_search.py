"""Random search: what it draws, that a group is trained as each alone, and that it goes on where it was cut off."""

import gc
import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FAMILIES, ROOT

import jaxlocal as jl
from jaxlocal import search
from jaxlocal.search import Trial
from jaxlocal.search.fingerprint import fingerprint

pytestmark = pytest.mark.xdist_group("search")

NET = jl.models.mlp((6, 5))
DATA = jl.data.Splits(*((x[:n], y[:n]) for n, (x, y) in zip((64, 50, 50), jl.data.digits(), strict=True)))
SHORT = {"epochs": 2, "batch_size": 16}
LINEAR = jl.models.mlp(())
OTHER_START = jl.models.mlp((), init=nn.initializers.glorot_normal)
FOUR = [{"lr": lr} for lr in (1e-4, 1e-1, 1e-2, 1e-3)]


def linear(setting):
    """Quick to compile."""
    return jl.rules.bp(LINEAR, optax.sgd(setting["lr"]))


@pytest.mark.parametrize(
    ("values", "inside"),
    [
        (search.uniform(-1, 3), lambda v: (v >= -1) & (v <= 3)),
        (search.log_uniform(1e-5, 1e-1), lambda v: (v >= 1e-5) & (v <= 1e-1)),
        (search.choice(0.9, 0.99), lambda v: np.isin(v, (0.9, 0.99))),
    ],
)
def test_draws_are_inside_the_range_and_spread_over_it(values, inside):
    rng = np.random.default_rng(0)
    drawn = np.array([values.draw(rng) for _ in range(1000)])
    assert inside(drawn).all()
    middle = 1e-3 if values.kind == "log_uniform" else np.mean(values.values)
    assert abs(np.mean(drawn < middle) - 0.5) < 0.05


def test_draws_depend_on_seed_and_number_alone():
    space = search.bartunov("dtp")
    settings = search.draw(space, 4, seed=3)
    assert search.draw(space, 6, seed=3)[:4] == settings
    assert search.draw(space, 4, seed=4) != settings
    assert len({setting["lr"] for setting in settings}) == 4
    assert [one["lr"] for one in search.draw(search.bartunov("bp"), 4, seed=3)] == [one["lr"] for one in settings]


# Table 5's best settings of DTP and SDTP, those that lie furthest out.
TABLE_5 = {
    "lr": (0.000011, 0.002462),
    "b1": (0.9, 0.99),
    "b2": (0.95, 0.99, 0.999),
    "eps": (1e-3, 1e-4, 1e-6, 1e-8),
    "inverse_lr": (0.000011, 0.009572),
    "alpha": (0.03706, 0.310892),
    "noise": (0.023804, 0.366964),
}


def test_the_papers_space_holds_its_best_settings():
    space = search.bartunov("dtp")
    assert space.keys() == TABLE_5.keys() | {"inverse_b1", "inverse_b2", "inverse_eps"}
    for name, bests in TABLE_5.items():
        assert all(map(space[name].holds, bests))


@pytest.mark.parametrize("rule", ["bp", "dtp", "sdtp"])
def test_table_4_lies_within_the_widened_space(rule):
    """The ranges of the table, as printed; a setting drawn from them can be drawn from the wider ones."""
    exact, widened = search.bartunov(rule, table4=True), search.bartunov(rule)
    assert exact.keys() == widened.keys()
    for role in ("", "inverse_")[: 1 if rule == "bp" else 2]:
        adam = [exact[f"{role}{name}"].values for name in ("lr", "b1", "b2", "eps")]
        assert adam == [(1e-5, 3e-4), (0.9,), (0.99, 0.999), (1e-4, 1e-6, 1e-8)]
    assert rule != "dtp" or (exact["alpha"].values, exact["noise"].values) == ((0.01, 0.2), (0.01, 0.3))
    assert all(widened[name].holds(value) for name in exact for value in exact[name].values)
    assert not exact["lr"].holds(0.000402) and not exact["b1"].holds(0.99) and widened["b1"].holds(0.99)


def test_the_space_of_every_rule_has_the_settings_of_its_helpers():
    helpers = {"al": 4, "tp": 5, "dtp": 6, "sdtp": 5, "ao_sdtp": 5, "kp": 4, "dkp": 4}
    assert {name: len(search.bartunov(name)) for name in jl.rules.ALL} == {
        name: 4 + helpers.get(name, 0) for name in jl.rules.ALL
    }


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in jl.rules.ALL])
def test_a_rule_can_be_searched(name):
    """Its settings may be traced, and its optimizers are given theirs."""
    make, (setting,) = search.maker(name, NET), search.draw(search.bartunov(name), 1)
    params = jax.eval_shape(make(setting).init, jax.random.key(0), DATA.train)
    after = jax.eval_shape(lambda setting, params: make(setting).update(params, DATA.train), setting, params)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), params)


@pytest.mark.slow
def test_a_group_is_trained_as_each_setting_alone():
    make, settings = search.maker("dtp", NET, alternate=4), search.draw(search.bartunov("dtp"), 3)
    settings = [setting | {"lr": 10 * setting["lr"]} for setting in settings]  # two epochs are to make a difference
    together = search.search(make, settings, DATA, group=3, **SHORT)
    assert len({trial.loss for trial in together}) == 3
    singly = search.search(make, settings, DATA, group=1, **SHORT)
    for setting, trial, alone in zip(settings, together, singly, strict=True):
        assert alone.setting == trial.setting == setting
        np.testing.assert_allclose(trial.loss, alone.loss, rtol=1e-4)
        np.testing.assert_allclose(trial.accuracies, alone.accuracies, atol=1.5 / 50)
    tested = DATA._replace(test=DATA.validation)
    accuracy = search.on_test(make, settings[-1], tested, **SHORT)  # by the plain rule, its numbers not traced
    assert accuracy == pytest.approx(together[-1].accuracy, abs=1.5 / 50)


def test_an_augmentation_changes_every_epoch_of_all_settings_alike():
    """By hand: what is trained on in an epoch, and how it is prepared for the validation."""
    shift = jl.augmentation.Augmentation(lambda key, x: x + jax.random.normal(key, x.shape), lambda x: 2 * x)
    trials = search.search(linear, FOUR[1:3], DATA, augmentation=shift, **SHORT)
    assert trials != search.search(linear, FOUR[1:3], DATA, **SHORT)
    (x, y), (x_tested, y_tested) = jax.tree.map(jnp.asarray, (DATA.train, DATA.validation))
    init_key, order_key = jax.random.split(jax.random.key(0))
    for trial in trials:
        rule = linear(trial.setting)
        params = rule.init(init_key, (x, y))
        for epoch in range(2):
            key = jax.random.fold_in(order_key, epoch)
            changed = shift.train(jax.random.fold_in(key, 1), x)
            params, _ = jl.training.epoch(rule, params, (changed, y), key, 16)
        expected = jl.training.accuracy(rule, params, (2 * x_tested, y_tested))
        assert trial.accuracy == pytest.approx(float(expected), abs=1.5 / 50)
        tested = DATA._replace(test=DATA.validation)
        assert search.on_test(linear, trial.setting, tested, augmentation=shift, **SHORT) == pytest.approx(
            float(expected)
        )


def test_the_test_set_is_not_looked_at():
    assert search.search(linear, FOUR, DATA._replace(test=None), **SHORT) == search.search(linear, FOUR, DATA, **SHORT)


def test_one_program_for_all_groups():
    traces = []

    def make(setting):
        traces.append(isinstance(setting["lr"], jax.core.Tracer))
        return linear(setting)

    gc.freeze()  # the check searches for garbage again and again, which takes long among all that is there already
    with jax.checking_leaks():
        trials = search.search(make, [*FOUR, {"lr": 0.5}], DATA, group=2, **SHORT)
    gc.unfreeze()
    assert len(trials) == 5
    assert traces.count(True) == 2  # the start and the epoch
    assert trials[:4] == search.search(linear, FOUR, DATA, group=2, **SHORT)


def test_one_that_diverges_hurts_no_other_and_is_never_best():
    (large,) = search.search(linear, [{"lr": 1e10}], DATA, **SHORT)  # its loss is finite
    assert large.diverged
    trials = search.search(linear, [{"lr": 1e38}, *FOUR], DATA, group=5, **SHORT)
    assert [trial.diverged for trial in trials] == [True, False, False, False, False]
    assert trials[0].accuracy == 0
    assert trials[0].loss is None
    sound = search.search(linear, FOUR, DATA, group=5, **SHORT)
    np.testing.assert_allclose([t.loss for t in trials[1:]], [t.loss for t in sound], rtol=1e-5)
    assert search.best(trials).setting == search.best(sound).setting == {"lr": 0.1}
    assert search.table(trials).splitlines()[-1].split() == ["0", "0.00", "diverged", "1e+38"]


def test_one_whose_last_step_spoils_it_is_never_best():
    """The losses of an epoch are from before each step, so the last one shows on the validation set alone."""
    net = jl.models.mlp((), loss=jl.squared_error)
    whole = {"epochs": 1, "batch_size": 64}
    trials = search.search(
        lambda setting: jl.rules.bp(net, optax.sgd(setting["lr"])), [{"lr": 1e38}, {"lr": 1e-3}], DATA, **whole
    )
    assert not np.isfinite(trials[0].goodness) and trials[0].goodness < 0
    assert search.best(trials).setting == {"lr": 1e-3}


def test_a_search_cut_off_goes_on_to_the_same_end(tmp_path):
    whole = search.search(linear, FOUR, DATA, group=2, **SHORT)
    reports = []

    def crash(done, epoch, best):
        reports.append((done, epoch))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.search(linear, FOUR, DATA, group=2, folder=tmp_path, report=crash, **SHORT)
    assert reports == [(0, 1), (0, 2), (2, 1)]
    finished = tmp_path / "trials.jsonl"
    assert len(finished.read_text().splitlines()) == 2

    reports.clear()
    bests = []

    def note(done, epoch, best):
        reports.append((done, epoch))
        bests.append(best)

    assert search.search(linear, FOUR, DATA, group=2, folder=tmp_path, report=note, **SHORT) == whole
    assert reports == [(2, 1), (2, 2)]
    assert bests[-1] == search.best(whole).accuracy

    reports.clear()
    assert search.search(linear, FOUR, DATA, group=2, folder=tmp_path, report=note, **SHORT) == whole
    assert search.search(linear, FOUR[:3], DATA, group=2, folder=tmp_path, report=note, **SHORT) == whole[:3]
    assert reports == []
    more = search.search(linear, [*FOUR, {"lr": 0.5}], DATA, group=2, folder=tmp_path, **SHORT)
    assert more[:4] == whole
    assert [json.loads(line)["setting"]["lr"] for line in finished.read_text().splitlines()] == [
        trial.setting["lr"] for trial in more
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"search.json", "trials.jsonl"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("epochs", {"epochs": 3}),
        ("batch_size", {"batch_size": 8}),
        ("seed", {"seed": 1}),
        ("settings", {"settings": FOUR[::-1]}),
        ("data", {"data": DATA._replace(validation=DATA.test)}),
        ("make", {"make": lambda setting: jl.rules.bp(LINEAR, optax.sgd(setting["lr"], 0.9))}),
        ("make", {"make": lambda setting: jl.rules.bp(LINEAR, optax.adam(setting["lr"]))}),
        ("make", {"make": lambda setting: jl.rules.bp(OTHER_START, optax.sgd(setting["lr"]))}),
    ],
)
def test_a_folder_holds_one_search(tmp_path, name, change):
    arguments = {"make": linear, "settings": FOUR, "data": DATA, **SHORT, "folder": tmp_path / "search"}
    search.search(**arguments)
    words = {"data": "examples", "make": r"code \(of the rule, the network or the library\)"}.get(name, name)
    with pytest.raises(ValueError, match=f"folder='.*': holds a search with other {words}; take another folder"):
        search.search(**{**arguments, **change})


def mark(name):
    """The fingerprint of an update of a rule with traced settings."""

    def update(setting, params):
        return search.maker(name, NET)(setting).update(params, DATA.train)

    setting = {"lr": 1e-3}
    params = jax.eval_shape(search.maker(name, NET)(setting).init, jax.random.key(0), DATA.train)
    return fingerprint(jax.make_jaxpr(update)(setting, params))


def test_the_fingerprint_tells_rules_apart():
    """DFA and DRTP have the same search space and the same weights."""
    names = "bp", "fa", "dfa", "drtp"
    marks = [mark(name) for name in names]
    assert len(set(marks)) == 4
    assert marks == [mark(name) for name in names]


def test_the_fingerprint_is_that_of_what_is_computed():
    """The order of operations and results that nothing reads change nothing; shapes, constants and parameters do."""
    x, key = np.ones((2, 3), np.float32), jax.random.key(0)

    def program(y_first, scale=2.0, axis=0, table=(1.0, 2.0), unread=False):
        def function(x, key):
            if y_first:
                y, z = jnp.sin(x), jnp.cos(x) * scale
            else:
                z, y = jnp.cos(x) * scale, jnp.sin(x)
            if unread:
                jnp.tan(x)
            looped = jax.lax.fori_loop(0, 3, lambda i, a: a * scale, y)
            noise = jax.random.normal(jax.random.fold_in(key, 1), x.shape)
            return y.sum(axis), z + noise, looped, jnp.asarray(table, np.float32)

        return fingerprint(jax.make_jaxpr(function)(x, key))

    same = program(True)
    assert same == program(False) == program(True, unread=True)
    others = [program(True, scale=3.0), program(True, axis=1), program(True, table=(1.0, 3.0))]
    assert len({same, *others}) == 4
    assert fingerprint(jax.make_jaxpr(jnp.sin)(x)) != fingerprint(jax.make_jaxpr(jnp.sin)(x[:1]))


@pytest.mark.slow
def test_the_fingerprint_does_not_depend_on_the_process():
    """Python's sets are ordered differently under another hash seed."""
    rules = "al", "dtp", "dkp"
    code = f"import test_search; print(*map(test_search.mark, {rules}))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=ROOT / "tests", capture_output=True, text=True)
    here = list(map(mark, rules))
    assert len(set(here)) == 3
    assert done.stdout.split() == here


def many(setting):
    return jl.ensemble(linear(setting), 2)


def branching(setting):
    return linear(setting if setting["lr"] > 1 else {"lr": 0.1})


def sized(setting):
    return jl.rules.bp(jl.models.mlp((int(setting["lr"]),)), optax.sgd(0.1))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: search.uniform(2, 1), ValueError, ["low=2", "high=1", "lower one first"]),
        (lambda: search.log_uniform(0, 1), ValueError, ["low=0", "more than zero"]),
        (lambda: search.choice("tanh"), TypeError, ["values=('tanh',)", "choice(0.9, 0.99)"]),
        (lambda: search.draw({"lr": 0.1}, 3), TypeError, ["space['lr']=0.1", "choice(0.1)"]),
        (lambda: search.draw({}, 0), ValueError, ["trials=0", "at least 1"]),
        (lambda: search.bartunov("dtb"), ValueError, ["rule='dtb'", "did you mean dtp"]),
        (lambda: search.maker("bp", NET, nois=1)({"lr": 1.0}), TypeError, ["nois=1"]),
        (lambda: search.search(linear, [], DATA, **SHORT), TypeError, ["settings=[]", "draw"]),
        (
            lambda: search.search(linear, [{"lr": "x"}], DATA, **SHORT),
            TypeError,
            ["settings[0]={'lr': 'x'}", "numbers"],
        ),
        (lambda: search.search(linear, [{"lr": 1}, {"l": 1}], DATA, **SHORT), ValueError, ["settings[1]", "names"]),
        (lambda: search.search(linear, [{"lr": -1}], DATA, **SHORT), ValueError, ["tx", "negative"]),
        (lambda: search.search(linear, FOUR, DATA, epochs=0, batch_size=1), ValueError, ["epochs=0"]),
        (lambda: search.on_test(linear, FOUR[0], DATA, epochs=-1, batch_size=1), ValueError, ["epochs=-1"]),
        (lambda: search.on_test(linear, FOUR[0], DATA.train, **SHORT), TypeError, ["data", "Splits"]),
        (lambda: search.on_test(linear, FOUR[0], DATA._replace(test=None), **SHORT), TypeError, ["data.test=None"]),
        (lambda: search.on_test(linear, {"lr": "x"}, DATA, **SHORT), TypeError, ["{'lr': 'x'}", "numbers"]),
        (lambda: search.on_test(linear, FOUR[0], DATA, **SHORT, seed=-1), ValueError, ["seed=-1"]),
        (lambda: search.search(linear, FOUR, DATA, **SHORT, augmentation=3), TypeError, ["augmentation=3"]),
        (lambda: search.draw(search.bartunov("bp"), 3, seed=-1), ValueError, ["seed=-1"]),
        (lambda: search.draw([1e-3], 3), TypeError, ["space=[0.001]", "dict"]),
        (lambda: search.search(linear, FOUR, DATA, epochs=1, batch_size=65), ValueError, ["batch_size=65", "1 to 64"]),
        (lambda: search.search(branching, FOUR, DATA, **SHORT), TypeError, ["make", "branches", "separately"]),
        (lambda: search.search(sized, [{"lr": 3}], DATA, **SHORT), TypeError, ["make", "size", "separately"]),
        (lambda: search.search(dict, FOUR, DATA, **SHORT), TypeError, ["make", "{'lr': 0.0001}", "return a rule"]),
        (lambda: search.search(many, FOUR, DATA, **SHORT), ValueError, ["ensemble", "the rule that it is made of"]),
        (lambda: search.best([Trial({"lr": 1.0}, (0.0,), None)]), ValueError, ["all 1", "diverged", "lower"]),
        (lambda: search.histograms({}), ValueError, ["results={}"]),
    ],
)
def test_bad_input_is_one_sentence(call, kind, words):
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert "\n" not in message
    assert len(message) < 400


def test_histograms_hold_every_trial():
    trials = [Trial({"lr": 0.1}, (share,), 1.0 if share else None) for share in (0.0, 0.1, 0.97, 1.0)]
    figure = search.histograms({"bp": trials, "dtp": trials[:2]})
    heights = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes]
    assert heights == [4, 2]
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == ["bp", "dtp"]


def test_token_ids_that_the_network_does_not_know_are_refused():
    net = jl.models.lstm_classifier(vocabulary=5, classes=2)
    pair = np.array([[1, 9, 0]] * 4, np.int32), np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    with pytest.raises(ValueError, match=r"data\.train: .*9"):
        search.search(search.maker("bp", net), [{"lr": 1e-3}], jl.data.Splits(pair, pair, pair), epochs=1, batch_size=2)
