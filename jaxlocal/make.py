"""The machine that turns what a rule teaches into updates: optimizers, frozen layers, statistics, random keys."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient

from jaxlocal import checks
from jaxlocal.fast.compiler import one_pass
from jaxlocal.network import Network, Tree, apply_layers
from jaxlocal.parts import init_forward
from jaxlocal.rule import (
    Batch,
    Component,
    Info,
    Lesson,
    Message,
    Params,
    Part,
    Rule,
    Weights,
    forward_stats,
    forward_weights,
    report,
)

Settle = Callable[[Weights, Weights], Weights]

TeachAll = Callable[[tuple[Component, ...], Batch, tuple[jax.Array, ...]], tuple[Lesson, ...]]


def make_rule(
    net: Network,
    parts: tuple[Part, ...],
    txs: Mapping[str, optax.GradientTransformation],
    teach: TeachAll | None = None,
    *,
    locality: Mapping[str, np.ndarray],
    frozen: Collection[int] = (),
    effective: Callable[[Params], Tree] | None = None,
    scores: Callable[[Params, jax.Array, jax.Array | None], jax.Array] | None = None,
    alternate: int | None = None,
    settle: Settle | None = None,
) -> Rule:
    """Build a rule from the parts of its network and what it teaches them.

    Args:
      net: the network.
      parts: one a component, in the order of the forward pass.
      txs: the optimizer of each role that learns; each component has a state of its own.
      teach: `(components, batch, keys) -> lessons`, for rules with a backward pass. Without it the parts' own `teach`
        is used, and the rule is forward-only: what `pipelined` can run.
      locality: of each role with weights, which components' updates depend on which components' weights.
      frozen: the layers whose forward weights stay as they are; their batch statistics go on running.
      effective: the weights that `predict` reads; by default all forward weights.
      scores: `(params, x, key) -> scores`; by default the network's layers, one after the other.
      alternate: None, or the number of steps after which "inverse" and the other roles take turns, inverses first.
      settle: `(weights, moves) -> moves`, both by role, with the last word on what the optimizers propose: it may
        change moves, or add those of a role that has no optimizer. Frozen layers are None in both.

    Returns:
      The rule.
    """
    frozen = checks.layer_indices("frozen", frozen, len(net.layers))
    if alternate is not None and teach is None:
        raise ValueError(f"alternate={alternate}: a rule that learns in the forward pass has no turns to take; drop it")

    txs = {role: one_pass(tx) for role, tx in txs.items()}

    def free(part: Part, tree: Tree) -> Tree:
        """What of a role's weights may move: those of frozen layers are replaced by None, which optax passes over."""
        if not isinstance(tree, tuple):
            return tree
        return tuple(None if i in frozen else leaf for i, leaf in zip(part.layers, tree, strict=True))

    def descend(part: Part, component: Component, lesson: Lesson, roles: Collection[str]) -> Component:
        """One optimizer step of each of the roles; the statistics and the count move on in any case."""
        weights, opt = dict(component.weights), dict(component.opt)
        old = {role: free(part, tree) for role, tree in weights.items()}
        moves = {}
        for role in sorted(opt.keys() & roles):  # in one order, or each process would compile a program of its own
            if not jax.tree.leaves(old[role]):  # nothing to move, and some optimizers cannot
                continue
            with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 counts with floats
                moves[role], opt[role] = txs[role].update(free(part, lesson.grads[role]), opt[role], old[role])
        for role, move in (settle(old, moves) if settle and moves else moves).items():
            new = optax.apply_updates(old[role], move)
            if isinstance(new, tuple):
                new = tuple(w if v is None else v for v, w in zip(new, weights[role], strict=True))
            weights[role] = new
        return replace(component, weights=weights, opt=opt, stats=lesson.stats, count=component.count + 1)

    def draw(component: Component) -> jax.Array:
        """The component's random key for this batch; computed only where it is used."""
        return jax.random.fold_in(component.key, component.count)

    def init(key: jax.Array, batch: Batch) -> Params:
        checks.key(key)
        checks.batch(batch)
        many = tuple(jax.ShapeDtypeStruct((max(2, len(leaf)), *leaf.shape[1:]), leaf.dtype) for leaf in batch)
        scores, y = jax.eval_shape(init_forward(net.layers), key, many)[2]
        checks.targets(scores, y)
        example = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), batch)  # shapes are all that matters
        message, components = example, []
        for part, part_key in zip(parts, jax.random.split(key, len(parts)), strict=True):
            init_key, own_key = jax.random.split(part_key)
            weights, stats, message = part.init(init_key, message)
            opt = {role: txs[role].init(free(part, weights[role])) for role in sorted(weights.keys() & txs.keys())}
            components.append(Component(weights, opt, stats, own_key, jnp.zeros((), jnp.int32)))
        return Params(tuple(components), tuple(leaf.shape[1:] for leaf in example))

    def learn_alone(part: Part, component: Component, message: Message) -> tuple[Component, Message, Lesson]:
        """What a component of a forward-only rule does with a message, in the sequence and in the pipeline alike."""
        assert part.teach is not None
        lesson, message = part.teach(component.weights, component.stats, stop_gradient(message), draw(component))
        return descend(part, component, lesson, txs.keys()), message, lesson

    learn = None if teach else tuple(partial(learn_alone, part) for part in parts)

    def check(params: Params, batch: Batch) -> None:
        checks.params(params, len(parts))
        checks.batch(batch, params.shapes, forward_stats(params))

    def lessons(params: Params, batch: Batch) -> tuple[Lesson, ...]:
        check(params, batch)
        return teach_together(params, batch) if teach else tuple(lesson for _, _, lesson in fold(params, batch))

    def teach_together(params: Params, batch: Batch) -> tuple[Lesson, ...]:
        assert teach is not None
        return teach(params.components, batch, tuple(draw(c) for c in params.components))

    def fold(params: Params, message: Message) -> list[tuple[Component, Message, Lesson]]:
        learnt = []
        for learn_one, component in zip(learn or (), params.components, strict=True):
            learnt.append(learn_one(component, message))
            message = _once_made(learnt[-1][0], learnt[-1][1])
        return learnt

    def take_turn(roles: Collection[str], params: Params, batch: Batch) -> tuple[Params, Info]:
        if learn:
            components, taught = zip(*((c, lesson) for c, _, lesson in fold(params, batch)), strict=True)
        else:
            taught = teach_together(params, batch)
            components = tuple(map(partial(descend, roles=roles), parts, params.components, taught))
        terms = tuple(lesson.losses for lesson in taught)
        return replace(params, components=components), report(terms)

    def step(params: Params, batch: Batch) -> tuple[Params, Info]:
        check(params, batch)
        if alternate is None:
            return take_turn(txs.keys(), params, batch)
        inverse_turn = (params.components[0].count // alternate) % 2 == 0
        turns = partial(take_turn, {"inverse"}), partial(take_turn, txs.keys() - {"inverse"})
        return jax.lax.cond(inverse_turn, *turns, params, batch)

    def update(params: Params, batch: Batch) -> Params:
        return step(params, batch)[0]

    def layer_by_layer(params: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        return apply_layers(net.layers, forward_weights(params), forward_stats(params), x, key)[0]

    def predict(params: Params, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        checks.params(params, len(parts))
        checks.examples("x", x, params.shapes[0])
        return (scores or layer_by_layer)(params, x, key)

    return Rule(init, update, step, predict, net, lessons, effective or forward_weights, locality.__getitem__, learn)


def _once_made(component: Component, message: Message) -> Message:
    """The same message, but only once the component has learnt: so its activations make room for the next one's.

    XLA would go forward through all components first. A barrier does not hold it back, for it is removed before the
    order is chosen; a question about the new weights does.
    """
    made = [leaf.ravel()[0] for leaf in jax.tree.leaves((component.weights, component.opt)) if leaf.size]
    numbers = [leaf for leaf in made if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not numbers:
        return message
    known = ~jnp.any(jnp.stack([jnp.isnan(leaf) for leaf in numbers]))
    return jax.tree.map(lambda leaf: jnp.where(known, leaf, jnp.full((), jnp.nan, leaf.dtype)), message)
