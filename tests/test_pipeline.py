"""The pipeline gives the results of the sequential rule: on any number of devices, for any cut, drained at any time."""

import itertools
import json
from collections import OrderedDict
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FORWARD_ONLY, RULES, drawn, plain, same, slow, token_ids

import jaxlocal as jl
from jaxlocal import author, costs
from jaxlocal.layers import Residual, dense, local
from jaxlocal.network import vocabulary
from jaxlocal.pipeline.packing import unpack
from jaxlocal.sequences import Convolution, Embedding, Encoder, Readout, Recurrent, Steps, sinusoidal

BATCHES = 6
adam = optax.adam(1e-2)
mesh = jl.pipeline.mesh


def al(net, **settings):
    return jl.rules.al(net, adam, **settings)


MIXED = jl.Network((Residual(3, 2), local(4, stride=2), dense(5, dropout=0.3)), jl.layers.Head(3))
ALIKE = jl.models.mlp((4,) * 6, classes=4)

# Every kind of component; the dense one has dropout and batch norm.
RULE = {
    "dense": al(jl.models.mlp((7, 6, 6), classes=3, norm=True, dropout=0.3)),
    "mixed": al(MIXED),
    "alike": jl.rules.al(ALIKE, optax.sgd(0.1, momentum=0.9), width=4),  # as wide as layers, inputs and targets
    "drtp": RULES["drtp"](jl.models.mlp((7, 6), classes=3), adam),
    "layer_local": RULES["layer_local"](jl.models.mlp((7, 6), classes=3), adam),
    "predsim": RULES["predsim"](jl.models.mlp((7, 6), classes=3), adam),
    "dgl": RULES["dgl"](jl.models.mlp((7, 6), classes=3), adam),
    "scpl": RULES["scpl"](jl.models.mlp((7, 6), classes=3), adam),
    "ff": RULES["ff"](jl.models.mlp((7, 6), classes=3), adam),
    "one": al(jl.models.mlp((7,), classes=3)),
    # alike in all shapes, but the second component computes something else than the next two
    "shapes": RULES["drtp"](
        jl.Network(tuple(map(partial(dense, 4), (nn.relu, nn.tanh, nn.relu, nn.relu))), jl.layers.Head(3)), adam
    ),
}
# Blocks for sequences, in three components: token ids, and a series of real numbers.
SEQUENCES = {
    "transformer": al(jl.models.transformer_classifier(7, 3, features=4, heads=2, hidden=5, dropout=0.3)),
    "convolution": al(jl.Network((Embedding(7, 4), Convolution(5), Convolution(3, kernel=2)), Readout(3))),
    "series": al(jl.Network((Steps(4, sinusoidal), Recurrent(nn.GRUCell(3)), Encoder(1, 5)), Readout(3))),
}
RULE |= SEQUENCES


@cache
def batches(name):
    """The batches that a rule is trained on, (T, B, …)."""
    rng = np.random.default_rng(0)
    classes = 4 if name == "alike" else 3
    x = rng.normal(size=(BATCHES, 8, *{"mixed": (6, 6, 2), "series": (5, 2)}.get(name, (4,))))
    y = np.eye(classes)[rng.integers(classes, size=(BATCHES, 8))]
    if vocabulary(RULE[name].net):
        return jnp.asarray([token_ids(rng, 8) for _ in range(BATCHES)]), jnp.asarray(y, jnp.float32)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def batch(name, i):
    return jax.tree.map(lambda leaf: leaf[i], batches(name))


class Sequence(NamedTuple):
    """A sequential run: the parameters before and after each of the batches, and the infos."""

    params: list
    info: jl.Info


@cache
def sequential(name):
    rule = RULE[name]
    step = jax.jit(rule.step)
    params, infos = [drawn(rule, batch(name, 0))], []
    for i in range(BATCHES):
        after, info = step(params[-1], batch(name, i))
        params.append(after)
        infos.append(info)
    return Sequence(params, jax.tree.map(lambda *leaves: np.stack(leaves), *infos))


@cache
def pipeline(name, devices, stages=None, data=1):
    """Compiled once for all tests of a process."""
    axes = {"component": devices} | ({"data": data} if data > 1 else {})
    return jl.pipelined(RULE[name], jl.pipeline.mesh(**axes), stages=stages)


def start(name, pipe):
    """The start of the sequence, placed in a pipeline."""
    return pipe.place(sequential(name).params[0], batch(name, 0))


def ticks(name, pipe, params, numbers):
    for i in numbers:
        params = pipe.update(params, batch(name, i))
    return params


def broken(error, match):
    return pytest.raises(error, match=match)


