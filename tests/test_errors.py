"""Every bad input is one sentence that names the argument, its value and the remedy."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import NETS, drawn, make_batch

import jaxlocal as jl

ADAM = optax.adam(1e-3)
NET = NETS["dense"]
X, Y = make_batch(NET)
every_rule = pytest.mark.parametrize("name", jl.rules.ALL)


def says(error, *words):
    """The error has each of the words, and is one sentence of bearable length."""
    message = str(error.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert "\n" not in message
    assert len(message) < 400


BAD_BATCHES = {
    "not a pair": (X, TypeError, ["batch", "pair"]),
    "no array": (([1.0], Y), TypeError, ["x=[1.0]", "np.asarray"]),
    "integer labels": ((X, jnp.arange(8)), TypeError, ["y", "(8,)", "int32", "jax.nn.one_hot"]),
    "integer one-hot": ((X, Y.astype(int)), TypeError, ["y", "int32", "floating"]),
    "bytes of an image": ((X.astype(jnp.uint8), Y), TypeError, ["x", "uint8", "jl.data.floats", "255"]),
    "a pair of jl.data.load": ((X.astype(jnp.uint8), Y.astype(jnp.uint8)), TypeError, ["x", "jl.data.floats"]),
    "one-hot bytes": ((X, Y.astype(jnp.uint8)), TypeError, ["y", "uint8", "jl.data.floats", "labels float32"]),
    "one example": ((X[0], Y), ValueError, ["x", "(4,)", "one example an axis with x[None]", "x[:, None]"]),
    "labels in bytes": ((X, jnp.arange(8, dtype=jnp.uint8)), TypeError, ["y", "uint8", "jax.nn.one_hot"]),
    "other number of examples": ((X, Y[:4]), ValueError, ["(8, 4)", "(4, 3)", "first axes"]),
    "empty": ((X[:0], Y[:0]), ValueError, ["(0, 4)", "empty", "at least one"]),
    "NaN in x": ((X.at[1, 2].set(jnp.nan), Y), ValueError, ["x", "NaN", "nan_to_num"]),
    "infinity in y": ((X, Y.at[1, 2].set(jnp.inf)), ValueError, ["y", "infinity"]),
}
# The check is in `make_rule`: one case for all rules shows that they have it, and a rule of each kind that it is whole.
KINDS = "bp", "al", "dtp", "ff"
of_each_kind = pytest.mark.parametrize("name", KINDS)
CASES_OF_RULES = [(name, "NaN in x") for name in jl.rules.ALL]
CASES_OF_RULES += [(name, case) for name in KINDS for case in BAD_BATCHES if case != "NaN in x"]


@cache
def outline(name):
    """A rule, and the shapes of its parameters."""
    rule = jl.rules.ALL[name](NET, ADAM)
    return rule, jax.eval_shape(rule.init, jax.random.key(0), (X, Y))


@pytest.mark.parametrize(("name", "case"), CASES_OF_RULES)
def test_bad_batch(name, case):
    batch, kind, words = BAD_BATCHES[case]
    rule, params = outline(name)
    for call in (lambda: rule.init(jax.random.key(0), batch), lambda: rule.update(params, batch)):
        with pytest.raises(kind) as error:
            call()
        says(error, *words)


@pytest.mark.parametrize("function", ["alignment", "local_losses", "locality"])
@pytest.mark.parametrize("case", BAD_BATCHES)
def test_bad_batch_for_a_diagnostic(function, case):
    batch, kind, words = BAD_BATCHES[case]
    rule = jl.rules.dfa(NET, ADAM)
    with pytest.raises(kind) as error:
        getattr(jl.diagnostics, function)(rule, outline("dfa")[1], batch)
    says(error, *words)


@of_each_kind
def test_batch_of_another_shape_than_at_the_start(name):
    rule, params = outline(name)
    with pytest.raises(ValueError, match="shape") as error:
        jax.eval_shape(rule.update, params, (X[:, :3], Y))
    says(error, "x", "(8, 3)", "(B, 4", "init")
    with pytest.raises(ValueError, match="shape") as error:
        jax.eval_shape(rule.update, params, (X, Y[:, :2]))
    says(error, "y", "(8, 2)", "(B, 3")
    with pytest.raises(ValueError, match="shape") as error:
        rule.predict(params, X[:, :3])
    says(error, "x", "(8, 3)")


@pytest.mark.parametrize("name", jl.rules.ALL)
def test_targets_that_do_not_fit_the_network(name):
    with pytest.raises(ValueError, match="units") as error:
        jl.rules.ALL[name](NET, ADAM).init(jax.random.key(0), (X, jnp.ones((8, 4))))
    says(error, "(4,)", "(3,)", "classes")


@of_each_kind
def test_batch_of_one_with_batch_norm(name):
    rule = jl.rules.ALL[name](NETS["norm dropout"], ADAM)
    params = jax.eval_shape(rule.init, jax.random.key(0), (X, Y))
    with pytest.raises(ValueError, match="batch of one") as error:
        jax.eval_shape(rule.update, params, (X[:1], Y[:1]))
    says(error, "(1, 4)", "batch norm", "at least two")


@pytest.mark.parametrize(
    ("make", "name"),
    [(lambda: jl.codes.pooled(jl.codes.one_layer, 0), "grid=0"), (lambda: jl.codes.low_rank(8, rank=0), "rank=0")],
)
def test_bad_codes(make, name):
    with pytest.raises(ValueError, match=name) as error:
        make()
    says(error, name, "at least 1")


@every_rule
def test_network_with_one_layer(name):
    net = jl.models.mlp((), classes=3)
    if name == "bp":  # a linear classifier is none of the others' business
        jl.rules.bp(net, ADAM)
        return
    with pytest.raises(ValueError, match="one layer") as error:
        jl.rules.ALL[name](net, ADAM)
    says(error, "net", name, "hidden=(256,)")


@every_rule
def test_bad_network_and_optimizer(name):
    make = jl.rules.ALL[name]
    with pytest.raises(TypeError) as error:
        make(nn.Dense(3), ADAM)
    says(error, "net", "jl.models", name)
    with pytest.raises(TypeError) as error:
        make(jl.Network((jnp.tanh,), jl.layers.Head(3)), ADAM)
    says(error, "net.layers[0]", "Flax module")
    with pytest.raises(TypeError) as error:
        make(jl.Network(jl.layers.dense(4), jl.layers.Head(3)), ADAM)
    says(error, "net.blocks", "tuple")
    with pytest.raises(TypeError) as error:
        make(NET._replace(loss=optax.huber_loss), ADAM)
    says(error, "loss=<function huber_loss", "must be a jl.Loss, such as jl.Loss(value=…, output=…)")
    with pytest.raises(TypeError) as error:
        make(NET, 1e-3)
    says(error, "tx=0.001", "optax.adam")
    with pytest.raises(TypeError, match="call it as") as error:
        make(NET)
    says(error, name, "tx")


@every_rule
@pytest.mark.parametrize(
    "tx", [optax.sgd(-0.1), optax.adam(-1e-3), optax.sgd(float("nan"))], ids=["sgd", "adam", "nan"]
)
def test_negative_rate(name, tx):
    with pytest.raises(ValueError, match="negative") as error:
        jl.rules.ALL[name](NET, tx)
    says(error, "tx", "a positive one")


@every_rule
def test_unknown_setting(name):
    with pytest.raises(TypeError) as error:
        jl.rules.ALL[name](NET, ADAM, frosen={0})
    says(error, name, "frosen={0}", "did you mean frozen?")
    with pytest.raises(TypeError) as error:
        jl.rules.ALL[name](NET, ADAM, qqq=1)
    says(error, "qqq=1", "choose from", "frozen")


BAD_SETTINGS = [
    ("bp", {"frozen": {4}}, ValueError, ["frozen={4}", "layer 4", "0 to 3"]),
    ("bp", {"frozen": 0}, TypeError, ["frozen=0", "frozen={0, 1}"]),
    ("bp", {"frozen": None}, TypeError, ["frozen=None", "set"]),
    ("bp", {"frozen": {True}}, TypeError, ["frozen={True}", "set"]),
    ("al", {"bridge": nn.Dense(8)}, TypeError, ["bridge=Dense", "must be a function, such as jl.codes.hidden_layer"]),
    ("al", {"label_loss": "cross_entropy"}, TypeError, ["label_loss='cross_entropy'", "jl.Loss"]),
    ("al", {"autoencoder_tx": optax.sgd(-1.0)}, ValueError, ["autoencoder_tx", "negative"]),
    ("al", {"components": 4}, ValueError, ["components=4", "number of blocks, 3", "fewer"]),
    ("al", {"components": 0}, ValueError, ["components=0", "at least 1"]),
    ("al", {"components": (1, 1)}, ValueError, ["(1, 1)", "2 blocks", "3"]),
    ("al", {"width": (5, 5)}, ValueError, ["width=(5, 5)", "3 components"]),
    ("al", {"codes": "paper"}, TypeError, ["codes='paper'", "jl.codes.paper"]),
    ("al", {"by_class": 1}, TypeError, ["by_class=1", "True or False"]),
    ("al", {"width": -1}, ValueError, ["width=-1", "at least 1"]),
    ("al", {"width": 2.5}, TypeError, ["width=2.5", "whole number"]),
    ("al", {"width": "64"}, TypeError, ["width='64'", "whole number"]),
    ("tp", {"noise": -0.1}, ValueError, ["noise=-0.1", "zero or more"]),
    ("tp", {"noise": "big"}, TypeError, ["noise='big'", "number"]),
    ("tp", {"alternate": 0}, ValueError, ["alternate=0", "at least 1"]),
    ("tp", {"inverses": {0: nn.Dense(4)}}, ValueError, ["inverses={0", "[1, 2, 3]"]),
    ("tp", {"inverses": [nn.Dense(4)]}, TypeError, ["inverses=[Dense", "dict"]),
    ("dtp", {"alpha": 0.0}, ValueError, ["alpha=0.0", "more than zero"]),
    ("dtp", {"hybrid": -0.1}, ValueError, ["hybrid=-0.1", "from 0 to 1"]),
    ("dtp", {"hybrid": 1.5}, ValueError, ["hybrid=1.5", "from 0 to 1"]),
    ("dtp", {"inverse_tx": optax.sgd(-1.0)}, ValueError, ["inverse_tx", "negative"]),
    ("dtp", {"inverses": {3: nn.Dense(4)}}, ValueError, ["inverses={3", "[1, 2]"]),
    ("ao_sdtp", {"auxiliary": 0}, ValueError, ["auxiliary=0", "at least 1"]),
    ("kp", {"decay": -1e-6}, ValueError, ["decay=-1e-06", "zero or more"]),
    ("kp", {"feedback_decay": float("nan")}, ValueError, ["feedback_decay=nan"]),
    ("wm", {"mirror_rate": 1.0}, ValueError, ["mirror_rate=1.0", "less than one"]),
    ("wm", {"mirror_decay": -0.1}, ValueError, ["mirror_decay=-0.1", "zero or more"]),
    ("brsf", {"feedback_init": 3.0}, TypeError, ["feedback_init=3.0", "initializer"]),
    ("kp", {"feedback_tx": optax.MultiSteps(ADAM, 2)}, TypeError, ["feedback_tx=", "add .gradient_transformation()"]),
    ("kp", {"feedback_tx": optax.sgd(-1.0)}, ValueError, ["feedback_tx", "negative"]),
    ("tp", {"noise_preserving": "no"}, TypeError, ["noise_preserving='no'", "True or False"]),
    ("fa", {"feedback_init": "he"}, TypeError, ["feedback_init='he'", "he_normal()"]),
    ("dfa", {"feedback_init": nn.initializers.he_normal}, TypeError, ["feedback_init=", "he_normal()"]),
    ("dkp", {"decay": 1.0}, ValueError, ["decay=1.0", "less than one"]),
    ("dkp", {"decay": True}, TypeError, ["decay=True", "number"]),
    ("predsim", {"beta": 1.5}, ValueError, ["beta=1.5", "from 0 to 1"]),
    ("dgl", {"components": 4}, ValueError, ["components=4", "number of blocks, 3", "fewer"]),
    ("dgl", {"hidden": -1}, ValueError, ["hidden=-1", "zero or more"]),
    ("scpl", {"temperature": -1.0}, ValueError, ["temperature=-1.0", "more than zero"]),
    ("scpl", {"width": 0}, ValueError, ["width=0", "at least 1"]),
    ("ff", {"threshold": 0.0}, ValueError, ["threshold=0.0", "more than zero"]),
    ("predsim", {"inputs": 0}, ValueError, ["inputs=0", "at least 1"]),
    ("dkp", {"feedback_tx": "sgd"}, TypeError, ["feedback_tx='sgd'", "optax"]),
]


@pytest.mark.parametrize(
    ("name", "settings", "kind", "words"), BAD_SETTINGS, ids=[f"{bad[0]} {bad[3][0]}" for bad in BAD_SETTINGS]
)
def test_bad_setting(name, settings, kind, words):
    with pytest.raises(kind) as error:
        jl.rules.ALL[name](NET, ADAM, **settings)
    says(error, *words)


class Plain(nn.Module):
    """A block with weights that no linear module of Flax holds."""

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(x @ self.param("matrix", nn.initializers.he_normal(), (x.shape[-1], 5)))


@pytest.mark.parametrize("name", ["fa", "kp", "usf", "brsf", "frsf", "wm"])
def test_weights_that_feedback_alignment_cannot_carry_an_error_through(name):
    net = jl.Network((jl.layers.dense(7), Plain()), jl.layers.Head(3))
    with pytest.raises(ValueError, match="matrix") as error:
        jax.eval_shape(jl.rules.ALL[name](net, ADAM).init, jax.random.key(0), (X, Y))
    says(error, "net.layers[1]", "Dense")


@pytest.mark.parametrize("name", ["dtp", "ao_sdtp"])
def test_blocks_without_an_inverse(name):
    net = jl.Network((jl.layers.dense(7), Plain(), jl.layers.dense(6)), jl.layers.Head(3))
    with pytest.raises(ValueError, match="inverse") as error:
        jax.eval_shape(jl.rules.ALL[name](net, ADAM).init, jax.random.key(0), (X, Y))
    says(error, "net.layers[1]", "Plain", "inverses={1")
    rule = jl.rules.ALL[name](net, ADAM, inverses={1: nn.Dense(7)})
    jax.eval_shape(rule.update, jax.eval_shape(rule.init, jax.random.key(0), (X, Y)), (X, Y))
    with pytest.raises(ValueError, match="shape") as error:
        jax.eval_shape(jl.rules.ALL[name](net, ADAM, inverses={1: nn.Dense(8)}).init, jax.random.key(0), (X, Y))
    says(error, "inverses[1]=Dense", "(8,)", "(7,)")


def test_pooling_has_no_inverse():
    net = jl.Network((jl.layers.conv(3), jl.layers.conv(3, pool=2), jl.layers.dense(5)), jl.layers.Head(3))
    with pytest.raises(ValueError, match="pool=2") as error:
        jax.eval_shape(jl.rules.sdtp(net, ADAM).init, jax.random.key(0), (jnp.ones((8, 4, 4, 1)), Y))
    says(error, "stride", "inverses")


def test_codes_by_class_need_labels():
    rule = jl.rules.al(NET, ADAM, by_class=True)
    x, y = make_batch(NET)
    soft = 0.9 * y + 0.1 / 3
    with pytest.raises(ValueError, match="one-hot"):
        rule.init(jax.random.key(0), (x, soft))
    step, params = jax.jit(rule.step), drawn(rule, (x, y))
    with pytest.raises(ValueError, match="one-hot"):
        rule.update(params, (x, soft))
    # A compiled program cannot see the labels.
    assert jnp.isfinite(step(params, (x, y))[1].losses).all() and jnp.isnan(step(params, (x, soft))[1].losses).all()
    with pytest.raises(ValueError, match="real targets"):
        jl.rules.al(NET._replace(loss=jl.squared_error), ADAM, by_class=True)


@pytest.mark.parametrize(("value", "shape"), [(jnp.mean, "()"), (jnp.abs, "(8, 3)")])
def test_a_loss_that_is_not_one_number_for_each_example(value, shape):
    loss = jl.Loss(lambda scores, y: value(scores - y), lambda scores: scores)
    rule = jl.rules.bp(NET._replace(loss=loss), ADAM)
    with pytest.raises(ValueError, match=r"^net\.loss: value") as error:
        rule.init(jax.random.key(0), (X, Y))
    says(error, f"of shape {shape} for 8 examples", "(B,)", "jnp.mean(…, axis=-1)")


TWICE = jl.cross_entropy._replace(value=lambda scores, y: 2 * jl.cross_entropy.value(scores, y))


def test_a_loss_of_ones_own_can_be_of_classes():
    net = NET._replace(loss=TWICE)
    assert jl.rules.scpl(net, ADAM).init(jax.random.key(0), make_batch(net)).components


@pytest.mark.parametrize("name", ["al", "ff"])
def test_a_loss_of_ones_own_that_nothing_learns_from(name):
    with pytest.warns(UserWarning, match=rf"^net\.loss is a loss of your own, but {name} does not learn") as warned:
        rule = jl.rules.ALL[name](NET._replace(loss=TWICE), ADAM)
    assert warned[0].filename == __file__
    usual, (_, params) = jl.rules.ALL[name](NET, ADAM), outline(name)
    one, other = (str(jax.make_jaxpr(made.update)(params, (X, Y))) for made in (rule, usual))
    assert one == other  # the same program


@pytest.mark.parametrize(
    ("name", "net", "words"),
    [
        ("ff", NET._replace(loss=jl.squared_error), ["real targets", "jl.rules.drtp"]),
        ("scpl", NET._replace(loss=jl.squared_error), ["real targets", "jl.rules.drtp"]),
        ("ff", NETS["transformer"], ["token ids", "jl.rules.dgl"]),
    ],
)
def test_networks_without_classes_or_without_a_place_for_a_label(name, net, words):
    with pytest.raises(ValueError, match=r"^net") as error:
        jl.rules.ALL[name](net, ADAM)
    says(error, name, *words)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (NETS["transformer"], ["net takes token ids", "jl.rules.dfa"]),
        (
            jl.Network((jl.layers.conv(3), jl.layers.conv(3, pool=2)), jl.layers.Head(3)),
            ["net.layers[1]", "pool_input"],
        ),
        (jl.Network((jl.layers.Residual(4),), jl.layers.Head(3)), ["net.layers[0] is Residual", "one linear map"]),
        (jl.Network((jl.sequences.Recurrent(nn.LSTMCell(3)),), jl.sequences.Readout(3)), ["is Recurrent"]),
    ],
)
def test_blocks_whose_change_is_not_that_of_one_linear_map(net, words):
    x = jnp.ones((8, 4, 4)) if "Recurrent" in words[0] else jnp.ones((8, 4, 4, 1))
    with pytest.raises(ValueError, match=r"^net") as error:
        jax.eval_shape(jl.rules.pepita(net, ADAM).init, jax.random.key(0), (x, Y))
    says(error, "pepita", *words)


def test_bridge_with_batch_norm():
    rule = jl.rules.al(NET, ADAM, bridge=lambda width: jl.layers.dense(width, norm=True))
    with pytest.raises(ValueError, match="bridge") as error:
        rule.init(jax.random.key(0), (X, Y))
    says(error, "batch_stats", "bridge")


def test_diagnostics_of_the_wrong_rule_or_too_few_examples():
    rule = jl.rules.bp(NET, ADAM)
    params = rule.init(jax.random.key(0), (X, Y))
    with pytest.raises(ValueError, match="feedback") as error:
        jl.diagnostics.feedback_alignment(rule, params, X)
    says(error, "rule", "jl.rules.dfa")
    rule = jl.rules.pepita(NET, ADAM)  # its feedback leads to the input
    with pytest.raises(ValueError, match="feedback"):
        jl.diagnostics.feedback_alignment(rule, rule.init(jax.random.key(0), (X, Y)), X)
    with pytest.raises(ValueError, match="classes") as error:
        jl.diagnostics.class_distances(X[:1], Y[:1])
    says(error, "y", "two classes")
    with pytest.raises(TypeError, match=r"^x=\[1\.0\] is not an array") as error:
        jl.diagnostics.feedback_alignment(rule, rule.init(jax.random.key(0), (X, Y)), [1.0])


def test_errors_are_raised_under_jit_too():
    rule = jl.rules.dfa(NET, ADAM)
    params = rule.init(jax.random.key(0), (X, Y))
    with pytest.raises(TypeError, match="one_hot"):
        jax.jit(rule.update)(params, (X, jnp.arange(8)))


def test_a_rate_that_is_mapped_over_is_not_judged():
    """A search maps over rates: they are tracers when the rule is made."""

    def run(rate, noise):
        rule = jl.rules.sdtp(NET, optax.sgd(rate), noise=noise)
        return rule.update(rule.init(jax.random.key(0), (X, Y)), (X, Y))

    params = jax.jit(jax.vmap(run))(jnp.array([0.1, 0.2]), jnp.array([0.0, 0.1]))
    assert params.components[0].count.shape == (2,)


CONVOLUTIONAL = {
    "conv": jl.Network((jl.layers.conv(4), jl.layers.dense(8)), jl.layers.Head(3)),
    "local": jl.Network((jl.layers.local(4, stride=2), jl.layers.dense(8)), jl.layers.Head(3)),
    "residual": jl.Network((jl.layers.Residual(4),), jl.layers.Head(3, average=True)),
}


@pytest.mark.parametrize("net", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(8, 6, 6), (8, 36)])
def test_images_without_their_channels(net, shape):
    with pytest.raises(ValueError, match="channels") as error:
        jl.rules.bp(CONVOLUTIONAL[net], ADAM).init(jax.random.key(0), (jnp.ones(shape), Y))
    says(error, str(shape), "x[..., None]")


@pytest.mark.parametrize("head", [nn.Dense(3), jl.layers.Head(3)])
def test_images_that_are_not_flattened(head):
    x = jnp.ones((8, 6, 6, 1))
    rule = jl.rules.bp(jl.Network((nn.Dense(5),), head), ADAM)
    if isinstance(head, jl.layers.Head):
        rule.init(jax.random.key(0), (x, Y))
        return
    with pytest.raises(ValueError, match="units") as error:
        rule.init(jax.random.key(0), (x, Y))
    says(error, "(6, 6, 3)", "axes of the image", "jl.layers.dense and jl.layers.Head")


class Mixing(nn.Module):
    """A layer that has the examples of a batch added up."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(x).sum(0, keepdims=True)


