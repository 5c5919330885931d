"""The contract: what a learning rule is, and what its components carry, learn and report.

A rule cuts a network into *components*. A component carries weights by role ("forward", "feedback", "inverse" …). On
every batch it receives a `Lesson`: the gradient of its own local objective, by role. This file has the types;
`jaxlocal.make` builds a rule from its parts.
"""

import operator
from collections.abc import Callable, Hashable, Iterable
from functools import reduce
from typing import Any, NamedTuple, NoReturn, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from jaxlocal.network import Network, Tree
from jaxlocal.text import plural

Batch = tuple[jax.Array, jax.Array]  # x (B, …), real numbers or token ids, and y (B, C), or (B, T, C) for tokens
Message = tuple[jax.Array, ...]  # what one component hands to the next, such as (a, y), or (s, t) in AL
Weights = dict[str, Tree]  # by role
Stats = tuple[Tree, ...]  # batch statistics, layer by layer


@jax.tree_util.register_pytree_with_keys_class
class Roles(dict[str, Tree]):
    """A dict by role that cannot be changed, because everyone who holds the same parameters would see the change."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            "a component's weights and optimizer states cannot be changed in place: jl.set_weights(rule, params, "
            "{name: array}) makes new parameters, and so does component.replace(weights={**component.weights, "
            "role: tree})"
        )

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Roles, (dict(self),)

    def tree_flatten_with_keys(self) -> tuple[Iterable[tuple[Any, Tree]], Hashable]:
        """Like JAX's own of a dict: in the order of the names."""
        names = tuple(sorted(self))
        return [(jax.tree_util.DictKey(name), self[name]) for name in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], trees: Iterable[Tree]) -> Self:
        """The roles with these trees."""
        return cls(zip(names, trees, strict=True))


@struct.dataclass
class Component:
    """All that one component carries: the unit of locality, of checkpoints and of the pipeline.

    `weights` and `opt` are dicts by role. The role "forward" is always a tuple with the weights of each layer of the
    component; any other role that is a tuple has an entry for each layer, too. A role without an optimizer state does
    not learn. `stats` holds, layer by layer, the Flax collections other than the weights: the batch statistics. The
    dicts cannot be changed; `jl.set_weights` returns new parameters.
    """

    weights: Weights
    opt: dict[str, Tree]
    stats: Stats
    key: jax.Array
    count: jax.Array  # the number of batches seen so far, int32

    def __post_init__(self) -> None:
        for name in ("weights", "opt"):
            if type(by_role := getattr(self, name)) is dict:
                object.__setattr__(self, name, Roles(by_role))


@struct.dataclass
class Params:
    """The whole state of a run, component by component. A checkpoint of it is the whole run."""

    components: tuple[Component, ...]
    shapes: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False)  # of one example's x and y


class Lesson(NamedTuple):
    """What one batch teaches one component."""

    grads: Weights  # by role, shaped as the component's weights
    stats: Stats  # the new batch statistics
    losses: dict[str, jax.Array]  # the terms of the local objective, scalars


class Info(NamedTuple):
    """What a step reports: one local loss per component, and the terms that add up to it."""

    losses: jax.Array  # (number of components,)
    terms: tuple[dict[str, jax.Array], ...]

    @classmethod
    def of(cls, terms: tuple[dict[str, jax.Array], ...]) -> Self:
        """The info of these terms: the loss of a component is their sum."""
        return cls(jnp.stack([reduce(operator.add, term.values()) for term in terms]), terms)


class Part(NamedTuple):
    """The description of one component, from which `make_rule` builds it.

    `init(key, message) -> (weights by role, stats, message)` draws its weights, and hands on a message of the right
    shape. `teach(weights, stats, message, key) -> (lesson, message)` is its lesson, where a component learns from the
    message alone.
    """

    layers: tuple[int, ...]  # the numbers of the network's layers that its "forward" weights belong to
    init: Callable[[jax.Array, Message], tuple[Weights, Stats, Message]]
    teach: Callable[[Weights, Stats, Message, jax.Array], tuple[Lesson, Message]] | None = None


Learn = Callable[[Component, Message], tuple[Component, Message, Lesson]]  # one component's own step


class Placement(NamedTuple):
    """Where a transformed rule runs: the members of an ensemble, and the devices. Training loops read this."""

    members: int = 0  # the number of runs in an ensemble; 0 for a single run
    mesh: Mesh | None = None  # the devices that share each batch, every one of them with all the parameters
    axis: str = ""  # the axis of the mesh over which the examples are split


class Rule(NamedTuple):
    """A learning rule: four pure functions, and some facts about them.

    `init(key, batch) -> params`, `update(params, batch) -> params`, `step(params, batch) -> (params, info)` and
    `predict(params, x) -> scores`. The library never jits for you: jit, scan, vmap and shard them as you like.
    """

    init: Callable[[jax.Array, Batch], Params]
    update: Callable[[Params, Batch], Params]
    step: Callable[[Params, Batch], tuple[Params, Info]]
    predict: Callable[..., jax.Array]  # predict(params, x, key=None); with a key as in training: batch norm, dropout
    net: Network
    lessons: Callable[[Params, Batch], tuple[Lesson, ...]]  # what a batch teaches, before any optimizer
    effective: Callable[[Params], Tree]  # the weights that predict reads
    locality: Callable[[str], np.ndarray]  # of a role, (n, n): does component i's update depend on j's weights?
    check: Callable[[Params], None]  # raises an error for parameters of another rule, network or optimizer
    learn: tuple[Learn, ...] | None
    """For a rule without a backward pass: each component's own step, which `update` folds over the components."""
    placement: Placement = Placement()

    def __repr__(self) -> str:
        """The network, and what the rule can do, on one line."""
        members = [f"{self.placement.members} members"] if self.placement.members else []
        kind = [f"forward only in {plural(len(self.learn), 'component')}"] if self.learn else []
        return f"Rule({', '.join([*members, *kind, repr(self.net)])})"

    # Rules are compared by identity of what they hold, so that they can be static arguments of jit: modules may hold
    # lists, which have no hash.
    def __hash__(self) -> int:
        return hash((self.step, self.predict))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and all(mine is theirs for mine, theirs in zip(self, other, strict=True))


def forward_weights(params: Params) -> tuple[Tree, ...]:
    """The weights of the network's layers, in order."""
    return tuple(weights for component in params.components for weights in component.weights["forward"])


def forward_stats(params: Params) -> Stats:
    """The batch statistics of the network's layers, in order."""
    return tuple(stats for component in params.components for stats in component.stats)
