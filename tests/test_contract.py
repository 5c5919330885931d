"""The contract, for every rule: purity, locality, dtypes, compilation, what lives in params."""

import inspect
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    FAMILIES,
    FORWARD_ONLY,
    HEADLESS,
    NETS,
    RULES,
    SEQUENCES,
    by_case,
    by_rule,
    drawn,
    make_batch,
    plain,
    same,
    start,
)

import jaxlocal as jl

every_rule = by_rule(RULES)
# The rules of a file handle a net in the same way, except that `wm` draws noise in the shape of each layer's input.
KINDS = *FAMILIES, "wm"
CASES = [
    *((name, "norm dropout") for name in RULES),
    *((name, "conv") for name in ("bp", "al", "dtp", "predsim")),
    *((name, "lstm") for name in ("al", "wm")),
    *((name, "transformer") for name in ("dkp", "predsim", "scpl")),
    *((name, "tagger") for name in ("al", "dfa")),
]
SCANNED = {*((name, "conv") for name in KINDS), *(case for case in CASES if case[1] != "norm dropout")}
QUICK = (("dkp", "transformer"),)
every_case = by_case(CASES, QUICK)


@every_case
def test_step_compiles_once(name, net):
    rule, _, step, params, batch = start(name, NETS[net])
    first, info = step(params, batch)
    step(first, make_batch(rule.net, seed=1))
    assert step._cache_size() == 1
    assert info.losses.shape == (len(params.components),)
    np.testing.assert_allclose(info.losses, [sum(terms.values()) for terms in info.terms], rtol=1e-6)
    assert jax.eval_shape(rule.predict, params, batch[0]).shape == batch[1].shape


# Without jit every operation on every shape is a program of its own: all layers have four units, as the inputs.
FEW_SHAPES = jl.models.mlp((4, 4), classes=3, norm=True, dropout=0.3)


@by_rule(["bp", "al", "dtp", "ff"], quick=("bp",))
def test_without_jit_the_numbers_are_the_same(name):
    rule, init, step, params, batch = start(name, FEW_SHAPES)
    first = init(jax.random.key(0), batch)
    compiled = jax.jit(init)(jax.random.key(0), batch)
    assert jax.tree.structure(compiled) == jax.tree.structure(first)
    for a, b in zip(jax.tree.leaves(plain(compiled)), jax.tree.leaves(plain(first)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)  # the compiler may round otherwise
    jitted, _ = step(params, batch)
    before = plain(params)
    after = rule.update(params, batch)
    assert same(before, plain(params))  # its dicts could be changed in place
    # The compiler may reorder sums; this allows about a hundred roundings.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), plain(jitted), plain(after))


@by_case(sorted(SCANNED), QUICK)
def test_a_scan_finds_no_other_types_no_float64_and_no_weak_type(name, net):
    """A scan raises an error if what it carries changes shape, dtype or weak type. With float64 as JAX's default."""
    rule, batch = RULES[name](NETS[net], optax.adamw(1e-3)), make_batch(NETS[net])
    batches = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), batch)
    with jax.enable_x64(True):
        params = jax.eval_shape(rule.init, jax.random.key(0), batch)
        after, info = jax.eval_shape(partial(jax.lax.scan, rule.step), params, batches)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
    for leaf in jax.tree.leaves((params, after, info)):
        assert leaf.dtype in (jnp.float32, jnp.int32) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        assert not leaf.weak_type
    assert info.losses.shape == (3, len(after.components))


@every_rule
def test_no_callback_to_the_host(name):
    rule, _, _, params, batch = start(name, NETS["norm dropout"])
    assert "callback" not in str(jax.make_jaxpr(rule.step)(params, batch))


@every_rule
def test_predict_can_be_exported_for_batches_of_any_size(name):
    rule, _, _, params, (x, y) = start(name, NETS["norm dropout"])
    (batch,) = jax.export.symbolic_shape("batch")
    anything = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    assert jax.eval_shape(rule.predict, params, anything).shape == (batch, y.shape[1])


@every_case
def test_predict_reads_exactly_the_effective_weights(name, net):
    rule, _, _, params, (x, _) = start(name, NETS[net])
    jaxpr = jax.make_jaxpr(rule.predict)(params, x).jaxpr
    used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    leaves = jax.tree.leaves(params)
    read = {i for i, v in enumerate(jaxpr.invars[: len(leaves)]) if id(v) in used}
    numbered = jax.tree.unflatten(jax.tree.structure(params), range(len(leaves)))
    stats = set(jax.tree.leaves([c.stats for c in numbered.components]))
    assert read - stats == set(jax.tree.leaves(rule.effective(numbered)))