def close(found, wanted, tolerance=1e-6):
    """The arrays agree to 1e-6 of their largest value."""
    for a, b in zip(jax.tree.leaves(plain(found)), jax.tree.leaves(plain(wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max(initial=0)))


CUTS = [
    ("dense", 2, None),
    ("dense", 3, None),
    ("alike", 6, None),
    ("shapes", 5, None),
    ("mixed", 2, (2, 1)),
    ("drtp", 1, None),
    ("drtp", 3, None),
    ("layer_local", 2, None),
    ("predsim", 3, None),
    ("dgl", 2, None),
    ("scpl", 3, None),
    ("ff", 2, None),
    ("one", 1, None),
]


def group(name):
    """One process compiles for all tests of a net."""
    return pytest.mark.xdist_group(f"pipeline {name}")


def cuts(quick, of=CUTS):
    """A test for every cut; those that are not among the quick ones are marked slow."""
    cases = [pytest.param(*cut, marks=[group(cut[0]), *([] if cut[:2] in quick else [pytest.mark.slow])]) for cut in of]
    return pytest.mark.parametrize(("name", "devices", "stages"), cases)


# Of the rules and nets that run in the same way one is quick; small random convolutions are in test_random_pipelines.
every_cut = cuts(quick=[("dense", 3), ("shapes", 5), ("drtp", 3), ("dgl", 2), ("ff", 2), ("one", 1)])


@cuts(quick=[("drtp", 3)], of=[("dense", 3, None), ("drtp", 3, None), ("mixed", 2, (2, 1))])
def test_init_makes_each_component_on_its_device_as_the_rule_does(name, devices, stages):
    pipe = pipeline(name, devices, stages)
    key, first = jax.random.key(0), batch(name, 0)
    assert same(pipe.init(key, first), pipe.place(jax.jit(RULE[name].init)(key, first), first))


@group("layer_local")
def test_a_loss_may_be_a_number():
    rule = RULE["layer_local"]

    def with_number(learn, component, message):
        component, message, lesson = learn(component, message)
        return component, message, lesson._replace(losses=lesson.losses | {"number": 2.0})

    numbered = rule._replace(learn=tuple(partial(with_number, learn) for learn in rule.learn))
    pipe = jl.pipelined(numbered, jl.pipeline.mesh(component=1))
    first = batch("layer_local", 0)
    _, info = pipe.step(pipe.place(sequential("layer_local").params[0], first), first)
    assert all(terms["number"] == 2 for terms in info.terms)


@every_cut
def test_ticks_and_a_drain_are_sequential_updates(name, devices, stages):
    """Weights, optimizer states, statistics, keys and counts are equal bit for bit, also for few batches."""
    pipe, wanted = pipeline(name, devices, stages), sequential(name).params
    params = start(name, pipe)
    assert same(pipe.drain(params), wanted[0])
    for i in range(BATCHES):
        params = pipe.update(params, batch(name, i))
        assert same(pipe.drain(params), wanted[i + 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=group(name)) for name in SEQUENCES])
def test_sequences_on_three_devices_bit_for_bit(name):
    """The messages hold masked sequences, of token ids with padding; dropout draws the same."""
    pipe, wanted = pipeline(name, 3), sequential(name).params
    params = start(name, pipe)
    params = ticks(name, pipe, params, range(3))
    assert same(pipe.drain(params), wanted[3])
    assert same(pipe.drain(ticks(name, pipe, params, range(3, BATCHES))), wanted[-1])


# How a batch is taken from the stack does not depend on what the components learn.
@cuts(quick=[("one", 1)], of=[cut for cut in CUTS if cut[0] in ("dense", "alike", "mixed", "one")])
def test_run_is_a_scan_of_the_rule_with_losses_by_batch(name, devices, stages):
    pipe, wanted = pipeline(name, devices, stages), sequential(name)
    params, info = pipe.run(start(name, pipe), batches(name))
    assert same(pipe.drain(params), wanted.params[-1])
    assert jax.tree.structure(info) == jax.tree.structure(wanted.info)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), info, wanted.info)


@pytest.mark.slow
@pytest.mark.xdist_group("pipeline dense")
def test_training_continues_after_a_drain_in_the_middle_and_on_other_devices():
    wanted = sequential("dense").params
    three, two = pipeline("dense", 3), pipeline("dense", 2)
    drained = three.drain(ticks("dense", three, start("dense", three), range(2)))
    again = two.place(drained, batch("dense", 0))
    assert same(two.drain(again), wanted[2])
    again = ticks("dense", two, again, range(2, 5))
    assert same(two.drain(again), wanted[5])
    assert same(three.place(two.drain(again), batch("dense", 0)), three.place(wanted[5], batch("dense", 0)))


@pytest.mark.xdist_group("pipeline dense")
def test_the_losses_leave_with_their_batch():
    pipe, wanted = pipeline("dense", 3), sequential("dense").info
    params = start("dense", pipe)
    for i in range(BATCHES + 2):
        params, info = pipe.step(params, batch("dense", i) if i < BATCHES else None)
        if i < 2:
            assert np.isnan(info.losses).all()
            assert all(np.isnan(value) for terms in info.terms for value in terms.values())
        else:
            np.testing.assert_allclose(info.losses, wanted.losses[i - 2], rtol=1e-6)
    assert np.isnan(pipe.step(params, None)[1].losses).all()


@pytest.mark.xdist_group("pipeline dense")
def test_ticks_without_a_batch_change_nothing():
    pipe, wanted = pipeline("dense", 3), sequential("dense").params
    params = start("dense", pipe)
    for i in (0, None, 1, None, None, 2):
        params = pipe.update(params, None if i is None else batch("dense", i))
    assert same(pipe.drain(params), wanted[3])


@pytest.mark.xdist_group("pipeline alike")
@pytest.mark.parametrize(("devices", "stages", "groups"), [(1, (1,) * 6, (1, 5)), slow(2, (1,) * 6, (1, 2, 3))])
def test_alike_stages_of_a_device_run_as_one(devices, stages, groups):
    """A batched operation may round its sums differently, so this is not bit for bit; also for few batches.

    The first component has the loss of the labels, and is not like the others.
    """
    pipe, wanted = pipeline("alike", devices, stages), sequential("alike")
    params = start("alike", pipe)
    assert tuple(len(group.stages) for own in params.layout.groups for group in own) == groups
    if devices == 1:  # a batch axis in front of each matrix product
        assert "dot_general[dimension_numbers=(([2], [1]), ([0], [0]))" in " ".join(
            str(jax.make_jaxpr(pipe.step)(params, batch("alike", 0))).split()
        )
    infos = []
    for i in (0, 1, 2, *[None] * 5):
        params, info = pipe.step(params, None if i is None else batch("alike", i))
        infos.append(info.losses)
    close(pipe.drain(params), wanted.params[3])
    np.testing.assert_allclose(infos[5:], wanted.info.losses[:3], rtol=1e-5)
    if devices > 1:  # it goes on, in one program
        params, info = pipe.run(params, jax.tree.map(lambda leaf: leaf[3:], batches("alike")))
        close(pipe.drain(params), wanted.params[-1])
        np.testing.assert_allclose(info.losses, wanted.info.losses[3:], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "devices", "teams"),
    [
        pytest.param("alike", 6, ((0,), (1, 2, 3, 4), (5,)), marks=group("alike")),
        pytest.param("shapes", 5, ((0,), (1,), (2, 3), (4,)), marks=group("shapes")),
        pytest.param("dense", 3, ((0,), (1,), (2,)), marks=group("dense")),
        pytest.param("one", 1, ((0,),), marks=group("one")),
    ],
)
def test_devices_that_do_the_same_are_a_team(name, devices, teams):
    """That they learn the same as the sequence is tested above."""
    assert start(name, pipeline(name, devices)).layout.teams == teams