def test_a_layer_that_mixes_the_examples():
    with pytest.raises(ValueError, match="mixes") as error:
        jl.rules.bp(jl.Network((Mixing(),), jl.layers.Head(3)), ADAM).init(jax.random.key(0), (X, Y))
    says(error, "8 examples", "(1, 3)")


class Returning(nn.Module):
    what: str

    @nn.compact
    def __call__(self, x):
        a = nn.Dense(5)(x)
        return {"tuple": (a, a), "None": None, "scalar": a.sum(), "row": a.sum(-1)}[self.what]


@pytest.mark.parametrize(
    ("what", "words"),
    [("tuple", "a tuple"), ("None", "a NoneType"), ("scalar", "of shape ()"), ("row", "of shape (")],
)
def test_a_layer_that_does_not_return_rows(what, words):
    with pytest.raises(TypeError, match=r"^Returning returns") as error:
        jl.rules.al(jl.Network((Returning(what),), jl.layers.Head(3)), ADAM).init(jax.random.key(0), (X, Y))
    says(error, words, "one array (B, …)", "wrap it")


class Noisy(nn.Module):
    name_of_key: str

    @nn.compact
    def __call__(self, x, train=False):
        a = nn.Dense(5)(x)
        return a + jax.random.normal(self.make_rng(self.name_of_key), a.shape) if train else a


