"""The contract: what a learning rule is, and the machine that turns its teaching signals into updates.

A rule cuts a network into *components*. For every batch each component is taught a `Lesson`: the gradient of its own
local objective, by role ("forward" weights, "feedback" weights, "inverse" …). Everything that the rules share is
here, once: optimizers by role, frozen layers, batch statistics, random keys, counting, taking turns. A rule's own
file holds its equations and nothing else.
"""

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.lax import stop_gradient
from jax.sharding import Mesh

from jaxlocal import checks
from jaxlocal.compiler import one_pass
from jaxlocal.network import Network, Tree, apply_layers, init_layer

Batch = tuple[jax.Array, jax.Array]  # x (B, …) and y (B, …), both floating point
Message = tuple[jax.Array, jax.Array]  # what one component hands to the next: (s, t) in AL, (a, y) elsewhere
Weights = dict[str, Tree]  # by role


@struct.dataclass
class Component:
    """All that one component carries: the unit of locality, of checkpoints and of the pipeline.

    `weights` and `opt` are dicts by role. "forward" is always a tuple with the weights of each of the component's
    layers; so is any other role that is a tuple. A role without an optimizer state does not learn. `stats` holds, layer
    by layer, the Flax collections other than the weights: batch statistics.
    """

    weights: Weights
    opt: dict[str, Tree]
    stats: tuple[Tree, ...]
    key: jax.Array
    count: jax.Array  # batches seen so far, int32


@struct.dataclass
class Params:
    """The whole state of a run, component by component: a checkpoint of it is the run."""

    components: tuple[Component, ...]
    shapes: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False)  # of one example's x and y


class Lesson(NamedTuple):
    """What one batch teaches one component."""

    grads: dict[str, Tree]  # by role, shaped as the component's weights
    stats: tuple[Tree, ...]  # the new batch statistics
    losses: dict[str, jax.Array]  # the terms of the local objective, scalars


class Info(NamedTuple):
    """What a step reports: one local loss per component, and the terms that it is the sum of."""

    losses: jax.Array  # (number of components,)
    terms: tuple[dict[str, jax.Array], ...]


def report(terms: tuple[dict[str, jax.Array], ...]) -> Info:
    """The info of these terms: a component's loss is their sum."""
    return Info(jnp.stack([reduce(operator.add, term.values()) for term in terms]), terms)


class Part(NamedTuple):
    """The static description of one component.

    `init(key, message) -> (weights by role, stats, message)` makes its weights and hands on a message of the right
    shape. `teach(weights, stats, message, key) -> (lesson, message)` is its lesson, where a component learns from the
    message alone.
    """

    layers: tuple[int, ...]  # which of the network's layers its "forward" weights are
    init: Callable[[jax.Array, Message], tuple[Weights, tuple[Tree, ...], Message]]
    teach: Callable[[Weights, tuple[Tree, ...], Message, jax.Array], tuple[Lesson, Message]] | None = None


Settle = Callable[[Weights, Weights], Weights]
TeachAll = Callable[[tuple[Component, ...], Batch, tuple[jax.Array, ...]], tuple[Lesson, ...]]


class Rule(NamedTuple):
    """A learning rule: four pure functions, and what is known about them.

    `init(key, batch) -> params`, `update(params, batch) -> params`, `step(params, batch) -> (params, info)` and
    `predict(params, x) -> scores`. Nothing is jitted for the caller: jit, scan, vmap and shard them at will.
    """

    init: Callable[[jax.Array, Batch], Params]
    update: Callable[[Params, Batch], Params]
    step: Callable[[Params, Batch], tuple[Params, Info]]
    predict: Callable[..., jax.Array]  # predict(params, x, key=None); with a key as in training: batch norm, dropout
    net: Network
    lessons: Callable[[Params, Batch], tuple[Lesson, ...]]  # the teaching signals, before any optimizer
    effective: Callable[[Params], Tree]  # the weights that predict reads
    locality: Callable[[str], np.ndarray]  # of a role, (n, n): does component i's update depend on j's weights?
    learn: tuple[Callable[[Component, Message], tuple[Component, Message, Lesson]], ...] | None
    """For a rule without a backward pass: each component's own step, which `update` folds over the components."""
    members: int = 0  # of an ensemble: how many runs this rule is; 0 for a single one
    mesh: Mesh | None = None  # the devices that share its batches, each with all its parameters

    # A rule is known by its step, so that it can be a static argument of jit even if its modules hold lists.
    def __hash__(self) -> int:
        return hash(self.step)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self.step is other.step


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