def differing(kind, blocks=4, frozen=()):
    """A rule whose blocks have the same shapes, and differ in what is hard to see."""
    net = jl.models.mlp((4,) * blocks, classes=4)

    def init(block, more, key, message):
        weights, stats, a = jl.init_layer(block, key, message[0])
        return {"forward": (weights | more,)}, (stats,), (a, *message[1:])

    def teach(block, weights, stats, message, key, *, given=None):
        below = message[1] if kind == "input" and given else message[0]
        if kind in ("constant", "number"):
            below = below + given
        if kind == "type" and not isinstance(given, bool):
            below = below + 1
        if kind == "dict":
            for change in given.values():
                below = change(below)
        if kind == "callback":
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            below = below + jax.pure_callback(lambda: np.float32(given), shape)

        def objective(weights):
            a, new_stats = jl.apply_layer(block, weights["forward"][0], stats[0], below, key)
            losses = {"loss": jnp.mean(jnp.square(a - 1))}
            if kind == "order":
                losses = OrderedDict(z=losses["loss"], a=jnp.mean(a))
            return losses, (new_stats,), (a, a if kind == "input" else message[1], *message[2:])

        return jl.lesson_of(objective, weights)

    def slower(part, *args):
        lesson, message = part.teach(*args)
        return lesson._replace(grads=jax.tree.map(lambda grad: grad / (1 + part.layers[0]), lesson.grads)), message

    def part(number, block):
        tanh, double = ("tanh", jnp.tanh), ("double", lambda x: 2 * x)
        given = {
            "input": number % 2,
            "constant": jnp.full((8, 4), number / 10),
            "number": number / 10,
            "type": bool(number % 2) or number // 2,  # True equals 1
            "dict": dict([tanh, double] if number % 2 else [double, tanh]),
            "callback": number,
        }.get(kind)
        more = {"more": {}} if kind == "trees" and number % 2 else {}
        own_teach = partial(teach, block, given=given)
        if kind == "closure":
            own_teach = lambda *args: teach(block, *args)  # noqa: E731
        found = jl.Part((number,), partial(init, block, more), own_teach)
        return found._replace(teach=partial(slower, found)) if kind == "layers" else found

    parts = (*map(part, range(blocks), net.blocks), jl.head_part(net))
    locality = {"forward": jl.upward(len(parts))}
    return jl.make_rule(net, parts, {"forward": optax.sgd(0.1)}, locality=locality, frozen=frozen)


MIDDLE = {
    "nothing": [(1, 2, 3)],
    "closure": [(1, 2, 3)],  # each has a function of its own, with the same program
    "number": [(1,), (2,), (3,)],
    "layers": [(1,), (2,), (3,)],
    "type": [(1, 3), (2,)],
    "dict": [(1, 3), (2,)],
    "input": [(1, 3), (2,)],
    "constant": [(1,), (2,), (3,)],
    "callback": [(1,), (2,), (3,)],
    "trees": [(1, 3), (2,)],
    "order": [(1, 2, 3)],
}


@pytest.mark.parametrize("kind", MIDDLE)
def test_devices_are_a_team_only_if_they_do_the_same(kind):
    rule = differing(kind)
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=5))
    params = jax.jit(rule.init)(jax.random.key(0), batch("alike", 0))
    placed = pipe.place(params, batch("alike", 0))
    assert sorted(placed.layout.teams) == sorted([(0,), *MIDDLE[kind], (4,)])
    if kind not in ("nothing", "input", "order"):  # of the others the teams say it all
        return
    wanted, info = jax.lax.scan(rule.step, params, batches("alike"))
    placed, found = pipe.run(placed, batches("alike"))
    close(pipe.drain(placed), wanted)
    for here, there in zip(found.terms, info.terms, strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), dict(here), dict(there))


def test_stages_with_other_trees_are_no_group():
    rule = differing("trees")
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=1), stages=(1,) * 5)
    params = jax.jit(rule.init)(jax.random.key(0), batch("alike", 0))
    placed = pipe.place(params, batch("alike", 0))
    assert all(len(group.stages) == 1 for group in placed.layout.groups[0])
    close(pipe.drain(pipe.update(placed, batch("alike", 0))), jax.jit(rule.update)(params, batch("alike", 0)))


def test_stages_of_other_shapes_are_no_group():
    """The first block reads more numbers than the others, and is otherwise made like them."""
    pipe = jl.pipelined(differing("nothing"), jl.pipeline.mesh(component=1), stages=(1,) * 5)
    params = jax.eval_shape(pipe.init, jax.random.key(0), (jnp.ones((8, 5)), batch("alike", 0)[1]))
    assert [len(group.stages) for group in params.layout.groups[0]] == [1, 3, 1]