def test_a_layer_gets_a_random_key_in_training_by_one_name():
    rule = jl.rules.al(jl.Network((Noisy("dropout"),), jl.layers.Head(3)), ADAM)
    assert jax.eval_shape(rule.update, jax.eval_shape(rule.init, jax.random.key(0), (X, Y)), (X, Y)).components
    rule = jl.rules.al(jl.Network((Noisy("noise"),), jl.layers.Head(3)), ADAM)
    with pytest.raises(ValueError, match=r"^Noisy asks for a random key") as error:
        jax.eval_shape(rule.update, jax.eval_shape(rule.init, jax.random.key(0), (X, Y)), (X, Y))
    says(error, '"noise"', "self.make_rng('dropout')")


class Counts(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(5)(x))


def test_a_layer_changes_its_variables_in_training_only():
    rule = jl.rules.bp(jl.Network((Counts(),), jl.layers.Head(3)), ADAM)
    params = rule.init(jax.random.key(0), (X, Y))
    with pytest.raises(ValueError, match=r"^Counts changes its variables in prediction") as error:
        rule.predict(params, X)
    says(error, '"mean"', "a parameter train", "use_running_average=not train")


@pytest.mark.parametrize("tx", [optax.lbfgs(), optax.chain(ADAM, optax.contrib.reduce_on_plateau())])
def test_an_optimizer_that_asks_for_the_loss(tx):
    with pytest.raises(TypeError, match=r"^tx asks for more than gradients and weights") as error:
        jl.rules.bp(NET, tx)
    says(error, "'value'", "tx=optax.adam(1e-3)")


