"""The contract: what a learning rule is, and what its components carry, learn and report.

A rule cuts a network into *components*. For every batch each component is taught a `Lesson`: the gradient of its own
local objective, by role ("forward" weights, "feedback" weights, "inverse" …). `jaxlocal.make` turns lessons into
updates.
"""

import operator
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from jaxlocal.network import Network, Tree

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


def forward_weights(params: Params) -> tuple[Tree, ...]:
    """The weights of the network's layers, in order."""
    return tuple(weights for component in params.components for weights in component.weights["forward"])


def forward_stats(params: Params) -> tuple[Tree, ...]:
    """The batch statistics of the network's layers, in order."""
    return tuple(stats for component in params.components for stats in component.stats)