def test_every_component_of_a_stage_is_compared():
    """The stages are blocks 0, 1 and 2, 3 and 4, and block 5 with the head; block 4 is frozen."""
    pipe = jl.pipelined(differing("nothing", 6, frozen={4}), jl.pipeline.mesh(component=4), stages=(1, 2, 2, 2))
    params = jax.eval_shape(pipe.init, jax.random.key(0), batch("alike", 0))
    assert params.layout.teams == ((0,), (1,), (2,), (3,))


def test_steps_of_a_rule_may_be_wrapped():
    """Each step is wrapped, and does what its own number says."""
    rule = differing("nothing")

    def numbered(number, learn, component, message):
        component, (a, y), lesson = learn(component, message)
        return component, (a * number, y), lesson

    rule = rule._replace(learn=tuple(partial(numbered, i % 2, learn) for i, learn in enumerate(rule.learn)))
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=5))
    params = jax.eval_shape(pipe.init, jax.random.key(0), batch("alike", 0))
    assert sorted(params.layout.teams) == [(0,), (1, 3), (2,), (4,)]


@pytest.fixture
def traced(monkeypatch):
    """What is traced of components' steps: the layers of each."""
    found, check = [], author.checked_lesson

    def counted(part, component, lesson):
        found.append(part.layers)
        return check(part, component, lesson)

    monkeypatch.setattr(author, "checked_lesson", counted)
    return found


@pytest.mark.parametrize("precision", [lambda rule: rule, jl.mixed_precision], ids=["single", "mixed"])
@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_the_start_traces_each_kind_of_component_once(name, precision, traced):
    """There are two kinds: the first component of `al` and `ff`, the last one of the others, and all the rest."""
    rule = precision(RULES[name](jl.models.mlp((4,) * 5, classes=4), optax.sgd(0.1)))
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=1), stages=(1,) * len(rule.learn))
    jax.eval_shape(pipe.init, jax.random.key(0), batch("alike", 0))
    assert len(traced) == 2


def test_each_kind_of_component_is_measured_by_its_own_program(traced):
    rule = differing("nothing", frozen={2})
    found = jl.pipeline.measure(rule, rule.init(jax.random.key(0), batch("alike", 0)), batch("alike", 0), repeats=1)
    once = [(0,), (2,), (4,)]
    assert len(found.seconds) == 5 and sorted(traced) == sorted(once * 2)  # one step, and several in one program


def test_each_kind_of_component_is_counted_once(traced, monkeypatch):
    def counted():
        traced.clear()
        return jl.diagnostics.costs(differing("nothing", frozen={2}), batch("alike", 0)).components

    found, programs = counted(), len(traced)  # five components of three kinds
    monkeypatch.setattr(costs, "kind_of", lambda *_: object())
    assert found == counted() and len(traced) == programs + 2
    assert found[2].operations < found[1].operations == found[3].operations


def test_a_scalar_in_a_message_is_refused():
    def init(key, message):
        x, y = message[:2]
        return {"forward": ({},)}, ({},), (x, y, jnp.mean(x))

    def teach(weights, stats, message, key):
        return jl.Lesson({"forward": ({},)}, ({},), {"loss": jnp.mean(message[0])}), init(key, message)[2]

    net = jl.models.mlp((4,), classes=4)
    parts = jl.Part((0,), init, teach), jl.Part((1,), init, teach)
    rule = jl.make_rule(net, parts, {"forward": optax.sgd(0.1)}, locality={"forward": jl.own(2)})
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=2))
    with broken(ValueError, "^rule: the message of component 0 holds a scalar, but a pipeline passes on arrays"):
        pipe.init(jax.random.key(0), batch("alike", 0))


@pytest.mark.xdist_group("pipeline alike")
def test_the_work_of_a_team_stands_in_the_program_once():
    def products(depth):
        rule = jl.rules.al(jl.models.mlp((4,) * depth, classes=4), optax.sgd(0.1), width=4)
        pipe = jl.pipelined(rule, jl.pipeline.mesh(component=depth))
        params = jax.eval_shape(pipe.init, jax.random.key(0), batch("alike", 0))
        return str(jax.make_jaxpr(pipe.step)(params, batch("alike", 0))).count("dot_general")

    assert products(5) == products(3) > 0


@pytest.mark.xdist_group("pipeline drtp")
def test_the_components_may_lie_along_the_second_axis_of_a_mesh():
    pipe = jl.pipelined(RULE["drtp"], jl.pipeline.mesh(data=2, component=2))
    after = pipe.update(start("drtp", pipe), batch("drtp", 0))
    close(pipe.drain(after), sequential("drtp").params[1])


@pytest.mark.slow
@pytest.mark.xdist_group("pipeline drtp")
def test_the_start_may_be_part_of_a_compiled_program():
    """With the compiler settings of these tests XLA rounds it differently."""
    pipe, first = pipeline("drtp", 3), batch("drtp", 0)
    close(pipe.drain(jax.jit(pipe.init)(jax.random.key(0), first)), pipe.drain(pipe.init(jax.random.key(0), first)))