class Told(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(5)(x))


def test_a_module_that_would_never_learn_that_it_is_trained():
    with pytest.raises(ValueError, match="train") as error:
        jl.rules.bp(jl.Network((Told(),), jl.layers.Head(3)), ADAM).init(jax.random.key(0), (X, Y))
    says(error, "Told", "'deterministic'", "'train'")


class Mixed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return jl.layers.dense(5, dropout=0.5)(x)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Sequential([jl.layers.dense(5), jl.layers.dense(5, norm=True)]), ["'layers_1'", "nn.Sequential"]),
        (Mixed(), ["Block_0", "pass train on"]),
    ],
)
def test_a_layer_that_does_not_pass_on_that_it_is_trained(layer, words):
    with pytest.raises(ValueError, match="train") as error:
        jl.rules.bp(jl.Network((layer,), jl.layers.Head(3)), ADAM).init(jax.random.key(0), (X, Y))
    says(error, *words)


def test_a_layer_whose_parts_are_the_same_in_training_need_not_pass_it_on():
    layer = nn.Sequential([jl.layers.dense(5), jl.layers.dense(5)])
    jl.rules.bp(jl.Network((layer,), jl.layers.Head(3)), ADAM).init(jax.random.key(0), (X, Y))


def test_images_that_a_window_does_not_fit_into():
    with pytest.raises(ValueError, match="window") as error:
        jl.layers.max_pool(jnp.ones((8, 1, 4, 3)), 2)
    says(error, "(8, 1, 4, 3)", "2 by 2", "pooling")


