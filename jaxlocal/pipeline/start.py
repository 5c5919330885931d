"""The components of a pipeline before the first batch, made for one device after the other."""

from collections.abc import Callable, Collection
from itertools import compress

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from jaxlocal.rule import Batch, Component, Rule


def starter(rule: Rule, key: jax.Array, example: Batch) -> Callable[[Collection[int]], dict[int, Component]]:
    """A function that makes the components with these numbers as `rule.init(key, example)` does, and no others.

    It computes one operation after the other: those of alike components are compiled once.
    """
    closed, params = jax.make_jaxpr(rule.init, return_shape=True)(key, example)
    component_of = [i for i, component in enumerate(params.components) for _ in jax.tree.leaves(component)]  # outputs
    given = jax.tree.leaves((key, example))

    def make(numbers: Collection[int]) -> dict[int, Component]:
        needed, used = partial_eval.dce_jaxpr(closed.jaxpr, [i in numbers for i in component_of])
        # Arguments that are not needed are dropped, and constants are kept.
        leaves = iter(core.jaxpr_as_fun(core.ClosedJaxpr(needed, closed.consts))(*compress(given, used)))
        return {i: jax.tree.map(lambda _: next(leaves), params.components[i]) for i in sorted(numbers)}

    return make