@pytest.mark.slow
@pytest.mark.xdist_group("pipeline mixed")
def test_two_dimensions_are_one_device_on_the_whole_batch():
    """Gradients, batch statistics and dropout masks are those of the whole batch."""
    rule = jl.rules.al(MIXED, optax.sgd(0.1))  # Adam would magnify the rounding of gradients near zero.
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=2, data=4))
    params = pipe.init(jax.random.key(0), batch("mixed", 0))
    wanted = pipe.drain(params)
    assert same(wanted, jax.jit(rule.init)(jax.random.key(0), batch("mixed", 0)))
    for i in range(3):
        fed = pipe.feed(batch("mixed", i))
        assert {shard.data.shape[0] for leaf in fed.batch for shard in leaf.addressable_shards} == {8 // 4}
        params = pipe.update(params, fed)
    wanted, _ = jax.lax.scan(rule.step, wanted, jax.tree.map(lambda leaf: leaf[:3], batches("mixed")))
    close(pipe.drain(params), wanted)
    shards = {shard.data.shape[1] for slot in params.mail for shard in slot.addressable_shards}
    assert shards == {8 // 4}  # The messages are split, too.


@pytest.mark.parametrize("name", ["ff", slow("predsim"), slow("scpl")])
def test_rules_that_compare_examples_in_two_dimensions(name):
    """No example moves between the devices that share a batch: those of a pipeline would wait for each other."""
    rule = jl.rules.ALL[name](jl.models.mlp((6, 5), 3), optax.sgd(0.1))
    batch = jax.random.normal(jax.random.key(1), (8, 4)), jax.nn.one_hot(jnp.arange(8) % 3, 3)
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), batch)
    pipe = jl.pipelined(rule, jl.pipeline.mesh(component=2, data=2))
    params = drawn(rule, batch)
    wanted, _ = jax.lax.scan(rule.step, params, batches)
    params, _ = jax.jit(pipe.run)(pipe.place(params, batch), batches)
    close(pipe.drain(params), wanted)


@pytest.mark.xdist_group("pipeline drtp")
def test_fed_batches_lie_on_the_first_device_only():
    pipe, wanted = pipeline("drtp", 3), sequential("drtp")
    fed = pipe.feed(batches("drtp"), stacked=True)
    for leaf, whole in zip(fed.batch, batches("drtp"), strict=True):
        first, *others = leaf.addressable_shards
        assert first.device == pipe.mesh.devices[0]
        np.testing.assert_array_equal(first.data, whole)
        assert len(others) == 2 and not any(shard.data.any() for shard in others)
    params, info = pipe.run(start("drtp", pipe), fed)
    assert same(pipe.drain(params), wanted.params[-1])
    np.testing.assert_allclose(info.losses, wanted.info.losses, rtol=1e-6)
    params = start("drtp", pipe)
    for i in range(2):
        params = pipe.update(params, pipe.feed(batch("drtp", i)))
    assert same(pipe.drain(params), wanted.params[2])


@every_cut
def test_a_device_holds_its_own_components_only(name, devices, stages):
    """Each array's shard on a device is what unpacking that device's components reads, and no shard is a copy."""
    pipe = pipeline(name, devices, stages)
    params, wanted = start(name, pipe), sequential(name).params[0].components
    cut = iter(wanted)
    for number, device in enumerate(pipe.mesh.devices.flat):
        shards = []
        for slot in params.slots:
            (shard,) = [shard for shard in slot.addressable_shards if shard.device == device]
            assert shard.replica_id == 0 and shard.data.shape[0] * devices == slot.shape[0]
            shards.append(shard.data)
        (trees,) = unpack(params.layout.components, number, tuple(shards))
        assert same(trees, tuple(itertools.islice(cut, len(trees))))
    assert next(cut, None) is None


@pytest.mark.xdist_group("pipeline alike")
def test_with_equal_components_a_device_holds_no_more_than_its_share():
    pipe = pipeline("alike", 6)
    params, wanted = start("alike", pipe), sequential("alike").params[0]

    def size(leaves):
        return sum(leaf.size for leaf in leaves if leaf.dtype == jnp.float32)

    on_last = [slot.addressable_shards[-1].data for slot in params.slots]
    assert size(on_last) * 6 == size(jax.tree.leaves(wanted))


@pytest.mark.xdist_group("pipeline drtp")
def test_an_epoch_is_one_program_that_exchanges_messages_between_neighbours_only():
    pipe = pipeline("drtp", 3)
    run = jax.jit(pipe.run, donate_argnums=0)
    traced = run.trace(start("drtp", pipe), batches("drtp"))
    text = traced.lower().compile().as_text()
    assert "collective-permute" in text and "while(" in text
    for exchange in ("all-gather", "all-to-all", "callback", "outfeed", "infeed"):
        assert exchange not in text
    assert "callback" not in str(traced.jaxpr)


@pytest.mark.xdist_group("pipeline drtp")
def test_a_second_tick_compiles_nothing(caplog):
    pipe = pipeline("drtp", 3)
    step = jax.jit(lambda params, batch: pipe.step(params, batch))  # No other test has compiled this function.
    params = start("drtp", pipe)
    with jax.log_compiles():
        after, _ = step(params, batch("drtp", 0))
        assert "Compiling" in caplog.text
        caplog.clear()
        step(after, batch("drtp", 1))
        assert "Compiling" not in caplog.text
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert [leaf.sharding for leaf in jax.tree.leaves(after)] == [leaf.sharding for leaf in jax.tree.leaves(params)]


@pytest.mark.xdist_group("pipeline drtp")
def test_donating_the_pipeline_leaves_the_parameters_that_were_placed():
    pipe, wanted = pipeline("drtp", 3), sequential("drtp").params
    mine = jax.tree.map(jnp.copy, wanted[0])
    update = jax.jit(pipe.update, donate_argnums=0)
    params = pipe.place(mine, batch("drtp", 0))
    assert same(pipe.drain(update(params, batch("drtp", 0))), wanted[1])
    assert same(mine, wanted[0])
    assert all(leaf.is_deleted() for leaf in params.slots)


@pytest.mark.xdist_group("pipeline drtp")
def test_a_whole_life_in_one_jitted_function():
    pipe, wanted = pipeline("drtp", 3), sequential("drtp").params

    @jax.jit
    def life(params, batches):
        params, _ = pipe.run(pipe.place(params, jax.tree.map(lambda leaf: leaf[0], batches)), batches)
        return pipe.drain(params)

    assert same(life(wanted[0], batches("drtp")), wanted[-1])


