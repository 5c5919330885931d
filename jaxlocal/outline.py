"""The outline of parameters: the names and shapes of their arrays, by which those of another rule are recognised."""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxlocal.network import Tree
from jaxlocal.rule import Component

PARTS = "weights", "stats", "opt"
OTHERS = "they come from another rule, network or optimizer; call this rule's init"


class Outline(NamedTuple):
    """The structure of the components' weights, optimizer states and statistics, and the shapes of their arrays."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, components: tuple[Component, ...]) -> Self:
        """The outline of these components."""
        leaves, structure = jax.tree.flatten(_learned(components))
        return cls(structure, tuple(map(jnp.shape, leaves)))

    def check(self, components: tuple[Component, ...]) -> None:
        """Refuse components with another outline, and name the first array that differs."""
        found = Outline.of(components)
        if found == self:
            return
        wanted, given = self._by_name(), found._by_name()
        for name in [*wanted, *given]:
            if name not in given:
                raise ValueError(f"params lack {name}, of shape {wanted[name]}: {OTHERS}")
            if name not in wanted:
                raise ValueError(f"params hold {name}, of shape {given[name]}, which this rule does not have: {OTHERS}")
            if given[name] != wanted[name]:
                raise ValueError(f"params: {name} has shape {given[name]}, but must have {wanted[name]}: {OTHERS}")
        raise ValueError(f"params have the arrays of this rule in containers of other types: {OTHERS}")

    def _by_name(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by a name such as components[0].weights['forward'][0]['linear']['kernel']."""
        shapes = jax.tree.unflatten(self.structure, [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes])
        return {
            f"components[{i}].{part}{jax.tree_util.keystr(path)}": leaf.shape
            for i, component in enumerate(shapes)
            for part, tree in zip(PARTS, component, strict=True)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }


def _learned(components: tuple[Component, ...]) -> tuple[tuple[Tree, ...], ...]:
    """What a component has learned, in the order of PARTS."""
    return tuple((c.weights, c.stats, c.opt) for c in components)
