"""One optimizer step of a component: an optimizer for each role, frozen layers left out."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
import optax

from jaxlocal.network import Tree
from jaxlocal.rule import Component, Lesson, Weights

Settle = Callable[[Weights, Weights], Weights]  # (weights, moves) -> moves, all by role


class Descent(NamedTuple):
    """How a component's weights move: the optimizer of each role, which of its layers are frozen, and `settle`."""

    txs: Mapping[str, optax.GradientTransformation]
    frozen: tuple[bool, ...]
    settle: Settle | None

    def start(self, weights: Weights) -> dict[str, Tree]:
        """The optimizer states at the start, by role."""
        learning = sorted(weights.keys() & self.txs.keys())
        return {role: self.txs[role].init(self._free(weights[role])) for role in learning}

    def step(self, component: Component, lesson: Lesson, roles: Collection[str]) -> Component:
        """One step of each of these roles. Statistics and count move on in any case."""
        weights = {role: self._free(tree) for role, tree in component.weights.items()}
        moves, opt = self._moves(component.opt, lesson, weights, roles)
        if self.settle and moves:
            moves = self.settle(weights, moves)
        moved = {}
        for role, move in moves.items():
            moved[role] = _with_frozen(optax.apply_updates(weights[role], move), component.weights[role])
        return replace(
            component,
            weights=component.weights | moved,
            opt=component.opt | opt,
            stats=lesson.stats,
            count=component.count + 1,
        )

    def _moves(
        self, opt: dict[str, Tree], lesson: Lesson, weights: Weights, roles: Collection[str]
    ) -> tuple[Weights, dict[str, Tree]]:
        """What the optimizers propose, and their new states; both by role."""
        moves, states = {}, {}
        for role in sorted(opt.keys() & roles):  # in one order, or each process would compile a program of its own
            if not jax.tree.leaves(weights[role]):  # nothing to move, and some optimizers cannot take an empty tree
                continue
            grads = self._free(lesson.grads[role])
            with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 counts with floats
                moves[role], states[role] = self.txs[role].update(grads, opt[role], weights[role])
        return moves, states

    def _free(self, tree: Tree) -> Tree:
        """What may move: frozen layers are replaced by None, which optax passes over."""
        if not isinstance(tree, tuple):
            return tree
        return tuple(None if frozen else leaf for frozen, leaf in zip(self.frozen, tree, strict=True))


def _with_frozen(moved: Tree, weights: Tree) -> Tree:
    """The frozen layers put back in their places."""
    if not isinstance(moved, tuple):
        return moved
    return tuple(old if new is None else new for new, old in zip(moved, weights, strict=True))