@pytest.mark.xdist_group("pipeline drtp")
def test_it_trains_and_predicts_as_a_rule_does():
    pipe, rule = pipeline("drtp", 3), RULE["drtp"]
    x, y = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), batches("drtp"))
    key = jax.random.key(5)
    params, info = jl.training.epoch(pipe, start("drtp", pipe), (x, y), key, 8)
    wanted, wanted_info = jl.training.epoch(rule, jax.tree.map(jnp.copy, sequential("drtp").params[0]), (x, y), key, 8)
    assert same(pipe.drain(params), wanted)
    np.testing.assert_allclose(info.losses[2:], wanted_info.losses[:-2], rtol=1e-6)
    np.testing.assert_array_equal(pipe.predict(params, x), rule.predict(wanted, x))


@pytest.mark.slow
@pytest.mark.xdist_group("pipeline mixed")
def test_more_room_is_the_same_run():
    least = jl.pipelined(RULE["mixed"], mesh(component=2), stages=(2, 1), room=1)
    more = jl.pipelined(RULE["mixed"], least.mesh, stages=(2, 1), room=3)
    a, b = start("mixed", least), start("mixed", more)
    assert sum(slot.size for slot in a.slots) < sum(slot.size for slot in b.slots)
    assert same(more.drain(ticks("mixed", more, b, range(2))), sequential("mixed").params[2])


# JAX's check of which values differ between devices.


@pytest.mark.parametrize(
    ("name", "devices", "stages", "data"),
    [
        ("alike", 2, (1,) * 6, 1),
        ("mixed", 2, (2, 1), 4),
    ],
)
def test_every_program_passes_the_check_of_varying_values(name, devices, stages, data):
    """The check is made when a program is traced; nothing needs to be compiled for it."""
    pipe = replace(pipeline(name, devices, stages, data), check_vma=True)
    params = jax.eval_shape(pipe.init, jax.random.key(0), batch(name, 0))
    jax.eval_shape(pipe.run, params, batches(name))
    if data > 1:
        jax.eval_shape(pipe.update, params, pipe.feed(batch(name, 0)))


@pytest.mark.xdist_group("pipeline drtp")
def test_a_checked_pipeline_is_the_sequence_too():
    """A gradient that the check had summed over devices would show."""
    pipe, wanted = replace(pipeline("drtp", 3), check_vma=True), sequential("drtp").params
    assert same(pipe.drain(ticks("drtp", pipe, start("drtp", pipe), range(3))), wanted[3])


class Looped(nn.Module):
    """A layer that sums its output in a loop, which starts from zeros."""

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(5)(x)
        return jax.lax.fori_loop(0, 2, lambda _, total: total + jnp.tanh(y), jnp.zeros((len(x), 5)))


def test_a_layer_with_a_loop_passes_without_the_check_only():
    """This is why the check is off by default. When JAX accepts such a loop, the check can be always on."""
    rule = al(jl.Network((Looped(), dense(5)), jl.layers.Head(3)))
    pipe = jl.pipelined(rule, mesh(component=2))
    params = jax.eval_shape(pipe.init, jax.random.key(0), batch("dense", 0))
    jax.eval_shape(pipe.step, params, batch("dense", 0))
    with broken(TypeError, "carry input and carry output must have equal types"):
        jax.eval_shape(replace(pipe, check_vma=True).step, params, batch("dense", 0))


# Costs, cuts and the timetable.


def test_balance_finds_the_best_cut():
    rng = np.random.default_rng(0)
    for count, stages in [(1, 1), (4, 2), (6, 3), (7, 4), (5, 5)]:
        for _ in range(10):
            costs = rng.exponential(size=count)
            sizes = jl.pipeline.balance(costs, stages)
            assert len(sizes) == stages and sum(sizes) == count and min(sizes) > 0

            def dearest(ends, costs=costs):
                return max(part.sum() for part in np.split(costs, ends))

            best = min(dearest(ends) for ends in itertools.combinations(range(1, count), stages - 1))
            assert dearest(np.cumsum(sizes)[:-1]) == pytest.approx(best)


def test_measured_costs():
    costs = jl.pipeline.measure(RULE["drtp"], sequential("drtp").params[0], batch("drtp", 0), repeats=1)
    assert len(costs.seconds) == 3 and min(costs.seconds) > 0
    # The units of each block and three targets, for 8 examples, with 4 bytes a number; the head sends what it has read.
    assert costs.message == tuple(8 * 4 * (width + 3) for width in (7, 6, 6))


def test_balanced_cuts_by_what_it_measures(monkeypatch):
    params = sequential("drtp").params[0]
    costs = jl.pipeline.Costs(seconds=(2.0, 1.0, 1.5), message=(1, 1, 1))
    seen = []
    monkeypatch.setattr("jaxlocal.pipeline.cut.measure", lambda *arguments: (seen.append(arguments), costs)[1])
    pipe, found = jl.pipeline.balanced(RULE["drtp"], params, batch("drtp", 0), mesh(data=2, stage=2), "stage", room=2)
    assert found == costs and len(seen) == 1 and seen[0][0] is RULE["drtp"]
    assert pipe.sizes == (1, 2) and pipe.room == 2 and pipe.axis == "stage"
    assert costs.of_stages(pipe.sizes) == (2.0, 2.5)
    with broken(ValueError, "has 8 devices, but the rule has only 3 components"):
        jl.pipeline.balanced(RULE["drtp"], params, batch("drtp", 0), mesh(component=8))
    assert len(seen) == 1  # The error came before a measurement.