def moved(step, before, after, batch):
    """For each component, whether a change of the parameters changes what it learns from a batch."""

    def updates(params):
        new, _ = step(params, batch)
        return [
            {role: jax.tree.map(np.subtract, n.weights[role], o.weights[role]) for role in o.opt}
            for n, o in zip(plain(new).components, plain(params).components, strict=True)
        ]

    pairs = zip(updates(before), updates(after), strict=True)
    # The difference of two close numbers contains their rounding, about 1e-7; a real dependence is far larger.
    return np.array([not close(*pair, tolerance=1e-6) for pair in pairs])


def close(a, b, tolerance):
    return all(np.allclose(x, y, 0, tolerance) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def perturbed(params, j, role):
    """The parameters with component j's weights of one role changed by more than a tenth."""
    component = params.components[j]
    noise = np.random.default_rng(j)
    weights = jax.tree.map(
        lambda w: np.float32(1.2) * w + np.float32(0.1) * noise.normal(size=w.shape).astype(np.float32),
        plain(component.weights[role]),
    )
    changed = component.replace(weights=component.weights | {role: weights})
    return params.replace(components=(*params.components[:j], changed, *params.components[j + 1 :]))


# An embedding is linear in its weights, so the update of it that drtp makes does not read them.
@by_case([case for case in CASES if case[0] != "drtp" or case[1] not in SEQUENCES], QUICK)
def test_locality_is_what_the_rule_declares(name, net):
    """Change one component's weights: exactly the components that the rule declares learn something else."""
    rule, _, step, params, batch = start(name, NETS[net])
    for role in {role for component in params.components for role in component.weights}:
        declared = rule.locality(role)
        for j, component in enumerate(params.components):
            if jax.tree.leaves(component.weights.get(role)):
                found = moved(step, params, perturbed(params, j, role), batch)
                np.testing.assert_array_equal(found, declared[:, j], err_msg=f"{role} of component {j}")


@by_rule([*FORWARD_ONLY, "layer_local"])
def test_no_gradient_enters_a_component_from_outside(name):
    """Even a gradient through a component's whole step treats the message as a constant."""
    rule, _, _, params, (x, y) = start(name, NETS["norm dropout"])

    def learnt(x):
        component, _, _ = rule.learn[0](params.components[0], (x, y))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(component.weights))

    assert np.all(jax.jit(jax.grad(learnt))(x) == 0)


# `Descent` freezes for all of them; two of the quick ones change moves, or take turns, in ways of their own.
@by_rule([*(name for name in FAMILIES if name in jl.rules.ALL), "tp", "dfa"], quick=("bp", "al", "tp", "kp", "dfa"))
def test_frozen_layers_keep_their_weights_and_nothing_else_does(name):
    net = NETS["norm dropout"]
    batch = make_batch(net)
    rule = RULES[name](net, optax.adam(1e-2), frozen={0, -3})
    before = drawn(rule, batch)
    after = jax.jit(rule.update)(before, batch)
    changed = [
        not same(old, new)
        for old, new in zip(jl.rule.forward_weights(before), jl.rule.forward_weights(after), strict=True)
    ]
    assert changed == ([False, False, True] if name in HEADLESS else [False, False, True, True])  # the head comes last
    stats = zip(jl.rule.forward_stats(before), jl.rule.forward_stats(after), strict=True)
    assert all(not same(old, new) for old, new in stats if old)


@pytest.mark.parametrize("name", jl.rules.ALL)
def test_every_setting_is_documented(name):
    text = inspect.getdoc(RULES[name])
    for setting in inspect.signature(RULES[name]).parameters:
        assert f"\n  {setting}: " in text
    for section in ("Args:", "Returns:", "Example:", "Reference:", ".. math::"):
        assert section in text


def test_a_rule_is_a_static_argument_even_if_its_modules_hold_lists():
    net = jl.Network((nn.Sequential([nn.Dense(5), jnp.tanh]),), nn.Dense(3))
    batch = make_batch(NETS["dense"])
    rule, params = jl.rules.dfa(net, optax.sgd(0.1)), drawn(jl.rules.dfa(net, optax.sgd(0.1)), batch)
    predict = jax.jit(lambda rule, params: rule.predict(params, batch[0]), static_argnums=0)
    for _ in range(2):
        predict(rule, params)
    assert predict._cache_size() == 1
    assert rule == rule._replace()
    other = rule._replace(predict=lambda params, x, key=None: jnp.zeros(()))
    assert rule != other and predict(rule, params).shape and not predict(other, params).shape


def test_all_lists_every_rule():
    expected = ["bp", "al", "tp", "dtp", "sdtp", "ao_sdtp", "fa", "kp", "usf", "brsf", "frsf", "wm"]
    expected += ["dfa", "drtp", "dkp", "pepita", "predsim", "dgl", "scpl", "ff"]
    assert list(jl.rules.ALL) == expected
    assert all(getattr(jl.rules, name) is jl.rules.ALL[name] for name in expected)
