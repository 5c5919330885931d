"""Build a rule from the parts of a network and what they are taught.

A rule's own file holds its equations. What all rules share is here, once: the check of the arguments, the start, the
random key of a batch, the fold over the components of a forward-only rule, and roles that learn in turns.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient

from jaxlocal import author, checks
from jaxlocal.descent import Descent, Settle
from jaxlocal.fast import ordering
from jaxlocal.hints import nearest
from jaxlocal.network import Network, Tree, apply_layers, cross_entropy, vocabulary
from jaxlocal.outline import OTHERS, Outline
from jaxlocal.parts import init_forward
from jaxlocal.programs import remembered
from jaxlocal.rule import (
    Batch,
    Component,
    Info,
    Learn,
    Lesson,
    Message,
    Params,
    Part,
    Roles,
    Rule,
    forward_stats,
    forward_weights,
)
from jaxlocal.tokens import check_padding

Components = tuple[Component, ...]
Lessons = tuple[Lesson, ...]
Terms = tuple[dict[str, jax.Array], ...]  # of each component's loss
TeachAll = Callable[[Components, Batch, tuple[jax.Array, ...]], Lessons]


def make_rule(
    net: Network,
    parts: tuple[Part, ...],
    txs: Mapping[str, optax.GradientTransformation],
    teach: TeachAll | None = None,
    *,
    locality: Mapping[str, np.ndarray],
    frozen: Collection[int] = (),
    effective: Callable[[Params], Tree] = forward_weights,
    scores: Callable[[Params, jax.Array, jax.Array | None], jax.Array] | None = None,
    alternate: int | None = None,
    settle: Settle | None = None,
) -> Rule:
    """Build a rule from the parts of its network and what it teaches them.

    Args:
      net: the network.
      parts: one for each component, in the order of the forward pass.
      txs: the optimizer of each role that learns. Each component has an optimizer state of its own.
      teach: `(components, batch, keys) -> lessons`, for rules with a backward pass. Without it, the parts' own `teach`
        is used, and the rule is forward-only: `pipelined` can run it.
      locality: for each role with weights, which components' updates depend on which components' weights.
      frozen: the layers whose weights do not change: those of "forward", and of each role with an entry for every
        layer. Their batch statistics still do.
      effective: the weights that `predict` reads; by default all forward weights.
      scores: `(params, x, key) -> scores`; by default the network's layers, one after the other.
      alternate: None, or the number of steps after which "inverse" and the other roles take turns, inverses first.
      settle: `(weights, moves) -> moves`, both by role. It has the last word on what the optimizers propose: it may
        change moves, or add those of a role without an optimizer. Frozen layers are None in both.

    Returns:
      The rule.
    """
    if alternate is not None:
        checks.positive_int("alternate", alternate)
        if teach is None:
            raise ValueError(
                f"alternate={alternate}: a rule that learns in the forward pass has no turns; leave it out"
            )
        if "inverse" not in txs:
            raise ValueError(f"alternate={alternate}: the role 'inverse' takes turns, but txs has no optimizer for it")
    author.check_parts(net, parts, with_head=scores is None, alone=teach is None)
    if teach is not None:
        author.takes("teach", teach, "components", "batch", "keys")
    author.check_roles(txs, locality, len(parts))
    frozen = checks.layer_indices("frozen", frozen, len(net.layers))
    author.check_frozen(frozen, parts)
    descents = tuple(Descent(dict(txs), tuple(layer in frozen for layer in part.layers), settle) for part in parts)
    taught = zip(parts, descents, strict=True)
    learn = None if teach else tuple(partial(learn_alone, part, descent) for part, descent in taught)
    outlines: dict[tuple[tuple[int, ...], ...], Outline] = {}  # of the parameters, by the shapes of an example
    tokens = vocabulary(net)

    def init(key: jax.Array, batch: Batch) -> Params:
        checks.key(key)
        checks.batch(batch, net)
        _check_output(net, batch)
        check_padding("batch", *batch, net.layers[0])
        example = tuple(jnp.asarray(leaf[:1]) for leaf in batch)  # only the shapes matter
        params = Params(_start(parts, descents, locality, key, example), tuple(leaf.shape[1:] for leaf in example))
        outlines[params.shapes] = Outline.of(params.components)
        return params

    def check_params(params: Params) -> None:
        checks.params(params, len(parts))
        if params.shapes not in outlines:  # they come from a checkpoint, or from another rule
            dtypes = jnp.float32 if tokens is None else jnp.int32, jnp.float32
            pairs = zip(params.shapes, dtypes, strict=True)
            example = tuple(jax.ShapeDtypeStruct((1, *shape), dtype) for shape, dtype in pairs)
            try:
                outlines[params.shapes] = Outline.of(jax.eval_shape(init, jax.random.key(0), example).components)
            except Exception as error:  # of this library, of Flax, or of a layer of the user's own
                x, y = params.shapes
                raise ValueError(
                    f"params were made for x of shape (B, {', '.join(map(str, x))}) and y of shape "
                    f"(B, {', '.join(map(str, y))}), which this rule's network cannot take: {OTHERS}"
                ) from error
        outlines[params.shapes].check(params.components)

    def check_batch(params: Params, batch: Batch) -> None:
        check_params(params)
        checks.batch(batch, net, params.shapes, forward_stats(params))
        check_padding("batch", *batch, net.layers[0])

    def teach_all(components: Components, batch: Batch) -> Lessons:
        assert teach is not None
        lessons = teach(components, batch, tuple(map(_batch_key, components)))
        author.check_lessons(parts, components, lessons)
        return lessons

    def learn_once(roles: Collection[str], components: Components, batch: Batch) -> tuple[Components, Terms]:
        if learn:
            components, lessons = _fold(learn, components, batch)
        else:
            lessons = teach_all(components, batch)
            components = tuple(
                descent.step(component, lesson, roles)
                for descent, component, lesson in zip(descents, components, lessons, strict=True)
            )
        return components, tuple(lesson.losses for lesson in lessons)

    def step(params: Params, batch: Batch) -> tuple[Params, Info]:
        check_batch(params, batch)
        if alternate is None:
            components, terms = learn_once(txs.keys(), params.components, batch)
        else:
            inverses_turn = (params.components[0].count // alternate) % 2 == 0
            turns = partial(learn_once, {"inverse"}), partial(learn_once, txs.keys() - {"inverse"})
            components, terms = jax.lax.cond(inverses_turn, *turns, params.components, batch)
        return replace(params, components=components), Info.of(terms)

    def update(params: Params, batch: Batch) -> Params:
        return step(params, batch)[0]

    def lessons(params: Params, batch: Batch) -> Lessons:
        check_batch(params, batch)
        found = _fold(learn, params.components, batch)[1] if learn else teach_all(params.components, batch)
        return tuple(lesson._replace(grads=Roles(lesson.grads)) for lesson in found)  # alike in type to the weights

    def layer_by_layer(params: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        return apply_layers(net.layers, forward_weights(params), forward_stats(params), x, key)[0]

    def predict(params: Params, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        check_params(params)
        checks.examples("x", x, params.shapes[0], tokens)
        if key is not None:
            checks.key(key)
        return (scores or layer_by_layer)(params, x, key)

    def mask(role: str) -> np.ndarray:
        if role not in locality:
            raise ValueError(f"role={role!r}: this rule has no mask for it; {nearest(str(role), locality)}")
        return locality[role]

    return Rule(init, update, step, predict, net, lessons, effective, mask, check_params, learn)


def _check_output(net: Network, batch: Batch) -> None:
    """The network's output must fit the targets. Two examples at least, so that a layer that mixes them shows."""
    x, y = (jax.ShapeDtypeStruct((max(2, len(leaf)), *leaf.shape[1:]), leaf.dtype) for leaf in batch)
    scores = _output(net.layers, x, y, bool(jax.config.jax_enable_x64))  # type: ignore[attr-defined]
    checks.targets(scores, y)
    checks.loss_value(net.loss, scores, y)
    if net.loss == cross_entropy and y.shape[-1] == 1:
        raise ValueError(
            "batch: y has one class, whose cross entropy is always 0; pass one-hot rows of two classes or more, or, if "
            "the targets are real numbers, give the network loss=jl.squared_error"
        )