def forward_weights(params: Params) -> tuple[Tree, ...]:
    """The weights of the network's layers, in order."""
    return tuple(weights for component in params.components for weights in component.weights["forward"])


def forward_stats(params: Params) -> tuple[Tree, ...]:
    """The batch statistics of the network's layers, in order."""
    return tuple(stats for component in params.components for stats in component.stats)


def everywhere(n: int) -> np.ndarray:
    """The locality mask of weights that every component's update depends on."""
    return np.ones((n, n), bool)


def upward(n: int) -> np.ndarray:
    """The mask of weights that their own component's update and those above it depend on."""
    return np.tril(everywhere(n))


def downward(n: int) -> np.ndarray:
    """The mask of weights that their own component's update and those below it depend on."""
    return np.triu(everywhere(n))


def own(n: int) -> np.ndarray:
    """The mask of weights that only their own component's update depends on."""
    return np.eye(n, dtype=bool)


def decayed(tx: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    """W ← W + update - rate·W on every weight but biases and scales: not multiplied by the learning rate."""
    return optax.chain(tx, optax.add_decayed_weights(-rate, mask=kernels))


def shrunk(moves: Tree, weights: Tree, rate: float) -> Tree:
    """What `decayed` makes of these moves of its optimizer."""
    tx = decayed(optax.identity(), rate)
    return tx.update(moves, tx.init(weights), weights)[0]


def l2(strength: float) -> optax.GradientTransformation:
    """Adds the gradient of strength/2·‖W‖²; chain it in front of the optimizer. Biases and scales are left out.

    Example:
      >>> tx = optax.chain(jl.l2(1e-4), optax.adam(1e-3))
    """
    checks.non_negative("strength", strength)
    return optax.add_decayed_weights(strength, mask=kernels)


def kernels(tree: Tree) -> Tree:
    """True where a leaf is a weight matrix, kernel or feedback matrix, rather than a bias or a scale."""

    def is_kernel(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and not (path and getattr(path[-1], "key", None) == "bias")

    return jax.tree_util.tree_map_with_path(is_kernel, tree)


def init_forward(layers: tuple[nn.Module, ...]) -> Callable[[jax.Array, Message], Any]:
    """The `init` of a part that has forward weights and nothing else."""

    def init(key: jax.Array, message: Message) -> tuple[Weights, tuple[Tree, ...], Message]:
        x, y = message
        weights, stats = [], []
        for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            w, s, x = init_layer(layer, layer_key, x)
            weights.append(w)
            stats.append(s)
        return {"forward": tuple(weights)}, tuple(stats), (x, y)

    return init


def head_lesson(net: Network, weights: Weights, stats: tuple[Tree, ...], message: Message, key: jax.Array) -> Lesson:
    """What the head learns, given what comes to it: the network's loss."""
    a, y = message

    def objective(weights: Weights) -> tuple[jax.Array, tuple[Tree, ...]]:
        scores, new_stats = apply_layers((net.head,), weights["forward"], stats, a, key)
        return net.loss.mean(scores, y), new_stats

    (loss, stats), grads = jax.value_and_grad(objective, has_aux=True)(weights)
    return Lesson(grads, stats, {"task": loss})


def head_part(net: Network) -> Part:
    """The head as the last component of a rule: it learns the network's loss from the message (a, y)."""

    def teach(weights: Weights, stats: tuple[Tree, ...], message: Message, key: jax.Array) -> tuple[Lesson, Message]:
        return head_lesson(net, weights, stats, message, key), message

    return Part((len(net.blocks),), init_forward((net.head,)), teach)


def init_helper(name: str, module: Any, key: jax.Array, x: jax.Array, shape: tuple[int, ...]) -> Tree:
    """The weights of a module that only helps in training, and maps x to examples of the given shape."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}={checks.show(module)}: must be an instance of a Flax module")
    weights, stats, y = init_layer(module, key, x)
    if stats:
        raise ValueError(
            f"{name}={checks.show(module)}: keeps {', '.join(stats)}, but a helper in training has weights only; take "
            "a module without batch statistics"
        )
    if y.shape[1:] != shape:
        raise ValueError(f"{name}={checks.show(module)}: its output has shape {y.shape[1:]}, but must have {shape}")
    return weights