def test_a_mask_of_a_role_that_is_no_name():
    with pytest.raises(ValueError, match="role=0"):
        jl.rules.bp(NET, ADAM).locality(0)


def test_predict_checks_what_it_is_given():
    rule = jl.rules.bp(NET, ADAM)
    params = rule.init(jax.random.key(0), (X, Y))
    assert rule.predict(params, X[:0]).shape == (0, 3)
    for x, word in (([1.0], "array"), ((X, Y), "array"), (X.astype(int), "floating"), (X.astype(jnp.uint8), "floats")):
        with pytest.raises(TypeError, match=word):
            rule.predict(params, x)


@of_each_kind
def test_parameters_of_another_rule_or_none(name):
    rule = jl.rules.ALL[name](NET, ADAM)
    other = jl.rules.dfa(NET, ADAM) if name in ("bp", "al") else jl.rules.bp(NET, ADAM)
    params = jax.eval_shape(other.init, jax.random.key(0), (X, Y))
    for call in (lambda: rule.update(params, (X, Y)), lambda: rule.predict(params, X)):
        with pytest.raises(ValueError, match="components") as error:
            call()
        says(error, "params", "init")
    with pytest.raises(TypeError, match="params"):
        rule.update((X, Y), params)
    with pytest.raises(TypeError, match="random key"):
        rule.init(0, (X, Y))