@pytest.mark.parametrize(("count", "stages"), [(1, 1), (1, 4), (3, 4), (20, 4)])
def test_the_schedule_is_that_of_the_paper(count, stages):
    schedule = jl.pipeline.Schedule(count, stages)
    table = schedule.table()
    assert table.shape == (count + stages - 1, stages) == (schedule.ticks, stages)
    for tick, stage in np.ndindex(table.shape):
        assert table[tick, stage] == (tick - stage if 0 <= tick - stage < count else -1)
    assert schedule.utilisation == pytest.approx((table >= 0).mean())
    assert schedule.bubble == pytest.approx((stages - 1) / (count + stages - 1))
    learns = table >= 0
    assert (learns.sum(axis=0) == schedule.steps).all()
    assert schedule.in_flight == learns.sum(axis=1).max() == max(len(set(row[row >= 0])) for row in table)
    # A batch is with one stage at a time, and with each stage for one tick.
    assert schedule.kept == max(learns[:, stage].astype(int).max() for stage in range(stages)) == 1


def test_the_trace_is_what_perfetto_reads(tmp_path):
    """Chrome's trace format: complete events with a time and a duration in microseconds, on named threads."""
    path = jl.pipeline.Schedule(3, 2).trace(tmp_path / "trace.json", seconds=(0.5, 0.25))
    events = json.loads(path.read_text())["traceEvents"]
    assert [event["args"]["name"] for event in events if event["ph"] == "M"] == ["stage 0", "stage 1"]
    bars = {(event["tid"], event["args"]["batch"]): event for event in events if event["ph"] == "X"}
    assert len(bars) == 6
    assert bars[1, 2]["ts"] == 1.5e6 and bars[1, 2]["dur"] == 0.25e6 and bars[1, 2]["name"] == "batch 2"


def test_the_picture_has_a_cell_for_every_stage_and_tick(tmp_path):
    figure = jl.plots.schedule(jl.pipeline.Schedule(5, 3))
    (axes,) = figure.axes
    assert len(axes.patches) == 7 * 3
    assert sorted(text.get_text() for text in axes.texts) == sorted("01234" * 3)
    figure.savefig(tmp_path / "schedule.png")
    assert (tmp_path / "schedule.png").stat().st_size > 1000


# Error messages.


@pytest.mark.parametrize("name", [name for name in jl.rules.ALL if name not in FORWARD_ONLY])
def test_rules_with_a_backward_pass_are_refused(name):
    rule = RULES[name](jl.models.mlp((7, 6), classes=3), adam)
    with broken(ValueError, r"^rule: its components learn only after .*backward pass.*jl\.rules\.al, jl\.rules\.drtp"):
        jl.pipelined(rule, mesh(component=2))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: jl.pipelined("al", mesh(component=1)), TypeError, "^rule='al': must be a rule"),
        (lambda: jl.pipelined(RULE["dense"], 2), TypeError, r"^mesh=2: must be a jax\.sharding\.Mesh, such as"),
        (
            lambda: jl.pipelined(RULE["dense"], mesh(component=2), "componant"),
            ValueError,
            "^axis='componant': the mesh has no such axis; did you mean component",
        ),
        (
            lambda: jl.pipelined(RULE["dense"], mesh(x=2)),
            ValueError,
            "^axis='component': the mesh has no such axis; choose from x$",
        ),
        (
            lambda: jl.pipelined(RULE["dense"], mesh(component=8)),
            ValueError,
            r"has 8 devices, but the rule has only 3 components; use jl\.pipeline\.mesh\(component=3\), with data=2",
        ),
        (lambda: mesh(component=16), ValueError, r"^mesh\(component=16\): needs 16 devices, but there are 8 \(cpu\)"),
        (lambda: mesh(component=4, data=4), ValueError, "needs 16 devices, but there are 8"),
        (lambda: mesh(), ValueError, r"^mesh\(\): has no axis; name one"),
        (lambda: jl.pipeline.balance(None, 2), TypeError, "^costs=None: must be a sequence of numbers"),
        (lambda: jl.pipelined(RULE["dense"], mesh(component=1), stages=3), TypeError, "^stages=3: must be a sequence"),
        (lambda: mesh(component=0), ValueError, "^component=0: must be at least 1"),
        (
            lambda: jl.pipelined(RULE["dense"], mesh(component=2), stages=(1, 3)),
            ValueError,
            r"^stages=\(1, 3\): sums to 4, but the rule has 3 components; jl.pipeline.balance finds such numbers",
        ),
        (
            lambda: jl.pipelined(RULE["dense"], mesh(component=2), stages=(1, 1, 1)),
            ValueError,
            r"^stages=\(1, 1, 1\): has length 3, but must have 2, or a multiple of that, for the devices of axis 'comp",
        ),
        (lambda: jl.pipelined(RULE["dense"], mesh(component=2), stages=(1, 0, 2)), ValueError, r"^stages\[1\]=0: must"),
        (lambda: jl.pipelined(RULE["dense"], mesh(component=2), room=0.5), ValueError, "^room=0.5: must be 1 or more"),
        (lambda: jl.pipeline.balance([1.0, 2.0], 3), ValueError, "^stages=3: there are 2 components"),
        (
            lambda: jl.pipeline.Costs((1.0, 2.0), (4, 4)).of_stages((1, 2)),
            ValueError,
            r"^sizes=\(1, 2\): sums to 3, but the rule has 2 components",
        ),
        (lambda: jl.pipeline.Costs((1.0, 2.0), (4, 4)).of_stages((3, -1)), ValueError, r"^sizes\[1\]=-1: must be"),
        (lambda: jl.pipeline.Costs((1.0, 2.0), (4, 4)).of_stages(2), TypeError, "^sizes=2: must be a sequence"),
        (lambda: jl.pipeline.balance([1.0, -2.0], 2), ValueError, r"^costs=-2\.0: must be zero or more"),
        (lambda: jl.pipeline.Schedule(0, 2), ValueError, "^batches=0: must be at least 1"),
        (lambda: jl.pipeline.Schedule(3, 2.0), TypeError, r"^stages=2\.0: must be a whole number"),
        (
            lambda: jl.pipeline.Schedule(3, 2).trace("x.json", (1.0,)),
            ValueError,
            "^seconds: has 1 entries, .* 2 stages",
        ),
    ],
)
def test_bad_settings_are_one_sentence(make, error, match):
    with broken(error, match):
        make()