@remembered
def _output(
    layers: tuple[nn.Module, ...], x: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct, x64: bool
) -> jax.ShapeDtypeStruct:
    """The shape of the network's output. `x64` says whether the layers may compute in float64, JAX's setting."""
    scores, _ = jax.eval_shape(init_forward(layers), jax.random.key(0), (x, y))[2]
    return scores


def _start(
    parts: tuple[Part, ...],
    descents: tuple[Descent, ...],
    locality: Mapping[str, np.ndarray],
    key: jax.Array,
    message: Message,
) -> Components:
    """The components before the first batch."""
    keys, components = jax.random.split(key, len(parts)), []
    for i, (part, descent) in enumerate(zip(parts, descents, strict=True)):
        # Of `keys[i]` each i would be compiled; this operation is compiled once.
        part_key = jax.lax.dynamic_index_in_dim(keys, i, keepdims=False)
        init_key, own_key = jax.random.split(part_key)
        weights, stats, message = author.checked_start(part, part.init(init_key, message), locality)
        opt = descent.start(weights)
        components.append(Component(weights, opt, stats, own_key, count=jnp.zeros((), jnp.int32)))
    return tuple(components)


def _batch_key(component: Component) -> jax.Array:
    """The component's random key for this batch. The compiler drops it where nothing is random."""
    return jax.random.fold_in(component.key, component.count)


def learn_alone(
    part: Part, descent: Descent, component: Component, message: Message
) -> tuple[Component, Message, Lesson]:
    """What one component of a forward-only rule does with a message, in the sequence and in the pipeline alike."""
    assert part.teach is not None
    key = _batch_key(component)
    found = part.teach(component.weights, component.stats, stop_gradient(message), key)
    lesson, onward = author.checked_lesson(part, component, found)
    return descent.step(component, lesson, descent.txs.keys()), onward, lesson


def _fold(learn: tuple[Learn, ...], components: Components, message: Message) -> tuple[Components, Lessons]:
    """One component after the other, each with the message of the one below."""
    learned, lessons = [], []
    for learn_one, component in zip(learn, components, strict=True):
        component, message, lesson = learn_one(component, message)
        message = ordering.after(component.weights, message)  # the same, but only after it has learned
        learned.append(component)
        lessons.append(lesson)
    return tuple(learned), tuple(lessons)