@pytest.mark.parametrize("setting", [{"init": "he"}, {"init": nn.initializers.he_normal()}, {"activation": "relu"}])
@pytest.mark.parametrize("name", ["mlp", "vanilla_cnn", "vgg"])
def test_what_models_are_made_of(name, setting):
    words = "without parentheses" if "init" in setting else "jax.nn.relu"
    with pytest.raises(TypeError, match=words) as error:
        jl.models.ALL[name](**setting)
    says(error, next(iter(setting)))


def test_a_batch_may_be_a_list():
    rule = jl.rules.dfa(NET, ADAM)
    found, wanted = (rule.init(jax.random.key(0), batch) for batch in ([X, Y], (X, Y)))
    jax.tree.map(np.testing.assert_array_equal, found.components[0].weights, wanted.components[0].weights)


def test_turns_of_a_rule_that_has_none():
    with pytest.raises(ValueError, match="alternate=0: must be at least 1"):
        jl.make_rule(NET, (), {"inverse": ADAM}, lambda components, batch, keys: (), locality={}, alternate=0)
    with pytest.raises(ValueError, match="alternate=3"):
        jl.make_rule(NET, (), {}, locality={}, alternate=3)
    with pytest.raises(ValueError, match="'inverse'"):
        jl.make_rule(NET, (), {"forward": ADAM}, lambda components, batch, keys: (), locality={}, alternate=3)