def on_the_last_devices(pipe):
    """The same pipeline on other devices."""
    count = pipe.mesh.devices.size
    mesh = jax.sharding.Mesh(np.array(jax.devices()[-count:]), pipe.mesh.axis_names)
    return jl.pipelined(pipe.rule, mesh, stages=pipe.sizes)


OTHER = {
    "network": al(jl.models.mlp((7, 6, 5), classes=3, norm=True, dropout=0.3)),
    "optimizer": jl.rules.al(RULE["dense"].net, optax.sgd(0.1)),
}


@pytest.mark.xdist_group("pipeline dense")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda pipe, params, x, y: pipe.update(params, (x[:5], y[:5])),
            ValueError,
            "^batch: x has 5 examples, but this pipeline holds batches of 8: leave incomplete",
        ),
        (
            lambda pipe, params, x, y: pipe.update(params, (x[:, :3], y)),
            ValueError,
            "x has shape .* but the parameters were made for",
        ),
        (lambda pipe, params, x, y: pipe.update(params, (x, y.argmax(-1))), TypeError, "one-hot"),
        (lambda pipe, params, x, y: pipe.update(params, (x * np.nan, y)), ValueError, "x holds NaN"),
        (lambda pipe, params, x, y: pipe.feed((x, y * np.nan)), ValueError, "^batch: y holds NaN"),
        (lambda pipe, params, x, y: pipe.run(params, (x[None] * np.nan, y[None])), ValueError, "^batches: x holds NaN"),
        (lambda pipe, params, x, y: pipe.run(params, (x, y)), ValueError, r"^batches: x=.*must be \(T, B, …\)"),
        (
            lambda pipe, params, x, y: pipe.update(sequential("dense").params[0], (x, y)),
            TypeError,
            r"^params is of type Params, but must be a pipeline's: call its init, or place\(params, batch\)",
        ),
        (
            lambda pipe, params, x, y: pipeline("dense", 3).update(params, (x, y)),
            ValueError,
            "^params belong to a pipeline with other stages",
        ),
        (
            lambda pipe, params, x, y: on_the_last_devices(pipe).update(params, (x, y)),
            ValueError,
            "^params lie on other devices than this pipeline's: drain them",
        ),
        (
            lambda pipe, params, x, y: pipe.place(sequential("one").params[0], (x, y)),
            ValueError,
            "^params has 1 components, but the rule has 3",
        ),
        (lambda pipe, params, x, y: pipe.init(jax.random.key(0), (x[:1], y[:1])), ValueError, "a batch of one"),
        (lambda pipe, params, x, y: pipe.init(0, (x, y)), TypeError, "^key=0: must be a random key"),
        (lambda pipe, params, x, y: pipe.schedule("a"), TypeError, "^batches='a': must be a whole number"),
        (
            lambda pipe, params, x, y: jl.pipelined(OTHER["network"], pipe.mesh).update(params, (x, y)),
            ValueError,
            r"^params: components\[2\]\.weights.* has shape .*, but must have .*: they come from another rule, network",
        ),
        (
            lambda pipe, params, x, y: jl.pipelined(OTHER["optimizer"], pipe.mesh).drain(params),
            ValueError,
            r"^params .*components\[0\]\.opt.*: they come from another rule, network or optimizer; call this rule's",
        ),
        (lambda pipe, params, x, y: pipe.feed(3), TypeError, "^batch=3: must be a pair"),
        (
            lambda pipe, params, x, y: pipe.feed((x[:, 0], y), stacked=True),
            ValueError,
            r"^batch: x=.* must be \(T, B, …\), as many batches in x and y, batches first; leave out stacked=True for",
        ),
        (
            lambda pipe, params, x, y: jax.jit(pipe.feed)((x, y)),
            TypeError,
            "^batch: is traced, but feed puts arrays on",
        ),
        (lambda pipe, params, x, y: pipe.feed((x, y), stacked="no"), TypeError, "^stacked='no': must be True or False"),
        (lambda pipe, params, x, y: pipe.run(params, 3), TypeError, "^batches=3: must be a pair"),
        (
            lambda pipe, params, x, y: pipe.run(params, (jnp.stack([x, x]), y[None])),
            ValueError,
            r"^batches: y=array of shape \(1, 8, 3\) must be \(T, B, …\), as many batches in x and y",
        ),
        (
            lambda pipe, params, x, y: pipe.place(sequential("dense").params[0], 3),
            TypeError,
            "^batch=3: must be a pair",
        ),
        (lambda pipe, params, x, y: pipe.predict(params, x, "a"), TypeError, "^key='a': must be a random key"),
        (
            lambda pipe, params, x, y: pipe.init(jax.random.split(jax.random.key(0)), (x, y)),
            ValueError,
            r"^key has shape \(2,\): must be a single key",
        ),
        (lambda pipe, params, x, y: jl.pipeline.measure(pipe.rule, None, (x, y)), TypeError, "^params is of type None"),
        (lambda pipe, params, x, y: pipe.schedule(0), ValueError, "^batches=0: must be at least 1"),
        (
            lambda pipe, params, x, y: pipeline("dense", 2, data=3).init(jax.random.key(0), (x, y)),
            ValueError,
            "^batch: x has 8 examples, which cannot be split evenly over the 3 devices of the mesh's axis 'data'",
        ),
    ],
)
def test_bad_batches_and_parameters_are_one_sentence(call, error, match):
    pipe = pipeline("dense", 2)
    with broken(error, match):
        call(pipe, start("dense", pipe), *batch("dense", 0))