def made(net, tx=None, rule=jl.rules.dfa):
    """A rule, and its parameters."""
    rule = rule(net, tx or optax.adam(1e-3))
    return rule, rule.init(jax.random.key(0), OUTLINE_BATCH)


OUTLINE_BATCH = jnp.ones((4, 6)), jax.nn.one_hot(jnp.arange(4) % 3, 3)
NARROW, WIDE, NORM = (jl.models.mlp((width,), 3, norm=norm) for width, norm in ((4, False), (5, False), (4, True)))


def change_weights(params, change):
    first, *others = params.components
    weights = dict(first.weights)
    change(weights)
    return params.replace(components=(first.replace(weights=weights), *others))


STRANGERS = {
    "width": (lambda: made(WIDE)[1], r"weights\['feedback'\] has shape \(3, 5\), but must have \(3, 4\)"),
    "norm": (
        lambda: made(NORM)[1],
        r"hold components\[0\].weights\['forward'\]\[0\]\['norm'\]\['bias'\], of shape \(4,\)",
    ),
    "optimizer": (
        lambda: made(NARROW, optax.sgd(0.1))[1],
        r"lack components\[0\].opt\['forward'\]\[0\].count, of shape \(\)",
    ),
    "rule": (lambda: made(NARROW, rule=jl.rules.dkp)[1], r"lack components\[0\].opt"),
    "role": (
        lambda: change_weights(made(NARROW)[1], lambda weights: weights.update(feedbacks=jnp.zeros((3, 4)))),
        r"hold components\[0\].weights\['feedbacks'\]",
    ),
    "no B": (
        lambda: change_weights(made(NARROW)[1], lambda weights: weights.pop("feedback")),
        r"lack components\[0\].weights\['feedback'\], of shape \(3, 4\)",
    ),
    "members": (
        lambda: jl.ensemble(made(NARROW)[0], 2).init(jax.random.key(0), OUTLINE_BATCH),
        r"weights\['feedback'\] has shape \(2, 3, 4\)",
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_parameters_of_another_rule_are_recognised_by_their_arrays(stranger):
    make_params, message = STRANGERS[stranger]
    params = make_params()
    rule, own = made(NARROW)
    x, _ = OUTLINE_BATCH
    for use in (rule.update, rule.step, rule.lessons, jax.jit(rule.update)):
        with pytest.raises(ValueError, match=message):
            use(params, OUTLINE_BATCH)
    with pytest.raises(ValueError, match="call this rule's init"):
        rule.predict(params, x)
    with pytest.raises(ValueError, match="call this rule's init"):  # also before the rule has made any
        made(NARROW)[0].predict(params, x)
    rule.predict(own, x)


def test_parameters_without_members_are_not_an_ensembles():
    rule, own = made(NARROW)
    many = jl.ensemble(rule, 3)
    for params in (own, jl.ensemble(rule, 2).init(jax.random.key(0), OUTLINE_BATCH)):
        for use in (many.update, lambda params, batch: many.predict(params, batch[0])):
            with pytest.raises(ValueError, match="first axis of every array must be the 3 members"):
                use(params, OUTLINE_BATCH)
